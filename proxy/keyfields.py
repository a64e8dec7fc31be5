"""What an administrator may say of a key or a team: every field read, checked, and put into the form that is kept. Pure.

Nothing is repeated in an error but the name of a field: what was written may be a secret in the wrong place.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from proxy import faults
from proxy.errors import InvalidRequest
from proxy.keyrecord import NANOS_PER_DOLLAR, KeyRecord, TeamRecord
from proxy.period import parse_period
from proxy.problems import did_you_mean

MOST_METADATA_BYTES = 16 * 1024
_MOST_NAME_CHARACTERS = 128
_MOST_LISTED = 100
_MOST_DOLLARS = 999_999_999
_MOST_INTEGER = 2**31 - 1
_SMALLEST_AMOUNT = Decimal("0.000001")
_LAST_MOMENT = 253_402_300_799  # the end of the year 9999

_ID = re.compile(r"(key|team)_[0-9a-f]{32}", re.ASCII)
_TEAM_ID = re.compile(r"team_[0-9a-f]{32}", re.ASCII)
_AMOUNT = re.compile(r"\d{1,30}(\.\d{1,30})?", re.ASCII)
_SIZE = re.compile(r"auto|[1-9]\d{0,4}x[1-9]\d{0,4}", re.ASCII)
_ACTIONS = ("/rotate", "/revoke")
_SCOPES = ("key", "team", "org")


def key_fields(given: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The fields that were given, as KeyRecord keeps them. `now` is what a period in `expires` counts from.

    Raises InvalidRequest for the first that will not do, with its name as `param`.
    """
    return _read(given, _KEY_FIELDS, now)


def team_fields(given: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The same for a team, as TeamRecord keeps them."""
    return _read(given, _TEAM_FIELDS, now)


def check_together(record: KeyRecord | TeamRecord) -> None:
    """What no field can say of itself. Raises InvalidRequest."""
    if record.soft_budget is not None and record.max_budget is not None and record.soft_budget > record.max_budget:
        raise _invalid("soft_budget", "must not be more than 'max_budget'")


def is_name(text: object) -> bool:
    """It can be the alias or the id of something; what cannot need not be looked for."""
    return isinstance(text, str) and 0 < len(text) <= _MOST_NAME_CHARACTERS and text.isprintable()


def _read(given: Mapping[str, Any], fields: Mapping[str, "_Reader"], now: float) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        reader = fields.get(name)
        if reader is None:
            raise _unknown(name, fields)
        found[name] = reader(name, value, now)
    return found


def _unknown(name: object, fields: Mapping[str, object]) -> InvalidRequest:
    text = "".join(character if character.isprintable() else "?" for character in str(name)[:64])
    hint = did_you_mean(text, fields).removeprefix("; did")
    message = f"Unknown parameter: '{text}'." + (f" Did{hint}" if hint else "")
    return InvalidRequest(message, param=text, code="unknown_parameter")


def _invalid(name: str, fault: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{name}': {fault}.", param=name, code="invalid_value")


_Reader = Callable[[str, Any, float], Any]


def _optional(read: _Reader) -> _Reader:
    """`null` takes the limit away."""
    return lambda name, value, now: None if value is None else read(name, value, now)


def _alias(name: str, value: Any, now: float) -> str:
    text = _name(name, value, now)
    if text != text.strip() or _ID.fullmatch(text) or text.lower().startswith("sk-"):
        raise _invalid(name, "must not begin or end with a space, and must not look like an id or like a key")
    if text.endswith(_ACTIONS):
        raise _invalid(name, "must not end like an address of the admin API: /rotate or /revoke")
    return text


def _name(name: str, value: Any, now: float) -> str:
    if not isinstance(value, str):
        raise faults.wrong_type(name, "a string", value)
    if not is_name(value):
        raise _invalid(name, f"must have 1 to {_MOST_NAME_CHARACTERS} printable characters")
    return value


def _team_id(name: str, value: Any, now: float) -> str:
    text = _name(name, value, now)
    if not _TEAM_ID.fullmatch(text):
        raise _invalid(name, "must be the id of a team, `team_…`")
    return text


def _money(name: str, value: Any, now: float) -> int:
    """Nano-dollars. A float is taken for the nearest millionth: 0.1 + 0.2 means 0.3."""
    amount = _decimal(name, value)
    if not amount.is_finite() or amount < 0 or amount > _MOST_DOLLARS:
        raise _invalid(name, f"must be an amount of US dollars from 0 to {_MOST_DOLLARS:,}")
    rounded = amount.quantize(_SMALLEST_AMOUNT)
    if rounded != amount and not isinstance(value, float):
        raise _invalid(name, "must have no more than six decimal places")
    return int(rounded * NANOS_PER_DOLLAR)


def _decimal(name: str, value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise faults.wrong_type(name, "a decimal number", value)
    if isinstance(value, str) and not _AMOUNT.fullmatch(value):
        raise _invalid(name, "must be an amount of US dollars such as 25 or 0.50")
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _count(name: str, value: Any, now: float) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise faults.wrong_type(name, "an integer", value)
    if not 1 <= value <= _MOST_INTEGER:
        raise _invalid(name, f"must be an integer from 1 to {_MOST_INTEGER:,}")
    return value


def _flag(name: str, value: Any, now: float) -> bool:
    if not isinstance(value, bool):
        raise faults.wrong_type(name, "a boolean", value)
    return value


def _budget_duration(name: str, value: Any, now: float) -> str:
    text = _name(name, value, now).strip()
    try:
        parse_period(text)
    except ValueError as fault:
        raise _invalid(name, str(fault)) from None
    return text


def _names(name: str, value: Any, now: float) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise faults.wrong_type(name, "an array", value)
    if not 1 <= len(value) <= _MOST_LISTED:
        raise _invalid(name, f"must list 1 to {_MOST_LISTED} values, or be null where all are allowed")
    return tuple(dict.fromkeys(_name(name, each, now) for each in value))


def _sizes(name: str, value: Any, now: float) -> tuple[str, ...]:
    sizes = _names(name, value, now)
    if not all(_SIZE.fullmatch(size) for size in sizes):
        raise _invalid(name, "must list sizes such as 1024x1024, or auto")
    return sizes


def _scope(name: str, value: Any, now: float) -> str:
    if value not in _SCOPES:
        raise _invalid(name, "must be one of 'key', 'team', or 'org'")
    return str(value)


def _expires(name: str, value: Any, now: float) -> float:
    """Seconds since the epoch, of the same, a date, a time with its zone, or a period from now on."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise faults.wrong_type(name, "a string", value)
    try:
        moment = value if not isinstance(value, str) else _moment(_name(name, value, now), now)
    except (ValueError, OverflowError):
        fault = "must be a period such as 30d, a date such as 2030-12-31, or a time with its zone: 2030-12-31T12:00:00Z"
        raise _invalid(name, fault) from None
    if not now < moment <= _LAST_MOMENT:
        raise _invalid(name, "must lie in the future, before the year 10000")
    return float(moment)


def _moment(text: str, now: float) -> float:
    if text[-1:].isalpha() and text[-1] != "Z":
        return parse_period(text).after(now)
    if len(text) == len("2030-12-31"):
        day = date.fromisoformat(text)
        return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment.timestamp()


def _metadata(name: str, value: Any, now: float) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise faults.wrong_type(name, "an object", value)
    if not faults.is_json(value):
        raise _invalid(name, "must be JSON, nested at most 32 levels deep, without NaN or Infinity")
    try:
        written = json.dumps(value, ensure_ascii=False)
        size = len(written.encode("utf-8"))
    except ValueError:
        raise _invalid(name, "must be JSON without lone surrogates or numbers of thousands of digits") from None
    if size > MOST_METADATA_BYTES:
        raise _invalid(name, f"must be at most {MOST_METADATA_BYTES:,} bytes of JSON")
    if any("\0" in text for text in _texts(value)):
        raise _invalid(name, "must not hold NUL characters")
    copy: dict[str, Any] = json.loads(written)
    return copy


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


_BUDGET_FIELDS: Mapping[str, _Reader] = MappingProxyType(
    {
        "max_budget": _optional(_money),
        "soft_budget": _optional(_money),
        "budget_duration": _optional(_budget_duration),
        "blocked": _flag,
        "metadata": _metadata,
    }
)
_TEAM_FIELDS: Mapping[str, _Reader] = MappingProxyType({"team_alias": _alias, **_BUDGET_FIELDS})
_KEY_FIELDS: Mapping[str, _Reader] = MappingProxyType(
    {
        "key_alias": _alias,
        "team_id": _optional(_team_id),
        "models": _optional(_names),
        **_BUDGET_FIELDS,
        "rpm_limit": _optional(_count),
        "ipm_limit": _optional(_count),
        "max_parallel_requests": _optional(_count),
        "max_n": _optional(_count),
        "allowed_sizes": _optional(_sizes),
        "allowed_qualities": _optional(_names),
        "cache_scope": _optional(_scope),
        "expires": _optional(_expires),
    }
)

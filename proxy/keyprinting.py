"""Keys, teams and changes in words: a record for people, the state it is in, and what of it a change has changed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from proxy.money import dollars
from proxy.printing import print_line
from proxy.quantities import moment

if TYPE_CHECKING:
    from proxy.keyrecord import KeyRecord, TeamRecord

_MONEY = frozenset({"max_budget", "soft_budget"})
_MOMENTS = frozenset({"expires", "previous_until", "created_at", "updated_at", "revoked_at"})
_BOOKKEEPING = frozenset({"id", "created_at", "updated_at", "revision"})
_LONGEST_VALUE = 80


def state(record: "KeyRecord | TeamRecord", now: float, team: "TeamRecord | None" = None) -> str:
    """What stands in its way, or `active`; `team` is the key's."""
    if getattr(record, "revoked_at", None) is not None:
        return "revoked"
    expires = getattr(record, "expires", None)
    if expires is not None and expires <= now:
        return "expired"
    if record.blocked:
        return "blocked"
    return "team blocked" if team is not None and team.blocked else "active"


def described(record: "KeyRecord | TeamRecord", now: float, team: "TeamRecord | None" = None) -> dict[str, str]:
    """Every field that says something, under the name that options and `--unset` know it by."""
    told = {name: value for name, value in record.as_json().items() if not _says_nothing(value) and name != "blocked"}
    words = {name: in_words(name, value) for name, value in told.items()}
    words |= {name: f"${words[name]}" for name in _MONEY & words.keys()}
    if team is not None:
        words["team_id"] += f" ({team.team_alias})"
    return {"state": state(record, now, team), **words}


def stands(standing: Mapping[str, Any]) -> dict[str, str]:
    """What was spent of a budget and what is left of it, in words."""
    told = {name: value for name, value in standing.items() if value is not None}
    return {
        name.removesuffix("_usd"): moment(value) if name.endswith("_at") else f"${dollars(Decimal(repr(value)))}"
        for name, value in told.items()
    }


def budget(record: "KeyRecord | TeamRecord") -> str:
    """`$5 / 30d`, `$5` for ever, or `-`."""
    amount = record.as_json()["max_budget"]
    if amount is None:
        return "-"
    return f"${in_words('max_budget', amount)}" + (f" / {record.budget_duration}" if record.budget_duration else "")


def in_words(name: str, value: Any) -> str:
    """The value of a field in one line."""
    if value is None:
        return "none"
    if name in _MONEY:
        return dollars(Decimal(repr(value)))
    if name in _MOMENTS:
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def changed(before: Mapping[str, Any] | None, after: Mapping[str, Any], kind: str) -> str:
    """`max_budget: 5 -> 10, expires: none -> …`; of what is new, the fields that say something."""
    return ", ".join(_changes(before, after, f"{kind}_alias"))


def _changes(before: Mapping[str, Any] | None, after: Mapping[str, Any], alias: str) -> Iterator[str]:
    for name, value in after.items():
        if name in _BOOKKEEPING:
            continue
        if before is None:
            if not _says_nothing(value) and name != alias:
                yield f"{name}: {_short(name, value)}"
        elif before.get(name) != value:
            yield f"{name}: {_short(name, before.get(name))} -> {_short(name, value)}"


def _says_nothing(value: Any) -> bool:
    return value is None or value is False or value == {}


def _short(name: str, value: Any) -> str:
    text = in_words(name, value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def say_how_to_go_on(words: Sequence[str]) -> None:
    """Below a page that is not the last one: the option of the next."""
    print_line("")
    print_line(f"there are more: the same command with {' '.join(words)}")

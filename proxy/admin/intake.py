"""Reads what an administrator sent: the query by its parameters, the body as one strict JSON object, bounded."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from proxy import faults, keyfields, mediatype, strictjson
from proxy.admin.operation import Parameter
from proxy.bodies import Incoming
from proxy.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from proxy.rule import ParameterRule

_MOST_PAIRS = 1000
_INTEGER = re.compile(r"[+-]?\d{1,40}", re.ASCII)


def pairs_of(query_string: bytes) -> list[tuple[str, str]]:
    """Raises InvalidRequest for what is not percent-encoded UTF-8."""
    try:
        text = query_string.decode("ascii")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PAIRS)
    except ValueError:
        message = f"Your query string is not percent-encoded UTF-8, or has more than {_MOST_PAIRS:,} parameters."
        raise InvalidRequest(message, code="invalid_value") from None


def query_of(pairs: Sequence[tuple[str, str]], parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Raises InvalidRequest for what is unknown, twice there, or not as its schema has it."""
    known = {each.name: each for each in parameters}
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise faults.unknown(name)
        if name in found:
            raise InvalidRequest(f"Invalid '{name}': it is given twice.", param=name, code="duplicate_parameter")
        found[name] = _value(known[name], text)
    for each in parameters:
        if each.is_needed and each.name not in found:
            raise faults.missing(each.name)
    return found


async def body_of(headers: Mapping[str, str], incoming: Incoming, limit: int, *, is_needed: bool) -> dict[str, Any]:
    """Where it is not needed, an empty one is `{}`. Raises RequestError (400, 408, 413, 415) and ClientGone."""
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise PayloadTooLarge(
            f"The body of your request is larger than {limit} bytes.", headers={"connection": "close"}
        )
    text = b"".join([chunk async for chunk in incoming.chunks(limit)])
    if not text and not is_needed:
        return {}
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Compressed request bodies are not supported. Send the body as it is.")
    if not mediatype.is_json(mediatype.of(headers)):
        raise UnsupportedMediaType(
            f"Invalid Content-Type header ({mediatype.of(headers)[:100] or 'none'}), expected application/json. "
            "(HINT: If you're using curl, you can pass -H 'Content-Type: application/json')"
        )
    return strictjson.parse_object(text)


def _value(parameter: Parameter, text: str) -> Any:
    if parameter.schema["type"] == "integer":
        return _integer(parameter, text)
    choices = parameter.schema.get("enum", ())
    refusal = faults.of_value(ParameterRule(name=parameter.name, type="string", values=tuple(choices)), text)
    if refusal is not None:
        raise refusal
    if not keyfields.is_name(text):
        raise _invalid(parameter.name, "must have 1 to 128 printable characters")
    pattern = parameter.schema.get("pattern")
    if pattern is not None and re.fullmatch(pattern, text) is None:
        raise _invalid(parameter.name, f"must match {pattern}")
    return text


def _integer(parameter: Parameter, text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise faults.not_an_integer(parameter.name)
    least, most = parameter.schema.get("minimum"), parameter.schema.get("maximum")
    limits = ParameterRule(name=parameter.name, type="integer", minimum=least, maximum=most)
    refusal = faults.of_value(limits, int(text))
    if refusal is not None:
        raise refusal
    return int(text)


def _invalid(name: str, fault: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{name}': {fault}.", param=name, code="invalid_value")

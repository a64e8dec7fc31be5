"""JSON without surprises: what was hashed is what every other reader will read (RFC 8259, I-JSON RFC 7493).

The law: one text has one meaning. UTF-8 without a byte order mark, no duplicate keys, no lone surrogates, no NaN or
Infinity, integers exact, depth bounded. Whatever breaks it raises `InvalidRequest`, never anything else.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from proxy.errors import InvalidRequest

MAX_INTEGER_DIGITS = 100
"""Longer integers are refused: nothing in this API needs them, and CPython refuses to read some of them."""

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
# A string up to its closing quote, or to the end of the text: it always matches, so that scanning stays linear.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACES_AS_BRACKETS = str.maketrans("{}", "[]")
_NOT_A_BRACKET = re.compile(r"[^\[\]]+")


class _JsonError(Exception):
    """What is wrong with the text; turned into an InvalidRequest at the end."""


def parse_object(body: bytes, *, max_depth: int = 32, lone_surrogates: bool = False) -> dict[str, Any]:
    """The JSON object that `body` is. Raises InvalidRequest, with a sentence that says what is wrong.

    `lone_surrogates` lets half a pair of escapes pass: a text that somebody cut in the middle of an emoji. Such a string
    cannot be encoded as UTF-8 again.
    """
    try:
        value = _parse(body, max_depth)
        if not lone_surrogates and _SURROGATE_ESCAPE.search(body) and _has_lone_surrogate(value):
            raise _JsonError("a string holds a lone surrogate")
        return value
    except _JsonError as fault:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {fault}.") from None


def canonical(value: Any) -> bytes:
    """The one spelling of `value`: sorted keys, no spaces, ASCII only. Raises ValueError for NaN and Infinity."""
    return _ENCODER.encode(value).encode("ascii")


def _parse(body: bytes, max_depth: int) -> dict[str, Any]:
    if not body.strip():
        raise _JsonError("it is empty")
    if body.startswith(b"\xef\xbb\xbf"):
        raise _JsonError("it starts with a byte order mark")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _JsonError(f"it is not UTF-8 at byte {error.start}") from None
    value = _decode(text, max_depth)
    if body.count(b"[") + body.count(b"{") > max_depth and _is_deeper_than(max_depth, text):
        raise _too_deep(max_depth)
    if not isinstance(value, dict):
        raise _JsonError("an object was expected at the top level")
    return value


def _decode(text: str, max_depth: int) -> Any:
    try:
        return (_COUNTING_DECODER if _LONG_INTEGER.search(text) else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        raise _JsonError(f"{reason} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep(max_depth) from None


def _too_deep(max_depth: int) -> _JsonError:
    return _JsonError(f"it is nested more than {max_depth} levels deep")


def _is_deeper_than(depth: int, text: str) -> bool:
    """Only for valid JSON: peels the innermost pairs of brackets `depth` times; all that is left was deeper."""
    brackets = _NOT_A_BRACKET.sub("", _STRING.sub("", text).translate(_BRACES_AS_BRACKETS))
    for _ in range(depth):
        brackets = brackets.replace("[]", "")
    return bool(brackets)


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _JsonError(f"duplicate key '{_shown(key)}'")
            seen.add(key)
    return members


def _shown(key: str) -> str:
    return key[:100].encode("utf-8", "backslashreplace").decode("utf-8")


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise _JsonError(f"an integer has more than {MAX_INTEGER_DIGITS} digits")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _JsonError("a number is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise _JsonError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
# Asked about every integer: half a million of them in one body would hold the event loop four times as long.
_COUNTING_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
_LONG_INTEGER = re.compile(rf"[0-9]{{{MAX_INTEGER_DIGITS + 1}}}")
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

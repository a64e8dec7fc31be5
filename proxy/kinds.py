"""The types of settings: how a value is read, from TOML or from a variable's text, and how it is shown."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from proxy.problems import did_you_mean
from proxy.quantities import parse_seconds, parse_size, size_text

_PETABYTE = 10**15


def toml_text(value: Any) -> str:
    """Text, numbers, booleans and lists of them: there TOML and JSON agree."""
    return json.dumps(value, ensure_ascii=False)


class Refused(ValueError):
    """What is wrong with one value, in words that go behind its path."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where values are read: the folder that relative paths count from, and the environment of secrets."""

    folder: Path
    environ: Mapping[str, str]
    needs_secrets: bool = True
    """False for commands that do not serve: an operator's shell need not hold the service's secrets."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of setting.

    `expects` names it to people; `read` turns what TOML holds into the value, or raises ValueError; `of_text` turns a
    variable's text into what TOML would hold; `shown` is the value as JSON, without anything secret; `toml` the same
    as TOML.
    """

    expects: str
    read: Callable[[Any, Place], Any]
    of_text: Callable[[str], Any] = str
    shown: Callable[[Any], Any] = lambda value: value
    toml: Callable[[Any], str] = toml_text


def _number_of_text(text: str) -> int | float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def matching(pattern: str, expects: str) -> Kind:
    def read(raw: Any, place: Place) -> str:
        if not isinstance(raw, str) or re.fullmatch(pattern, raw) is None:
            raise Refused(f"must be {expects}")
        return raw

    return Kind(expects, read)


def choice(*names: str, into: Callable[[str], str] = str) -> Kind:
    expects = ", ".join(names[:-1]) + " or " + names[-1]

    def read(raw: Any, place: Place) -> str:
        if raw not in names:
            raise Refused(f"must be {expects}{did_you_mean(raw, names)}")
        return into(raw)

    return Kind(expects, read)


def _read_flag(raw: Any, place: Place) -> bool:
    if not isinstance(raw, bool):
        raise Refused("must be true or false")
    return raw


def _flag_of_text(text: str) -> bool | str:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)


def whole_number(least: int, most: int) -> Kind:
    expects = f"a whole number from {least} to {most}"

    def read(raw: Any, place: Place) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not least <= raw <= most:
            raise Refused(f"must be {expects}")
        return raw

    return Kind(expects, read, _number_of_text)


def _read_ratio(raw: Any, place: Place) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw <= 1:
        raise Refused("must be a number from 0 to 1")
    return float(raw)


def byte_size(least: int = 0) -> Kind:
    def read(raw: Any, place: Place) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise Refused("must be a size such as 20GB, 256MB, 1MiB or a number of bytes")
        size = parse_size(raw) if isinstance(raw, str) else raw
        if not least <= size <= _PETABYTE:
            raise Refused(f"must be from {size_text(least)} to {size_text(_PETABYTE)}")
        return size

    return Kind("a size (GB = 10⁹, GiB = 2³⁰)", read, _number_of_text, toml=lambda size: json.dumps(size_text(size)))


def seconds(least: float, most: float = 86_400, whole: bool = False) -> Kind:
    def read(raw: Any, place: Place) -> float:
        kinds = int if whole else (int, float)
        value = parse_seconds(raw) if isinstance(raw, str) else raw
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise Refused(f"must be {'whole ' if whole else ''}seconds from {least} to {most}, or a text such as 30d")
        return value

    return Kind("seconds, or a text such as 30d or 12h", read, _number_of_text)


def file_path(raw: Any, place: Place) -> Path:
    """Made absolute, not resolved: a mounted volume may change what a link points to."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise Refused("must be a path")
    if raw.startswith("~"):
        raise Refused("must be written in full: ~ is not expanded")
    return place.folder / raw


def _readable_file(raw: Any, place: Place) -> Path:
    path = file_path(raw, place)
    if not path.is_file():
        raise Refused(f"there is no file {path}")
    return path


def many(expects: str, read_one: Callable[[Any, Place], Any]) -> Kind:
    def read(raw: Any, place: Place) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise Refused(f"must be a list of {expects}")
        return tuple(read_one(item, place) for item in raw)

    def of_text(text: str) -> Any:
        if text.lstrip().startswith("["):
            return _json_of_text(text)
        return [item.strip() for item in text.split(",") if item.strip()]

    def shown(values: Iterable[Any]) -> list[str]:
        return [str(value) for value in values]

    return Kind(f"a list of {expects}", read, of_text, shown, lambda values: toml_text(shown(values)))


def _json_of_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused("is not valid JSON") from error


def _read_aliases(raw: Any, place: Place) -> Mapping[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(name, str) and name for pair in raw.items() for name in pair):
        raise Refused('must be a table such as { "dall-e-3" = "gpt-image-2" }')
    for name, target in raw.items():
        if target in raw:
            raise Refused(f"{name!r} points to {target!r}, which is an alias itself; name the model")
    return MappingProxyType(dict(raw))


def _toml_of_aliases(aliases: Mapping[str, str]) -> str:
    if not aliases:
        return "{}"
    return "{ " + ", ".join(f"{json.dumps(name)} = {json.dumps(target)}" for name, target in aliases.items()) + " }"


FLAG = Kind("true or false", _read_flag, _flag_of_text)
RATIO = Kind("a number from 0 to 1", _read_ratio, _number_of_text)
FOLDER = Kind("a path", file_path, shown=str, toml=lambda path: toml_text(str(path)))
FILE = Kind("a path to a file", _readable_file, shown=str, toml=lambda path: toml_text(str(path)))
FILES = many("paths to files", _readable_file)
TOKEN = matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "a plain word of at most 63 letters, digits, _ . -")
OPTIONAL_TOKEN = Kind("a plain word", lambda raw, place: raw and TOKEN.read(raw, place))
NAMES = many("names", matching(r"[A-Za-z_][A-Za-z0-9_]*", "a list of parameter names").read)
PATTERNS = many("model names, with * and ?", matching(r"[\x21-\x7e]+", "a list of model names or patterns").read)
PREVIEWS = many(
    "previews such as gpt-image-2:background=transparent",
    matching(r"[^\s:=]+:[^\s:=]+=\S+", "a list of model:parameter=value").read,
)
ALIASES = Kind("a table of names", _read_aliases, _json_of_text, dict, _toml_of_aliases)

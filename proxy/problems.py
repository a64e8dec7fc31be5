"""What is wrong with a configuration: every problem, by its path, with the variable it came from."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable standing where TOML's value would."""

    name: str
    text: str = field(repr=False)


class Problems:
    """By path, in the order found."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def add(self, path: str, message: str, raw: Any = None) -> None:
        variable = _variable_in(raw)
        self._found.append((path, message + (f" (from {variable.name})" if variable else "")))

    def sound(self, *paths: str) -> bool:
        """Whether all of these were read without a problem, so that a rule between them may be judged."""
        return not any(found == path or path.startswith(found + ".") for found, _ in self._found for path in paths)

    def report(self) -> None:
        if self._found:
            raise ConfigurationError([f"{path}: {message}" for path, message in self._found])


def _variable_in(raw: Any) -> Variable | None:
    if isinstance(raw, dict):
        return next((value for value in raw.values() if isinstance(value, Variable)), None)
    return raw if isinstance(raw, Variable) else None


def did_you_mean(written: object, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(written).lower(), list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""

"""What commands print: JSON, or lines for people, to standard output; complaints to standard error."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proxy.quantities import moment as moment  # noqa: PLC0414  # said here too, for commands


def complain(code: int, *lines: str) -> int:
    """Each complaint in one line; gives the exit code back."""
    for line in lines:
        sys.stderr.write("imagegate: " + " ".join(line.splitlines()) + "\n")
    return code


def print_line(line: str) -> None:
    sys.stdout.write(line + "\n")


def print_json(value: Any) -> None:
    print_line(json.dumps(value, indent=2))


def print_found(found: Mapping[str, Any], *, as_json: bool) -> None:
    """As JSON, or for people: sizes in MB, times in UTC."""
    if as_json:
        print_json(found)
        return
    shown = {name: value for name, value in found.items() if value is not None}
    print_pairs({name.removesuffix("_at").replace("_", " "): _shown(name, value) for name, value in shown.items()})


def _shown(name: str, value: Any) -> str:
    if name.endswith("bytes"):
        return amount(value)
    if name.endswith("_at"):
        return moment(value)
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)


def print_pairs(pairs: Mapping[str, str]) -> None:
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print_line(f"{name:<{width}}  {printable(value)}")


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print_line("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """Names come from callers: no terminal is to obey them."""
    return "".join(character if character.isprintable() else "?" for character in text)


def amount(size: int) -> str:
    """Bytes to be read by people: `3.1 MB`, with MB = 10⁶."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"

"""The record of a run of the measurements of cost, and the tables that are printed of it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import markdown, number


@dataclass(frozen=True)
class Row:
    """Figures of one point of one table, units in their names; None where there is nothing to be seen."""

    table: str
    at: str
    figures: Mapping[str, float | None]

    def told(self) -> str:
        """The whole row in one line."""
        figures = ", ".join(f"{_words(name)} {_cell(value)}" for name, value in self.figures.items())
        return f"{self.table}, {self.at}: {figures}"


@dataclass
class Found:
    """Grows during the run, so that what was measured before a failure is not lost."""

    began: str
    machine: dict[str, str]
    commit: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n")


def tables(rows: Sequence[Row]) -> str:
    """Each table with the columns of all of its rows, in the order in which they first come."""
    parts = []
    for table in dict.fromkeys(row.table for row in rows):
        ours = [row for row in rows if row.table == table]
        columns = list(dict.fromkeys(name for row in ours for name in row.figures))
        cells = [(row.at, *(_cell(row.figures.get(name)) for name in columns)) for row in ours]
        head = (table, *map(_words, columns))
        parts.append(markdown(head, cells, left=(0,)))
    return "\n\n".join(parts)


def counted(count: int, what: str) -> str:
    """The name of a point: a number of things, and what they are, in the singular."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: float | None) -> str:
    return "-" if value is None else number(value)

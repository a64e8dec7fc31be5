"""One TOML table, read member by member: every problem is noted with its path, and whatever is left over is one."""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class TableReader:
    """Takes typed members out of one TOML table; `problems` are (path, message), shared with the tables inside it."""

    def __init__(self, table: object, path: str, problems: list[tuple[str, str]]) -> None:
        self.path = path
        self.problems = problems
        self.left: dict[str, Any] = {}
        if isinstance(table, Mapping):
            self.left.update(table)
        else:
            self.problem("", "must be a table")

    def problem(self, key: str, message: str) -> None:
        self.problems.append((".".join(part for part in (self.path, key) if part), message))

    def has(self, key: str) -> bool:
        return key in self.left

    def take(self, key: str, kind: type[T], what: str) -> T | None:
        """The member of exactly this type, or None (noted, if it is there and of another type)."""
        value = self.left.pop(key, None)
        if value is None or type(value) is kind:
            return value
        self.problem(key, f"must be {what}")
        return None

    def word(self, key: str) -> str | None:
        return self.take(key, str, "a string")

    def integer(self, key: str) -> int | None:
        return self.take(key, int, "a whole number")

    def words(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list, "a list of strings") or []
        if not all(type(value) is str for value in values):
            self.problem(key, "must be a list of strings")
            return ()
        return tuple(values)

    def raw(self, key: str) -> Any:
        return self.left.pop(key, None)

    def tables(self, key: str) -> dict[str, "TableReader"]:
        """The members of a table of tables; `false` in the place of one takes it away."""
        if key not in self.left:
            return {}
        tables = TableReader(self.left.pop(key), f"{self.path}.{key}" if self.path else key, self.problems)
        return {
            name: TableReader(table, f"{tables.path}.{name}", self.problems)
            for name, table in tables.left.items()
            if table is not False
        }

    def table(self, key: str) -> "TableReader | None":
        if key not in self.left:
            return None
        return TableReader(self.left.pop(key), f"{self.path}.{key}" if self.path else key, self.problems)

    def numbers(self, key: str) -> dict[str, int]:
        """A table of whole numbers."""
        table = self.table(key)
        if table is None:
            return {}
        found = {name: table.integer(name) for name in list(table.left)}
        return {name: number for name, number in found.items() if number is not None}

    def done(self) -> None:
        """Whatever was not taken is no setting; `source` and `checked` are for the reader of the file."""
        for key in self.left.keys() - {"source", "checked"}:
            self.problem(key, "is no setting of the catalogue")

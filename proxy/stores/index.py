"""The index of the disk tier: which entries there are, where their files lie, and in which order they should go."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores.database import MODE_BINARY, DamagedIndexError, Database, is_key, is_value_path

_COLUMNS = "rowid, key, raw, store_time, expire_time, access_time, tag, size, mode, filename, value"


class DamagedRowError(StoreError):
    """One row that we did not write, or not so. `rowid` names it."""

    def __init__(self, rowid: int) -> None:
        super().__init__("damaged row in the cache index")
        self.rowid = rowid


@dataclass(frozen=True, slots=True)
class Row:
    """Where one entry lies. `size` is that of its whole file; times are wall-clock seconds."""

    rowid: int
    key: str
    filename: str
    size: int
    model: str
    scope: str
    stored_at: float
    expires_at: float
    used_at: float


class Index(Database):
    """What is asked of the database. Every method raises sqlite3.Error as it comes; the disk tier decides what it means."""

    def find(self, key: str) -> Row | None:
        """Raises DamagedRowError."""
        rows = self._query(f"SELECT {_COLUMNS} FROM Cache WHERE key = ? AND raw = 1", (key,))  # noqa: S608
        return _row(rows[0]) if rows else None

    def totals(self, sql: sqlite3.Connection | None = None) -> tuple[int, int]:
        """Entries, and bytes of their files; kept by triggers, so this costs nothing."""
        select = "SELECT key, value FROM Settings WHERE key IN ('count', 'size')"
        found = dict(self._query(select, ()) if sql is None else sql.execute(select).fetchall())
        try:
            return int(found["count"]), int(found["size"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedIndexError("the cache index has lost its totals") from error

    def page(self, after: str, limit: int) -> list[Row | DamagedRowError]:
        """Rows in the order of their keys, those behind `after`."""
        sql = f"SELECT {_COLUMNS} FROM Cache WHERE key > ? ORDER BY key, raw LIMIT ?"  # noqa: S608
        return [_row_or_damage(found) for found in self._query(sql, (after, limit))]

    def rows(self, sql: sqlite3.Connection | None = None) -> Iterator[Row | DamagedRowError]:
        """Every row, a thousand at a time; without a transaction, rows that come or go meanwhile may be missed."""
        select, last = f"SELECT {_COLUMNS} FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT 1000", -(2**63)  # noqa: S608
        while True:
            found = self._query(select, (last,)) if sql is None else sql.execute(select, (last,)).fetchall()
            if not found:
                return
            yield from map(_row_or_damage, found)
            last = found[-1][0]

    # --- writing: all inside `writing`, whose caller unlinks files after the commit -----------------------------------

    def take_out(self, sql: sqlite3.Connection, key: str) -> str | None:
        """Delete the row under a key; the filename it had, if it is one of ours: the caller is going to unlink it."""
        old = sql.execute("SELECT filename FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchone()
        sql.execute("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,))
        return old[0] if old and is_value_path(old[0]) else None

    def insert(self, sql: sqlite3.Connection, metadata: Metadata, filename: str, size: int, used_at: float) -> None:
        """Make an entry findable; no row may stand under its key."""
        tag = {"model": metadata.model, "scope": metadata.scope, "expires": metadata.expires_at}
        sql.execute(
            "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, tag, size, mode, filename)"
            " VALUES (?, 1, ?, ?, ?, ?, ?, 2, ?)",
            (
                metadata.key,
                metadata.stored_at,
                metadata.expires_at,
                used_at,
                json.dumps(tag, separators=(",", ":")),
                size,
                filename,
            ),
        )

    def delete(self, sql: sqlite3.Connection, rows: Sequence[Row | DamagedRowError]) -> None:
        """Rows that were read within the same transaction."""
        sql.executemany("DELETE FROM Cache WHERE rowid = ?", [(row.rowid,) for row in rows])

    def forget(self, row: Row | DamagedRowError) -> bool:
        """Delete one row that was read earlier, unless its place was taken meanwhile; whether it was still there."""
        with self.writing() as sql:
            if isinstance(row, Row):
                found = sql.execute("DELETE FROM Cache WHERE rowid = ? AND filename = ?", (row.rowid, row.filename))
            else:
                found = sql.execute("DELETE FROM Cache WHERE rowid = ?", (row.rowid,))
            return bool(found.rowcount)

    def clamp_uses(self, sql: sqlite3.Connection, now: float) -> None:
        """A last use in the future (the clock was wrong then) counts as now: else such a row would never go."""
        sql.execute("UPDATE Cache SET access_time = ? WHERE access_time IS NULL OR access_time > ?", (now, now))

    def oldest(self, sql: sqlite3.Connection | None, now: float) -> Iterator[tuple[Row | DamagedRowError, bool]]:
        """Rows in the order in which they should go, and whether each has expired: those first, then by last use."""
        for condition, order, expired in (
            ("expire_time < ?", "expire_time", True),
            ("(expire_time IS NULL OR expire_time >= ?)", "access_time", False),
        ):
            select = f"SELECT {_COLUMNS} FROM Cache WHERE {condition} ORDER BY {order}, rowid"  # noqa: S608
            found = iter(self._query(select, (now,))) if sql is None else sql.execute(select, (now,))
            for row in found:
                yield _row_or_damage(row), expired

    def touch(self, key: str, used_at: float) -> None:
        with self.writing() as sql:
            sql.execute("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", (used_at, key))


def _row_or_damage(found: tuple[Any, ...]) -> Row | DamagedRowError:
    try:
        return _row(found)
    except DamagedRowError as damage:
        return damage


def _row(found: tuple[Any, ...]) -> Row:
    rowid, key, raw, stored_at, expires_at, used_at, tag, size, mode, filename, value = found
    if raw != 1 or mode != MODE_BINARY or value is not None or not is_value_path(filename):
        raise DamagedRowError(rowid)
    if not is_key(key) or not isinstance(size, int):
        raise DamagedRowError(rowid)
    try:
        labels = json.loads(tag)
        model, scope = labels["model"], labels["scope"]
        times = float(stored_at), float(expires_at), float(used_at)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedRowError(rowid) from error
    if not isinstance(model, str) or not isinstance(scope, str):
        raise DamagedRowError(rowid)
    return Row(rowid, key, filename, size, model, scope, *times)

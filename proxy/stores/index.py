"""The index of the disk tier: which entries there are, where their files lie, and in which order they should go."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores.database import MODE_BINARY, DamagedIndexError, Database, is_key, is_value_path

_COLUMNS = "rowid, key, raw, store_time, expire_time, access_time, tag, size, mode, filename, value"
_BATCH_ROWS = 500
"""So few that whoever looks up an entry waits for one or two milliseconds, and so many that asking costs little."""
_NAME_CHARACTERS = len("aa/bb/") + 28 + len(".val")
_RECORD_CHARACTERS = _NAME_CHARACTERS + 16
"""A filename, and the rowid in hex digits."""
_KEY_CHARACTERS = 64
_PUNCTUATION = ((2, "/"), (5, "/"), *enumerate(".val", _NAME_CHARACTERS - 4))
"""What stands at which place of a filename; everything else is a digit."""
_SOUND = (
    f"raw IS 1 AND mode IS {MODE_BINARY} AND value IS NULL AND typeof(key) = 'text' AND typeof(filename) = 'text'"
    f" AND length(key) = {_KEY_CHARACTERS} AND length(filename) = {_NAME_CHARACTERS} AND typeof(size) = 'integer'"
    " AND typeof(store_time) = 'real' AND typeof(expire_time) = 'real' AND typeof(access_time) = 'real'"
)
"""What `_row` asks for, but for the tag, and for the characters of key and filename: see `_records`."""
RECORD_BYTES = 24
"""Of a row that is known by its file alone: 16 bytes are the digits of the filename, 8 the rowid, signed, big end first."""


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


class Roll(NamedTuple):
    """Some of the rows: records of those that are sound, RECORD_BYTES each, and the rest."""

    records: bytes
    damaged: Sequence[DamagedRowError]


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

    def roll(self) -> Iterator[Roll]:
        """Every row, some at a time, as cheaply as it can be: SQLite looks at the rows, and lets other threads run.

        Only where it finds something odd is each row read. What it takes for sound may still be damaged if its tag is
        valid JSON and Python's reader disagrees (a name twice, a number too long): a look-up finds that out.
        """
        tag = _sound_tag() if _has_json() else "0"
        select = (
            f"SELECT max(rowid), count(*), count(*) FILTER (WHERE is_sound), group_concat(key, '') FILTER (WHERE is_sound),"  # noqa: S608
            " group_concat(filename || printf('%016x', rowid), '') FILTER (WHERE is_sound)"
            f" FROM (SELECT rowid, key, filename, ({_SOUND} AND {tag}) AS is_sound FROM Cache"
            f" WHERE rowid > ? ORDER BY rowid LIMIT {_BATCH_ROWS})"
        )
        last = -(2**63)
        while True:
            [(until, count, sound, keys, names)] = self._query(select, (last,))
            if not count:
                return
            records = _records(keys, names, count) if sound == count else None
            yield self._read_roll(last, until) if records is None else Roll(records, ())
            last = until

    def _read_roll(self, after: int, until: int) -> Roll:
        sql = f"SELECT {_COLUMNS} FROM Cache WHERE rowid > ? AND rowid <= ?"  # noqa: S608
        rows = [_row_or_damage(found) for found in self._query(sql, (after, until))]
        return Roll(
            b"".join(_record(row) for row in rows if isinstance(row, Row)),
            [row for row in rows if isinstance(row, DamagedRowError)],
        )

    def at(self, rowid: int) -> Row | None:
        """The row that has this number now; None if it is damaged, too."""
        rows = self._query(f"SELECT {_COLUMNS} FROM Cache WHERE rowid = ?", (rowid,))  # noqa: S608
        row = _row_or_damage(rows[0]) if rows else None
        return row if isinstance(row, Row) else None

    def expired(self, before: float) -> Iterator[Row]:
        """Sound rows that expired before, some at a time, in that order."""
        select = (
            f"SELECT {_COLUMNS} FROM Cache WHERE expire_time < ? AND (expire_time, rowid) > (?, ?)"  # noqa: S608
            f" ORDER BY expire_time, rowid LIMIT {_BATCH_ROWS}"
        )
        last = (float("-inf"), -(2**63))
        while found := self._query(select, (before, *last)):
            for row in map(_row_or_damage, found):
                if isinstance(row, Row):
                    yield row
            last = (found[-1][4], found[-1][0])

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
                return bool(found.rowcount)
            present = sql.execute(f"SELECT {_COLUMNS} FROM Cache WHERE rowid = ?", (row.rowid,)).fetchall()  # noqa: S608
            if not present or isinstance(_row_or_damage(present[0]), Row):
                return False
            self.delete(sql, [row])
            return True

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


# --- rows known by their files alone ----------------------------------------------------------------------------------


def _sound_tag() -> str:
    # CASE, which goes no further than it has to: what is no JSON must not be asked for its labels, that is an error, and
    # an error in a statement of ours means a damaged index.
    labels = " AND ".join(f"json_type(tag, '$.{name}') IS 'text'" for name in ("model", "scope"))
    return f"CASE WHEN typeof(tag) <> 'text' THEN 0 WHEN json_valid(tag) THEN {labels} ELSE 0 END"


@cache
def _has_json() -> bool:
    """A SQLite before 3.38 may have been made without it."""
    with closing(sqlite3.connect(":memory:")) as memory:
        try:
            memory.execute(f"SELECT {_sound_tag()} FROM (SELECT '{{}}' AS tag)").fetchall()  # noqa: S608
        except sqlite3.Error:
            return False
    return True


def _records(keys: str, names: str, count: int) -> bytes | None:
    """Of rows whose keys and names are joined; None unless each of them is the digits, in the places, that it should be.

    Hundreds at once: what `is_key` and `is_value_path` say of one.
    """
    step = _RECORD_CHARACTERS
    if len(keys) != count * _KEY_CHARACTERS or len(names) != count * step:
        return None
    if any(names[at::step] != character * count for at, character in _PUNCTUATION):
        return None
    digits = names.replace("/", "").replace(".val", "")
    try:
        records = bytes.fromhex(digits)
        # There and back: capitals and blanks would be read as well.
        is_sound = records.hex() == digits and bytes.fromhex(keys).hex() == keys
    except ValueError:
        return None
    return records if is_sound and len(records) == count * RECORD_BYTES else None


def _record(row: Row) -> bytes:
    digits = row.filename.replace("/", "").removesuffix(".val")
    return bytes.fromhex(digits) + row.rowid.to_bytes(8, "big", signed=True)

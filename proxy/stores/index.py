"""The index of the disk tier: a diskcache database that trusts nothing it finds in its own tables.

diskcache unpickles what a row tells it to, opens whatever path a row names, and pastes Settings rows into PRAGMAs and
constructor arguments (CVE-2025-69872 and its neighbours). Here keys are hex digits, values are files that `disk` has
published, paths fit one pattern, settings are constants, and no row is ever obeyed, only believed or thrown away.
"""

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diskcache

from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores.files import PRIVATE_FILE, open_regular, remove_quietly

DATABASE = "cache.db"
DATABASE_FILES = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")
BUSY_TIMEOUT_SECONDS = 5.0

_VALUE_PATH = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val", re.ASCII)
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MODE_BINARY = 2

_SETTINGS: Mapping[str, Any] = {
    "statistics": 0,
    "tag_index": 0,
    # A get must not be a write; we order by access_time ourselves.
    "eviction_policy": "least-recently-stored",
    "size_limit": 2**62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2**11,
    "sqlite_journal_mode": "wal",
    # A database that is shortened under a mapping kills the process.
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 1,
    "disk_min_file_size": 0,
    "disk_pickle_protocol": 0,
}
_COUNTED = ("count", "size", "hits", "misses")
_OBJECTS = frozenset(
    {
        ("table", "Settings"),
        ("table", "Cache"),
        ("index", "sqlite_autoindex_Settings_1"),
        ("index", "Cache_key_raw"),
        ("index", "Cache_expire_time"),
        ("index", "Cache_store_time"),
        ("index", "Cache_access_time"),
        ("trigger", "Settings_count_insert"),
        ("trigger", "Settings_count_delete"),
        ("trigger", "Settings_size_insert"),
        ("trigger", "Settings_size_update"),
        ("trigger", "Settings_size_delete"),
    }
)
_COLUMNS = "rowid, key, raw, store_time, expire_time, access_time, tag, size, mode, filename, value"


class DamagedIndexError(StoreError):
    """The database cannot be believed any more: to be put aside, and built anew from the entries themselves."""


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


def is_value_path(name: object) -> bool:
    return isinstance(name, str) and _VALUE_PATH.fullmatch(name) is not None


class ValueDisk(diskcache.Disk):  # type: ignore[misc]
    """Refuses every value and key that is not ours, whichever of diskcache's own methods is called."""

    def __init__(self, directory: str, **_settings: object) -> None:
        super().__init__(directory)

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise StoreError("a cache key is 64 hex digits")
        return key, True

    def get(self, key: object, raw: object) -> str:
        if not isinstance(key, str) or not _KEY.fullmatch(key) or not raw:
            raise StoreError("damaged row in the cache index")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, str, None]:
        raise StoreError("entries are published by the disk tier alone")

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> Any:
        if mode != _MODE_BINARY or value is not None or not is_value_path(filename):
            raise StoreError("damaged row in the cache index")
        file = open(open_regular(Path(self._directory) / str(filename)), "rb")  # noqa: SIM115
        if read:
            return file
        with file:
            return file.read()

    def remove(self, file_path: object) -> None:
        if is_value_path(file_path):
            remove_quietly(Path(self._directory) / str(file_path))


class Index(diskcache.Cache):  # type: ignore[misc]
    """Two connections, one that writes and one that reads, each behind its lock; safe for threads and processes.

    Every method raises sqlite3.Error as it comes; whoever owns the index decides what that means.
    """

    def __init__(self, directory: Path) -> None:
        """Open or create. Raises DamagedIndexError, sqlite3.Error, OSError."""
        if os.path.expandvars(directory) != str(directory):
            raise StoreError("cache.directory holds a $name that the environment defines; diskcache would replace it")
        self._database = directory.absolute() / DATABASE
        self._write_lock = threading.RLock()
        self._read_lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._shut = False
        self._make_private()
        try:
            self._inspect(self._con)
            super().__init__(str(self._database.parent), timeout=BUSY_TIMEOUT_SECONDS, disk=ValueDisk, **_SETTINGS)
            self._prepare()
        except BaseException as error:
            self.shut()
            if isinstance(error, (AttributeError, TypeError, ValueError, KeyError)):
                raise DamagedIndexError("the cache index holds what diskcache cannot read") from error
            raise

    # --- what diskcache would do with Settings rows -----------------------------------------------------------------------

    @property
    def _con(self) -> sqlite3.Connection:
        if self._shut:
            raise StoreError("the cache index is closed")
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    @property
    def _sql_retry(self) -> Any:
        # diskcache's own tries again for a minute; five seconds of busy timeout are enough, then we serve without a disk.
        return self._sql

    def reset(self, key: str, value: Any = diskcache.core.ENOVAL, update: bool = True) -> Any:
        """Settings are constants; of what the table says only the four counters are read."""
        if key in _COUNTED:
            return super().reset(key, value, update)
        if key in _SETTINGS:
            setattr(self, key, _SETTINGS[key])
            return _SETTINGS[key]
        return None

    def shut(self) -> None:
        """Close for good; whoever still holds this index gets StoreError."""
        with self._write_lock:
            self._shut = True
        self.close()

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            for connection in (self._writer, self._reader):
                if connection is not None:
                    connection.close()
            self._writer = self._reader = None

    def _connect(self) -> sqlite3.Connection:
        # check_same_thread: our locks see to it. One connection each way instead of one per thread: closed when we say so.
        connection = sqlite3.connect(
            self._database, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            for name, value in _SETTINGS.items():
                if name.startswith("sqlite_"):
                    connection.execute(f"PRAGMA {name[7:]} = {value}").fetchall()
            connection.execute("PRAGMA trusted_schema = 0")
            connection.execute("PRAGMA cell_size_check = 1")
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_private(self) -> None:
        """The database file exists, is a plain file and is ours alone; SQLite gives its mode to the files beside it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        for name in DATABASE_FILES:
            path = self._database.with_name(name)
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise DamagedIndexError(f"{name} is no plain file")
            if path.exists() and path.stat().st_mode & 0o077:
                path.chmod(PRIVATE_FILE)
        os.close(os.open(self._database, flags, PRIVATE_FILE))

    def _inspect(self, connection: sqlite3.Connection) -> None:
        """Raises DamagedIndexError unless this is a sound database with nothing in it but what diskcache puts there."""
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise DamagedIndexError("the cache index is damaged")
        objects = set(connection.execute("SELECT type, name FROM sqlite_master").fetchall())
        if not objects <= _OBJECTS:
            raise DamagedIndexError("the cache index holds a table, view or trigger that is not ours")
        if ("table", "Settings") in objects:
            names = (*_SETTINGS, *_COUNTED)
            foreign = f"typeof(key) <> 'text' OR key NOT IN ({','.join('?' * len(names))})"
            if connection.execute(f"SELECT 1 FROM Settings WHERE {foreign} LIMIT 1", names).fetchone():  # noqa: S608
                connection.execute(f"DELETE FROM Settings WHERE {foreign}", names)  # noqa: S608

    def _prepare(self) -> None:
        """What must hold before anybody counts on it: our index, sound rows, and totals that add up."""
        with self.writing() as sql:
            sql.execute("CREATE INDEX IF NOT EXISTS Cache_access_time ON Cache (access_time)")
            sql.execute(
                "DELETE FROM Cache WHERE raw IS NOT 1 OR mode IS NOT 2 OR typeof(key) <> 'text'"
                " OR typeof(size) <> 'integer' OR size < 0"
            )
            sql.execute("UPDATE Settings SET value = (SELECT COALESCE(SUM(size), 0) FROM Cache) WHERE key = 'size'")
            sql.execute("UPDATE Settings SET value = (SELECT COUNT(*) FROM Cache) WHERE key = 'count'")
        self._reader = self._connect()
        self._reader.execute("PRAGMA query_only = 1")

    # --- reading ----------------------------------------------------------------------------------------------------------

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

    def _query(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._read_lock:
            if self._reader is None:
                raise StoreError("the cache index is closed")
            return self._reader.execute(sql, values).fetchall()

    # --- writing: all inside `writing`, whose caller unlinks files after the commit ---------------------------------------

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, across processes. diskcache's own leaves it open when COMMIT itself fails (disk full)."""
        with self._write_lock:
            connection = self._con
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    def take_out(self, sql: sqlite3.Connection, key: str) -> str | None:
        """Delete the row under a key; the filename it had."""
        old = sql.execute("SELECT filename FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchone()
        sql.execute("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,))
        return str(old[0]) if old else None

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

    def oldest(self, sql: sqlite3.Connection, now: float) -> Iterator[tuple[Row | DamagedRowError, bool]]:
        """Rows in the order in which they should go, and whether each has expired: those first, then by last use.

        A last use in the future (the clock was wrong then) counts as now: else such a row would never go.
        """
        sql.execute("UPDATE Cache SET access_time = ? WHERE access_time IS NULL OR access_time > ?", (now, now))
        expired = sql.execute(f"SELECT {_COLUMNS} FROM Cache WHERE expire_time < ? ORDER BY expire_time", (now,))  # noqa: S608
        for found in expired:
            yield _row_or_damage(found), True
        others = sql.execute(
            f"SELECT {_COLUMNS} FROM Cache WHERE expire_time IS NULL OR expire_time >= ? ORDER BY access_time",  # noqa: S608
            (now,),
        )
        for found in others:
            yield _row_or_damage(found), False

    def touch(self, key: str, used_at: float) -> None:
        with self.writing() as sql:
            sql.execute("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", (used_at, key))

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # A connection that cannot even roll back would fail every transaction after this one.
            connection.close()
            self._writer = None


def _row_or_damage(found: tuple[Any, ...]) -> Row | DamagedRowError:
    try:
        return _row(found)
    except DamagedRowError as damage:
        return damage


def _row(found: tuple[Any, ...]) -> Row:
    rowid, key, raw, stored_at, expires_at, used_at, tag, size, mode, filename, value = found
    if raw != 1 or mode != _MODE_BINARY or value is not None or not is_value_path(filename):
        raise DamagedRowError(rowid)
    if not isinstance(key, str) or not isinstance(size, int):
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

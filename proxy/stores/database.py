"""The database under the index: diskcache's own, opened so that it trusts nothing it finds in its own tables.

diskcache unpickles what a row tells it to, opens whatever path a row names, and pastes Settings rows into PRAGMAs and
constructor arguments (CVE-2025-69872 and its neighbours). Here keys are hex digits, values are files that the disk tier has
published, paths fit one pattern, settings are constants, and no row is ever obeyed, only believed or thrown away.
"""

import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diskcache

from proxy.errors import StoreError
from proxy.stores.files import PRIVATE_FILE, open_regular, remove_quietly

DATABASE = "cache.db"
DATABASE_FILES = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")
BUSY_TIMEOUT_SECONDS = 5.0

_VALUE_PATH = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val", re.ASCII)
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
MODE_BINARY = 2

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


class DamagedIndexError(StoreError):
    """The database cannot be believed any more: to be put aside, and built anew from the entries themselves."""


def is_value_path(name: object) -> bool:
    return isinstance(name, str) and _VALUE_PATH.fullmatch(name) is not None


def is_key(name: object) -> bool:
    return isinstance(name, str) and _KEY.fullmatch(name) is not None


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


class ValueDisk(diskcache.Disk):  # type: ignore[misc]
    """Refuses every value and key that is not ours, whichever of diskcache's own methods is called."""

    def __init__(self, directory: str, **_settings: object) -> None:
        super().__init__(directory)

    def put(self, key: object) -> tuple[str, bool]:
        if not is_key(key):
            raise StoreError("a cache key is 64 hex digits")
        return str(key), True

    def get(self, key: object, raw: object) -> str:
        if not is_key(key) or not raw:
            raise StoreError("damaged row in the cache index")
        return str(key)

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, str, None]:
        raise StoreError("entries are published by the disk tier alone")

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> Any:
        if mode != MODE_BINARY or value is not None or not is_value_path(filename):
            raise StoreError("damaged row in the cache index")
        file = open(open_regular(Path(self._directory) / str(filename)), "rb")  # noqa: SIM115
        if read:
            return file
        with file:
            return file.read()

    def remove(self, file_path: object) -> None:
        if is_value_path(file_path):
            remove_quietly(Path(self._directory) / str(file_path))


class Database(diskcache.Cache):  # type: ignore[misc]
    """Two connections, one that writes and one that reads, each behind its lock; safe for threads and processes.

    Every method raises sqlite3.Error as it comes; whoever owns the index decides what that means.
    """

    def __init__(self, directory: Path, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> None:
        """Open or create. Raises DamagedIndexError, sqlite3.Error, OSError."""
        if os.path.expandvars(directory) != str(directory):
            raise StoreError("cache.directory holds a $name that the environment defines; diskcache would replace it")
        self._database = directory.absolute() / DATABASE
        self._write_lock = threading.RLock()
        self._read_lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._shut = False
        self._busy_timeout_seconds = busy_timeout_seconds
        self._make_private()
        try:
            self._inspect(self._con)
            super().__init__(str(self._database.parent), timeout=busy_timeout_seconds, disk=ValueDisk, **_SETTINGS)
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

    @property
    def is_shut(self) -> bool:
        return self._shut

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
            self._database, timeout=self._busy_timeout_seconds, isolation_level=None, check_same_thread=False
        )
        # Text that is no UTF-8 is one damaged row, found out like any other; by default it fails the whole statement, and
        # so every sweep, count and eviction that comes across it.
        connection.text_factory = _text
        try:
            for name, value in _SETTINGS.items():
                if name.startswith("sqlite_"):
                    connection.execute(f"PRAGMA {name[7:]} = {value}").fetchall()
            connection.execute("PRAGMA trusted_schema = 0")
            # A log of 4 MB, the default, is more than a small or a full disk should have to give.
            connection.execute("PRAGMA wal_autocheckpoint = 200")
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

    def _query(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._read_lock:
            if self._reader is None:
                raise StoreError("the cache index is closed")
            return self._reader.execute(sql, values).fetchall()

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

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            # A connection that cannot even roll back would fail every transaction after this one.
            connection.close()
            self._writer = None

"""The SQLite database as a file: made private, opened with the settings that we count on, and known by its inode.

The law: only `prepare` makes a file. A connection to a database that somebody removed fails, instead of going on with an
empty one that has forgotten every key, or with one that no longer has a name.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

_PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700
_SETTINGS = (
    "foreign_keys = 1",
    # Survives kill -9. What a power failure takes back is the last commits, never a half of one.
    "synchronous = NORMAL",
    # A database that is shortened under a mapping kills the process.
    "mmap_size = 0",
    "trusted_schema = 0",
    "cell_size_check = 1",
    # A log of 4 MB, the default, is more than a full disk should have to give.
    "wal_autocheckpoint = 200",
)


class SqliteFile:
    """`wait_seconds` is how long a statement waits for another process's transaction."""

    def __init__(self, path: Path, wait_seconds: float) -> None:
        self._path = path.absolute()
        self._wait_seconds = wait_seconds

    def prepare(self) -> None:
        """The file exists, is ours alone, and is in WAL mode. Raises OSError or sqlite3.Error."""
        self._path.parent.mkdir(_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        with self._alone():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            os.close(os.open(self._path, flags, _PRIVATE_FILE))
            # SQLite gives the file's mode to the log beside it.
            for path in (self._path, *(self._path.with_name(self._path.name + end) for end in ("-wal", "-shm"))):
                if path.exists() and path.stat().st_mode & 0o077:
                    path.chmod(_PRIVATE_FILE)
            connection = self.connect()
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
            finally:
                connection.close()

    def connect(self) -> sqlite3.Connection:
        """For any one thread at a time. No transaction begins by itself. Raises sqlite3.Error."""
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=rw",
            uri=True,
            timeout=self._wait_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def identity(self) -> tuple[int, int] | None:
        """Which file stands at the path now; None if there is none."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes that switch one file to WAL at the same moment: SQLite lets one of them fail, at once.

        The lock is the folder's: closing a second descriptor of the database itself would drop SQLite's own locks.
        """
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

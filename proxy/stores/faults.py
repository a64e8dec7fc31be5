"""What a failure of SQLite or of the file system says about the disk tier, read from its code and not from its words."""

import errno
import sqlite3

_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_IOERR_SHORT_READ = 522
# SQLITE_ERROR: a statement of ours that worked yesterday ("no such table").
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_gone(error: OSError) -> bool:
    """There is no such plain file, as opposed to one that cannot be opened just now."""
    return error.errno is None or error.errno in _GONE


def is_ours(error: OSError) -> bool:
    """This process has run out of something, which says nothing about the disk."""
    return error.errno in _OURS


def is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        return _code(error) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _FULL


def is_busy(error: sqlite3.Error) -> bool:
    return _code(error) & 0xFF in _BUSY


def is_corrupt(error: sqlite3.Error) -> bool:
    """The database itself is wrong; trying again will not help."""
    return _code(error) == _IOERR_SHORT_READ or _code(error) & 0xFF in _CORRUPT


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended result code; its low byte is the primary one."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0)

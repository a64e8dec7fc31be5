"""The disk tier: entries as files published by rename, found through an index, within limits of bytes and free space.

Everything here blocks and is meant for the store's own threads. Laws of the module: a row never points to a file that is
not complete; a file without a row is adopted or removed, never served by accident; whatever breaks raises StoreError, sets
`problem`, and is tried again by `tend`, so that the proxy serves without a disk and recovers by itself.
"""

import errno
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from mmap import mmap
from pathlib import Path
from typing import Literal

from proxy import envelope
from proxy.clock import Clock
from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores import entryfile, sweeper
from proxy.stores.body import FileBody
from proxy.stores.files import (
    PRIVATE_DIRECTORY,
    WINDOW_BYTES,
    PrivateFile,
    make_private_directory,
    open_regular,
    remove_quietly,
    write_all,
)
from proxy.stores.index import DATABASE, DATABASE_FILES, DamagedIndexError, DamagedRowError, Index, Row
from proxy.stores.purges import PurgeLog

Reason = Literal["size", "ttl", "manual", "corrupt"]

SWEEP_AGE_SECONDS = 3600.0
"""Longer than any flight: an older spool or an older file without a row belongs to nobody."""
TOUCH_EVERY_SECONDS = 3600.0
EXPIRED_GRACE_SECONDS = 86_400.0
"""Expired entries stay this long if space allows, so that a clock that jumps ahead for an hour costs nothing."""
BALLAST = "ballast"
BALLAST_BYTES = 2_000_000
BUSY_PAUSE_SECONDS = 10.0
"""After another process has held the index for its whole timeout, ours stays away this long."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
_IOERR_SHORT_READ = 522
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Verdict(Enum):
    """What became of a reply that was to be stored."""

    STORED = auto()
    PURGED = auto()
    """An operator asked to forget it while it was being bought."""
    TOO_LARGE = auto()


@dataclass(frozen=True, slots=True)
class Found:
    """An entry's file, open, its lengths read, its digest not yet checked."""

    row: Row
    layout: envelope.Layout
    fd: int
    body: FileBody
    """Owns `fd`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` bounds the files of entries, orphans and quarantined indexes together; the live index is on top."""

    max_bytes: int
    min_free_bytes: int


class DiskTier:
    """One process's view of a cache directory that others may be using as well."""

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        clock: Clock,
        purges: PurgeLog,
        executor: Executor,
        on_evict: Callable[[str, int], None],
    ) -> None:
        self.problem: str | None = "not opened"
        """Why the disk is not in use, or not writable; None when all is well."""
        self.entries = 0
        self.bytes = 0
        self._directory = directory.absolute()
        self._limits = limits
        self._clock = clock
        self._purges = purges
        self._executor = executor
        self._on_evict = on_evict
        self._index: Index | None = None
        self._inode = 0
        self._opening = threading.RLock()
        self._stray_bytes = 0
        self._busy_until = float("-inf")

    # --- open, close, and keep well ---------------------------------------------------------------

    def open(self) -> None:
        """Open or create the directory and its index; a damaged index is put aside. Raises StoreError."""
        with self._opening, self._translating(None):
            make_private_directory(self._directory)
            if self._directory.stat().st_mode & 0o077:
                self._directory.chmod(PRIVATE_DIRECTORY)
            try:
                index = Index(self._directory)
            except (DamagedIndexError, sqlite3.Error) as error:
                if isinstance(error, sqlite3.Error) and not _is_corrupt(error, opening=True):
                    raise
                self._quarantine()
                index = Index(self._directory)
            self._index = index
            self._inode = self._database_inode()
            self._stray_bytes = sweeper.quarantined_bytes(self._directory)
            if index.totals()[0] == 0:
                # New, emptied or put aside: the entries themselves know what the index has forgotten.
                self._adopt(index, age_seconds=0.0)
            self.problem = None
            self._count(index)

    def close(self) -> None:
        with self._opening:
            if self._index is not None:
                self._index.shut()
            self._index = None
            self.problem = "closed"

    def tend(self) -> None:
        """Called every few seconds: try again what is broken, keep the ballast, count. Raises StoreError."""
        if self._index is None or self._database_inode() != self._inode:
            # Another process put the index aside, or somebody emptied the directory under us.
            self._drop(self._index)
            self.open()
        with self._serving() as index:
            if self.problem is not None:
                self._probe(index)
                self.problem = None
            self._keep_ballast()
            self._count(index)

    def sweep(self, instance_id: str, age_seconds: float = SWEEP_AGE_SECONDS) -> None:
        """Remove or adopt what crashes left behind, drop rows without a file, and what expired long ago.

        Raises StoreError.
        """
        with self._serving() as index:
            now = self._clock.wall()
            strays = sweeper.sweep_spools(self._directory, instance_id, now=now, age_seconds=age_seconds)
            strays += self._adopt(index, age_seconds=age_seconds)
            self._stray_bytes = strays + sweeper.quarantined_bytes(self._directory)
            for row in index.rows():
                if isinstance(row, DamagedRowError) or not os.path.lexists(self._directory / row.filename):
                    self._forget(index, row, "corrupt")
                elif row.expires_at < now - EXPIRED_GRACE_SECONDS:
                    self._forget(index, row, "ttl")
            self._enforce(index)
            self._count(index)

    # --- entries ----------------------------------------------------------------------------------

    def find(self, key: str) -> Found | None:
        """The entry's file, opened. Raises StoreError; a row without a sound file is deleted first."""
        with self._serving() as index:
            for _ in range(3):
                try:
                    row = index.find(key)
                except DamagedRowError as damage:
                    self._forget(index, damage, "corrupt")
                    raise
                if row is None:
                    return None
                found = self._open_value(index, row)
                if found is not None:
                    return found
            # Gone each time we looked: it is being replaced as fast as we read.
            return None

    def load(self, found: Found, buffer: mmap | None) -> Metadata:
        """Check the whole entry, and fill `buffer` with its body on the way. Raises StoreError; damage is deleted."""
        try:
            metadata = entryfile.check_entry(found.fd, found.layout, buffer)
            if metadata.key != found.row.key:
                raise StoreError("damaged entry: it belongs to another key")
        except StoreError:
            with self._serving() as index:
                self._forget(index, found.row, "corrupt")
            raise
        except OSError as error:
            # The medium failed, which says nothing about the entry: it stays.
            raise StoreError("the stored reply cannot be read") from error
        return metadata

    def put(self, file: PrivateFile, metadata: Metadata, body_bytes: int, begun_epoch: int) -> Verdict:
        """Publish a spool's file as an entry. Raises StoreError if the disk will not have it.

        The file has lost its first name only if the verdict is STORED; its descriptor stays the caller's.
        """
        with self._serving() as index:
            if self._clock.monotonic() < self._busy_until:
                raise StoreError("the cache index is busy")
            try:
                verdict = self._publish(index, file, metadata, body_bytes, begun_epoch)
            except (OSError, sqlite3.Error) as error:
                if not _is_full(error):
                    raise
                self._relieve(index, body_bytes)
                verdict = self._publish(index, file, metadata, body_bytes, begun_epoch)
            self.problem = None
            self._count(index)
            return verdict

    def relieve(self, needed_bytes: int) -> None:
        """The disk is full, as somebody else has found out: make room. Raises StoreError."""
        with self._serving() as index:
            self._relieve(index, needed_bytes)

    def touch(self, key: str) -> None:
        """Note that an entry was used. Raises StoreError."""
        if self._clock.monotonic() >= self._busy_until:
            with self._serving() as index:
                index.touch(key, self._clock.wall())

    # --- publishing -------------------------------------------------------------------------------

    def _publish(
        self, index: Index, file: PrivateFile, metadata: Metadata, body_bytes: int, begun_epoch: int
    ) -> Verdict:
        size = entryfile.seal(file.fd, metadata, body_bytes)
        if size > self._limits.max_bytes:
            return Verdict.TOO_LARGE
        filename = self._place(file.path)
        verdict, doomed, replaced = Verdict.PURGED, Doomed(), None
        try:
            # A purger appends its record first and deletes rows after, in a transaction like this one. Write transactions
            # come one after the other: if ours is first, the purger's finds our row; if the purger's is first, its record
            # stood in the log before we began, and we see it here. No crash in between leaves anything behind.
            with index.writing() as sql:
                self._purges.refresh()
                if not any(purge.matches_metadata(metadata) for purge in self._purges.since(begun_epoch)):
                    replaced = index.take_out(sql, metadata.key)
                    doomed = self._make_room(index, sql, size)
                    index.insert(sql, metadata, filename, size, self._clock.wall())
                    verdict = Verdict.STORED
        except BaseException:
            self._unplace(filename, file.path)
            raise
        if verdict is Verdict.PURGED:
            self._unplace(filename, file.path)
        self._unlink(replaced)
        self._bury(doomed)
        return verdict

    def _unplace(self, filename: str, path: Path) -> None:
        """Back to the spool's name, so that another attempt, or the owner's clean-up, finds it there."""
        (self._directory / filename).rename(path)

    def _place(self, path: Path) -> str:
        """Rename the file to a fresh entry's name: complete from its first moment."""
        digits = secrets.token_hex(16)
        filename = f"{digits[:2]}/{digits[2:4]}/{digits[4:]}.val"
        target = self._directory / filename
        for attempt in range(3):
            make_private_directory(target.parent)
            try:
                path.rename(target)
                return filename
            except FileNotFoundError:
                # The last entry of that folder went, and the folder with it.
                if attempt == 2:
                    raise
        raise AssertionError  # pragma: no cover

    # --- limits -----------------------------------------------------------------------------------

    def _make_room(self, index: Index, sql: sqlite3.Connection, size: int) -> "Doomed":
        """Choose and delete rows so that `size` bytes more fit. The caller unlinks after the commit.

        Raises StoreError, with nothing deleted, if not even an empty cache would do.
        """
        over, short = self._shortfall(index, sql, size)
        if over <= 0 and short <= 0:
            return Doomed()
        if self._stray_bytes:
            before = sweeper.quarantined_bytes(self._directory)
            sweeper.empty_quarantine(self._directory)
            self._stray_bytes -= before
            over, short = over - before, short - before
        doomed = Doomed()
        for row, expired in index.oldest(sql, self._clock.wall()):
            if doomed.bytes >= max(over, short):
                break
            doomed.add(row, expired=expired)
        if doomed.bytes < max(over, short):
            self.problem = "less free space than cache.min_free_bytes asks for"
            raise StoreError(self.problem)
        index.delete(sql, doomed.rows)
        return doomed

    def _shortfall(self, index: Index, sql: sqlite3.Connection, size: int) -> tuple[int, int]:
        """Bytes over the limit, and bytes short of the free space, once an entry of `size` is in."""
        over = index.totals(sql)[1] + self._stray_bytes + size - self._limits.max_bytes
        # The new entry's file is on the disk already.
        free = os.statvfs(self._directory)
        return over, self._limits.min_free_bytes - free.f_bavail * free.f_frsize

    def _relieve(self, index: Index, needed_bytes: int) -> None:
        """A full disk cannot even delete, for a delete writes to the index: give up the ballast first."""
        remove_quietly(self._directory / BALLAST)
        doomed = Doomed()
        with index.writing() as sql:
            for row, expired in index.oldest(sql, self._clock.wall()):
                if doomed.bytes >= needed_bytes:
                    break
                doomed.add(row, expired=expired)
            index.delete(sql, doomed.rows)
        self._bury(doomed)

    def _enforce(self, index: Index) -> None:
        try:
            with index.writing() as sql:
                doomed = self._make_room(index, sql, 0)
        except StoreError:
            return  # `problem` says why; nothing was deleted
        self._bury(doomed)

    def _keep_ballast(self) -> None:
        path = self._directory / BALLAST
        free = os.statvfs(self._directory)
        if path.exists() or free.f_bavail * free.f_frsize < self._limits.min_free_bytes + 2 * BALLAST_BYTES:
            return
        try:
            file = PrivateFile(path)
        except FileExistsError:
            return  # another process was faster
        try:
            os.posix_fallocate(file.fd, 0, BALLAST_BYTES)
        except OSError:
            file.remove()  # next time
        else:
            os.close(file.release())

    # --- strays -----------------------------------------------------------------------------------

    def _adopt(self, index: Index, *, age_seconds: float) -> int:
        """Give files without a row a row again, or remove them; the bytes of those too young to be touched."""
        now, young = self._clock.wall(), 0
        self._purges.refresh()
        known = {row.filename for row in index.rows() if isinstance(row, Row)}
        for filename, found in sweeper.value_files(self._directory):
            if filename in known:
                continue
            path = self._directory / filename
            if age_seconds and not sweeper.is_old(path, found, now=now, age_seconds=age_seconds):
                young += found.st_size
            else:
                self._adopt_one(index, filename, found.st_size)
        return young

    def _adopt_one(self, index: Index, filename: str, size: int) -> None:
        try:
            metadata = entryfile.read_metadata(self._directory / filename)
        except StoreError:
            self._unlink(filename)
            return
        except FileNotFoundError:
            return
        unwanted: str | None = filename
        with index.writing() as sql:
            self._purges.refresh()
            purged = any(
                purge.at >= metadata.stored_at and purge.matches_metadata(metadata) for purge in self._purges.since(0)
            )
            if not purged and metadata.expires_at >= self._clock.wall():
                row = sql.execute("SELECT store_time FROM Cache WHERE key = ?", (metadata.key,)).fetchone()
                if row is None or row[0] < metadata.stored_at:
                    unwanted = index.take_out(sql, metadata.key)
                    index.insert(sql, metadata, filename, size, metadata.stored_at)
        self._unlink(unwanted)

    # --- reading ----------------------------------------------------------------------------------

    def _open_value(self, index: Index, row: Row) -> Found | None:
        """None if the row's file is gone because the row is, too. Raises StoreError."""
        try:
            fd = open_regular(self._directory / row.filename)
        except OSError as error:
            if error.errno not in _GONE and not isinstance(error, FileNotFoundError):
                raise
            if self._forget(index, row, "corrupt"):
                raise StoreError("damaged entry: its file is missing") from error
            return None
        body = FileBody(fd, len(envelope.MAGIC), 0, self._executor)
        try:
            layout = entryfile.read_layout(fd)
        except StoreError:
            self._forget(index, row, "corrupt")
            raise
        body.length = layout.body_bytes
        return Found(row, layout, fd, body)

    # --- forgetting -------------------------------------------------------------------------------

    def _forget(self, index: Index, row: Row | DamagedRowError, reason: Reason) -> bool:
        """Delete one row, then its file; whether it was still there."""
        was_there = index.forget(row)
        if was_there:
            if isinstance(row, Row):
                self._unlink(row.filename)
            self._on_evict(reason, 1)
        return was_there

    def _bury(self, doomed: "Doomed") -> None:
        for row in doomed.rows:
            if isinstance(row, Row):
                self._unlink(row.filename)
        for reason, count in (("ttl", doomed.expired), ("size", len(doomed.rows) - doomed.expired)):
            if count:
                self._on_evict(reason, count)

    def _unlink(self, filename: str | None) -> None:
        """Remove a file of ours, and its folder if that was the last."""
        if filename is None:
            return
        path = self._directory / filename
        if remove_quietly(path):
            try:
                path.parent.rmdir()
            except OSError:
                pass  # not empty

    # --- what breaks ------------------------------------------------------------------------------

    @contextmanager
    def _serving(self) -> Iterator[Index]:
        index = self._index
        if index is None:
            raise StoreError(self.problem or "the disk is not in use")
        with self._translating(index):
            yield index

    @contextmanager
    def _translating(self, index: Index | None) -> Iterator[None]:
        """The door: what SQLite and the file system raise becomes StoreError, and is acted upon."""
        try:
            yield
        except DamagedIndexError as error:
            self._rebuild(index, error)
            raise
        except sqlite3.Error as error:
            if index is not None and _is_corrupt(error):
                self._rebuild(index, error)
            elif _is_busy(error):
                self.problem = "another process holds the cache index"
                self._busy_until = self._clock.monotonic() + BUSY_PAUSE_SECONDS
            else:
                self.problem = f"the cache index cannot be used: {error}"
                if not _is_full(error):
                    self._drop(index)
            raise StoreError(f"the cache index cannot be used: {error}") from error
        except OSError as error:
            if error.errno != errno.EMFILE:
                self.problem = f"the cache directory cannot be used: {error.strerror or error}"
            raise StoreError("the cache directory cannot be used") from error

    def _rebuild(self, index: Index | None, error: Exception) -> None:
        """The index is damaged: put it aside, start an empty one, and fill it from the entries."""
        with self._opening:
            self.problem = str(error)
            if index is None or self._index is not index:
                return  # another thread was faster
            self._drop(index)
            try:
                self._quarantine()
                self.open()
            except (OSError, StoreError):
                return  # `tend` tries again

    def _drop(self, index: Index | None) -> None:
        with self._opening:
            if index is not None:
                index.shut()
            if self._index is index:
                self._index = None

    def _quarantine(self) -> None:
        """Put the database files aside, out of the way but not out of the count. Raises OSError."""
        case = self._directory / sweeper.QUARANTINE / secrets.token_hex(8)
        make_private_directory(case)
        for name in DATABASE_FILES:
            try:
                (self._directory / name).rename(case / name)
            except FileNotFoundError:
                continue

    def _probe(self, index: Index) -> None:
        """Write as much as it takes to know that writing works."""
        file = PrivateFile(self._directory / sweeper.SPOOLS / f"probe-{secrets.token_hex(8)}.spool")
        try:
            write_all(file.fd, bytes(WINDOW_BYTES), 0)
        finally:
            file.remove()
        with index.writing() as sql:
            sql.execute("UPDATE Settings SET value = value WHERE key = 'count'")

    def _database_inode(self) -> int:
        try:
            return (self._directory / DATABASE).stat().st_ino
        except OSError:
            return -1

    def _count(self, index: Index) -> None:
        self.entries, stored = index.totals()
        self.bytes = stored + self._stray_bytes


class Doomed:
    """Rows that have to go, and what that frees."""

    def __init__(self) -> None:
        self.rows: list[Row | DamagedRowError] = []
        self.bytes = 0
        self.expired = 0

    def add(self, row: Row | DamagedRowError, *, expired: bool) -> None:
        self.rows.append(row)
        self.expired += expired
        if isinstance(row, Row):
            self.bytes += row.size


def _is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        return _code(error) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _FULL


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in _BUSY


def _is_corrupt(error: sqlite3.Error, *, opening: bool = False) -> bool:
    if opening and getattr(error, "sqlite_errorcode", 0) == _IOERR_SHORT_READ:
        return True
    return _code(error) in _CORRUPT


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF

"""The disk tier: entries as files published by rename, found through an index.

Everything here blocks and is meant for the store's own threads. Laws of the module: a row never points to a file that
is not complete; nothing is served that its digest does not vouch for; whatever breaks raises StoreError, sets `problem`,
and is tried again by `tend`, so that the proxy serves without a disk and recovers by itself.
"""

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Literal

from proxy import envelope
from proxy.clock import Clock
from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores import entryfile, faults, sweeper
from proxy.stores.body import FileBody
from proxy.stores.database import DATABASE, DamagedIndexError
from proxy.stores.eviction import Doomed, Eviction, Limits
from proxy.stores.files import (
    PRIVATE_DIRECTORY,
    WINDOW_BYTES,
    PrivateFile,
    make_private_directory,
    open_regular,
    remove_entry,
    write_all,
)
from proxy.stores.index import DamagedRowError, Index, Row
from proxy.stores.purges import PurgeLog

SWEEP_AGE_SECONDS = 3600.0
"""Longer than any flight: an older spool, or an older file without a row, is nobody's work in progress."""
TOUCH_EVERY_SECONDS = 3600.0
EXPIRED_GRACE_SECONDS = 86_400.0
"""Expired entries stay this long if space allows, so that a clock that jumps ahead for an hour costs nothing."""
BUSY_PAUSE_SECONDS = 10.0
"""After another process has held the index for the whole timeout, ours stays away this long."""


class Verdict(Enum):
    """What became of a reply that was to be stored."""

    STORED = auto()
    PURGED = auto()
    """An operator asked to forget it while it was being bought."""
    TOO_LARGE = auto()


@dataclass(frozen=True, slots=True)
class Found:
    """An entry's file, open, its lengths read, its digest not yet checked. `body` owns `fd`."""

    row: Row
    layout: envelope.Layout
    fd: int
    body: FileBody


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
        """Why the disk is not in use, or takes nothing; None when all is well."""
        self.entries = 0
        self.bytes = 0
        self._directory = directory.absolute()
        self._clock = clock
        self._purges = purges
        self._executor = executor
        self._on_evict = on_evict
        self._eviction = Eviction(self._directory, limits)
        self._index: Index | None = None
        self._inode = 0
        self._opening = threading.RLock()
        self._busy_until = float("-inf")

    # --- open, close, and keep well -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or create the directory and its index; a damaged index is put aside. Raises StoreError."""
        with self._opening, self._translating(None):
            make_private_directory(self._directory)
            if self._directory.stat().st_mode & 0o077:
                self._directory.chmod(PRIVATE_DIRECTORY)
            self._index = index = self._opened()
            self._inode = self._database_inode()
            self._eviction.stray_bytes = sweeper.quarantined_bytes(self._directory)
            if index.totals()[0] == 0:
                # New, emptied or put aside: the entries themselves know what the index has forgotten.
                self._adopt(index, age_seconds=0.0)
            self.problem = None
            self._count(index)

    def close(self) -> None:
        with self._opening:
            self._drop(self._index)
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
            self._eviction.keep_ballast()
            self._count(index)

    def sweep(self, instance_id: str, age_seconds: float = SWEEP_AGE_SECONDS) -> None:
        """Remove or adopt what crashes left behind, drop rows without a file, and what expired long ago.

        Raises StoreError.
        """
        with self._serving() as index:
            now = self._clock.wall()
            strays = sweeper.sweep_spools(self._directory, instance_id, now=now, age_seconds=age_seconds)
            strays += self._adopt(index, age_seconds=age_seconds)
            self._eviction.stray_bytes = strays + sweeper.quarantined_bytes(self._directory)
            for row in index.expired(now - EXPIRED_GRACE_SECONDS):
                self._forget(index, row, "ttl")
            with index.writing() as sql:
                doomed = self._eviction.make_room(index, sql, 0, now)
            self._bury(doomed)
            self._count(index)

    # --- entries ------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> Found | None:
        """The entry's file, opened. Raises StoreError; a row without a sound file is deleted first."""
        with self._serving() as index:
            for _ in range(3):
                try:
                    row = index.find(key)
                except DamagedRowError as damage:
                    self._forget(index, damage, "corrupt")
                    raise
                found = None if row is None else self._open_value(index, row)
                if row is None or found is not None:
                    return found
            # Gone each time we looked: it is being replaced as fast as we read.
            return None

    def load(self, found: Found, buffer: memoryview | None) -> Metadata:
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
                if not faults.is_full(error):
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

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _publish(
        self, index: Index, file: PrivateFile, metadata: Metadata, body_bytes: int, begun_epoch: int
    ) -> Verdict:
        size = entryfile.seal(file, metadata, body_bytes)
        if size > self._eviction.limits.max_bytes:
            return Verdict.TOO_LARGE
        filename: str | None = None
        try:
            # A purger appends its record first and deletes rows after, in a transaction like this one. Write transactions
            # come one after the other: if ours is first, the purger's finds our row; if the purger's is first, its record
            # stood in the log before we began, and we see it here. No crash in between leaves anything behind.
            with index.writing() as sql:
                self._purges.refresh()
                if self._purges.forbids(metadata, begun_epoch):
                    return Verdict.PURGED
                replaced = index.take_out(sql, metadata.key)
                doomed = self._eviction.make_room(index, sql, size, self._clock.wall())
                # Not before the transaction: another process that found a file without a row would adopt it, and might
                # evict it, while we are about to point a row of ours to it.
                filename = self._place(file.path)
                index.insert(sql, metadata, filename, size, self._clock.wall())
        except BaseException as error:
            if filename is not None:
                self._unplace(filename, file.path)
            if isinstance(error, StoreError):
                self.problem = error.message
            raise
        remove_entry(self._directory, replaced)
        self._bury(doomed)
        return Verdict.STORED

    def _place(self, path: Path) -> str:
        """Rename the file to a fresh entry's name: complete from its first moment."""
        digits = secrets.token_hex(16)
        filename = f"{digits[:2]}/{digits[2:4]}/{digits[4:]}.val"
        target = self._directory / filename
        make_private_directory(target.parent)
        try:
            path.rename(target)
        except FileNotFoundError:
            # The last entry of that folder went, and the folder with it.
            make_private_directory(target.parent)
            path.rename(target)
        return filename

    def _unplace(self, filename: str, path: Path) -> None:
        """Back to the spool's name, so that another attempt, or the owner's clean-up, finds it there."""
        (self._directory / filename).rename(path)

    def _relieve(self, index: Index, needed_bytes: int) -> None:
        self._eviction.drop_ballast()
        try:
            self._evict(index, needed_bytes)
        except sqlite3.Error as error:
            if not faults.is_full(error):
                raise
            # There is no ballast, and not a page left for the index to note a delete in. Files first, then: a row without
            # its file is a miss, and no worse.
            for row in self._eviction.oldest(index, None, needed_bytes, self._clock.wall()).rows:
                if isinstance(row, Row):
                    remove_entry(self._directory, row.filename)
            self._evict(index, needed_bytes)

    def _evict(self, index: Index, needed_bytes: int) -> None:
        with index.writing() as sql:
            doomed = self._eviction.oldest(index, sql, needed_bytes, self._clock.wall())
            index.delete(sql, doomed.rows)
        self._bury(doomed)

    # --- finding and forgetting ---------------------------------------------------------------------------------------

    def _open_value(self, index: Index, row: Row) -> Found | None:
        """None if the row's file is gone because the row is, too. Raises StoreError, OSError."""
        try:
            fd = open_regular(self._directory / row.filename)
        except OSError as error:
            if not faults.is_gone(error):
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

    def _forget(self, index: Index, row: Row | DamagedRowError, reason: Literal["ttl", "corrupt"]) -> bool:
        """Delete one row, then its file; whether it was still there."""
        was_there = index.forget(row)
        if was_there:
            if isinstance(row, Row):
                remove_entry(self._directory, row.filename)
            self._on_evict(reason, 1)
        return was_there

    def _bury(self, doomed: Doomed) -> None:
        """Remove the files of rows that were evicted."""
        for row in doomed.rows:
            if isinstance(row, Row):
                remove_entry(self._directory, row.filename)
        for reason, count in (("ttl", doomed.expired), ("size", len(doomed.rows) - doomed.expired)):
            if count:
                self._on_evict(reason, count)

    def _adopt(self, index: Index, *, age_seconds: float) -> int:
        def forget(row: Row | DamagedRowError) -> None:
            self._forget(index, row, "corrupt")

        stock = sweeper.Stocktaking(self._directory, self._purges, self._clock.wall(), forget)
        return stock.run(index, age_seconds=age_seconds)

    # --- what breaks --------------------------------------------------------------------------------------------------

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
            self._note(index, error)
            raise StoreError(f"the cache index cannot be used: {error}") from error
        except OSError as error:
            if not faults.is_ours(error):
                self.problem = f"the cache directory cannot be used: {error.strerror or error}"
            raise StoreError("the cache directory cannot be used") from error

    def _note(self, index: Index | None, error: sqlite3.Error) -> None:
        if index is not None and faults.is_corrupt(error):
            self._rebuild(index, error)
        elif faults.is_busy(error):
            self.problem = "another process holds the cache index"
            self._busy_until = self._clock.monotonic() + BUSY_PAUSE_SECONDS
        else:
            self.problem = f"the cache index cannot be used: {error}"
            if not faults.is_full(error):
                self._drop(index)

    def _opened(self) -> Index:
        timeout = self._eviction.limits.busy_timeout_seconds
        try:
            return Index(self._directory, timeout)
        except (DamagedIndexError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and not faults.is_corrupt(error):
                raise
            sweeper.quarantine(self._directory)
            return Index(self._directory, timeout)

    def _rebuild(self, index: Index | None, error: Exception) -> None:
        """The index is damaged: put it aside, start an empty one, and fill it from the entries."""
        with self._opening:
            self.problem = str(error)
            if index is None or self._index is not index:
                return  # another thread was faster
            self._drop(index)
            try:
                sweeper.quarantine(self._directory)
                self.open()
            except (OSError, StoreError):
                return  # `tend` tries again

    def _drop(self, index: Index | None) -> None:
        """Stop using this index; a later `open` begins with a new one."""
        with self._opening:
            if index is not None:
                index.shut()
            if self._index is index:
                self._index = None

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
        self.bytes = stored + self._eviction.stray_bytes

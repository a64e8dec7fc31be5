"""Keeps the disk tier within its bytes and the disk within its free space: what goes, in which order, and the ballast.

Order: indexes put aside, expired entries, then entries by least recent use. Rows are chosen and deleted inside the caller's
transaction, so that the limit holds across processes; their files go after the commit.
"""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import StoreError
from proxy.stores import sweeper
from proxy.stores.database import BUSY_TIMEOUT_SECONDS
from proxy.stores.files import PrivateFile, remove_quietly
from proxy.stores.index import DamagedRowError, Index, Row

BALLAST = "ballast"
BALLAST_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` bounds the files of entries, orphans and quarantined indexes together; the live index is on top.

    The timeout is for other processes that hold the index.
    """

    max_bytes: int
    min_free_bytes: int
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS


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


class Eviction:
    """`stray_bytes` is what lies in the directory without a row: counted by the sweeper, limited here."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.limits = limits
        self.stray_bytes = 0
        self._directory = directory

    def make_room(self, index: Index, sql: sqlite3.Connection, size: int, now: float) -> Doomed:
        """Delete the rows that must go for `size` bytes more to fit, an entry whose file is on the disk already.

        Raises StoreError, with nothing deleted, if not even an empty cache would do.
        """
        needed = self._missing(index, sql, size)
        if needed > 0 and self.stray_bytes:
            self.stray_bytes -= sweeper.empty_quarantine(self._directory)
            needed = self._missing(index, sql, size)
        doomed = self.oldest(index, sql, needed, now)
        if doomed.bytes < needed:
            raise StoreError("less free space than cache.min_free_bytes asks for")
        index.delete(sql, doomed.rows)
        return doomed

    def oldest(self, index: Index, sql: sqlite3.Connection | None, needed: int, now: float) -> Doomed:
        """The entries that should go first, enough of them to free `needed` bytes, if there are."""
        doomed = Doomed()
        if needed > 0:
            if sql is not None:
                index.clamp_uses(sql, now)
            for row, expired in index.oldest(sql, now):
                doomed.add(row, expired=expired)
                if doomed.bytes >= needed:
                    break
        return doomed

    def keep_ballast(self) -> None:
        """A file to be given up when the disk is full: a full disk cannot even delete, for a delete writes to the index."""
        path = self._directory / BALLAST
        if path.exists() or self._free_bytes() < self.limits.min_free_bytes + 2 * BALLAST_BYTES:
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

    def drop_ballast(self) -> None:
        remove_quietly(self._directory / BALLAST)

    def _missing(self, index: Index, sql: sqlite3.Connection, size: int) -> int:
        """Bytes that must go: those over the limit with `size` more, or those short of the free space, if that is more."""
        over = index.totals(sql)[1] + self.stray_bytes + size - self.limits.max_bytes
        return max(over, self.limits.min_free_bytes - self._free_bytes())

    def _free_bytes(self) -> int:
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

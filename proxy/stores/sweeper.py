"""Finds what a crash left in the cache directory: spools of dead processes, entries without a row, indexes put aside.

An entry without a row is no rubbish: it was paid for, and says itself what it is. It gets its row back, unless it is
damaged, expired, purged or outdated. No lock is held while looking: another process may be between writing a file and
inserting its row, so whatever is younger than the longest flight is counted and left alone.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores import entryfile
from proxy.stores.database import DATABASE_FILES, is_value_path
from proxy.stores.files import make_private_directory, remove_entry, remove_quietly
from proxy.stores.index import DamagedRowError, Index, Row
from proxy.stores.purges import PurgeLog

QUARANTINE = "quarantine"
SPOOLS = "tmp"


def value_files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file that has the name of an entry, as (path below `directory`, stat)."""
    for first in _directories(directory):
        for second in _directories(Path(first.path)):
            for item in _listed(Path(second.path)):
                name = f"{first.name}/{second.name}/{item.name}"
                if is_value_path(name) and item.is_file(follow_symlinks=False):
                    try:
                        yield name, item.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue


def sweep_spools(directory: Path, instance_id: str, *, now: float, age_seconds: float) -> int:
    """Remove spools of other processes that are older than any flight may be; the bytes of those that remain."""
    remaining = 0
    for item in _listed(directory / SPOOLS):
        if not item.name.endswith(".spool") or item.name.startswith(f"{instance_id}-"):
            continue
        try:
            found = item.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        path = Path(item.path)
        if not (_is_old(path, found, now=now, age_seconds=age_seconds) and remove_quietly(path)):
            remaining += found.st_size
    return remaining


class Adoption:
    """Gives entries without a row a row again, or removes them."""

    def __init__(self, directory: Path, purges: PurgeLog, now: float) -> None:
        self._directory = directory
        self._purges = purges
        self._now = now

    def run(self, index: Index, *, age_seconds: float) -> int:
        """Every entry that is old enough and can be read; the bytes of those that are not."""
        left = 0
        # Rows first, files second: what is published in between looks like an orphan, but a young one.
        known = {row.filename for row in index.rows() if isinstance(row, Row)}
        for filename, found in value_files(self._directory):
            if filename in known:
                continue
            path = self._directory / filename
            if age_seconds and not _is_old(path, found, now=self._now, age_seconds=age_seconds):
                left += found.st_size
                continue
            try:
                # The digest is checked, as always, when the entry is looked up.
                metadata = entryfile.read_metadata(path)
            except StoreError:
                remove_entry(self._directory, filename)
            except FileNotFoundError:
                continue
            except OSError:
                left += found.st_size  # the next one may be readable
            else:
                self._adopt(index, metadata, filename, found.st_size)
        return left

    def _adopt(self, index: Index, metadata: Metadata, filename: str, size: int) -> None:
        unwanted: str | None = filename
        with index.writing() as sql:
            row = _believable(index, metadata.key)
            if row is not None and row.filename == filename:
                return  # published while we looked
            if self._is_wanted(metadata) and (row is None or row.stored_at < metadata.stored_at):
                unwanted = index.take_out(sql, metadata.key)
                index.insert(sql, metadata, filename, size, metadata.stored_at)
        remove_entry(self._directory, unwanted)

    def _is_wanted(self, metadata: Metadata) -> bool:
        """Not expired, and nobody has asked to forget it since its purchase began."""
        self._purges.refresh()
        # Entries of the first release do not say when their purchase began.
        begun_at = metadata.begun_at or metadata.stored_at
        return metadata.expires_at >= self._now and not any(
            purge.at >= begun_at and not purge.enacted and purge.matches_metadata(metadata)
            for purge in self._purges.since(0)
        )


# --- indexes put aside ------------------------------------------------------------------------------------------------


def quarantine(directory: Path) -> None:
    """Put the database files aside, out of the way but not out of the count. Raises OSError."""
    case = directory / QUARANTINE / secrets.token_hex(8)
    make_private_directory(case)
    for name in DATABASE_FILES:
        try:
            (directory / name).rename(case / name)
        except FileNotFoundError:
            continue


def quarantined_bytes(directory: Path) -> int:
    """What indexes that were put aside still take."""
    total = 0
    for case in _directories(directory / QUARANTINE):
        total += sum(item.stat(follow_symlinks=False).st_size for item in _listed(Path(case.path)))
    return total


def empty_quarantine(directory: Path) -> int:
    """Remove indexes put aside; the bytes they took. They are there for who asks why; entries were paid for."""
    freed = quarantined_bytes(directory)
    shutil.rmtree(directory / QUARANTINE, ignore_errors=True)
    return freed


def _believable(index: Index, key: str) -> Row | None:
    try:
        return index.find(key)
    except DamagedRowError:
        return None


def _is_old(path: Path, found: os.stat_result, *, now: float, age_seconds: float) -> bool:
    """Whether a file was last written longer ago than `age_seconds`.

    One from the future (the clock was wrong then) starts to age now, or it would stay for ever.
    """
    if found.st_mtime > now + age_seconds:
        try:
            os.utime(path, (now, now), follow_symlinks=False)
        except OSError:
            pass
        return False
    return now - found.st_mtime >= age_seconds


def _directories(directory: Path) -> Iterator[os.DirEntry[str]]:
    return (item for item in _listed(directory) if item.is_dir(follow_symlinks=False))


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as items:
            return list(items)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []

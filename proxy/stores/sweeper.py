"""Finds what a crash left in the cache directory: spools of dead processes, entries without a row, indexes put aside.

An entry without a row is no rubbish: it was paid for, and says itself what it is. It gets its row back, unless it is
damaged, expired, purged or outdated. No lock is held while looking: another process may be between writing a file and
inserting its row, so whatever is younger than the longest flight is counted and left alone.
"""

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores import entryfile, faults
from proxy.stores.database import DATABASE_FILES, is_value_path
from proxy.stores.files import make_private_directory, remove_entry, remove_quietly
from proxy.stores.index import RECORD_BYTES, DamagedRowError, Index, Row
from proxy.stores.purges import PurgeLog

QUARANTINE = "quarantine"
SPOOLS = "tmp"
BREATH_NAMES = 250
BREATH_SECONDS = 0.0002
"""After so many names, some 200 µs, the sweep stands aside for so long: nobody waits for it."""
_FOLDER_NAMES = 10
"""Listing a folder takes as long as so many names in it."""


def value_files(directory: Path) -> Iterator[str]:
    """Every file that has the name of an entry, by its path below `directory`."""
    for first in _directories(directory):
        for second in _directories(Path(first.path)):
            for item in _listed(Path(second.path)):
                name = f"{first.name}/{second.name}/{item.name}"
                if is_value_path(name) and item.is_file(follow_symlinks=False):
                    yield name


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


class Stocktaking:
    """Compares rows and files: an entry without a row gets one again, or is removed; a row without a file is forgotten.

    Each row is read once and each folder listed once; a file is looked at only if no row names it, a row only if its file
    was not seen.
    """

    def __init__(
        self, directory: Path, purges: PurgeLog, now: float, forget: Callable[[Row | DamagedRowError], object]
    ) -> None:
        self._directory = directory
        self._purges = purges
        self._now = now
        self._forget = forget
        self._unbroken = 0

    def run(self, index: Index, *, age_seconds: float) -> int:
        """Adopts every entry that is old enough and can be read; the bytes of those that are not."""
        left = 0
        # Rows first, files second: what is published in between looks like an orphan, but a young one.
        rows = self._rows(index)
        folders = {folder.name for folder in _directories(self._directory)}
        for first, records in enumerate(rows):
            folder = f"{first:02x}"
            rowids = self._rowids(index, folder, records)
            records.clear()
            if folder in folders:
                for filename in self._unnamed(index, folder, rowids):
                    left += self._examine(index, filename, age_seconds)
            for filename, rowid in rowids.items():
                self._miss(index, filename, rowid)
        return left

    def _rows(self, index: Index) -> list[bytearray]:
        """Records of all rows, by the folders of their files: 24 bytes a row, however long this takes. Damaged rows go."""
        folders = [bytearray() for _ in range(256)]
        for records, damaged in index.roll():
            for at in range(0, len(records), RECORD_BYTES):
                folders[records[at]] += records[at : at + RECORD_BYTES]
            for damage in damaged:
                self._forget(damage)
        return folders

    def _rowids(self, index: Index, folder: str, records: bytearray) -> dict[str, int]:
        """The rows of one folder, by the filenames that they name."""
        found = {}
        for start in range(0, len(records), BREATH_NAMES * RECORD_BYTES):
            some = records[start : start + BREATH_NAMES * RECORD_BYTES]
            digits = some.hex()
            for at in range(0, len(some), RECORD_BYTES):
                name = digits[2 * at : 2 * at + 32]
                rowid = int.from_bytes(some[at + 16 : at + RECORD_BYTES], "big", signed=True)
                found[f"{folder}/{name[2:4]}/{name[4:]}.val"] = rowid
            self._breathe(index, len(some) // RECORD_BYTES)
        return found

    def _unnamed(self, index: Index, folder: str, rowids: dict[str, int]) -> Iterator[str]:
        """Files that no row names. Those that are named are struck off."""
        for second in _directories(self._directory / folder):
            place = f"{folder}/{second.name}/"
            names = _names(second.path)
            for name in names:
                filename = place + name
                if rowids.pop(filename, None) is None and is_value_path(filename):
                    yield filename
            self._breathe(index, len(names) + _FOLDER_NAMES)

    def _breathe(self, index: Index, done: int) -> None:
        """Raises StoreError if the index was shut: whoever closes the store waits for us.

        And let the event loop run: whoever wants the interpreter gets it only after its whole switch interval, 5 ms, while a
        thread that lists folders gives it back and takes it again within microseconds."""
        if index.is_shut:
            raise StoreError("the cache index is closed")
        self._unbroken += done
        if self._unbroken >= BREATH_NAMES:
            self._unbroken = 0
            time.sleep(BREATH_SECONDS)

    def _miss(self, index: Index, filename: str, rowid: int) -> None:
        """A row whose file was not seen: it may have come, or both may have gone, since the row was read."""
        try:
            (self._directory / filename).lstat()
        except OSError as error:
            if not faults.is_gone(error):
                return  # what cannot be looked at just now may be there
            row = index.at(rowid)
            if row is not None and row.filename == filename:
                self._forget(row)

    def _examine(self, index: Index, filename: str, age_seconds: float) -> int:
        """A file that no row names: adopted, removed or left alone; its bytes if it is left alone."""
        path = self._directory / filename
        try:
            found = path.lstat()
        except (FileNotFoundError, PermissionError):
            return 0
        if not stat.S_ISREG(found.st_mode):
            return 0
        if age_seconds and not _is_old(path, found, now=self._now, age_seconds=age_seconds):
            return found.st_size
        try:
            # The digest is checked, as always, when the entry is looked up.
            metadata = entryfile.read_metadata(path)
        except StoreError:
            remove_entry(self._directory, filename)
        except FileNotFoundError:
            pass
        except OSError:
            return found.st_size  # the next one may be readable
        else:
            self._adopt(index, metadata, filename, found.st_size)
        return 0

    def _adopt(self, index: Index, metadata: Metadata, filename: str, size: int) -> None:
        unwanted: str | None = filename
        with index.writing() as sql:
            row = _believable(index, metadata.key)
            if row is not None and row.filename == filename:
                return  # published while we looked
            if self._is_wanted(metadata) and (row is None or row.stored_at < metadata.stored_at):
                replaced = index.take_out(sql, metadata.key)
                # A damaged row may name the very file that is adopted in its place.
                unwanted = None if replaced == filename else replaced
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


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208  # names are all that is wanted: half the time
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []

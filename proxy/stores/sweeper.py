"""Finds what a crash left in the cache directory: spools of dead processes, entries without a row, indexes put aside.

No lock is held while looking: another process may be between writing a file and inserting its row, so whatever is younger
than the longest deadline is counted and left alone.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from proxy.stores.files import remove_quietly
from proxy.stores.index import is_value_path

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
        if not (is_old(path, found, now=now, age_seconds=age_seconds) and remove_quietly(path)):
            remaining += found.st_size
    return remaining


def is_old(path: Path, found: os.stat_result, *, now: float, age_seconds: float) -> bool:
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


def quarantined_bytes(directory: Path) -> int:
    """What indexes that were put aside still take."""
    total = 0
    for case in _directories(directory / QUARANTINE):
        total += sum(item.stat(follow_symlinks=False).st_size for item in _listed(Path(case.path)))
    return total


def empty_quarantine(directory: Path) -> None:
    """Indexes put aside are there for whoever wants to know why; entries that were paid for come before them."""
    shutil.rmtree(directory / QUARANTINE, ignore_errors=True)


def _directories(directory: Path) -> Iterator[os.DirEntry[str]]:
    return (item for item in _listed(directory) if item.is_dir(follow_symlinks=False))


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as items:
            return list(items)
    except (FileNotFoundError, NotADirectoryError):
        return []

"""A full directory, made quickly: rows of the index as the store makes them, and names of a few files."""

import dataclasses
import random
import shutil
from pathlib import Path

from proxy.clock import SystemClock
from proxy.stores import entryfile, sweeper
from proxy.stores.index import Index

LINKS_PER_FILE = 60_000
"""A file of ext4 has at most 65,000 names."""
INDEX_CACHE_KIB = 1 << 20
AGE_SECONDS = 86_400
"""Of the first entry; each of the others is younger than the one before it, by this much:"""
APART_SECONDS = 0.01


def seed(directory: Path, count: int, dice: random.Random) -> None:
    """Rows and files as the store would have made them, as far as it looks at them before they are asked for."""
    if not count:
        return
    genuine = next(sweeper.value_files(directory))
    metadata = entryfile.read_metadata(directory / genuine)
    size = (directory / genuine).stat().st_size
    began = SystemClock().wall() - AGE_SECONDS
    folders: set[str] = set()
    store = Index(directory)
    try:
        with store.writing() as sql:
            # Keys come in no order: with the index's own cache each row would be a read and a write of its page.
            sql.execute(f"PRAGMA cache_size = -{INDEX_CACHE_KIB}")
            for turn in range(count):
                if turn % LINKS_PER_FILE == 0:
                    source = directory.parent / f"sealed-{count}-{turn}"
                    shutil.copyfile(directory / genuine, source)
                name = _link(directory, source, folders, dice)
                at = began + turn * APART_SECONDS
                entry = dataclasses.replace(metadata, key=dice.randbytes(32).hex(), stored_at=at)
                store.insert(sql, entry, name, size, at)
    finally:
        store.shut()


def _link(directory: Path, source: Path, folders: set[str], dice: random.Random) -> str:
    digits = dice.randbytes(16).hex()
    folder = f"{digits[:2]}/{digits[2:4]}"
    if folder not in folders:
        (directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.add(folder)
    name = f"{folder}/{digits[4:]}.val"
    (directory / name).hardlink_to(source)
    return name

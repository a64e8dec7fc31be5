"""The two modes, with keys and open: imagegate twice, up together, so that rounds can take turns."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.cost.ledger import make_keys
from bench.cost.rig import KEYS_MODE, OPEN_MODE, Rig
from bench.system import System

SIZES = {"2 KB": 2_000, "30 KB": 30_000, "300 KB": 300_000, "3 MB": 3_000_000, "12 MB": 12_000_000}
"""Of the replies, in bytes."""
ROUNDS = 3


@contextlib.contextmanager
def both_modes(rig: Rig, name: str) -> Iterator[dict[str, tuple[System, Path]]]:
    """Each with its folder, by the mode."""
    folders = {mode: rig.folder(f"{name}-{mode}") for mode in (KEYS_MODE, OPEN_MODE)}
    key = make_keys(folders[KEYS_MODE], 1)[0]
    with (
        rig.serving(folders[KEYS_MODE], key) as in_keys,
        rig.serving(folders[OPEN_MODE]) as in_open,
    ):
        yield {KEYS_MODE: (in_keys, folders[KEYS_MODE]), OPEN_MODE: (in_open, folders[OPEN_MODE])}
    for folder in folders.values():
        shutil.rmtree(folder)

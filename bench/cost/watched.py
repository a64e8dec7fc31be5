"""imagegate as it is, but that it notes each sweep, and sweeps as often as it is told to.

    python -m bench.cost.watched NOTES SECONDS serve --config ...

A sweep sleeps as much as it works: from outside it looks like anything else that a server does. So the notes say when
each began (`began TIME`), and when it was over and what its thread used (`ended TIME CPU`), all in seconds.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import proxy.store
from proxy.cli import main as imagegate
from proxy.stores.disk import SWEEP_AGE_SECONDS, DiskTier


def watch(notes: Path) -> None:
    """From now on every sweep is noted. One that fails has no end; the next one says that it began."""
    sweep = DiskTier.sweep

    def noted(self: DiskTier, instance_id: str, age_seconds: float = SWEEP_AGE_SECONDS) -> None:
        # The clock of every process on the machine, not only of this one.
        _note(notes, f"began {time.perf_counter()}")
        used = time.thread_time()
        sweep(self, instance_id, age_seconds)
        used = time.thread_time() - used
        _note(notes, f"ended {time.perf_counter()} {used}")

    DiskTier.sweep = noted  # type: ignore[method-assign]


def _note(notes: Path, line: str) -> None:
    with notes.open("a") as file:
        file.write(line + "\n")


def main(arguments: Sequence[str]) -> int:
    notes, seconds, *command = arguments
    proxy.store.SWEEP_SECONDS = float(seconds)
    watch(Path(notes))
    return imagegate(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

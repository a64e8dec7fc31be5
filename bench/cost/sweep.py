"""The sweep: when it is under way, when it is over, what it costs, and what hits feel of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import load
from bench.cost.rig import SMALL, Rig, expect
from bench.load import Order
from bench.process import PROC
from bench.stage import request
from bench.system import System

INTERVAL_SECONDS = 10.0
"""Between two sweeps, of a server that is to be watched."""
LOOK_SECONDS = 0.01
PATIENCE_SECONDS = 120.0
"""The longest that is waited for a sweep to begin, or to be over."""
FILLED_SHARE = 0.5
"""Of a sweep that nobody disturbs, so long hits are asked for in the next one: it shall not be over before they are."""
MOST_SECONDS = 6.0
HIT_FIGURES = ("rate", "p50_ms", "p99_ms", "max_ms")


@dataclass(frozen=True)
class Sweep:
    """What the notes say of one. Times are of `time.perf_counter`; while it is under way, or if it failed, it has no end."""

    began: float
    ended: float | None = None
    cpu_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return 0.0 if self.ended is None else self.ended - self.began


def measure(rig: Rig, system: System, notes: Path, words: str) -> dict[str, float | None]:
    """One sweep that nobody disturbs, and hits from memory, of these words, before and during the next one."""
    hot = Order(request(words, SMALL), 1, seconds=1.5)
    begun = len(sweeps(notes))
    alone = _await(rig, notes, lambda found: len(found) > begun and found[-1].ended is not None)[-1]
    quiet = load.run(rig.stage.client, system, hot)
    begun = len(sweeps(notes))
    _await(rig, notes, lambda found: len(found) > begun)
    filled = replace(hot, seconds=min(MOST_SECONDS, FILLED_SHARE * alone.seconds))
    during = load.run(rig.stage.client, system, filled)
    # Figures of hits that the sweep did not last for would say that it costs less than it does.
    felt = during if is_under_way(notes) else None
    return {
        "seconds": alone.seconds,
        "cpu_seconds": alone.cpu_seconds,
        "resident_peak_mb": peak_rss_bytes(system.pid) / 1e6,
        **{f"hit_{name}": getattr(quiet, name) for name in HIT_FIGURES},
        **{f"hit_in_sweep_{name}": getattr(felt, name, None) for name in HIT_FIGURES},
    }


def first(rig: Rig, notes: Path) -> Sweep:
    """The first sweep, once it is over: the server has nothing left to do of its own accord."""
    return _await(rig, notes, lambda found: bool(found) and found[0].ended is not None)[0]


def is_under_way(notes: Path) -> bool:
    """Whether one has begun that is not over."""
    found = sweeps(notes)
    return bool(found) and found[-1].ended is None


def sweeps(notes: Path) -> list[Sweep]:
    """All that `bench.cost.watched` has noted so far; a line that is still being written does not count."""
    found: list[Sweep] = []
    for line in notes.read_text().splitlines(keepends=True) if notes.exists() else ():
        match line.split():
            case ["began", began] if line.endswith("\n"):
                found.append(Sweep(float(began)))
            case ["ended", ended, cpu_seconds] if line.endswith("\n"):
                found[-1] = replace(found[-1], ended=float(ended), cpu_seconds=float(cpu_seconds))
    return found


def peak_rss_bytes(pid: int) -> int:
    """The most that the process itself ever had."""
    status = (PROC / str(pid) / "status").read_text()
    return next(int(each.split()[1]) * 1024 for each in status.splitlines() if each.startswith("VmHWM:"))


def _await(rig: Rig, notes: Path, is_so: Callable[[Sequence[Sweep]], bool]) -> list[Sweep]:
    """All sweeps, as soon as this is so of them."""
    began = time.perf_counter()
    while not is_so(found := sweeps(notes)):
        rig.seconds_left(10)
        expect(time.perf_counter() - began < PATIENCE_SECONDS, "no sweep was seen, or it did not end")
        time.sleep(LOOK_SECONDS)
    return found

"""The sweep, seen from outside: when it is under way, when it is over, what it costs, and what hits feel of it."""

import dataclasses
import itertools
import time
from collections.abc import Sequence

from bench import load
from bench.cost.rig import SMALL, Rig, expect
from bench.load import Order
from bench.process import PROC, cpu_seconds
from bench.stage import request
from bench.system import System

INTERVAL_SECONDS = 10.0
"""Between two sweeps, of a server that is to be watched."""
LOOK_SECONDS = 0.1
IDLE_LOOKS = 10
IDLE_CPU_SECONDS = 0.15
"""Less in a second is no sweep: the keys are asked for twice a second, and metrics of the loop are taken."""
BUSY_SECONDS = 0.25
HIT_FIGURES = ("rate", "p50_ms", "p99_ms", "max_ms")


def measure(rig: Rig, system: System, words: str) -> dict[str, float | None]:
    """One sweep that nobody disturbs, and hits from memory, of these words, before and during the next one."""
    hot = Order(request(words, SMALL), 1, seconds=1.5)
    samples = _watch(rig, system, until_idle=True)
    lasting = busy_seconds(samples)
    quiet = load.run(rig.stage.client, system, hot)
    _watch(rig, system, until_idle=False)
    during = load.run(rig.stage.client, system, dataclasses.replace(hot, seconds=max(0.5, min(6, 0.7 * lasting))))
    return {
        "seconds": lasting,
        "cpu_seconds": samples[-1][1] - samples[0][1],
        "resident_peak_mb": peak_rss_bytes(system.pid) / 1e6,
        **{f"hit_{name}": getattr(quiet, name) for name in HIT_FIGURES},
        **{f"hit_in_sweep_{name}": getattr(during, name) for name in HIT_FIGURES},
    }


def seconds_until_idle(rig: Rig, system: System) -> float:
    """From its start until it has nothing left to do of its own accord: the first sweep is over."""
    samples = [_sample(system)]
    while len(samples) <= IDLE_LOOKS or samples[-1][1] - samples[-1 - IDLE_LOOKS][1] > IDLE_CPU_SECONDS:
        rig.seconds_left(10)
        time.sleep(LOOK_SECONDS)
        samples.append(_sample(system))
    return samples[-1 - IDLE_LOOKS][0] - system.began


def busy_seconds(samples: Sequence[tuple[float, float]], least_share: float = 0.4) -> float:
    """The longest stretch in which a process used this much of a core, of samples (time, CPU so far)."""
    longest = present = 0.0
    for (before, used), (after, uses) in itertools.pairwise(samples):
        present = present + after - before if uses - used >= least_share * (after - before) else 0.0
        longest = max(longest, present)
    return longest


def peak_rss_bytes(pid: int) -> int:
    """The most that the process itself ever had."""
    status = (PROC / str(pid) / "status").read_text()
    return next(int(each.split()[1]) * 1024 for each in status.splitlines() if each.startswith("VmHWM:"))


def _watch(rig: Rig, system: System, *, until_idle: bool) -> list[tuple[float, float]]:
    """(time, CPU so far), until the process has become busy, or busy and idle again."""
    samples = [_sample(system)]
    while not (was_busy := busy_seconds(samples) > BUSY_SECONDS) or (until_idle and busy_seconds(samples[-6:], 0.2)):
        expect(was_busy or samples[-1][0] - samples[0][0] < 3 * INTERVAL_SECONDS, "no sweep was seen")
        rig.seconds_left(10)
        time.sleep(LOOK_SECONDS)
        samples.append(_sample(system))
    return samples


def _sample(system: System) -> tuple[float, float]:
    return time.perf_counter(), cpu_seconds(system.pid)

"""The run: in each round every workload, in each workload every system in turn; what was measured is kept at once."""

import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import TypeVar

from bench.load import LoadFailed
from bench.measurement import Measurement, Sample, Workload
from bench.plan import Entry, Plan
from bench.results import Ran, Results
from bench.stage import Stage
from bench.system import Skipped

Say = Callable[[str], None]
Item = TypeVar("Item")
# What a system that breaks down does to whoever asks it: recorded as a fault of the measurement.
BREAKDOWNS = (OSError, HTTPException, LoadFailed, Skipped)
HEADLINES = {
    "rate": "{:,.0f}/s",
    "p50_ms": "p50 {:.2f} ms",
    "cpu_ms": "CPU {:.2f} ms",
    "ratio_to_plain": "{:.2f} x plain",
    "retry_ms": "retry {:,.0f} ms",
    "peak_mb": "peak {:.0f} MB",
    "kb_per_client": "{:.1f} KB each",
    "first_reply_seconds": "{:.2f} s",
    "growth_mb_per_hour": "{:+.1f} MB/hour",
    "upstream_calls": "{:.0f} upstream calls",
}


class Run:
    """Runs a plan on a stage. Interrupted anywhere, it has put into the results what was measured until then."""

    def __init__(self, plan: Plan, stage: Stage, results: Results, systems: Sequence[str], say: Say) -> None:
        self._plan = plan
        self._stage = stage
        self._results = results
        self._systems = systems
        self._say = say
        self._began = time.perf_counter()
        self._late: set[str] = set()

    def run(self) -> None:
        try:
            self._take_turns([entry for entry in self._plan.entries if not entry.workload.fresh])
            self._stage.clear()
            self._take_turns([entry for entry in self._plan.entries if entry.workload.fresh])
            if self._plan.soak:
                for system in self._plan.soak.systems:
                    if system in self._systems:
                        self._measure(self._plan.soak, system, 1)
        finally:
            self._stage.clear()
            self._results.seconds = time.perf_counter() - self._began
            self._results.skipped.update(self._stage.skipped)
            for name, seen in self._stage.seen.items():
                ran = Ran(seen.version, seen.caches, seen.coalesces, dict(seen.configuration))
                self._results.systems[name] = ran

    def _take_turns(self, entries: Sequence[Entry]) -> None:
        ready = {
            (entry.workload.name, system)
            for entry in entries
            for system in self._systems
            if self._prepare(entry, system)
        }
        for turn in range(1, max((entry.rounds for entry in entries), default=0) + 1):
            for entry in entries:
                for system in rotated(self._systems, turn - 1):
                    is_due = (entry.workload.name, system) in ready and entry.takes(system, turn)
                    if is_due and (turn == 1 or self._has_time(entry, turn)):
                        self._measure(entry.workload, system, turn)

    def _prepare(self, entry: Entry, system: str) -> bool:
        if system not in entry.workload.systems:
            return False
        try:
            entry.workload.prepare(self._stage, system)
        except BREAKDOWNS as error:
            if system not in self._stage.skipped:
                self._keep(entry.workload, system, 0, Sample({}, (f"not prepared: {_words(error)}",)))
            elif system not in self._results.skipped:
                self._say(f"{system} is not measured: {self._stage.skipped[system]}")
                self._results.skipped[system] = self._stage.skipped[system]
            return False
        return True

    def _has_time(self, entry: Entry, turn: int) -> bool:
        """What there was no time for is in the results, too: once for each workload."""
        if time.perf_counter() - self._began < self._plan.seconds_for(entry.workload):
            return True
        name = entry.workload.name
        if name not in self._late:
            self._late.add(name)
            self._results.notes.append(f"{name}: there was no time for all of round {turn}, nor for what follows it")
        return False

    def _measure(self, workload: Workload, system: str, turn: int) -> None:
        try:
            sample = workload.measure(self._stage, system, turn)
        except BREAKDOWNS as error:
            sample = Sample({}, (f"not measured: {_words(error)}",))
        self._keep(workload, system, turn, sample)

    def _keep(self, workload: Workload, system: str, turn: int, sample: Sample) -> None:
        self._results.measurements.append(
            Measurement(workload.group, workload.name, system, turn, sample.figures, sample.faults, sample.course)
        )
        minutes, seconds = divmod(int(time.perf_counter() - self._began), 60)
        faults = f"  ! {'; '.join(sample.faults)}" if sample.faults else ""
        words = headline(sample.figures)
        when = f"round {turn}" if turn else "before "
        self._say(f"{minutes:3}:{seconds:02}  {when}  {workload.name:<22} {system:<10} {words}{faults}")


def rotated(items: Sequence[Item], by: int) -> list[Item]:
    """So that each system is the first in some round."""
    first = by % len(items) if items else 0
    return [*items[first:], *items[:first]]


def headline(figures: dict[str, float]) -> str:
    return ", ".join(form.format(figures[name]) for name, form in HEADLINES.items() if name in figures)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

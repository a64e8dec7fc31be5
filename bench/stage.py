"""What a workload stands on: one upstream, the client, the systems that are up, and how to start another."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import call, load
from bench.load import Load, Order
from bench.process import cpu_seconds
from bench.system import MODEL, Running, Skipped, Start, System

# All together use less than this much of a core while nothing is asked of them.
QUIET_SHARE = 0.3
# Who uses more of a core than this has nothing left.
BUSY_SHARE = 0.9
LOOK_SECONDS = 0.1
SETTLE_SECONDS = 3.0


class Stage:
    """`starts` has every system by name; one is started when a workload first asks for it, and then stays up."""

    def __init__(self, folder: Path, client: Path, upstream: Running, starts: Mapping[str, Start]) -> None:
        self.client = client
        self.systems: dict[str, System] = {}
        self.skipped: dict[str, str] = {}
        self.seen: dict[str, System] = {}
        self._folder = folder
        self._upstream = upstream
        self._starts = starts
        self._stack = contextlib.ExitStack()
        self._folders = 0

    def system(self, name: str) -> System:
        """Raises Skipped if it cannot be had, each time for the first time's reason."""
        if name in self.skipped:
            raise Skipped(self.skipped[name])
        if name not in self.systems:
            self.systems[name] = self._stack.enter_context(self.start(name))
        return self.systems[name]

    def clear(self) -> None:
        """Ends the systems that are up."""
        self.systems.clear()
        self._stack.close()

    def calls(self) -> int:
        return call.count(self._upstream.port).calls

    @contextlib.contextmanager
    def start(self, name: str) -> Iterator[System]:
        """A system with nothing stored, in a folder that no other has had."""
        self._folders += 1
        folder = self._folder / f"{name}-{self._folders}"
        folder.mkdir()
        with contextlib.ExitStack() as stack:
            try:
                system = stack.enter_context(self._starts[name](folder, self._upstream.port))
            except Skipped as why:
                self.skipped[name] = str(why)
                raise
            self.seen[name] = system
            yield system
        # What a large workload stored is not kept until the end of the run.
        shutil.rmtree(folder, ignore_errors=True)

    def load(self, system: System, order: Order) -> "Loaded":
        """Runs the client and takes the CPU of the system's processes and the upstream's calls meanwhile."""
        self.settle(system)
        calls, busy = self.calls(), cpu_seconds(system.pid)
        found = load.run(self.client, system, order)
        return Loaded(found, cpu_seconds(system.pid) - busy, self.calls() - calls)

    def settle(self, system: System) -> None:
        """Waits until everybody is done with what was asked before: writes to disk, calls nobody waits for."""
        pids = {self._upstream.pid, system.pid, *(each.pid for each in self.systems.values())}
        deadline = time.perf_counter() + SETTLE_SECONDS
        busy = sum(map(cpu_seconds, pids))
        while time.perf_counter() < deadline:
            time.sleep(LOOK_SECONDS)
            now = sum(map(cpu_seconds, pids))
            if now - busy <= QUIET_SHARE * LOOK_SECONDS:
                return
            busy = now


@dataclass(frozen=True)
class Loaded:
    """A run of the client, and what it cost the system and the upstream."""

    load: Load
    system_cpu_seconds: float
    upstream_calls: int

    def figures(self) -> dict[str, float]:
        found = self.load
        return {
            # A refusal is quick: only replies with status 200 count.
            "rate": found.statuses.get("200", 0) / found.seconds if found.seconds else 0.0,
            "p50_ms": found.p50_ms,
            "p90_ms": found.p90_ms,
            "p99_ms": found.p99_ms,
            "max_ms": found.max_ms,
            "cpu_ms": self.system_cpu_seconds * 1000 / max(1, found.replies),
            "system_cpu_share": self.system_cpu_seconds / found.seconds if found.seconds else 0.0,
            "client_cpu_share": found.cpu_share,
            "replies": found.replies,
            "seconds": found.seconds,
            "upstream_calls": self.upstream_calls,
        }

    def faults(self) -> tuple[str, ...]:
        """The client's, and that the client may have been the limit."""
        share = self.system_cpu_seconds / self.load.seconds if self.load.seconds else 0.0
        if self.load.cpu_share > BUSY_SHARE > share:
            return (*self.load.faults, f"client-bound: client {self.load.cpu_share:.0%} of a core, system {share:.0%}")
        return self.load.faults


def request(words: str, size: int, wait_milliseconds: int = 0) -> str:
    """A request body; the upstream finds in its prompt how large the reply shall be, and how late. `{n}` counts."""
    prompt = f"{words} bytes={size} wait={wait_milliseconds}"
    return f'{{"model":"{MODEL}","prompt":"{prompt}","n":1,"size":"1024x1024"}}'

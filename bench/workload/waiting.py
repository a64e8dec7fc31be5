"""Waiting: what a caller costs who does nothing but wait for a reply that another has asked for."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import call, load
from bench.load import Order
from bench.measurement import Sample
from bench.process import pss_bytes
from bench.stage import Stage, request
from bench.system import System

SIZE_BYTES = 2_000
LOOK_SECONDS = 0.5
# They have all arrived by the first share of the wait, and none is answered before the second.
LOOKS = (0.5, 0.9)


@dataclass(frozen=True)
class Waiting:
    """So many callers of one request; memory while they wait, less that of before, by their number."""

    callers: int
    wait_seconds: float
    systems: Sequence[str]
    group: str = "waiting"
    fresh: bool = True

    @property
    def name(self) -> str:
        return f"{self.callers} waiting"

    def prepare(self, stage: Stage, system: str) -> None:
        """Each round starts its own."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        body = request(f"waiting {turn}", SIZE_BYTES, int(self.wait_seconds * 1000))
        order = Order(body, self.callers, count=self.callers, timeout_seconds=3 * self.wait_seconds + 10)
        with stage.start(system) as server:
            call.ask(server, request("first", SIZE_BYTES))
            stage.settle(server)
            before, calls = pss_bytes(server.pid), stage.calls()
            with load.running(stage.client, server, order) as client:
                held = self._most(server, client)
                found = load.finish(client, order)
            calls = stage.calls() - calls
        figures = {
            "before_mb": before / 1e6,
            "waiting_mb": held / 1e6,
            "kb_per_client": (held - before) / 1000 / self.callers,
            "upstream_calls": calls,
            "answered": found.statuses.get("200", 0),
            "p50_ms": found.p50_ms,
            "max_ms": found.max_ms,
        }
        return Sample(figures, self._faults(found, calls))

    def _most(self, server: System, client: subprocess.Popen[str]) -> int:
        began, most = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < LOOKS[1] * self.wait_seconds and client.poll() is None:
            time.sleep(LOOK_SECONDS)
            if spent >= LOOKS[0] * self.wait_seconds:
                most = max(most, pss_bytes(server.pid))
        return most

    def _faults(self, found: load.Load, calls: int) -> tuple[str, ...]:
        faults = found.faults
        if found.statuses.get("200", 0) < self.callers:
            faults += (f"only {found.statuses.get('200', 0)} of {self.callers} answered",)
        if calls != 1:
            faults += (f"{calls} upstream calls for one flight",)
        if found.min_ms < self.wait_seconds * 1000 * LOOKS[1]:
            faults += ("somebody was answered before the memory was looked at",)
        return faults

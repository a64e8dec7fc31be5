"""Memory: what many large replies at once take, at their peak and a little later."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import call
from bench.load import Order
from bench.measurement import Sample
from bench.process import PeakMemory, pss_bytes
from bench.stage import Stage, request

REPLIES = 64
SIZE_BYTES = 12_000_000
WAIT_MILLISECONDS = 1_000
LATER_SECONDS = 5.0


@dataclass(frozen=True)
class InFlight:
    """Different requests that are all answered by the upstream at the same time, to a system just started."""

    systems: Sequence[str]
    timeout_seconds: float = 60.0
    group: str = "memory"
    fresh: bool = True
    name: str = f"{REPLIES} x 12 MB in flight"

    def prepare(self, stage: Stage, system: str) -> None:
        """Each round starts its own."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        body = request(f"large {turn} {{n}}", SIZE_BYTES, WAIT_MILLISECONDS)
        order = Order(body, REPLIES, count=REPLIES, timeout_seconds=self.timeout_seconds)
        with stage.start(system) as server:
            call.ask(server, request("first", 2_000))
            idle = pss_bytes(server.pid)
            with PeakMemory(server.pid) as memory:
                loaded = stage.load(server, order)
            time.sleep(LATER_SECONDS)
            later = pss_bytes(server.pid)
        figures = {"idle_mb": idle / 1e6, "peak_mb": memory.peak_bytes / 1e6, "later_mb": later / 1e6}
        faults = loaded.load.faults
        if loaded.load.replies < REPLIES:
            faults += (f"only {loaded.load.replies} of {REPLIES} answered",)
        return Sample({**loaded.figures(), **figures}, faults)

"""A caller who leaves: is the purchase lost, and how long does the one wait who asks again?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import call
from bench.measurement import Sample
from bench.stage import Stage, request

SIZE_BYTES = 300_000
WAIT_MILLISECONDS = 2_000
LEAVING_SECONDS = 0.5


@dataclass(frozen=True)
class Leaver:
    """Leaves at 0.5 s of 2 s, asks again at once, then once more: best are one call, and 1.5 s for the retry."""

    systems: Sequence[str]
    group: str = "coalescing"
    fresh: bool = False
    name: str = "abort and retry"

    def prepare(self, stage: Stage, system: str) -> None:
        """Nobody has asked before."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        server = stage.system(system)
        stage.settle(server)
        before = stage.calls()
        body = request(f"left {turn}", SIZE_BYTES, WAIT_MILLISECONDS)
        call.leave(server, body, LEAVING_SECONDS)
        retry = call.ask(server, body)
        third = call.ask(server, body)
        # A proxy that begins again by itself does so by now.
        time.sleep(LEAVING_SECONDS)
        figures = {
            "upstream_calls": stage.calls() - before,
            "retry_ms": retry.seconds * 1000,
            "third_ms": third.seconds * 1000,
        }
        return Sample(figures, tuple(f"status {each.status}" for each in (retry, third) if each.status != 200))

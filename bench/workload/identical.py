"""Identical requests at once: how often the upstream is asked, and how long the callers wait."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import Order
from bench.measurement import Sample
from bench.stage import Stage, request

CALLERS = 100
SIZE_BYTES = 300_000
WAIT_MILLISECONDS = 2_000


@dataclass(frozen=True)
class Identical:
    """The best that can be is one call, and everybody answered just after the upstream's two seconds."""

    systems: Sequence[str]
    group: str = "coalescing"
    fresh: bool = False
    name: str = f"{CALLERS} identical"

    def prepare(self, stage: Stage, system: str) -> None:
        """Nobody has asked before."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        body = request(f"identical {turn}", SIZE_BYTES, WAIT_MILLISECONDS)
        loaded = stage.load(stage.system(system), Order(body, CALLERS, count=CALLERS))
        return Sample(loaded.figures(), loaded.load.faults)

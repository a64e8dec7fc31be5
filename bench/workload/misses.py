"""Misses: what a reply costs that has to be bought, by size, by the upstream's time, and by number of connections."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import Order
from bench.measurement import Sample
from bench.stage import Stage, request
from bench.workload.hits import SIZES

# Counts, not seconds: what is stored stays on the disk until the end of the run.
COUNTS = {"300 KB": 96, "3 MB": 48, "12 MB": 16}
ROUND_DISTANCE = 100_000


@dataclass(frozen=True)
class Misses:
    """Different requests, each asked for once."""

    size: str
    wait_milliseconds: int
    connections: int
    systems: Sequence[str]
    group: str = "misses"
    fresh: bool = False

    @property
    def name(self) -> str:
        return f"miss {self.size} wait {self.wait_milliseconds} c={self.connections}"

    def prepare(self, stage: Stage, system: str) -> None:
        """Nothing is stored beforehand."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        server = stage.system(system)
        count = max(COUNTS[self.size], 2 * self.connections)
        body = request(f"{self.name} {{n}}", SIZES[self.size], self.wait_milliseconds)
        order = Order(body, self.connections, count=count, start=turn * ROUND_DISTANCE)
        loaded = stage.load(server, order)
        faults = loaded.faults()
        if loaded.upstream_calls < loaded.load.replies:
            faults += (f"not all were misses: {loaded.load.replies} replies, {loaded.upstream_calls} upstream calls",)
        return Sample(loaded.figures(), faults)

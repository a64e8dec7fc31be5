"""Hits: how many stored replies a second, by size and by number of connections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench import call
from bench.load import Order
from bench.measurement import SLOW, Sample
from bench.stage import Loaded, Stage, request
from bench.system import System

SIZES = {"2 KB": 2_000, "300 KB": 300_000, "3 MB": 3_000_000, "12 MB": 12_000_000}
# A reply may enter a faster tier at its second or third use.
WARMING_CALLS = 3
# Of slow systems so many replies for each connection are waited for, but no longer than so many times a measurement.
SLOW_REPLIES = 3
SLOW_PATIENCE = 5


@dataclass(frozen=True)
class Hits:
    """One key, asked for over and over. Systems without a cache ask the upstream, which answers at once."""

    size: str
    connections: int
    seconds: float
    systems: Sequence[str]
    group: str = "hits"
    fresh: bool = False

    @property
    def name(self) -> str:
        return f"hit {self.size} c={self.connections}"

    def body(self) -> str:
        return request(f"hot {self.size}", SIZES[self.size])

    def prepare(self, stage: Stage, system: str) -> None:
        warm(stage.system(system), self.body())

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        server = stage.system(system)
        order = Order(self.body(), self.connections, seconds=self.seconds)
        if system in SLOW:
            count = max(SLOW_REPLIES * self.connections, 32)
            order = replace(order, seconds=SLOW_PATIENCE * self.seconds, count=count)
        return sample_of_hits(server, stage.load(server, order))


def warm(system: System, body: str) -> None:
    """Stores the reply of one request, and uses it."""
    for _ in range(WARMING_CALLS):
        answer = call.ask(system, body)
        if answer.status != 200:
            raise ConnectionError(f"the first calls got status {answer.status}")


def sample_of_hits(system: System, loaded: Loaded) -> Sample:
    faults = loaded.faults()
    if system.caches and loaded.upstream_calls:
        faults += (f"not all were hits: the upstream got {loaded.upstream_calls} calls",)
    return Sample(loaded.figures(), faults)

"""Disk hits: many keys in turn, four times what the memory tier holds, so that each hit is read from a file."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import Order
from bench.measurement import Sample
from bench.stage import Stage, request
from bench.workload.hits import SIZES, sample_of_hits

KEYS = 100
CONNECTIONS = 16
FILLING_CONNECTIONS = 4


@dataclass(frozen=True)
class DiskHits:
    """Asked of a system whose memory tier holds a quarter of the keys: asked in turn, the least recently used one is always
    the next, and none is found there. nginx has no such tier."""

    size: str
    seconds: float
    systems: Sequence[str]
    group: str = "disk hits"
    fresh: bool = False

    @property
    def name(self) -> str:
        return f"disk {self.size} c={CONNECTIONS}"

    def body(self) -> str:
        return request(f"cold {self.size} {{n}}", SIZES[self.size])

    def prepare(self, stage: Stage, system: str) -> None:
        filling = Order(self.body(), FILLING_CONNECTIONS, count=2 * KEYS, keys=KEYS)
        loaded = stage.load(stage.system(self._named(system)), filling)
        if loaded.faults():
            raise ConnectionError(f"the keys could not be stored: {', '.join(loaded.faults())}")

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        server = stage.system(self._named(system))
        order = Order(self.body(), CONNECTIONS, seconds=self.seconds, keys=KEYS)
        return sample_of_hits(server, stage.load(server, order))

    def _named(self, system: str) -> str:
        return small_memory(self.size) if system == "imagegate" else system


def small_memory(size: str) -> str:
    """The name of imagegate with a memory tier for a quarter of these."""
    return f"imagegate-disk-{size.replace(' ', '').lower()}"

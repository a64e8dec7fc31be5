"""Renderings: a hit as a data URL beside the plain hit, in the same breath."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load import Order
from bench.measurement import Sample
from bench.stage import Stage, request
from bench.workload.hits import SIZES, sample_of_hits, warm

HEADER = "x-imagegate-response-format: data_url"
CONNECTIONS = 16


@dataclass(frozen=True)
class DataUrl:
    """The figures are those of the data-URL hits; `ratio_to_plain` compares their rate."""

    size: str
    seconds: float
    systems: Sequence[str] = ("imagegate",)
    group: str = "renderings"
    fresh: bool = False

    @property
    def name(self) -> str:
        return f"data-URL {self.size} c={CONNECTIONS}"

    def body(self) -> str:
        return request(f"rendered {self.size}", SIZES[self.size])

    def prepare(self, stage: Stage, system: str) -> None:
        warm(stage.system(system), self.body())

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        server = stage.system(system)
        plain = Order(self.body(), CONNECTIONS, seconds=self.seconds)
        rendered = Order(self.body(), CONNECTIONS, seconds=self.seconds, headers=(HEADER,))
        # Whoever is first finds another machine than whoever is second: they take turns.
        orders = (plain, rendered) if turn % 2 else (rendered, plain)
        found = {order.headers: stage.load(server, order) for order in orders}
        sample = sample_of_hits(server, found[rendered.headers])
        rate = found[plain.headers].load.rate
        more = {"plain_rate": rate, "ratio_to_plain": sample.figures["rate"] / rate} if rate else {}
        return Sample({**sample.figures, **more}, (*sample.faults, *found[plain.headers].load.faults))

"""Hits in memory: the CPU of each, by the size of the reply; replayed in both modes, and on the ordinary path."""

import statistics
from collections.abc import Iterator

from bench import call
from bench.cost.line import fitted
from bench.cost.modes import ROUNDS, SIZES, both_modes
from bench.cost.record import Row
from bench.cost.rig import KEYS_MODE, OPEN_MODE, Rig
from bench.load import Order
from bench.stage import request

CONNECTIONS = 16
SECONDS = 0.8
WARMING_CALLS = 3
NOT_REPLAYED = "x-request-id: x"
"""Leaves the request to the ordinary path: it is about that very call."""


def measure(rig: Rig) -> Iterator[Row]:
    used: dict[tuple[str, str], list[float]] = {}
    with both_modes(rig, "hits") as systems:
        cases = {
            "keys": (systems[KEYS_MODE][0], ()),
            "open": (systems[OPEN_MODE][0], ()),
            "keys, not replayed": (systems[KEYS_MODE][0], (NOT_REPLAYED,)),
        }
        for size, size_bytes in SIZES.items():
            body = request("hot", size_bytes)
            for system, _ in systems.values():
                for _ in range(WARMING_CALLS):
                    call.ask(system, body)
            for _ in range(ROUNDS):
                for case, (system, headers) in cases.items():
                    rig.seconds_left(5)
                    order = Order(body, CONNECTIONS, seconds=SECONDS, headers=headers)
                    cpu = rig.hits(system, order).figures()["cpu_ms"]
                    used.setdefault((case, size), []).append(cpu * 1000)
            yield Row("hits: CPU in µs", size, {case: statistics.median(used[case, size]) for case in cases})
    for case in cases:
        points = [(each / 1e6, statistics.median(used[case, size])) for size, each in SIZES.items()]
        yield fitted("hits, fitted: µs", case, "mb", points)

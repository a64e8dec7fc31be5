"""Misses that the upstream answers at once: the CPU of each, by the size of the reply, and what it writes beside it."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.cost.line import fitted
from bench.cost.modes import ROUNDS, SIZES, both_modes
from bench.cost.record import Row
from bench.cost.rig import Rig, log_of
from bench.load import Order
from bench.process import PROC
from bench.stage import request
from bench.system import System

COUNTS = {"2 KB": 160, "300 KB": 80, "3 MB": 24, "12 MB": 8}
"""Misses of a round, by the size."""
CONNECTIONS = (1, 4)


def measure(rig: Rig) -> Iterator[Row]:
    rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
    with both_modes(rig, "misses") as systems:
        cases = {f"{mode}, c={c}": (*systems[mode], c) for mode in systems for c in CONNECTIONS}
        for turn in range(ROUNDS):
            for size, count in COUNTS.items():
                for case, (system, folder, connections) in cases.items():
                    rig.seconds_left(10)
                    body = request(f"miss {case} {turn} {{n}}", SIZES[size])
                    figures = _bought(rig, system, folder, Order(body, connections, count=count))
                    rounds.setdefault((case, size), []).append(figures)
    for (case, size), found in rounds.items():
        yield Row("misses", f"{size}, {case}", {name: _median(found, name) for name in found[0]})
    for case in cases:
        points = [(SIZES[size] / 1e6, _median(rounds[case, size], "cpu_ms")) for size in COUNTS]
        yield fitted("misses, fitted: ms of CPU", case, "mb", points)


def written_bytes(pid: int) -> int:
    """What the process has made the kernel write to storage, in whole pages."""
    io = (PROC / str(pid) / "io").read_text()
    return next(int(each.split()[1]) for each in io.splitlines() if each.startswith("write_bytes:"))


def _bought(rig: Rig, system: System, folder: Path, order: Order) -> dict[str, float]:
    log = log_of(folder)
    logged, written = log.stat().st_size, written_bytes(system.pid)
    loaded = rig.misses(system, order)
    rig.stage.settle(system)
    delivered = loaded.load.bytes / order.count
    return {
        "cpu_ms": loaded.figures()["cpu_ms"],
        "p50_ms": loaded.load.p50_ms,
        "per_second": loaded.load.rate,
        "written_kb_beside_body": ((written_bytes(system.pid) - written) / order.count - delivered) / 1000,
        "of_it_log_kb": (log.stat().st_size - logged) / order.count / 1000,
    }


def _median(found: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in found)

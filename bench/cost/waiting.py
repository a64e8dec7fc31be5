"""Clients that wait: what each of them costs, on a connection of its own, while all wait for one flight."""

import shutil
import time
from collections.abc import Iterator

from bench import call, load
from bench.cost.ledger import make_keys
from bench.cost.line import fitted
from bench.cost.record import Row, counted
from bench.cost.rig import SMALL, Rig, expect
from bench.load import Order
from bench.process import cpu_seconds, pss_bytes
from bench.stage import request
from bench.system import System

CALLERS = {1: 2.0, 1_000: 6.0, 5_000: 15.0}
"""How long the upstream takes, in seconds, by the number of clients that have to arrive meanwhile."""
HELD_SHARE = 0.8
"""When so much of that time is over, all have arrived, and none is answered."""


def measure(rig: Rig) -> Iterator[Row]:
    points = []
    for callers, seconds in CALLERS.items():
        rig.seconds_left(3 * seconds)
        folder = rig.folder(f"waiting-{callers}")
        key = make_keys(folder, 1)[0]
        with rig.serving(folder, key) as system:
            figures = _waited(rig, system, callers, seconds)
        points.append((float(callers), figures["waiting_mb"] or 0.0))
        yield Row("waiting", counted(callers, "client"), figures)
        shutil.rmtree(folder)
    yield fitted("waiting, fitted", "memory mb", "client", points)


def _waited(rig: Rig, system: System, callers: int, seconds: float) -> dict[str, float | None]:
    call.ask(system, request("first", SMALL))
    rig.stage.settle(system)
    before, idle_cpu, calls = pss_bytes(system.pid), cpu_seconds(system.pid), rig.stage.calls()
    body = request(f"waiting {callers}", SMALL, int(seconds * 1000))
    order = Order(body, callers, count=callers, timeout_seconds=3 * seconds + 10)
    with load.running(rig.stage.client, system, order) as client:
        time.sleep(HELD_SHARE * seconds)
        held, arrived_cpu = pss_bytes(system.pid), cpu_seconds(system.pid)
        found = load.finish(client, order)
    rig.stage.settle(system)
    answered_cpu = cpu_seconds(system.pid)
    expect(not found.faults and found.replies == callers, f"not all were answered: {found.faults}")
    expect(rig.stage.calls() - calls == 1, "there was more than one call to the upstream")
    return {
        "before_mb": before / 1e6,
        "waiting_mb": held / 1e6,
        "answer_all_seconds": found.seconds - seconds,
        # Of one, it is the page tables and the ticks of the clock that would be measured.
        "kb_per_client": (held - before) / 1000 / callers if callers > 1 else None,
        "arrive_cpu_us_per_client": (arrived_cpu - idle_cpu) * 1e6 / callers if callers > 1 else None,
        "answer_cpu_us_per_client": (answered_cpu - arrived_cpu) * 1e6 / callers if callers > 1 else None,
        "after_mb": pss_bytes(system.pid) / 1e6,
    }

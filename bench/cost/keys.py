"""Keys: what a start, a hit, a refusal and a scrape cost with so many, all of them in use."""

import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import call
from bench.cost.ledger import ACTOR, alias, database_of, make_keys
from bench.cost.line import fitted
from bench.cost.lockstep import turns
from bench.cost.record import Row, counted
from bench.cost.rig import SMALL, Rig, expect, get
from bench.process import cpu_seconds, rss_bytes
from bench.stage import request
from bench.system import System
from proxy.clock import SystemClock
from proxy.keyfeed import POLL_SECONDS
from proxy.keystore import KeyStore

KEYS = (1, 100, 1_000, 10_000)
REVOKED = 7
LEAST_TURNS = 6_000
TURNS_ALONE = 2_000
CONNECTIONS = 16
PATIENCE_SECONDS = 10
SCRAPES = 5


def measure(rig: Rig) -> Iterator[Row]:
    dice = random.Random(7)
    points = []
    for count in KEYS:
        rig.seconds_left(30)
        folder = rig.folder(f"keys-{count}")
        making = time.perf_counter()
        made = make_keys(folder, count + REVOKED)
        making = time.perf_counter() - making
        body = request("shared", SMALL)
        with rig.serving(folder, made[0]) as system:
            call.ask(system, body)
        with rig.serving(folder, made[0]) as system:
            _, hit = rig.first_answers(system, body)
            rig.stage.settle(system)
            resident = rss_bytes(system.pid)
            figures = {
                "make_ms_per_key": making * 1000 / len(made),
                "first_hit_seconds": hit,
                "resident_mb": resident / 1e6,
                **_in_turn(rig, system, body, made[:count]),
                "after_use_mb": rss_bytes(system.pid) / 1e6,
                **_revoked(system, body, folder, made, dice),
                **_scraped(system),
            }
        points.append((float(count), figures["resident_mb"]))
        yield Row("keys", counted(count, "key"), figures)
        shutil.rmtree(folder)
    yield fitted("keys, fitted", "resident mb", "key", points)


def _in_turn(rig: Rig, system: System, body: str, keys: Sequence[str]) -> dict[str, float]:
    """Hits in memory, each with another key: all of them once, then what is measured."""
    many = max(LEAST_TURNS, len(keys))
    turns(system, body, keys, CONNECTIONS, many)
    rig.stage.settle(system)
    before = cpu_seconds(system.pid)
    turns(system, body, keys, CONNECTIONS, many)
    rig.stage.settle(system)
    used = cpu_seconds(system.pid) - before
    alone = turns(system, body, keys, 1, TURNS_ALONE)
    return {"hit_cpu_us": used * 1e6 / many, "hit_p50_ms": statistics.median(alone) * 1000}


def _revoked(system: System, body: str, folder: Path, made: Sequence[str], dice: random.Random) -> dict[str, float]:
    """Until a key that another process revoked is refused; the last of those that were made are taken for it."""
    waits = []
    with database_of(folder) as database:
        store = KeyStore(database, SystemClock())
        for turn in range(len(made) - REVOKED, len(made)):
            bearer = f"authorization: Bearer {made[turn]}"
            expect(call.ask(system, body, bearer).status == 200, "a key does not work")
            # Else each wait would begin just after the feed has looked, and be as long as it can be.
            time.sleep(dice.uniform(0, POLL_SECONDS))
            store.revoke_key(alias(turn), ACTOR)
            began = time.perf_counter()
            while call.ask(system, body, bearer).status != 401:
                expect(time.perf_counter() - began < PATIENCE_SECONDS, "a revoked key works for ten seconds")
                time.sleep(0.005)
            waits.append(time.perf_counter() - began)
    return {"revoked_median_seconds": statistics.median(waits), "revoked_most_seconds": max(waits)}


def _scraped(system: System) -> dict[str, float]:
    seconds, page, before = [], b"", cpu_seconds(system.pid)
    for _ in range(SCRAPES):
        began = time.perf_counter()
        page = get(system, "/metrics", 30)
        seconds.append(time.perf_counter() - began)
    used = cpu_seconds(system.pid) - before
    return {
        "scrape_ms": statistics.median(seconds) * 1000,
        "scrape_cpu_ms": used * 1000 / SCRAPES,
        "scrape_kb": len(page) / 1000,
    }

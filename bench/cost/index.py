"""Entries in the directory: what a start, a hit from the disk, a miss and a sweep cost with so many."""

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.cost import sweep
from bench.cost.ledger import make_keys
from bench.cost.line import fitted
from bench.cost.record import Row
from bench.cost.rig import SMALL, Rig, configuration_of, expect, notes_of
from bench.cost.seed import seed
from bench.load import Order
from bench.process import ROOT, environment, rss_bytes
from bench.stage import request
from proxy.store import SWEEP_SECONDS
from proxy.stores.database import DATABASE_FILES
from proxy.stores.index import Index

ENTRIES = (0, 10_000, 100_000, 1_000_000)
GENUINE = 200
"""Entries that were bought, and that can be asked for."""
HOT = f"genuine {GENUINE - 1}"
MISSES = 200
HARDLY_ANY_MEMORY = "memory_bytes = 10000\n"
"""Holds one entry of the bench's smallest, and no more."""
WATCHED_ENTRIES = 100_000
"""From here on a sweep is long enough for hits to be asked for meanwhile."""


def measure(rig: Rig) -> Iterator[Row]:
    """Most entries are rows and names of a few files, two hundred were bought and are asked for."""
    folder = rig.folder("index")
    key = make_keys(folder, 1)[0]
    genuine = Order(request("genuine {n}", SMALL), 4, count=GENUINE, keys=GENUINE)
    with rig.serving(folder, key, cache=HARDLY_ANY_MEMORY) as system:
        rig.misses(system, genuine)
    made = 0
    points = []
    for entries in [each for each in ENTRIES if each <= rig.most_entries]:
        # Making, two starts, two sweeps and clearing away: some 300 s for a million.
        rig.seconds_left(20 + 300e-6 * entries)
        seed(folder / "cache", entries - made, random.Random(entries))
        made = entries
        figures = _with_entries(rig, folder, key, entries)
        points.append((float(entries), figures))
        yield Row("index", f"{entries:,} entries", figures)
        yield from _full(rig, folder, key, entries, genuine)
    yield from _fits(points)
    shutil.rmtree(folder)


def _with_entries(rig: Rig, folder: Path, key: str, entries: int) -> dict[str, float | None]:
    with rig.serving(folder, key, cache=HARDLY_ANY_MEMORY, sweep_seconds=SWEEP_SECONDS) as system:
        ready, hit = rig.first_answers(system, request(HOT, SMALL))
        swept = sweep.first(rig, notes_of(folder))
        peak, resident = sweep.peak_rss_bytes(system.pid), rss_bytes(system.pid)
        hits = rig.hits(system, Order(request("genuine {n}", SMALL), 1, seconds=2, keys=GENUINE)).load
        bought = rig.misses(system, _bought_once(f"miss {entries}")).load
        stats_seconds = _stats_seconds(folder)
    files = [folder / "cache" / name for name in DATABASE_FILES]
    taken = sum(each.stat().st_size for each in files if each.exists())
    return {
        "start_seconds": ready,
        "first_hit_seconds": hit,
        "idle_after_seconds": max(ready, swept.began + swept.seconds - system.began),
        "resident_mb": resident / 1e6,
        "peak_of_start_mb": peak / 1e6,
        "index_bytes_per_entry": taken / (entries + GENUINE + MISSES),
        "disk_hit_p50_ms": hits.p50_ms,
        "disk_hit_p99_ms": hits.p99_ms,
        "miss_p50_ms": bought.p50_ms,
        "miss_p99_ms": bought.p99_ms,
        "stats_seconds": stats_seconds,
        "open_index_seconds": _open_index_seconds(folder / "cache", entries),
        "first_sweep_seconds": swept.seconds,
        "first_sweep_cpu_us_per_entry": swept.cpu_seconds * 1e6 / (entries + GENUINE) if entries else None,
    }


def _open_index_seconds(directory: Path, entries: int) -> float:
    """Once, while nobody else uses it; by then a sweep has forgotten what it takes for damaged, which should be nothing."""
    began = time.perf_counter()
    store = Index(directory)
    opened = time.perf_counter()
    rows, _ = store.totals()
    store.shut()
    expect(rows >= entries, f"of {entries} entries {rows} are left")
    return opened - began


def _full(rig: Rig, folder: Path, key: str, entries: int, genuine: Order) -> Iterator[Row]:
    """The same with a limit below what is stored: whatever is bought, something has to go. Then the sweeps."""
    limit = f"{HARDLY_ANY_MEMORY}max_bytes = {_stored_bytes(folder / 'cache') - 1}\n"
    is_watched = entries >= WATCHED_ENTRIES
    sweep_seconds = sweep.INTERVAL_SECONDS if is_watched else SWEEP_SECONDS
    notes = notes_of(folder)
    with rig.serving(folder, key, cache=limit, sweep_seconds=sweep_seconds) as system:
        ready, _ = rig.first_answers(system, request(HOT, SMALL))
        sweep.first(rig, notes)
        bought = rig.misses(system, _bought_once(f"evict {entries}")).load
        # What was evicted of these comes back, for the next number of entries.
        rig.stage.load(system, genuine)
        figures = {"start_seconds": ready, "miss_p50_ms": bought.p50_ms, "miss_p99_ms": bought.p99_ms}
        yield Row("index, full", f"{entries:,} entries", figures)
        if not is_watched:
            return
        swept = sweep.measure(rig, system, notes, HOT)
        is_in_sweep = sweep.is_under_way(notes)
        leaving = time.perf_counter()
    stopped = time.perf_counter() - leaving if is_in_sweep else None
    yield Row("sweep", f"{entries:,} entries", {**swept, "stop_in_sweep_seconds": stopped})


def _bought_once(words: str) -> Order:
    return Order(request(f"{words} {{n}}", SMALL), 1, count=MISSES)


def _stored_bytes(directory: Path) -> int:
    connection = sqlite3.connect(directory / DATABASE_FILES[0])
    try:
        return int(connection.execute("SELECT value FROM Settings WHERE key = 'size'").fetchone()[0])
    finally:
        connection.close()


def _stats_seconds(folder: Path) -> float:
    """`imagegate cache stats`, from the start of its process to the end."""
    command = [sys.executable, "-m", "proxy", "cache", "stats", "--json", "--config", str(configuration_of(folder))]
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, timeout=120, check=True)
    return time.perf_counter() - began


def _fits(points: Sequence[tuple[float, Mapping[str, float | None]]]) -> Iterator[Row]:
    for name in ("start_seconds", "idle_after_seconds", "peak_of_start_mb", "stats_seconds"):
        known = [(x / 1e6, y) for x, figures in points if (y := figures[name]) is not None]
        if len(known) > 2:
            yield fitted("index, fitted", name.replace("_", " "), "million_entries", known)

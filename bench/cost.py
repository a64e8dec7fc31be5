"""What imagegate costs, and what that grows with: entries, keys, clients that wait, bytes of a hit, bytes of a miss.

    python -m bench.cost [--only index,keys,waiting,hits,misses] [--entries N] [--output FOLDER]

The real program on loopback, before the bench's upstream. Prints tables, and writes `cost.json` into the folder. At most
twelve minutes; what the time does not suffice for is named. On a shared machine read orders of magnitude: figures of CPU
are medians of rounds that take turns, and lines are fitted to them by least squares of the relative errors.
"""

import argparse
import contextlib
import dataclasses
import http.client
import itertools
import json
import random
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bench import build, call, load, results
from bench.load import Order
from bench.process import PROC, ROOT, Process, cpu_seconds, environment, free_port, pss_bytes, rss_bytes
from bench.report import markdown, number
from bench.stage import Loaded, Stage, request
from bench.system import PATH, Running, Skipped, System
from bench.systems import imagegate
from proxy.clock import SystemClock
from proxy.database.engine import Connection, Database
from proxy.keystore import KeyStore
from proxy.stores import entryfile, sweeper
from proxy.stores.database import DATABASE_FILES
from proxy.stores.index import Index

LIMIT_SECONDS = 720.0
START_SECONDS = 120.0
"""The longest that is waited for: it listens when it has looked at every entry."""
TOLD_CHARACTERS = 200
SMALL = 2_000
KEYS_MODE, OPEN_MODE = "keys", "open"

ENTRIES = (0, 10_000, 100_000, 1_000_000)
GENUINE = 200
ENTRY_MISSES = 200
LINKS_PER_FILE = 60_000
"""A file of ext4 has at most 65,000 names."""
SEEDING_CACHE_KIB = 1 << 20
HARDLY_ANY_MEMORY = "memory_bytes = 10000\n"
"""Holds one entry of the bench's smallest, and no more."""
SWEEP_SECONDS = 10.0
IDLE_LOOKS = 10
IDLE_CPU_SECONDS = 0.15
"""Less in a second is no sweep: the keys are asked for twice a second, and metrics of the loop are taken."""
WATCHED_ENTRIES = 100_000
"""From here on a sweep is long enough to be seen from outside."""
SWEEPING = """\
import sys
import proxy.store
proxy.store.SWEEP_SECONDS = {seconds}  # else one would have to wait ten minutes for it
from proxy.cli import main
sys.exit(main())
"""

KEYS = (1, 100, 1_000, 10_000)
REVOKED = 7
REVOKING_DICE = random.Random(7)
LEAST_TURNS = 6_000
TURNING_CONNECTIONS = 16

WAITING = {1: 2.0, 1_000: 6.0, 5_000: 15.0}
"""How long the upstream takes, by the number of clients that have to arrive meanwhile."""

HIT_SIZES = {"2 KB": 2_000, "30 KB": 30_000, "300 KB": 300_000, "3 MB": 3_000_000, "12 MB": 12_000_000}
HIT_CONNECTIONS = 16
HIT_SECONDS = 0.8
MISS_COUNTS = {"2 KB": 160, "300 KB": 80, "3 MB": 24, "12 MB": 8}
ROUNDS = 3
NOT_REPLAYED = "x-request-id: x"
"""Leaves the request to the ordinary path: it is about that very call."""


class OutOfTime(Exception):
    """The run has had its twelve minutes."""


@dataclass(frozen=True)
class Row:
    """Figures of one point of one table, units in their names; None where there is nothing to be seen."""

    table: str
    at: str
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class Line:
    """What is there at zero, what each unit adds, and by which share the worst point is off."""

    fixed: float
    growth: float
    worst: float


@dataclass
class Found:
    """The record of a run."""

    began: str
    machine: dict[str, str]
    commit: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


# --- arithmetic and table ---------------------------------------------------------------------------------------------


def line(points: Sequence[tuple[float, float]]) -> Line:
    """Through points whose errors grow with them: least squares of the relative errors. All y must be above 0."""
    if len({x for x, _ in points}) < 2 or any(y <= 0 for _, y in points):
        raise ValueError("a line needs two different points, and figures above 0")
    weights = [1 / (y * y) for _, y in points]
    total = sum(weights)
    middle_x = sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)) / total
    middle_y = sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)) / total
    width = sum(weight * (x - middle_x) ** 2 for weight, (x, _) in zip(weights, points, strict=True))
    shared = sum(w * (x - middle_x) * (y - middle_y) for w, (x, y) in zip(weights, points, strict=True))
    growth = shared / width
    fixed = middle_y - growth * middle_x
    return Line(fixed, growth, max(abs(fixed + growth * x - y) / y for x, y in points))


def tables(rows: Sequence[Row]) -> str:
    """Each table with the columns of all of its rows, in the order in which they first come."""
    parts = []
    for table in dict.fromkeys(row.table for row in rows):
        ours = [row for row in rows if row.table == table]
        columns = list(dict.fromkeys(name for row in ours for name in row.figures))
        cells = [(row.at, *(_cell(row.figures.get(name)) for name in columns)) for row in ours]
        head = (table, *(name.replace("_", " ") for name in columns))
        parts.append(markdown(head, cells, left=(0,)))
    return "\n\n".join(parts)


def busy_seconds(samples: Sequence[tuple[float, float]], least_share: float = 0.4) -> float:
    """The longest stretch in which a process used this much of a core, of samples (time, CPU so far)."""
    longest = present = 0.0
    for (before, used), (after, uses) in itertools.pairwise(samples):
        present = present + after - before if uses - used >= least_share * (after - before) else 0.0
        longest = max(longest, present)
    return longest


def _cell(value: float | None) -> str:
    return "-" if value is None else number(value)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _fitted(table: str, at: str, unit: str, points: Sequence[tuple[float, float]]) -> Row:
    found = line(points)
    return Row(table, at, {"fixed": found.fixed, f"per_{unit}": found.growth, "worst_error_percent": 100 * found.worst})


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """The upstream, the client, a folder for everything, and the time that is left."""

    stage: Stage
    upstream_port: int
    root: Path
    most_entries: int
    deadline: float

    def folder(self, name: str) -> Path:
        made = self.root / name
        made.mkdir()
        return made

    def seconds_left(self, needed: float = 0.0) -> float:
        """Raises OutOfTime where it is less than what is needed."""
        left = self.deadline - time.perf_counter()
        if left <= needed:
            raise OutOfTime(f"the {LIMIT_SECONDS:g} s of a run do not suffice")
        return left

    @contextlib.contextmanager
    def serving(
        self, folder: Path, key: str = "", *, cache: str = "", sweep_seconds: float | None = None
    ) -> Iterator[System]:
        """imagegate with what the folder holds; in mode `open` without a key. `cache` are lines of that section."""
        port = free_port()
        mode = KEYS_MODE if key else OPEN_MODE
        text = imagegate.CONFIGURATION.format(port=port, mode=mode, upstream_port=self.upstream_port, memory=cache)
        configuration = configuration_of(folder)
        configuration.write_text(text)
        (folder / "upstream.key").write_text("sk-bench-upstream")
        start = ["-m", "proxy"] if sweep_seconds is None else ["-c", SWEEPING.format(seconds=sweep_seconds)]
        command = [sys.executable, *start, "serve", "--config", str(configuration)]
        headers = (f"authorization: Bearer {key}",) if key else ()
        with Process(command, port=port, log=log_of(folder), ready_seconds=START_SECONDS, stop_seconds=60) as process:
            yield Running("imagegate", "", port, process.pid, process.began, headers)

    def first_answers(self, system: System, body: str) -> tuple[float, float]:
        """Seconds from the start of the process to the first 200 at all, and to the first image reply."""
        get(system, "/healthz", self.seconds_left())
        ready = time.perf_counter() - system.began
        expect(call.ask(system, body).status == 200, "the first image reply is no 200")
        return ready, time.perf_counter() - system.began

    def hits(self, system: System, order: Order) -> Loaded:
        loaded = self.stage.load(system, order)
        expect(not loaded.load.faults and not loaded.upstream_calls, f"not all were hits: {loaded.load.faults}")
        return loaded

    def misses(self, system: System, order: Order) -> Loaded:
        loaded = self.stage.load(system, order)
        expect(not loaded.load.faults and loaded.upstream_calls == order.count, "not all were misses")
        return loaded


def expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise RuntimeError(otherwise)


def configuration_of(folder: Path) -> Path:
    return folder / "imagegate.toml"


def log_of(folder: Path) -> Path:
    return folder / "imagegate.log"


def get(system: System, path: str, timeout_seconds: float) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        expect(reply.status == 200, f"{path}: status {reply.status}")
        return reply.read()
    finally:
        connection.close()


def peak_rss_bytes(pid: int) -> int:
    """The most that the process itself ever had."""
    status = (PROC / str(pid) / "status").read_text()
    return next(int(each.split()[1]) * 1024 for each in status.splitlines() if each.startswith("VmHWM:"))


def written_bytes(pid: int) -> int:
    """What the process has made the kernel write to storage, in whole pages."""
    io = (PROC / str(pid) / "io").read_text()
    return next(int(each.split()[1]) for each in io.splitlines() if each.startswith("write_bytes:"))


# --- keys, made quickly -----------------------------------------------------------------------------------------------


class _OneTransaction:
    """A database whose every transaction is part of one: ten thousand keys are made in seconds."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        yield self._connection


@contextlib.contextmanager
def database_of(folder: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    try:
        database.open()
        yield database
    finally:
        database.close()


def make_keys(folder: Path, count: int) -> list[str]:
    """Keys of one team, each with limits that are checked for each request and never reached."""
    limits = {"max_budget": 999_000_000, "rpm_limit": 100_000_000, "max_parallel_requests": 100_000}
    with database_of(folder) as database, database.writing() as connection:
        store = KeyStore(cast(Database, _OneTransaction(connection)), SystemClock())
        return [
            store.create_key({"key_alias": f"bench {turn}", **limits}, "bench", team="bench")[1]
            for turn in range(count)
        ]


# --- index ------------------------------------------------------------------------------------------------------------


def index(bench: Bench) -> Iterator[Row]:
    """Entries in the directory: most are rows and names of a few files, two hundred were bought and are asked for."""
    folder = bench.folder("index")
    key = make_keys(folder, 1)[0]
    genuine = Order(request("genuine {n}", SMALL), 4, count=GENUINE, keys=GENUINE)
    with bench.serving(folder, key, cache=HARDLY_ANY_MEMORY) as system:
        bench.misses(system, genuine)
    made = 0
    points = []
    for entries in [each for each in ENTRIES if each <= bench.most_entries]:
        # Making, two starts, two sweeps and clearing away: some 300 s for a million.
        bench.seconds_left(20 + 300e-6 * entries)
        seed(folder / "cache", entries - made, random.Random(entries))
        made = entries
        figures = _with_entries(bench, folder, key, entries)
        points.append((float(entries), figures))
        yield Row("index", f"{entries:,} entries", figures)
        yield from _full(bench, folder, key, entries, genuine)
    yield from _index_fits(points)
    shutil.rmtree(folder)


def seed(directory: Path, count: int, dice: random.Random) -> None:
    """Rows and files as the store would have made them, as far as it looks at them before they are asked for."""
    if not count:
        return
    genuine = next(name for name, _ in sweeper.value_files(directory))
    metadata = entryfile.read_metadata(directory / genuine)
    size = (directory / genuine).stat().st_size
    began = SystemClock().wall() - 86_400
    folders: set[str] = set()
    store = Index(directory)
    try:
        with store.writing() as sql:
            # Keys come in no order: with the index's own cache each row would be a read and a write of its page.
            sql.execute(f"PRAGMA cache_size = -{SEEDING_CACHE_KIB}")
            for turn in range(count):
                if turn % LINKS_PER_FILE == 0:
                    source = directory.parent / f"sealed-{count}-{turn}"
                    shutil.copyfile(directory / genuine, source)
                name = _link(directory, source, folders, dice)
                at = began + turn * 0.01
                entry = dataclasses.replace(metadata, key=dice.randbytes(32).hex(), stored_at=at)
                store.insert(sql, entry, name, size, at)
    finally:
        store.shut()


def _link(directory: Path, source: Path, folders: set[str], dice: random.Random) -> str:
    digits = dice.randbytes(16).hex()
    folder = f"{digits[:2]}/{digits[2:4]}"
    if folder not in folders:
        (directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.add(folder)
    name = f"{folder}/{digits[4:]}.val"
    (directory / name).hardlink_to(source)
    return name


def _with_entries(bench: Bench, folder: Path, key: str, entries: int) -> dict[str, float | None]:
    with bench.serving(folder, key, cache=HARDLY_ANY_MEMORY) as system:
        ready, hit = bench.first_answers(system, request(f"genuine {GENUINE - 1}", SMALL))
        swept = _until_idle(bench, system)
        peak, resident = peak_rss_bytes(system.pid), rss_bytes(system.pid)
        hits = bench.hits(system, Order(request("genuine {n}", SMALL), 1, seconds=2, keys=GENUINE)).load
        bought = bench.misses(system, _bought_once(f"miss {entries}")).load
        stats = _timed(lambda: _stats(folder))
    files = [folder / "cache" / name for name in DATABASE_FILES]
    taken = sum(each.stat().st_size for each in files if each.exists())
    return {
        "start_seconds": ready,
        "first_hit_seconds": hit,
        "idle_after_seconds": swept,
        "resident_mb": resident / 1e6,
        "peak_of_start_mb": peak / 1e6,
        "index_bytes_per_entry": taken / (entries + GENUINE + ENTRY_MISSES),
        "disk_hit_p50_ms": hits.p50_ms,
        "disk_hit_p99_ms": hits.p99_ms,
        "miss_p50_ms": bought.p50_ms,
        "miss_p99_ms": bought.p99_ms,
        "stats_seconds": stats,
        **_phases(folder / "cache"),
    }


def _phases(directory: Path) -> dict[str, float | None]:
    """What a start and its sweep do to the directory, each part once, while nobody else uses it."""
    began = time.perf_counter()
    store = Index(directory)
    opened = time.perf_counter()
    rows = sum(1 for _ in store.rows())
    read = time.perf_counter()
    files = sum(1 for _ in sweeper.value_files(directory))
    walked = time.perf_counter()
    store.shut()
    expect(rows == files, f"{rows} rows, {files} files")
    return {
        "open_index_seconds": opened - began,
        "read_rows_seconds": read - opened,
        "walk_files_seconds": walked - read,
    }


def _full(bench: Bench, folder: Path, key: str, entries: int, genuine: Order) -> Iterator[Row]:
    """The same with a limit below what is stored: whatever is bought, something has to go. Then the sweeps."""
    limit = f"{HARDLY_ANY_MEMORY}max_bytes = {_stored_bytes(folder / 'cache') - 1}\n"
    is_watched = entries >= WATCHED_ENTRIES
    with bench.serving(folder, key, cache=limit, sweep_seconds=SWEEP_SECONDS if is_watched else None) as system:
        ready, _ = bench.first_answers(system, request(f"genuine {GENUINE - 1}", SMALL))
        _until_idle(bench, system)
        bought = bench.misses(system, _bought_once(f"evict {entries}")).load
        # What was evicted of these comes back, for the next number of entries.
        bench.stage.load(system, genuine)
        figures = {"start_seconds": ready, "miss_p50_ms": bought.p50_ms, "miss_p99_ms": bought.p99_ms}
        yield Row("index, full", f"{entries:,} entries", figures)
        if not is_watched:
            return
        swept = _sweep(bench, system)
        leaving = time.perf_counter()
    yield Row("sweep", f"{entries:,} entries", {**swept, "stop_in_sweep_seconds": time.perf_counter() - leaving})


def _sweep(bench: Bench, system: System) -> dict[str, float | None]:
    """One sweep that nobody disturbs, and hits from memory before and during the next one."""
    hot = Order(request(f"genuine {GENUINE - 1}", SMALL), 1, seconds=1.5)
    samples = _watch(bench, system, until_idle=True)
    lasting = busy_seconds(samples)
    quiet = load.run(bench.stage.client, system, hot)
    _watch(bench, system, until_idle=False)
    during = load.run(bench.stage.client, system, dataclasses.replace(hot, seconds=max(0.5, min(6, 0.7 * lasting))))
    return {
        "seconds": lasting,
        "cpu_seconds": samples[-1][1] - samples[0][1],
        "resident_peak_mb": peak_rss_bytes(system.pid) / 1e6,
        **{f"hit_{name}": getattr(quiet, name) for name in ("rate", "p50_ms", "p99_ms", "max_ms")},
        **{f"hit_in_sweep_{name}": getattr(during, name) for name in ("rate", "p50_ms", "p99_ms", "max_ms")},
    }


def _until_idle(bench: Bench, system: System) -> float:
    """Seconds from its start until it has nothing left to do of its own accord: the first sweep is over."""
    samples = [(time.perf_counter(), cpu_seconds(system.pid))]
    while len(samples) <= IDLE_LOOKS or samples[-1][1] - samples[-1 - IDLE_LOOKS][1] > IDLE_CPU_SECONDS:
        bench.seconds_left(10)
        time.sleep(0.1)
        samples.append((time.perf_counter(), cpu_seconds(system.pid)))
    return samples[-1 - IDLE_LOOKS][0] - system.began


def _watch(bench: Bench, system: System, *, until_idle: bool) -> list[tuple[float, float]]:
    """(time, CPU so far), until the process has become busy, or busy and idle again."""
    samples = [(time.perf_counter(), cpu_seconds(system.pid))]
    while not (was_busy := busy_seconds(samples) > 0.25) or (until_idle and busy_seconds(samples[-6:], 0.2)):
        expect(was_busy or samples[-1][0] - samples[0][0] < 3 * SWEEP_SECONDS, "no sweep was seen")
        bench.seconds_left(10)
        time.sleep(0.1)
        samples.append((time.perf_counter(), cpu_seconds(system.pid)))
    return samples


def _bought_once(words: str) -> Order:
    return Order(request(f"{words} {{n}}", SMALL), 1, count=ENTRY_MISSES)


def _stored_bytes(directory: Path) -> int:
    connection = sqlite3.connect(directory / DATABASE_FILES[0])
    try:
        return int(connection.execute("SELECT value FROM Settings WHERE key = 'size'").fetchone()[0])
    finally:
        connection.close()


def _stats(folder: Path) -> None:
    command = [sys.executable, "-m", "proxy", "cache", "stats", "--json", "--config", str(configuration_of(folder))]
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, timeout=120, check=True)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _index_fits(points: Sequence[tuple[float, Mapping[str, float | None]]]) -> Iterator[Row]:
    for name in ("start_seconds", "idle_after_seconds", "peak_of_start_mb", "stats_seconds"):
        known = [(x / 1e6, y) for x, figures in points if (y := figures[name]) is not None]
        if len(known) > 2:
            yield _fitted("index, fitted", name.replace("_", " "), "million_entries", known)


# --- keys -------------------------------------------------------------------------------------------------------------


def keys(bench: Bench) -> Iterator[Row]:
    points = []
    for count in KEYS:
        bench.seconds_left(30)
        folder = bench.folder(f"keys-{count}")
        making = time.perf_counter()
        made = make_keys(folder, count + REVOKED)
        making = time.perf_counter() - making
        body = request("shared", SMALL)
        with bench.serving(folder, made[0]) as system:
            call.ask(system, body)
        with bench.serving(folder, made[0]) as system:
            _, hit = bench.first_answers(system, body)
            bench.stage.settle(system)
            resident = rss_bytes(system.pid)
            figures = {
                "make_ms_per_key": making * 1000 / len(made),
                "first_hit_seconds": hit,
                "resident_mb": resident / 1e6,
                **_in_turn(bench, system, body, made[:count]),
                "after_use_mb": rss_bytes(system.pid) / 1e6,
                **_revoked(system, body, folder, made[count:], count),
                **_scraped(system),
            }
        points.append((float(count), figures["resident_mb"]))
        yield Row("keys", _counted(count, "key"), figures)
        shutil.rmtree(folder)
    yield _fitted("keys, fitted", "resident mb", "key", points)


def _in_turn(bench: Bench, system: System, body: str, keys: Sequence[str]) -> dict[str, float]:
    """Hits in memory, each with another key: all of them once, then what is measured."""
    many = max(LEAST_TURNS, len(keys))
    turns(system, body, keys, TURNING_CONNECTIONS, many)
    bench.stage.settle(system)
    before = cpu_seconds(system.pid)
    turns(system, body, keys, TURNING_CONNECTIONS, many)
    bench.stage.settle(system)
    used = cpu_seconds(system.pid) - before
    alone = turns(system, body, keys, 1, 2_000)
    return {"hit_cpu_us": used * 1e6 / many, "hit_p50_ms": statistics.median(alone) * 1000}


def turns(system: System, body: str, keys: Sequence[str], connections: int, count: int) -> list[float]:
    """So many requests, each with the next key, over connections in lockstep; seconds of each, as seen from here."""
    requests = [_request_bytes(body, key) for key in keys]
    sockets = [socket.create_connection(("127.0.0.1", system.port), timeout=30) for _ in range(connections)]
    found = []
    try:
        for first in range(0, count, connections):
            began = time.perf_counter()
            for turn, each in enumerate(sockets):
                each.sendall(requests[(first + turn) % len(requests)])
            for each in sockets:
                _take(each)
                found.append(time.perf_counter() - began)
    finally:
        for each in sockets:
            each.close()
    return found


def _request_bytes(body: str, key: str) -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def _take(connection: socket.socket) -> None:
    """One reply with status 200."""
    taken = b""
    while (stop := taken.find(b"\r\n\r\n")) < 0:
        taken += _more(connection)
    head = taken[:stop].lower()
    expect(head.startswith(b"http/1.1 200"), f"a hit: {head[:40]!r}")
    length = int(head.partition(b"content-length:")[2].split()[0])
    while len(taken) < stop + 4 + length:
        taken += _more(connection)


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(1 << 16)
    expect(bool(piece), "the connection was closed")
    return piece


def _revoked(system: System, body: str, folder: Path, doomed: Sequence[str], first: int) -> dict[str, float]:
    """Until a key that another process revoked is refused."""
    waits = []
    with database_of(folder) as database:
        store = KeyStore(database, SystemClock())
        for turn, key in enumerate(doomed):
            bearer = f"authorization: Bearer {key}"
            expect(call.ask(system, body, bearer).status == 200, "a key does not work")
            # Else each wait would begin just after the feed has looked, and be as long as it can be.
            time.sleep(REVOKING_DICE.uniform(0, 0.5))
            store.revoke_key(f"bench {first + turn}", "bench")
            began = time.perf_counter()
            while call.ask(system, body, bearer).status != 401:
                expect(time.perf_counter() - began < 10, "a revoked key works for ten seconds")
                time.sleep(0.005)
            waits.append(time.perf_counter() - began)
    return {"revoked_median_seconds": statistics.median(waits), "revoked_most_seconds": max(waits)}


def _scraped(system: System) -> dict[str, float]:
    pages, seconds, before = [], [], cpu_seconds(system.pid)
    for _ in range(5):
        seconds.append(_timed(lambda: pages.append(get(system, "/metrics", 30))))
    used = cpu_seconds(system.pid) - before
    median = statistics.median(seconds)
    return {"scrape_ms": median * 1000, "scrape_cpu_ms": used * 200, "scrape_kb": len(pages[-1]) / 1000}


# --- waiting ----------------------------------------------------------------------------------------------------------


def waiting(bench: Bench) -> Iterator[Row]:
    """Callers of one flight, each on a connection of its own."""
    points = []
    for callers, seconds in WAITING.items():
        bench.seconds_left(3 * seconds)
        folder = bench.folder(f"waiting-{callers}")
        key = make_keys(folder, 1)[0]
        with bench.serving(folder, key) as system:
            figures = _waited(bench, system, callers, seconds)
        points.append((float(callers), figures["waiting_mb"] or 0.0))
        yield Row("waiting", _counted(callers, "client"), figures)
        shutil.rmtree(folder)
    yield _fitted("waiting, fitted", "memory mb", "client", points)


def _waited(bench: Bench, system: System, callers: int, seconds: float) -> dict[str, float | None]:
    call.ask(system, request("first", SMALL))
    bench.stage.settle(system)
    before, idle_cpu, calls = pss_bytes(system.pid), cpu_seconds(system.pid), bench.stage.calls()
    body = request(f"waiting {callers}", SMALL, int(seconds * 1000))
    order = Order(body, callers, count=callers, timeout_seconds=3 * seconds + 10)
    with load.running(bench.stage.client, system, order) as client:
        time.sleep(0.8 * seconds)
        held, arrived_cpu = pss_bytes(system.pid), cpu_seconds(system.pid)
        found = load.finish(client, order)
    bench.stage.settle(system)
    answered_cpu = cpu_seconds(system.pid)
    expect(not found.faults and found.replies == callers, f"not all were answered: {found.faults}")
    expect(bench.stage.calls() - calls == 1, "there was more than one call to the upstream")
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


# --- hits and misses --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def both_modes(bench: Bench, name: str) -> Iterator[dict[str, tuple[System, Path]]]:
    """imagegate twice, up together, so that rounds can take turns."""
    folders = {mode: bench.folder(f"{name}-{mode}") for mode in (KEYS_MODE, OPEN_MODE)}
    key = make_keys(folders[KEYS_MODE], 1)[0]
    with (
        bench.serving(folders[KEYS_MODE], key) as in_keys,
        bench.serving(folders[OPEN_MODE]) as in_open,
    ):
        yield {KEYS_MODE: (in_keys, folders[KEYS_MODE]), OPEN_MODE: (in_open, folders[OPEN_MODE])}
    for folder in folders.values():
        shutil.rmtree(folder)


def hits(bench: Bench) -> Iterator[Row]:
    """CPU of hits in memory: replayed in both modes, and on the ordinary path."""
    used: dict[tuple[str, str], list[float]] = {}
    with both_modes(bench, "hits") as systems:
        cases = {
            "keys": (systems[KEYS_MODE][0], ()),
            "open": (systems[OPEN_MODE][0], ()),
            "keys, not replayed": (systems[KEYS_MODE][0], (NOT_REPLAYED,)),
        }
        for size, size_bytes in HIT_SIZES.items():
            for system, _ in systems.values():
                for _ in range(3):
                    call.ask(system, request("hot", size_bytes))
            for _ in range(ROUNDS):
                for case, (system, headers) in cases.items():
                    bench.seconds_left(5)
                    body = request("hot", size_bytes)
                    order = Order(body, HIT_CONNECTIONS, seconds=HIT_SECONDS, headers=headers)
                    cpu = bench.hits(system, order).figures()["cpu_ms"]
                    used.setdefault((case, size), []).append(cpu * 1000)
            yield Row("hits: CPU in µs", size, {case: statistics.median(used[case, size]) for case in cases})
    for case in cases:
        points = [(each / 1e6, statistics.median(used[case, size])) for size, each in HIT_SIZES.items()]
        yield _fitted("hits, fitted: µs", case, "mb", points)


def misses(bench: Bench) -> Iterator[Row]:
    """CPU of misses that the upstream answers at once, and what they write beside the body."""
    rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
    with both_modes(bench, "misses") as systems:
        cases = {f"{mode}, c={c}": (*systems[mode], c) for mode in systems for c in (1, 4)}
        for turn in range(ROUNDS):
            for size, count in MISS_COUNTS.items():
                for case, (system, folder, connections) in cases.items():
                    bench.seconds_left(10)
                    body = request(f"miss {case} {turn} {{n}}", HIT_SIZES[size])
                    figures = _bought(bench, system, folder, Order(body, connections, count=count))
                    rounds.setdefault((case, size), []).append(figures)
    for (case, size), found in rounds.items():
        yield Row("misses", f"{size}, {case}", {name: _median(found, name) for name in found[0]})
    for case in cases:
        points = [(HIT_SIZES[size] / 1e6, _median(rounds[case, size], "cpu_ms")) for size in MISS_COUNTS]
        yield _fitted("misses, fitted: ms of CPU", case, "mb", points)


def _bought(bench: Bench, system: System, folder: Path, order: Order) -> dict[str, float]:
    log = log_of(folder)
    logged, written = log.stat().st_size, written_bytes(system.pid)
    loaded = bench.misses(system, order)
    bench.stage.settle(system)
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


# --- the command ------------------------------------------------------------------------------------------------------

# The longest last: if the time does not suffice, its last row is what is missing.
STEPS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "hits": hits,
    "misses": misses,
    "waiting": waiting,
    "keys": keys,
    "index": index,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    start = results.begin("cost")
    found = Found(start.began, start.machine, start.commit)
    began = time.perf_counter()
    try:
        with _bench(options.entries, began + LIMIT_SECONDS) as bench:
            measure(bench, options.only, found)
    except KeyboardInterrupt:
        found.failed.append("interrupted")
    except Skipped as why:
        say(f"nothing is measured: {why}")
        return 1
    found.seconds = time.perf_counter() - began
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "cost.json"
    path.write_text(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False) + "\n")
    print(tables(found.rows))
    print("".join(f"\nfailed: {each}" for each in found.failed))
    say(f"{found.seconds:.0f} s; written: {path}")
    return 1 if found.failed else 0


def measure(bench: Bench, chosen: Sequence[str], found: Found) -> None:
    """Every step; one that fails, or for which there is no time, keeps what it has found and stops nobody."""
    for name in chosen:
        say(f"{name} ...")
        began = time.perf_counter()
        try:
            for row in STEPS[name](bench):
                found.rows.append(row)
                told = ", ".join(f"{each.replace('_', ' ')} {_cell(value)}" for each, value in row.figures.items())
                say(f"  {row.table}, {row.at}: {told}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the other steps are not concerned
            found.failed.append(f"{name}: {type(error).__name__}: {error}"[:TOLD_CHARACTERS])
            say(f"  failed: {found.failed[-1]}")
        say(f"{name}: {time.perf_counter() - began:.0f} s")


@contextlib.contextmanager
def _bench(most_entries: int, deadline: float) -> Iterator[Bench]:
    """The upstream runs; all that was made is gone afterwards."""
    programs = build.build()
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="imagegate-cost-", ignore_cleanup_errors=True) as name,
        Process([programs.upstream, "--port", str(port)], port=port, log=Path(name) / "upstream.log") as process,
    ):
        root = Path(name)
        upstream = Running("upstream", "", port, process.pid, began=process.began)
        yield Bench(Stage(root, programs.load, upstream, {}), port, root, most_entries, deadline)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cost", description="Measures what imagegate's cost grows with."
    )
    parser.add_argument("--only", type=_names, default=list(STEPS), metavar="STEP,...", help=", ".join(STEPS))
    parser.add_argument("--entries", type=int, default=ENTRIES[-1], metavar="N", help="at most so many in the index")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if wrong := set(options.only) - set(STEPS):
        parser.error(f"no such step: {', '.join(sorted(wrong))} (there are {', '.join(STEPS)})")
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

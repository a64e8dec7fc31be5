"""What the measurements of cost stand on: imagegate with what a folder holds, before the bench's upstream."""

import contextlib
import http.client
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import call
from bench.load import Order
from bench.process import Process, free_port
from bench.stage import Loaded, Stage
from bench.system import Running, System
from bench.systems import imagegate

LIMIT_SECONDS = 720.0
START_SECONDS = 120.0
"""The longest that is waited for until it listens."""
STOP_SECONDS = 60.0
SMALL = 2_000
"""The size of a reply, in bytes, where it is not the size that matters."""
KEYS_MODE, OPEN_MODE = "keys", "open"


class OutOfTime(Exception):
    """The run has had its twelve minutes."""


@dataclass
class Rig:
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
        """imagegate with what the folder holds; in mode `open` without a key. `cache` are lines of that section.

        With `sweep_seconds`, so long between two sweeps, and it notes each of them in the folder: see `bench.cost.watched`.
        """
        port = free_port()
        mode = KEYS_MODE if key else OPEN_MODE
        text = imagegate.CONFIGURATION.format(port=port, mode=mode, upstream_port=self.upstream_port, memory=cache)
        configuration = configuration_of(folder)
        configuration.write_text(text)
        (folder / "upstream.key").write_text("sk-bench-upstream")
        notes = notes_of(folder)
        notes.unlink(missing_ok=True)
        watched = ["bench.cost.watched", str(notes), str(sweep_seconds)]
        start = ["proxy"] if sweep_seconds is None else watched
        command = [sys.executable, "-m", *start, "serve", "--config", str(configuration)]
        headers = (f"authorization: Bearer {key}",) if key else ()
        with Process(
            command, port=port, log=log_of(folder), ready_seconds=START_SECONDS, stop_seconds=STOP_SECONDS
        ) as process:
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


def notes_of(folder: Path) -> Path:
    """Where a server that is watched notes its sweeps."""
    return folder / "sweeps.txt"


def get(system: System, path: str, timeout_seconds: float) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        expect(reply.status == 200, f"{path}: status {reply.status}")
        return reply.read()
    finally:
        connection.close()

"""What the story is played on: the sandbox, a proxy in mode `keys` before it, and Prometheus, all on loopback."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from grafana.shots.questions import RANGE_SECONDS
from grafana.shots.story import CALLERS_AT_ONCE, Story, keys_of
from proxy.clock import SystemClock
from tests.support.keydatabase import KeyDatabase, keys_mode
from tests.support.observed import Prometheus, prometheus
from tests.support.polling import eventually
from tests.support.process import serving

STORY_SECONDS = RANGE_SECONDS + 15
"""A little longer than what is shown, so that what is shown begins at work."""
SANDBOX = [
    "--port",
    "0",
    "--latency",
    "1.2",
    "--jitter",
    "3",
    "--failure-rate",
    "0.008",
    "--rate-limit-rate",
    "0.02",
    "--seed",
    "11",
]
ANNOUNCED = "sandbox upstream on "


@dataclass(frozen=True)
class Played:
    """A Prometheus that has seen the whole story, and when the story ended."""

    prometheus: Prometheus
    end: float


@contextmanager
def played(binary: Path, folder: Path) -> Iterator[Played]:
    """Plays the story; everything runs until the block is left, and nothing after."""
    clock = SystemClock()
    database = KeyDatabase(f"sqlite:///{folder / 'imagegate.db'}")
    keys = keys_of(database)
    sections = keys_mode(
        database.url,
        upstream={"max_connections": 8},
        metrics={"per_key": True},
        cache={"memory_bytes": "64MB", "max_bytes": "1GB"},
    )
    limits = httpx.Limits(max_connections=CALLERS_AT_ONCE, max_keepalive_connections=0)  # callers do not share
    try:
        with (
            _sandbox(folder / "sandbox.log") as upstream,
            serving(folder, upstream, sections) as proxy,
            prometheus(binary, folder, proxy.url) as server,
            httpx.Client(base_url=proxy.url, limits=limits, trust_env=False) as client,
        ):
            eventually(lambda: server.scrapes() >= 2, what="the first scrapes")
            Story(client, keys).play(STORY_SECONDS, threading.Event())
            yield Played(server, clock.wall())
    finally:
        database.close()


@contextmanager
def _sandbox(log: Path) -> Iterator[str]:
    """Its address."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "sandbox", *SANDBOX], stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield eventually(lambda: _address(log), what="the sandbox's address")
    finally:
        process.terminate()
        process.wait(20)


def _address(log: Path) -> str | None:
    for line in log.read_text("utf-8").splitlines():
        if line.startswith(ANNOUNCED):
            return line.removeprefix(ANNOUNCED).strip()
    return None

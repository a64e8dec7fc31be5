"""The upstream door, opened on scripted upstreams: sections, candidates, and an observer that keeps what it was told."""

from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from proxy.clock import Clock, SystemClock
from proxy.eventlog import EventLog
from proxy.model import Candidate, ImageRequest, Operation
from proxy.secret import Secret
from proxy.settings import UpstreamSection
from proxy.spool import Spool, Spools
from proxy.upstream import Caller, Generation, Upstreams, Wire

OUR_KEY = "sk-ours-0123456789"


@dataclass
class Record:
    """What the door told its observer."""

    attempts: list[tuple[str, int | None, str]] = field(default_factory=list)
    retries: list[tuple[str, str]] = field(default_factory=list)
    amendments: list[tuple[str, str]] = field(default_factory=list)
    ratelimits: list[Mapping[str, str]] = field(default_factory=list)
    waits: int = 0

    def attempt(self, upstream: str, model: str, code: int | None, error: str, seconds: float) -> None:
        assert model == "gpt-image-2"
        assert seconds >= 0
        self.attempts.append((upstream, code, error))

    def amended(self, upstream: str, member: str) -> None:
        self.amendments.append((upstream, member))

    def retried(self, upstream: str, reason: str) -> None:
        self.retries.append((upstream, reason))

    def ratelimit(self, upstream: str, model: str, headers: Mapping[str, str]) -> None:
        self.ratelimits.append(headers)

    def queue_waited(self, seconds: float) -> None:
        self.waits += 1


def section(name: str, base_url: str, **changes: Any) -> UpstreamSection:
    """An upstream that is given up soon, and is tried again at once."""
    fields: dict[str, Any] = {"api_key": Secret(OUR_KEY), "total_timeout_seconds": 10, "connect_timeout_seconds": 5}
    return UpstreamSection(name=name, base_url=base_url, **{**fields, **changes})


def candidate(upstream: str, **changes: Any) -> Candidate:
    fields: dict[str, Any] = {
        "operation": Operation.GENERATION,
        "vendor": "openai",
        "model": "gpt-image-2",
        "asked_model": "gpt-image-2",
        "canonical": b'{"model":"gpt-image-2","prompt":"a lighthouse"}',
        "prompt": "a lighthouse",
        "unkeyed": {},
        "n": 1,
        "size": "auto",
        "quality": "auto",
        "table_digest": "0",
    }
    return Candidate(upstream, upstream, ImageRequest(**{**fields, **changes}), "0" * 64)


@dataclass
class Door:
    """`buy` asks the named upstreams in order, all of them unless named."""

    upstreams: Upstreams
    record: Record
    names: tuple[str, ...]
    spool_directory: Path

    async def buy(self, *names: str, caller: Caller | None = None, **request: Any) -> Generation:
        candidates = [candidate(name, **request) for name in names or self.names]
        return await self.upstreams.generate(candidates, caller or Caller(), EventLog())

    def spooled_files(self) -> list[Path]:
        return list(self.spool_directory.iterdir())


@cache
def _wire() -> Wire:
    """One for all tests: it keeps nothing of a call, and reading the certificates takes 25 ms."""
    return Wire(tcp_keepalive_seconds=30)


@asynccontextmanager
async def opened(directory: Path, *sections: UpstreamSection, clock: Clock | None = None) -> AsyncIterator[Door]:
    spool_directory = directory / "tmp"
    spool_directory.mkdir(exist_ok=True)
    record = Record()
    with ThreadPoolExecutor(2) as executor:
        upstreams = Upstreams(
            sections,
            spools=Spools(directory, executor, "instance"),
            wire=_wire(),
            executor=executor,
            observer=record,
            clock=clock or SystemClock(),
        )
        yield Door(upstreams, record, tuple(each.name for each in sections), spool_directory)


def content(spool: Spool) -> bytes:
    with spool.view() as view:
        return bytes(view)

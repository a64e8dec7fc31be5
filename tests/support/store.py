"""What tests of the store are built from: a running store, a witness that counts, entries of any kind."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from proxy.model import Entry, ImageSpan, Metadata, Usage
from proxy.settings import CacheSection
from proxy.store import Store
from tests.support.clock import ManualClock

NOW = 1_795_000_000.0


class Witness:
    """Counts what a store tells its observer."""

    def __init__(self) -> None:
        self.lookups: Counter[tuple[str, str]] = Counter()
        self.evictions: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[str] = Counter()

    def lookup(self, tier: str, result: str, seconds: float) -> None:
        self.lookups[tier, result] += 1

    def evicted(self, tier: str, reason: str, count: int = 1) -> None:
        self.evictions[tier, reason] += count

    def write_error(self, tier: str) -> None:
        self.refusals[tier] += 1


def key(number: int) -> str:
    return f"{number:064x}"


def metadata(number: int = 1, **changes: Any) -> Metadata:
    fields: dict[str, Any] = {
        "key": key(number),
        "scope": "5c09e",
        "purchase_id": f"buy_{number}",
        "stored_at": NOW,
        "expires_at": NOW + 86_400.0,
        "operation": "image_generation",
        "model": "gpt-image-2",
        "upstream": "openai",
        "cache_group": "openai",
        "size": "1024x1024",
        "quality": "high",
        "images": (ImageSpan((0, 1), (1, 2), None, "image/png", 3),),
        "usage": Usage(text_in=10, image_out=4160),
        "cost": Decimal("0.041"),
        "request": {"prompt": "a cat", "n": 1},
    }
    return Metadata(**{**fields, **changes})


def body_of(number: int, size: int = 1000) -> bytes:
    """Bytes that differ from entry to entry and from place to place."""
    return (b"%d:" % number * (size // 2 + 1))[:size]


def section(directory: Path, **changes: Any) -> CacheSection:
    fields: dict[str, Any] = {"directory": directory, "min_free_bytes": 0, "memory_bytes": 10_000_000}
    return CacheSection(**{**fields, **changes})


class Bench:
    """A running store with its clock and its witness."""

    def __init__(self, directory: Path, clock: ManualClock, instance_id: str, **changes: Any) -> None:
        self.directory = directory
        self.clock = clock
        self.witness = Witness()
        self.store = Store(section(directory, **changes), clock, instance_id=instance_id, observer=self.witness)

    async def put(self, number: int, body: bytes | None = None, **changes: Any) -> tuple[Entry, bool]:
        """Receive and commit one reply."""
        changes.setdefault("stored_at", self.clock.wall())
        changes.setdefault("expires_at", self.clock.wall() + 86_400.0)
        epoch = self.store.epoch()
        spool = self.store.spools.open()
        await spool.write(body_of(number) if body is None else body)
        await spool.finish()
        return await self.store.commit(spool, metadata(number, **changes), begun_epoch=epoch)

    async def get(self, number: int, *, promote: bool = True) -> bytes | None:
        """The body found under a key, read to its end."""
        entry = await self.store.lookup(key(number), promote=promote)
        return None if entry is None else await read(entry)

    def is_well(self) -> bool:
        """Healthy, and nothing degraded: the two must agree."""
        assert self.store.healthy == (not self.store.degraded)
        return self.store.healthy

    def files(self) -> list[Path]:
        return sorted(self.directory.glob("??/??/*.val"))

    def spools(self) -> list[Path]:
        return sorted(self.directory.glob("tmp/*"))

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """As somebody who can write to the database behind our back."""
        return tamper(self.directory, statement, *values)


async def read(entry: Entry) -> bytes:
    with entry.body.reading():
        return bytes(await entry.body.window(0, len(entry.body)))


def tamper(directory: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(directory / "cache.db", isolation_level=None)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


@asynccontextmanager
async def bench(
    directory: Path, *, clock: ManualClock | None = None, instance_id: str = "aaaa", **changes: Any
) -> AsyncIterator[Bench]:
    found = Bench(directory, clock or ManualClock(NOW), instance_id, **changes)
    await found.store.start()
    await found.store.swept()
    try:
        yield found
    finally:
        await found.store.close()

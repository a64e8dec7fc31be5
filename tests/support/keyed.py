"""The whole application in this process in mode `keys`, over a database of the test's own, and what its ledger says."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from proxy.database.engine import Database
from proxy.keystore import KeyStore
from proxy.settings import AuthSection, DatabaseSection
from tests.support.application import Gate, gate, settings_over
from tests.support.clock import ManualClock
from tests.support.counting import CountingUpstream

DOLLAR = 10**9


@dataclass
class Keyed:
    """A running application and the administrator's hand on its keys."""

    gate: Gate
    path: Path
    """Of the SQLite file."""

    @property
    def store(self) -> KeyStore:
        database = Database(f"sqlite:///{self.path}")
        database.open()
        return KeyStore(database, self.gate.clock)

    async def key(self, alias: str = "alice", *, team: str | None = None, **fields: Any) -> dict[str, str]:
        """The headers that bear a new key, which is known to the application."""
        made = await to_thread.run_sync(
            lambda: self.store.create_key({"key_alias": alias, **fields}, "tests", team=team)[1]
        )
        await self.poll()
        return {"authorization": f"Bearer {made}"}

    async def team(self, alias: str, **fields: Any) -> None:
        await to_thread.run_sync(lambda: self.store.create_team({"team_alias": alias, **fields}, "tests"))

    async def update(self, alias: str, **changes: Any) -> None:
        await to_thread.run_sync(lambda: self.store.update_key(alias, changes, "tests"))
        await self.poll()

    async def poll(self) -> None:
        assert self.gate.app.keyfeed is not None
        await self.gate.app.keyfeed.poll()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What a statement finds in the database, read beside the application."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def endings(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT outcome FROM purchases ORDER BY opened_at, id")]

    def total(self) -> int:
        """What was settled, in nano-dollars."""
        return int(
            self.rows("SELECT coalesce(sum(cost), 0) FROM purchases WHERE outcome IN ('settled', 'estimated')")[0][0]
        )

    def spend(self, kind: str = "key") -> tuple[int, int]:
        """What the only key or team has spent, and what is reserved."""
        [(settled, reserved)] = self.rows(f"SELECT settled, reserved FROM spends WHERE holder_id LIKE '{kind}%'")
        return settled, reserved


@asynccontextmanager
async def keyed_gate(
    directory: Path, *upstreams: CountingUpstream, clock: ManualClock | None = None, **sections: Any
) -> AsyncIterator[Keyed]:
    path = directory / "imagegate.db"
    sections = {"auth": AuthSection(mode="keys"), "database": DatabaseSection(url=f"sqlite:///{path}"), **sections}
    async with gate(settings_over(directory, *upstreams, **sections), clock) as running:
        yield Keyed(running, path)


@pytest.fixture
async def keyed(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[Keyed]:
    async with keyed_gate(tmp_path, upstream) as keyed:
        yield keyed

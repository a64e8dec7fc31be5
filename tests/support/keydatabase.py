"""Keys and their ledger beside proxies that run: what an administrator does to the database, and what stands in it."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from proxy.app import build
from proxy.clock import SystemClock
from proxy.configuration import load
from proxy.database.engine import Database
from proxy.keystore import KeyStore
from tests.support.process import Sections

DOLLAR = 10**9
Headers = dict[str, str | None]


def keys_mode(url: str = "sqlite:///imagegate.db", **sections: Any) -> Sections:
    """Sections of a proxy that serves the holders of keys; a path in `url` counts from the configuration's folder."""
    return {"auth": {"mode": "keys"}, "database": {"url": url}, **sections}


@dataclass(frozen=True)
class KeyDatabase:
    """One database, made with its tables where there is none."""

    url: str
    _database: Database = field(init=False, repr=False)

    def __post_init__(self) -> None:
        database = Database(self.url)
        database.open()
        object.__setattr__(self, "_database", database)

    @property
    def store(self) -> KeyStore:
        return KeyStore(self._database, SystemClock())

    @property
    def path(self) -> Path:
        """Of the SQLite file."""
        return Path(self.url.removeprefix("sqlite:///"))

    def key(self, alias: str = "alice", *, team: str | None = None, **fields: Any) -> Headers:
        """The headers that bear a new key."""
        _, text = self.store.create_key({"key_alias": alias, **fields}, "tests", team=team)
        return {"authorization": f"Bearer {text}"}

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What a statement finds, read past imagegate's own code; its changes are committed."""
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                return connection.execute(statement).fetchall()
        with psycopg.connect(self.url, autocommit=True) as postgres:
            cursor = postgres.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def endings(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT outcome FROM purchases ORDER BY opened_at, id")]

    def spent(self) -> tuple[int, int]:
        """What the keys have spent, and what is reserved, in nano-dollars: as it is kept, which is what the rows say."""
        kept = self.rows(
            "SELECT coalesce(sum(settled), 0), coalesce(sum(reserved), 0) FROM spends WHERE holder_id LIKE 'key%'"
        )[0]
        counted = self.rows(
            "SELECT coalesce(sum(CASE outcome WHEN 'open' THEN 0 ELSE cost END), 0),"
            " coalesce(sum(CASE outcome WHEN 'open' THEN estimate ELSE 0 END), 0) FROM purchases"
        )[0]
        assert (int(kept[0]), int(kept[1])) == (int(counted[0]), int(counted[1]))
        return int(kept[0]), int(kept[1])

    def end_leases(self) -> None:
        """As if so much time had passed."""
        self.rows("UPDATE purchases SET lease_until = opened_at - 1 WHERE outcome = 'open'")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else writes to the SQLite file, and does not come to an end."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        self._database.close()


def recover(config: Path) -> None:
    """What a process does twice a minute about the dead, done twice now: in a process that has nothing else to do."""

    async def look_twice() -> None:
        app = build(load(config, {}))
        await app.store.start()
        await app.ledger.recover()
        await app.ledger.recover()
        await app.close(0)

    asyncio.run(look_twice())

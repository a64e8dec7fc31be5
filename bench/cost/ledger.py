"""The ledger of an imagegate, opened from outside: its keys, made quickly."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from proxy.clock import SystemClock
from proxy.database.engine import Connection, Database
from proxy.keystore import KeyStore

LIMITS = {"max_budget": 999_000_000, "rpm_limit": 100_000_000, "max_parallel_requests": 100_000}
"""Checked for each request, and never reached."""
ACTOR = "bench"
TEAM = "bench"


class _OneTransaction:
    """A database whose every transaction is part of one: ten thousand keys are made in seconds."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        yield self._connection


def make_keys(folder: Path, count: int) -> list[str]:
    """Keys of one team, each with its limits; `alias` tells what they are called."""
    with database_of(folder) as database, database.writing() as connection:
        store = KeyStore(cast(Database, _OneTransaction(connection)), SystemClock())
        return [store.create_key({"key_alias": alias(turn), **LIMITS}, ACTOR, team=TEAM)[1] for turn in range(count)]


def alias(turn: int) -> str:
    """Of the key that was made in this turn; the first is 0."""
    return f"bench {turn}"


@contextlib.contextmanager
def database_of(folder: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    try:
        database.open()
        yield database
    finally:
        database.close()

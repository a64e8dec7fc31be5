"""Fixtures: real databases of either kind, for a module that says `pytest_plugins = ["tests.support.databases"]`.

Nobody imports this file but pytest.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from proxy.database import schema
from proxy.database.engine import Database
from tests.support.postgresql import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresServer) -> str:
    """The name of a database with our tables, to be copied: half the time of making them."""
    url = postgres.fresh_url()
    database = Database(url)
    database.open()
    database.close()
    return url.partition("@/")[2].partition("?")[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database without a table, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/imagegate.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.fresh_url()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An open one with our tables and nothing in them, of either kind."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/imagegate.db")
        database.open()
    else:
        database = Database(request.getfixturevalue("shared_url"))
        _empty(database)
    yield database
    database.close()


@pytest.fixture(scope="session")
def shared_url(postgres: PostgresServer, migrated_template: str) -> str:
    """Of a PostgreSQL database that one test after the other empties: ten times as fast as making a new one."""
    return postgres.fresh_url(migrated_template)


def _empty(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("TRUNCATE keys, teams, audit, purchases, spends, tallies RESTART IDENTITY"))
        connection.execute(text("UPDATE revision SET value = 0"))
        connection.execute(text("UPDATE schema_version SET version_num = :head"), {"head": schema.HEAD})

"""The door to the database: transactions on SQLite or PostgreSQL, for worker threads; what they raise is translated here."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from proxy.database import schema
from proxy.database.address import parse_address
from proxy.database.sqlitefile import SqliteFile
from proxy.errors import ConfigurationError, DatabaseUnavailable, StatementRefused

__all__ = ["Connection", "Database"]

_POOL_SIZE = 10
_WAIT_SECONDS = 5.0
_REASON_CHARACTERS = 200
_DEFECTS = (exc.IntegrityError, exc.DataError, exc.ProgrammingError, exc.NotSupportedError)
"""What only a mistake of ours can cause."""


class Database:
    """Blocking: never to be called on the event loop. `wait_seconds` bounds each wait: for a lock, a connection, a server.

    `url` is `sqlite:///path` or `postgresql://…`. Raises ConfigurationError for any other.
    """

    def __init__(self, url: str, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        address = parse_address(url)
        self._wait_seconds = wait_seconds
        self._writer = threading.Lock()
        self._file = SqliteFile(address.path, wait_seconds) if address.path else None
        self._engine = (
            _sqlite(self._file, wait_seconds) if self._file else _postgresql(address.postgresql, wait_seconds)
        )

    def open(self) -> None:
        """Makes a SQLite file where there is none, and brings the schema up to date.

        Raises ConfigurationError for a schema newer than ours, DatabaseUnavailable for whatever else stands in the way.
        """
        if self._file:
            try:
                self._file.prepare()
            except (OSError, sqlite3.Error) as error:
                raise DatabaseUnavailable(_reason(error)) from error
        with self.reading() as connection:
            if schema.is_current(connection):
                return
        with self.writing() as connection:
            schema.upgrade(connection)

    def close(self) -> None:
        self._engine.dispose()

    def check(self) -> None:
        """Raises DatabaseUnavailable if nothing can be read."""
        with self.reading() as connection:
            connection.execute(text("SELECT 1 FROM schema_version")).all()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing. Raises DatabaseUnavailable."""
        with _translated(), self._engine.connect() as connection, connection.begin():
            self._begin(connection, "BEGIN")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction; committed at the end, or rolled back by whatever is raised. Raises DatabaseUnavailable.

        On SQLite it is the only one that writes, from its beginning: a reader that turned writer in the middle could
        find its view outdated, and waiting would not help it.
        """
        with self._turn(), _translated(), self._engine.connect() as connection, connection.begin():
            self._begin(connection, "BEGIN IMMEDIATE")
            yield connection

    def _begin(self, connection: Connection, statement: str) -> None:
        """In SQLite nothing begins by itself. A listener could do it, but then each statement would look for listeners."""
        if self._file is not None:
            connection.exec_driver_sql(statement)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Threads of one process queue for SQLite's one writer here: there they would sleep and try, and some never win."""
        if self._file is None:
            yield
            return
        if not self._writer.acquire(timeout=self._wait_seconds):
            raise DatabaseUnavailable("the database is locked")
        try:
            yield
        finally:
            self._writer.release()


def _sqlite(file: SqliteFile, wait_seconds: float) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=file.connect,
        poolclass=QueuePool,
        pool_size=_POOL_SIZE,
        max_overflow=0,
        pool_timeout=wait_seconds,
        hide_parameters=True,
    )

    def remember_file(connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["file"] = file.identity()

    def refuse_another_file(connection: Any, entry: ConnectionPoolEntry, lent: Any) -> None:
        if entry.info["file"] is None or entry.info["file"] != file.identity():
            raise exc.DisconnectionError("the database file was removed or replaced")

    event.listen(engine, "connect", remember_file)
    event.listen(engine, "checkout", refuse_another_file)
    return engine


def _postgresql(url: str, wait_seconds: float) -> Engine:
    return create_engine(
        _postgresql_url(url, wait_seconds),
        isolation_level="READ COMMITTED",
        pool_size=_POOL_SIZE,
        max_overflow=0,
        pool_timeout=wait_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _postgresql_url(text_of_url: str, wait_seconds: float) -> URL:
    """With our bounds on waiting, where the operator set none."""
    try:
        url = make_url(text_of_url).set(drivername="postgresql+psycopg")
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(["database.url: is no URL of a PostgreSQL database"]) from None
    milliseconds = int(wait_seconds * 1000)
    ours = {
        "application_name": "imagegate",
        "connect_timeout": str(max(2, round(wait_seconds))),  # libpq takes 1 for 2
        "tcp_user_timeout": str(2 * milliseconds),
        "options": f"-c lock_timeout={milliseconds} -c statement_timeout={2 * milliseconds}",
    }
    return url.update_query_dict({name: value for name, value in ours.items() if name not in url.query})


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _DEFECTS as error:
        # Not chained: the server's details name the values, which may be digests.
        raise StatementRefused(_reason(error)) from None
    except OverflowError as error:  # sqlite3's own, for an integer beyond 64 bits
        raise StatementRefused(str(error)) from None
    except (exc.DBAPIError, exc.TimeoutError, exc.DisconnectionError) as error:
        if _is_beyond_a_limit(error):
            raise StatementRefused(_reason(error)) from None
        raise DatabaseUnavailable(_reason(error)) from error


def _is_beyond_a_limit(error: Exception) -> bool:
    """PostgreSQL's class 54, "program limit exceeded": a value too long for an index is no outage."""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, exc.DBAPIError) else None
    return isinstance(state, str) and state.startswith("54")


def _reason(error: Exception) -> str:
    """The database's own words in one line: no statement, no values."""
    if isinstance(error, exc.TimeoutError):
        return "every connection is in use"
    words = str(error.orig if isinstance(error, exc.DBAPIError) else error).strip().splitlines()
    return words[0][:_REASON_CHARACTERS] if words else type(error).__name__

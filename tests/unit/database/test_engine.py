"""The door to the database: transactions that hold, and every way in which a database can be away."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from proxy.database.engine import Database
from proxy.errors import DatabaseUnavailable, StatementRefused
from tests.support.postgresql import PostgresServer

pytest_plugins = ["tests.support.databases"]
ROOT = Path(__file__).parents[3]
SHORT_SECONDS = 0.2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "imagegate.db"


@pytest.fixture
def impatient(path: Path) -> Iterator[Database]:
    """On SQLite; waits for next to nothing."""
    database = Database(f"sqlite:///{path}", wait_seconds=SHORT_SECONDS)
    database.open()
    yield database
    database.close()


def revision(database: Database) -> int:
    with database.reading() as connection:
        value: int = connection.execute(text("SELECT value FROM revision")).scalar_one()
        return value


def raise_revision(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE revision SET value = value + 1"))


def test_what_is_written_is_kept_and_what_fails_is_not(database: Database) -> None:
    raise_revision(database)
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute(text("UPDATE revision SET value = 99"))
        _ = 1 / 0
    assert revision(database) == 1


def test_a_reader_sees_nothing_of_a_change_in_the_air(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE revision SET value = 99"))
        assert revision(database) == 0
    assert revision(database) == 99


def test_a_defect_of_ours_is_not_taken_for_an_outage_and_tells_no_values(database: Database) -> None:
    with pytest.raises(StatementRefused) as caught, database.writing() as connection:
        connection.execute(text("INSERT INTO revision (id, value) VALUES (2, :value)"), {"value": 12345})
    error = caught.value
    assert "revision_one_row" in error.reason
    assert (error.status, error.code, error.should_retry) == (500, "internal_error", False)
    assert "12345" not in "".join(traceback.format_exception(error)).replace('{"value": 12345}', "")


def test_a_wrong_statement_is_a_defect(postgres: PostgresServer) -> None:
    database = Database(postgres.fresh_url())
    with pytest.raises(StatementRefused), database.reading() as connection:
        connection.execute(text("SELEKT 1"))
    database.close()


def test_the_pool_is_small_and_nobody_waits_for_ever(impatient: Database) -> None:
    held = [impatient.reading() for _ in range(10)]
    for each in held:
        each.__enter__()
    with pytest.raises(DatabaseUnavailable) as caught:
        impatient.check()
    assert caught.value.reason == "every connection is in use"
    for each in held:
        each.__exit__(None, None, None)
    impatient.check()


def test_the_answer_says_when_to_come_back_and_nothing_of_the_reason(impatient: Database, path: Path) -> None:
    path.unlink()
    with pytest.raises(DatabaseUnavailable) as caught:
        impatient.check()
    error = caught.value
    assert (error.status, error.code, error.headers) == (503, "database_unavailable", {"retry-after": "5"})
    assert error.reason
    assert error.reason not in str(error.body())
    assert error.again().body() == error.body()


def test_a_sqlite_file_is_private(path: Path) -> None:
    os.umask(os.umask(0o000))
    Database(f"sqlite:///{path}").open()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_sqlite_file_that_others_could_read_is_made_private(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o644)
    database = Database(f"sqlite:///{path}")
    database.open()
    raise_revision(database)
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}


def test_a_path_may_hold_what_urls_and_templates_reserve(tmp_path: Path) -> None:
    path = tmp_path / "100% ?a=b#c&ü" / "x.db"
    database = Database(f"sqlite:///{path}")
    database.open()
    database.check()
    assert path.exists()


def test_sqlite_is_set_as_we_count_on_it(impatient: Database) -> None:
    expected = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "trusted_schema": 0, "busy_timeout": 200}
    with impatient.reading() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
    assert found == expected


def test_a_locked_sqlite_database_is_waited_for_and_then_unavailable(impatient: Database, path: Path) -> None:
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable) as caught:
            raise_revision(impatient)
        assert SHORT_SECONDS <= time.monotonic() - begun < SHORT_SECONDS + 2
        assert caught.value.reason == "database is locked"
        assert revision(impatient) == 0  # readers do not wait for a writer
        other.execute("ROLLBACK")
    other.close()
    raise_revision(impatient)


def test_a_removed_sqlite_file_is_not_replaced_by_an_empty_one(impatient: Database, path: Path) -> None:
    raise_revision(impatient)
    kept = path.with_name("kept")
    path.rename(kept)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            raise_revision(impatient)
    assert not path.exists()
    kept.rename(path)
    assert revision(impatient) == 1


def test_another_file_in_its_place_is_found_out(impatient: Database, path: Path) -> None:
    raise_revision(impatient)
    for each in list(path.parent.iterdir()):
        each.unlink()
    Database(f"sqlite:///{path}").open()
    assert revision(impatient) == 0


def test_what_is_no_database_is_unavailable(impatient: Database, path: Path) -> None:
    for each in list(path.parent.iterdir()):
        each.unlink()
    path.write_bytes(b"This is no database, whatever its name says. " * 100)
    with pytest.raises(DatabaseUnavailable) as caught:
        impatient.check()
    assert caught.value.reason == "file is not a database"
    with pytest.raises(DatabaseUnavailable):
        Database(f"sqlite:///{path}").open()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnavailable):
        Database(f"sqlite:///{tmp_path}/file/imagegate.db").open()


FILLS_UP = """
import resource, sys
from sqlalchemy import text
from proxy.database.engine import Database
from proxy.errors import DatabaseUnavailable
database = Database(sys.argv[1])
database.open()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # what a full disk is to a process
row = {"at": 0, "actor": "a" * 200_000}
sql = "INSERT INTO audit (at, actor, action, kind, target_id) VALUES (:at, :actor, '', '', '')"
try:
    for _ in range(10):
        with database.writing() as connection:
            connection.execute(text(sql), row)
    print("never full")
except DatabaseUnavailable as error:
    print(error.reason)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
with database.writing() as connection:
    connection.execute(text(sql), row)
    print(connection.execute(text("PRAGMA integrity_check")).scalar())
"""


def test_a_full_disk_is_unavailable_and_harms_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLS_UP, f"sqlite:///{path}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    reason, integrity = done.stdout.splitlines()
    assert reason in {"database or disk is full", "disk I/O error"}
    assert integrity == "ok"


def test_a_locked_row_of_postgresql_is_waited_for_and_then_unavailable(
    postgres: PostgresServer, migrated_template: str
) -> None:
    url = postgres.fresh_url(migrated_template)
    impatient = Database(url, wait_seconds=SHORT_SECONDS)
    with psycopg.connect(url) as other:
        other.execute("SELECT value FROM revision FOR UPDATE")
        with pytest.raises(DatabaseUnavailable) as caught:
            raise_revision(impatient)
        assert "lock timeout" in caught.value.reason
        assert revision(impatient) == 0
    raise_revision(impatient)
    impatient.close()


def test_a_statement_that_takes_for_ever_is_ended(postgres: PostgresServer) -> None:
    impatient = Database(postgres.fresh_url(), wait_seconds=0.05)
    with pytest.raises(DatabaseUnavailable) as caught, impatient.reading() as connection:
        connection.execute(text("SELECT pg_sleep(60)"))
    assert "statement timeout" in caught.value.reason
    impatient.close()


def test_connections_that_the_server_has_ended_are_replaced(postgres: PostgresServer, migrated_template: str) -> None:
    url = postgres.fresh_url(migrated_template)
    database = Database(url)
    raise_revision(database)
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as other:
        name = url.partition("@/")[2].partition("?")[0]
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
        assert other.execute(ended, [name]).fetchone() == (1,)
    raise_revision(database)
    assert revision(database) == 2
    database.close()


def test_a_connection_lost_in_the_middle_is_unavailable_and_nothing_is_written(
    postgres: PostgresServer, migrated_template: str
) -> None:
    database = Database(postgres.fresh_url(migrated_template))
    with pytest.raises(DatabaseUnavailable), database.writing() as connection:
        connection.execute(text("UPDATE revision SET value = 99"))
        own = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [own])
        connection.execute(text("SELECT 1"))
    assert revision(database) == 0
    database.close()


def test_a_server_that_is_killed_is_unavailable_until_it_is_back() -> None:
    server = PostgresServer()
    try:
        server.start()
        database = Database(server.fresh_url())
        database.open()
        raise_revision(database)
        server.stop()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                raise_revision(database)
        with pytest.raises(DatabaseUnavailable):
            database.open()
        server.resume()
        assert revision(database) == 1
        raise_revision(database)
        database.close()
    finally:
        server.close()


def test_a_wrong_password_is_not_repeated() -> None:
    database = Database("postgresql://someone:hunter2@127.0.0.1:1/nothing", wait_seconds=SHORT_SECONDS)
    with pytest.raises(DatabaseUnavailable) as caught:
        database.check()
    cause: BaseException | None = caught.value
    while cause is not None:
        assert "hunter2" not in str(cause) + repr(cause)
        cause = cause.__cause__


def test_threads_of_one_process_take_turns_at_writing_and_none_waits_for_ever(impatient: Database) -> None:
    held, done = threading.Event(), threading.Event()

    def holds() -> None:
        with impatient.writing():
            held.set()
            assert done.wait(10)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(holds)
        assert held.wait(10)
        with pytest.raises(DatabaseUnavailable) as caught, impatient.writing():
            pass
        done.set()
        holding.result(10)
    assert caught.value.reason == "the database is locked"
    with impatient.writing():
        pass


def test_an_integer_that_no_column_takes_is_a_defect(impatient: Database) -> None:
    with pytest.raises(StatementRefused), impatient.reading() as connection:
        connection.execute(text("SELECT :number"), {"number": 10**30})


def test_a_value_too_long_for_an_index_is_a_defect_and_no_outage(postgres: PostgresServer) -> None:
    database = Database(postgres.fresh_url())
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE words (word TEXT PRIMARY KEY)"))
    word = os.urandom(12_000).hex()
    with pytest.raises(StatementRefused), database.writing() as connection:
        connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
    database.close()

"""The rows of purchases as statements: what a reader sees of others' spends, and what only the database's files show."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import event, text

from proxy.database import keyrows, purchaserows
from proxy.database.engine import Connection, Database
from proxy.purchase import Spend
from tests.support.polling import eventually

pytest_plugins = ["tests.support.databases"]

on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
HOLDERS = ("key_1", "key_2", "team_1")
NOTHING_SPENT = dict.fromkeys(HOLDERS, 0)


@pytest.fixture
def spends(database: Database) -> Database:
    """A database in which each holder has a row, and nothing is spent."""
    for each in HOLDERS:
        commit(database, each, 0)
    rest(database)
    return database


def spend(connection: Connection, holder_id: str, settled: int) -> None:
    purchaserows.take(connection, holder_id)
    purchaserows.write_spends(connection, [Spend(holder_id, 0.0, settled, 0)])


def commit(database: Database, holder_id: str, settled: int) -> None:
    with database.writing() as connection:
        spend(connection, holder_id, settled)


def read(database: Database, mark: int | None = None) -> tuple[Mapping[str, int], int | None]:
    """What is settled of each holder that is read, and the next mark."""
    with database.reading() as connection:
        found, next_mark = purchaserows.spends_since(connection, mark)
    return {each.holder_id: each.settled for each in found}, next_mark


def rest(database: Database) -> None:
    """Until no transaction is open: one of the server's own, as for statistics, would make us read more than is needed."""
    snapshot = "SELECT pg_snapshot_xmin(each) = pg_snapshot_xmax(each) FROM pg_current_snapshot() AS each"

    def rests() -> bool:
        with database.reading() as connection:
            is_sqlite = connection.dialect.name == "sqlite"
            return is_sqlite or bool(connection.execute(text(snapshot)).scalar_one())

    eventually(rests, seconds=60, what="a server without open transactions")


def test_of_what_others_spent_only_what_changed_is_read_and_on_sqlite_all(spends: Database) -> None:
    found, mark = read(spends)
    assert found == NOTHING_SPENT
    is_sqlite = mark is None
    found, mark = read(spends, mark)
    assert found == (NOTHING_SPENT if is_sqlite else {})
    commit(spends, "key_2", 5)
    rest(spends)
    found, mark = read(spends, mark)
    assert found == ({**NOTHING_SPENT, "key_2": 5} if is_sqlite else {"key_2": 5})
    commit(spends, "key_new", 7)
    found, mark = read(spends, mark)
    assert found == ({**NOTHING_SPENT, "key_2": 5, "key_new": 7} if is_sqlite else {"key_new": 7})


@on_postgresql
@pytest.mark.parametrize("ahead", [10**9, 2**32 + 5])
def test_a_server_that_is_behind_our_mark_is_another_one_and_read_whole(spends: Database, ahead: int) -> None:
    _, mark = read(spends)
    assert mark is not None
    found, next_mark = read(spends, mark + ahead)
    assert found == NOTHING_SPENT
    assert next_mark is not None
    assert mark <= next_mark < mark + ahead


@on_postgresql
def test_marks_go_on_when_the_transaction_ids_of_rows_have_begun_again(
    spends: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_round = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint + 4294967296"
    monkeypatch.setattr(purchaserows, "_MARK", text(second_round))
    _, mark = read(spends)
    assert mark is not None
    assert mark > 2**32
    found, mark = read(spends, mark)
    assert found == {}
    commit(spends, "key_1", 5)
    assert read(spends, mark)[0] == {"key_1": 5}


@on_postgresql
def test_what_is_committed_late_is_read_then_and_once(spends: Database) -> None:
    with spends.writing() as late:
        spend(late, "key_1", 1)
        found, mark = read(spends)
        assert found == NOTHING_SPENT
        commit(spends, "key_2", 2)
        commit(spends, "team_1", 3)
        for _ in range(2):  # as long as it is open, what was written beside it is read each time
            found, mark = read(spends, mark)
            assert found == {"key_2": 2, "team_1": 3}
    rest(spends)
    found, mark = read(spends, mark)
    assert found == {"key_1": 1, "key_2": 2, "team_1": 3}
    assert read(spends, mark)[0] == {}


@on_postgresql
def test_what_is_committed_while_we_read_is_not_missed(spends: Database) -> None:
    _, mark = read(spends)
    with spends.reading() as connection:
        event.listen(connection, "after_cursor_execute", lambda *_: commit(spends, "key_1", 1), once=True)
        found, mark = purchaserows.spends_since(connection, mark)
    again, _ = read(spends, mark)
    assert Spend("key_1", 0.0, 1, 0) in found or again == {"key_1": 1}


@on_postgresql
def test_what_is_rolled_back_is_never_read(spends: Database) -> None:
    with suppress(LookupError), spends.writing() as connection:
        spend(connection, "key_1", 1)
        _, mark = read(spends)
        raise LookupError
    assert read(spends, mark)[0] == {}


@on_postgresql
def test_what_is_written_after_a_savepoint_is_read(spends: Database) -> None:
    with spends.writing() as connection:
        spend(connection, "key_1", 1)
        _, mark = read(spends)
        with connection.begin_nested():
            spend(connection, "key_2", 2)
    assert read(spends, mark)[0] == {"key_1": 1, "key_2": 2}


@on_postgresql
def test_who_only_locks_a_row_has_not_changed_it(spends: Database) -> None:
    _, mark = read(spends)
    with spends.writing() as connection:
        purchaserows.take(connection, "key_1")
        assert read(spends, mark)[0] == {}
    assert read(spends, mark)[0] == {}


def test_a_probe_writes_to_the_disk_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/imagegate.db")
    database.open()
    log = tmp_path / "imagegate.db-wal"
    before = log.stat().st_size
    with database.writing() as connection:
        revision = keyrows.revision(connection)
        purchaserows.probe(connection)
        assert keyrows.revision(connection) == revision
    assert log.stat().st_size > before, "on a full disk it has to fail"
    database.close()

"""The database for the event loop: whatever it does, nobody waits for it longer than was agreed."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import text

from proxy.database.background import THREADS, BackgroundDatabase
from proxy.database.engine import Database
from proxy.errors import BudgetExceeded, ConfigurationError, DatabaseUnavailable

pytestmark = pytest.mark.anyio
T = TypeVar("T")
ROOT = Path(__file__).parents[3]
SOON = 0.02


class Blocked:
    """Work that hangs until it is let go, as a server does that no longer answers."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.done = threading.Semaphore(0)

    def __call__(self, database: Database) -> str:
        self.begun.release()
        assert self.go.wait(20)
        self.done.release()
        return "late"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "imagegate.db"


@pytest.fixture
def blocked() -> Blocked:
    return Blocked()


@pytest.fixture
async def database(path: Path, blocked: Blocked) -> AsyncIterator[BackgroundDatabase]:
    """Open, and given up on soon."""
    database = BackgroundDatabase(f"sqlite:///{path}", deadline_seconds=20, wait_seconds=SOON)
    await database.run(revision)
    database._deadline_seconds = SOON
    yield database
    blocked.go.set()
    await database.close()


def revision(database: Database) -> int:
    with database.reading() as connection:
        value: int = connection.execute(text("SELECT value FROM revision")).scalar_one()
        return value


async def reason(database: BackgroundDatabase, work: Callable[[Database], object]) -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.run(work)
    return caught.value.reason


async def reasons_of_hanging(
    database: BackgroundDatabase, blocked: Blocked, times: int = 1, then: Sequence[Callable[[Database], object]] = ()
) -> set[str]:
    """The same, of work that hangs before it is given up on, however slow the machine is, and of other work asked for after
    it: until the threads have begun, the event loop stands still, and with it every deadline.
    """
    works: list[Callable[[Database], object]] = [*[blocked] * times, *then]
    waiting = [asyncio.create_task(reason(database, each)) for each in works]
    await asyncio.sleep(0)  # all have been asked for
    for _ in range(times):
        assert blocked.begun.acquire(timeout=20)
    return set(await asyncio.gather(*waiting))


async def until(is_so: Callable[[], T]) -> T:
    """Turns the event loop until something that a thread does has been heard of."""
    async with asyncio.timeout(20):
        while not (found := is_so()):
            await asyncio.sleep(0.001)
        return found


async def test_nothing_is_opened_before_it_is_needed(path: Path) -> None:
    database = BackgroundDatabase(f"sqlite:///{path}")
    assert database.problem is None
    assert not path.exists()
    assert await database.run(revision) == 0
    assert database.problem is None
    await database.close()


async def test_work_is_done_in_other_threads_and_its_own_errors_come_through(database: BackgroundDatabase) -> None:
    database._deadline_seconds = 20

    def fail(_: Database) -> None:
        raise LookupError("its own")

    def time_out(_: Database) -> None:
        raise TimeoutError("its own")

    assert await database.run(lambda _: threading.current_thread()) is not threading.current_thread()
    with pytest.raises(LookupError, match="its own"):
        await database.run(fail)
    with pytest.raises(TimeoutError, match="its own"):
        await database.run(time_out)
    assert await database.run(revision) == 0


async def test_what_hangs_is_given_up_and_everybody_else_goes_on(
    database: BackgroundDatabase, blocked: Blocked
) -> None:
    for _ in range(THREADS - 1):
        assert await reasons_of_hanging(database, blocked) == {"it does not answer"}
        assert database.problem == "it does not answer"
    database._deadline_seconds = 20
    assert await database.run(revision) == 0
    assert database.problem is None


async def test_while_every_thread_hangs_nobody_waits_and_then_all_is_well_again(
    database: BackgroundDatabase, blocked: Blocked
) -> None:
    for _ in range(THREADS):
        await reasons_of_hanging(database, blocked)
    database._deadline_seconds = 1000
    done: list[Database] = []
    for _ in range(3):
        assert await reason(database, done.append) == "it does not answer"
    blocked.go.set()
    for _ in range(THREADS):
        await until(lambda: blocked.done.acquire(blocking=False))
    await until(lambda: not database._hanging)
    assert await database.run(revision) == 0
    assert database.problem is None
    assert done == []


async def test_work_that_was_given_up_on_before_it_began_is_never_done(
    database: BackgroundDatabase, blocked: Blocked
) -> None:
    done: list[Database] = []
    assert await reasons_of_hanging(database, blocked, THREADS, [done.append] * 10) == {"it does not answer"}
    assert database._hanging == THREADS
    blocked.go.set()
    await until(lambda: not database._hanging)
    database._deadline_seconds = 20
    assert await database.run(revision) == 0
    assert done == []


async def test_callers_who_leave_do_not_make_a_database_unavailable(
    database: BackgroundDatabase, blocked: Blocked
) -> None:
    database._deadline_seconds = 20
    leaving = [asyncio.create_task(database.run(blocked)) for _ in range(THREADS)]
    for _ in leaving:
        await until(lambda: blocked.begun.acquire(blocking=False))
    for each in leaving:
        each.cancel()
    await asyncio.wait(leaving)
    assert all(each.cancelled() for each in leaving)
    staying = asyncio.create_task(database.run(revision))
    await asyncio.sleep(0)
    blocked.go.set()
    assert await staying == 0


async def test_what_hangs_after_its_caller_left_is_found_out(database: BackgroundDatabase, blocked: Blocked) -> None:
    database._deadline_seconds = 20
    leaving = [asyncio.create_task(database.run(blocked)) for _ in range(THREADS)]
    for _ in leaving:
        await until(lambda: blocked.begun.acquire(blocking=False))
    database._deadline_seconds = SOON
    for each in leaving:
        each.cancel()
    await until(lambda: database._hanging == THREADS)
    assert await reason(database, revision) == "it does not answer"


async def test_what_was_in_the_way_of_opening_may_go(path: Path) -> None:
    path.parent.touch()
    database = BackgroundDatabase(f"sqlite:///{path}")
    for _ in range(2):
        await reason(database, revision)
        assert database.problem
    path.parent.unlink()
    assert await database.run(revision) == 0
    assert database.problem is None
    await database.close()


async def test_many_at_once_open_it_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Database] = []
    open_it = Database.open

    def counted(self: Database) -> None:
        opened.append(self)
        open_it(self)

    monkeypatch.setattr(Database, "open", counted)
    database = BackgroundDatabase(f"sqlite:///{path}")
    assert await asyncio.gather(*(database.run(revision) for _ in range(20))) == [0] * 20
    assert len(opened) == 1
    await database.close()


async def test_a_lock_is_waited_for_as_long_as_was_said(database: BackgroundDatabase, path: Path) -> None:
    def write(database: Database) -> None:
        with database.writing():
            pass

    database._deadline_seconds = 20
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await reason(database, write) == "database is locked"
        assert database.problem == "database is locked"
        other.execute("ROLLBACK")
    other.close()
    await database.run(write)
    assert database.problem is None


async def test_a_database_of_a_newer_imagegate_is_the_operators_to_put_right(
    database: BackgroundDatabase, path: Path
) -> None:
    with sqlite3.connect(path) as other:
        other.execute("UPDATE schema_version SET version_num = '9999'")
    other.close()
    ours = BackgroundDatabase(f"sqlite:///{path}")
    with pytest.raises(ConfigurationError, match="made by a newer imagegate"):
        await ours.run(revision)
    assert "made by a newer imagegate" in str(ours.problem)
    await ours.close()


async def test_a_budget_that_refuses_shows_that_the_database_works(database: BackgroundDatabase) -> None:
    def refuse(_: Database) -> None:
        raise BudgetExceeded("no")

    database._deadline_seconds = 20
    database.problem = "gone a minute ago"
    with pytest.raises(BudgetExceeded):
        await database.run(refuse)
    assert database.problem is None


async def test_closed_is_unavailable(path: Path) -> None:
    never = BackgroundDatabase(f"sqlite:///{path}")
    await never.close()
    assert await reason(never, revision) == "it is closed"
    assert not path.exists()
    others = threading.enumerate()
    database = BackgroundDatabase(f"sqlite:///{path}")
    await database.run(revision)
    threads = [each for each in threading.enumerate() if each not in others and each.name.startswith("database_")]
    assert len(threads) == THREADS
    await database.close()
    await database.close()
    assert await reason(database, revision) == "it is closed"
    await until(lambda: not any(each.is_alive() for each in threads))


ENDS = """
import asyncio, sys, threading
from proxy.database.background import BackgroundDatabase
from proxy.errors import DatabaseUnavailable

async def main():
    database = BackgroundDatabase(sys.argv[1])
    await database.run(lambda _: None)
    database._deadline_seconds = 0.02
    try:
        await database.run(lambda _: threading.Event().wait(600))
    except DatabaseUnavailable as error:
        print(error.reason)
    await database.close()

asyncio.run(main())
"""


def test_a_process_can_end_while_its_database_hangs(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS, f"sqlite:///{path}"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("it does not answer\n", "")


async def test_threads_beside_others_share_the_database_and_nothing_else(
    database: BackgroundDatabase, blocked: Blocked, path: Path
) -> None:
    beside = database.beside(threads=1)
    beside._deadline_seconds = 20
    await reasons_of_hanging(database, blocked, THREADS)
    await beside.run(revision)  # not held up
    path.unlink()
    with pytest.raises(DatabaseUnavailable):
        await beside.run(revision)
    with pytest.raises(DatabaseUnavailable):
        await database.beside().run(revision)  # never makes the file anew, and empty
    assert not path.exists()
    await beside.close()

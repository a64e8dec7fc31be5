"""The ledger on a real database that is taken away, and given back: whatever happens, the books end up true, once."""

import asyncio
import logging
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import select

from proxy import ledger as ledger_module
from proxy.accounts import Accounts
from proxy.bookkeeping import Books
from proxy.database.background import DEADLINE_SECONDS, THREADS, BackgroundDatabase
from proxy.database.engine import Database
from proxy.database.tables import PURCHASES, TALLIES
from proxy.errors import (
    BudgetExceeded,
    BudgetReserved,
    DatabaseUnavailable,
    ImagegateError,
    QueueFull,
    ReplyLost,
    UpstreamRefusal,
    UpstreamStreamFailure,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.keystore import KeyStore
from proxy.ledger import (
    FORGET_SECONDS,
    GIVEN_UP_SECONDS,
    RECOVER_SECONDS,
    REFRESH_SECONDS,
    REFRESHES_THAT_OVERLAP,
    REREAD_SECONDS,
    Ledger,
)
from proxy.model import Holder
from proxy.purchase import Closing, Ending, OpenPurchase, Order, Spend, Tallied
from tests.support.clock import ManualClock
from tests.support.ledger import bought

pytestmark = pytest.mark.anyio
T = TypeVar("T")
ACTOR = "cli:root"
CENT = 10_000_000
DAY = 86_400
LEASE_SECONDS = 660.0
SOON = 0.02


class TroubledDatabase(BackgroundDatabase):
    """A real one, on a line that can lose its answers, or hold back what is asked of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}", deadline_seconds=20, wait_seconds=SOON)
        self.loses_answers = False
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0

    async def run(self, work: Callable[[Database], T]) -> T:
        self.asked += 1

        def late(database: Database) -> T:
            assert self.gate.wait(20)
            return work(database)

        found = await super().run(late)
        if self.loses_answers:
            raise DatabaseUnavailable("the answer was lost")
        return found


@dataclass
class Record:
    """What an observer was told."""

    overshoots: list[tuple[str, Decimal]] = field(default_factory=list)
    unknowns: list[tuple[str, str, Decimal | None]] = field(default_factory=list)
    lost: int = 0

    def overshot(self, scope: str, amount: Decimal) -> None:
        self.overshoots.append((scope, amount))

    def unknown(self, model: str, team: str, cost: Decimal | None) -> None:
        self.unknowns.append((model, team, cost))

    def unwritten(self, count: int) -> None:
        self.lost += count


class Scene:
    """Processes that share a database and a clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.door = Database(f"sqlite:///{path}")
        self.keys = KeyStore(self.door, self.clock)
        self.books = Books(self.door, self.clock)
        self.database = TroubledDatabase(path)
        self.told = Record()
        self.soft: list[str] = []
        self.found: dict[str, Closing | Exception] = {}
        """What the store has of a purchase."""
        self.ledger = self.process()
        self._numbers = iter(range(1, 10_000))

    def process(self, *, strict: bool = True, **settings: Any) -> Ledger:
        accounts = Accounts(self.clock, self.soft.append)
        return Ledger(self.database, accounts, self.clock, self.told, strict, self._look_up, **settings)

    async def _look_up(self, purchase: OpenPurchase) -> Closing | None:
        found = self.found.get(purchase.id)
        if isinstance(found, Exception):
            raise found
        return found

    def holder(self, team: Mapping[str, Any] | None = None, **fields: Any) -> Holder:
        if team is not None:
            made = self.keys.create_team({"team_alias": f"team {next(self._numbers)}", **team}, ACTOR)
            fields["team_id"] = made.id
        key, _ = self.keys.create_key({"key_alias": f"key {next(self._numbers)}", **fields}, ACTOR)
        return Holder(key, self.keys.get_team(key.team_id) if key.team_id else None)

    def order(self, holder: Holder | None = None, estimate: int | None = 6 * CENT, **fields: Any) -> Order:
        made = Order(
            id=f"buy_{next(self._numbers):032x}",
            instance="0123456789abcdef",
            lease_seconds=LEASE_SECONDS,
            key_id=holder.key.id if holder else None,
            team_id=holder.key.team_id if holder else None,
            operation="image_generation",
            model="gpt-image-2",
            upstream="openai",
            size="1024x1024",
            quality="high",
            n=1,
            cache_keys=("ab" * 32,),
            request_id="req_1",
            estimate=estimate,
            price_version="2026-11-01",
        )
        return replace(made, **fields)

    def row(self, of: Order) -> dict[str, Any] | None:
        with self.door.reading() as connection:
            row = connection.execute(select(PURCHASES).where(PURCHASES.c.id == of.id)).mappings().one_or_none()
        return None if row is None else dict(row)

    def outcome(self, of: Order) -> tuple[str, int | None] | None:
        row = self.row(of)
        return None if row is None else (row["outcome"], row["cost"])

    def spent(self, holder: Holder) -> tuple[int, int]:
        return next(
            (each.settled, each.reserved)
            for each in self.books.spends_since(None)[0]
            if each.holder_id == holder.key.id
        )

    def tallies(self) -> Sequence[tuple[Any, ...]]:
        """(model, answers, images, tokens, saved)."""
        row = TALLIES.c
        wanted = select(row.model, row.answers, row.images, row.tokens, row.saved).order_by(row.model)
        with self.door.reading() as connection:
            return [tuple(each) for each in connection.execute(wanted)]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Another process writes, and writes, and writes: nobody else can."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        self.database.gate.clear()
        try:
            yield
        finally:
            self.database.gate.set()

    @contextmanager
    def losing_answers(self) -> Iterator[None]:
        """What is asked is done, and nobody hears of it."""
        self.database.loses_answers = True
        try:
            yield
        finally:
            self.database.loses_answers = False

    @asynccontextmanager
    async def die_while_buying(self, order: Order, holder: Holder | None = None) -> AsyncIterator[None]:
        """An order that another process opened before it was killed."""
        dead = self.process()
        await dead.purchase(order, holder).__aenter__()
        yield

    async def idle(self) -> None:
        """Every thread of the database has done what it was asked."""
        all_here = threading.Barrier(THREADS, timeout=20)
        await asyncio.gather(*(self.database.run(lambda _: all_here.wait()) for _ in range(THREADS)))


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "imagegate.db"
    database = Database(f"sqlite:///{path}")
    database.open()
    database.close()
    return path


@pytest.fixture
async def scene(migrated: Path, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(Path(shutil.copy(migrated, tmp_path / "imagegate.db")))
    yield scene
    await scene.database.close()
    scene.door.close()


def settled(of: Order, cost: int | None = 5 * CENT) -> Closing:
    return Closing(id=of.id, ending=Ending.SETTLED, cost=cost, images=1)


def problem(ledger: Ledger) -> str | None:
    return ledger.problem


async def buy(scene: Scene, holder: Holder | None = None, cost: int = 5 * CENT, ledger: Ledger | None = None) -> Order:
    order = scene.order(holder)
    async with (ledger or scene.ledger).purchase(order, holder) as purchase:
        await purchase.settle(settled(order, cost))
    return order


async def fail(ledger: Ledger, order: Order, holder: Holder | None, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with ledger.purchase(order, holder):
            raise error
    assert caught.value is error


# One purchase


async def test_a_purchase_is_written_before_its_block_and_settled_in_it(scene: Scene) -> None:
    holder = scene.holder({"max_budget": 1}, max_budget=1)
    order = scene.order(holder)
    async with scene.ledger.purchase(order, holder) as purchase:
        assert scene.outcome(order) == ("open", None)
        assert scene.spent(holder) == (0, 6 * CENT)
        assert scene.ledger.in_flight() == 1
        await purchase.settle(settled(order))
        assert scene.outcome(order) == ("settled", 5 * CENT)
    assert scene.ledger.in_flight() == scene.ledger.waiting() == 0
    assert scene.spent(holder) == (5 * CENT, 0)
    assert scene.ledger.accounts.spent(holder.key) == Decimal("0.05")
    assert problem(scene.ledger) is None


async def test_who_has_no_budget_left_does_not_get_into_the_block(scene: Scene) -> None:
    holder = scene.holder(max_budget="0.05")
    order = scene.order(holder)
    with pytest.raises(BudgetExceeded):
        async with scene.ledger.purchase(order, holder):
            raise AssertionError("it was let in")
    assert scene.row(order) is None
    assert scene.ledger.in_flight() == scene.ledger.waiting() == 0


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (UpstreamUnreachable("no"), ("released", 0), "upstream_unreachable"),
        (UpstreamRefusal(429, b"", "application/json", {}), ("released", 0), "refused"),
        (QueueFull("full"), ("released", 0), "upstream_queue_full"),
        (UpstreamStreamFailure({"code": "moderation"}, billed=False), ("released", 0), "moderation"),
        (UpstreamStreamFailure({"code": "server_error"}), ("unknown", 6 * CENT), "server_error"),
        (UpstreamTimeout("late"), ("unknown", 6 * CENT), "upstream_timeout"),
        (ReplyLost("lost"), ("unknown", 6 * CENT), "internal_error"),
    ],
)
async def test_an_error_says_whether_it_cost_anything(
    scene: Scene, error: ImagegateError, outcome: tuple[str, int], code: str
) -> None:
    holder = scene.holder({}, max_budget=1)
    order = scene.order(holder)
    await fail(scene.ledger, order, holder, error)
    assert scene.outcome(order) == outcome
    row = scene.row(order)
    assert row is not None
    assert row["error"] == code
    assert scene.spent(holder) == (outcome[1], 0)
    assert holder.team is not None
    unknown = [("gpt-image-2", holder.team.team_alias, Decimal("0.06"))]
    assert scene.told.unknowns == (unknown if outcome[0] == "unknown" else [])


@pytest.mark.parametrize("error", [ValueError("a defect"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_of_what_ends_in_a_defect_or_is_torn_down_nobody_knows_whether_it_was_billed(
    scene: Scene, error: BaseException
) -> None:
    holder = scene.holder(max_budget=1)
    order = scene.order(holder, None if isinstance(error, KeyboardInterrupt) else 6 * CENT)
    ledger = scene.process(allow_unpriced=True)
    await fail(ledger, order, holder, error)
    assert ledger.waiting() == 1  # on the way out nothing is waited for
    await ledger.tend()
    assert scene.outcome(order) == ("unknown", order.estimate)
    assert ledger.waiting() == 0
    assert scene.told.unknowns == [("gpt-image-2", "none", Decimal("0.06") if order.estimate else None)]


async def test_what_was_settled_stays_so_whatever_comes_after(scene: Scene) -> None:
    holder = scene.holder()
    order = scene.order(holder)
    with pytest.raises(UpstreamTimeout):
        async with scene.ledger.purchase(order, holder) as purchase:
            await purchase.settle(settled(order))
            raise UpstreamTimeout("late")
    await scene.ledger.tend()
    assert scene.outcome(order) == ("settled", 5 * CENT)
    assert scene.told.unknowns == []


async def test_a_block_that_is_left_without_a_word_is_closed_too(scene: Scene) -> None:
    order = scene.order(scene.holder())
    async with scene.ledger.purchase(order, None):
        pass
    await scene.ledger.tend()
    assert scene.outcome(order) == ("unknown", 6 * CENT)
    assert len(scene.told.unknowns) == 1


async def test_what_goes_beyond_a_budget_is_told(scene: Scene) -> None:
    holder = scene.holder({"max_budget": "0.06"}, max_budget="0.07")
    await buy(scene, holder, 9 * CENT)
    assert scene.told.overshoots == [("key", Decimal("0.02")), ("team", Decimal("0.03"))]


# The database is gone when something is to be opened


async def test_without_its_row_nothing_is_bought(scene: Scene) -> None:
    order = scene.order(scene.holder())
    with scene.away(), pytest.raises(DatabaseUnavailable):
        async with scene.ledger.purchase(order, None):
            raise AssertionError("it was let in")
    assert problem(scene.ledger) == "database is locked"
    await scene.ledger.tend()
    assert problem(scene.ledger) is None
    assert scene.row(order) is None
    assert scene.ledger.in_flight() == scene.ledger.waiting() == scene.told.lost == 0


async def test_what_was_written_although_it_was_refused_is_released(scene: Scene) -> None:
    holder = scene.holder(max_budget="0.06")
    order = scene.order(holder)
    with scene.losing_answers(), pytest.raises(DatabaseUnavailable):
        async with scene.ledger.purchase(order, holder):
            raise AssertionError("it was let in")
    assert scene.outcome(order) == ("open", None)
    with pytest.raises(BudgetReserved):
        await buy(scene, holder)
    with scene.away():
        await scene.ledger.tend()
    assert scene.outcome(order) == ("open", None)
    await scene.ledger.tend()
    assert scene.outcome(order) == ("released", 0)
    await buy(scene, holder)


async def test_a_row_that_appears_late_is_released(scene: Scene) -> None:
    holder = scene.holder()
    order = scene.order(holder)
    with scene.away(), pytest.raises(DatabaseUnavailable):
        async with scene.ledger.purchase(order, holder):
            raise AssertionError("it was let in")
    scene.clock.advance(GIVEN_UP_SECONDS - 1)
    await scene.ledger.tend()
    scene.books.open(order)
    await scene.ledger.tend()
    assert scene.outcome(order) == ("released", 0)


async def test_a_row_is_not_looked_for_for_ever(scene: Scene) -> None:
    with scene.away(), pytest.raises(DatabaseUnavailable):
        await buy(scene)
    assert len(scene.ledger._doubted) == 1
    await scene.ledger.tend()
    assert len(scene.ledger._doubted) == 1
    scene.clock.advance(GIVEN_UP_SECONDS + 1)
    await scene.ledger.tend()
    assert scene.ledger._doubted == {}


async def test_a_flood_of_refusals_takes_no_place_of_what_was_bought(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_WAITING", 2)
    monkeypatch.setattr(ledger_module, "MOST_DOUBTED", 3)
    holder = scene.holder()
    order = scene.order(holder)
    async with scene.ledger.purchase(order, holder) as purchase:
        with scene.away():
            await purchase.settle(settled(order))
            for _ in range(5):
                with pytest.raises(DatabaseUnavailable):
                    await buy(scene, holder)
    assert len(scene.ledger._doubted) == 3
    await scene.ledger.tend()
    assert scene.outcome(order) == ("settled", 5 * CENT)
    assert scene.told.lost == 0


async def test_an_opening_that_is_cancelled_in_the_air_is_not_written_any_more(scene: Scene) -> None:
    holder = scene.holder()
    order = scene.order(holder)
    with scene.held_back():
        asked = scene.database.asked
        opening = asyncio.create_task(scene.ledger.purchase(order, holder).__aenter__())
        async with asyncio.timeout(20):
            while scene.database.asked == asked:
                await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await scene.idle()
    assert scene.row(order) is None
    assert scene.books.spends_since(None)[0] == []
    assert scene.ledger.in_flight() == 0


# The database is gone when something is to be settled


async def test_what_cannot_be_settled_now_is_delivered_now_and_settled_later(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    holder = scene.holder(max_budget=1)
    order = scene.order(holder)
    async with scene.ledger.purchase(order, holder) as purchase:
        with scene.away():
            await purchase.settle(settled(order))
            await scene.ledger.tend()
            assert problem(scene.ledger) == "database is locked"
    assert "a purchase is settled later" in caplog.messages
    assert scene.outcome(order) == ("open", None)
    assert (scene.ledger.in_flight(), scene.ledger.waiting()) == (0, 1)
    await scene.ledger.tend()
    assert scene.outcome(order) == ("settled", 5 * CENT)
    assert scene.spent(holder) == (5 * CENT, 0)
    assert (scene.ledger.waiting(), problem(scene.ledger)) == (0, None)


async def test_a_settlement_whose_answer_was_lost_is_not_counted_twice(scene: Scene) -> None:
    holder = scene.holder(max_budget="0.06")
    order = scene.order(holder)
    async with scene.ledger.purchase(order, holder) as purchase:
        with scene.losing_answers():
            await purchase.settle(settled(order))
    await scene.ledger.tend()
    assert scene.spent(holder) == (5 * CENT, 0)
    assert scene.told.lost == 0


async def test_a_settlement_that_is_cancelled_is_written_all_the_same(scene: Scene) -> None:
    holder = scene.holder()
    order = scene.order(holder)

    async def bought_by_somebody_who_is_torn_down() -> None:
        async with scene.ledger.purchase(order, holder) as purchase:
            scene.database.gate.clear()
            await purchase.settle(settled(order))

    buying = asyncio.create_task(bought_by_somebody_who_is_torn_down())
    async with asyncio.timeout(20):
        while scene.database.gate.is_set():
            await asyncio.sleep(0.001)
    buying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await buying
    scene.database.gate.set()
    await scene.ledger.tend()
    assert scene.outcome(order) == ("settled", 5 * CENT)
    assert scene.spent(holder) == (5 * CENT, 0)
    assert scene.told.unknowns == []


async def test_what_is_too_much_to_keep_is_lost_from_the_oldest_on_and_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_WAITING", 2)
    ledger = scene.process(strict=False)
    orders = [await buy(scene, ledger=ledger) for _ in range(3)]
    assert (ledger.waiting(), scene.told.lost) == (2, 1)
    await ledger.tend()
    assert [scene.outcome(order) is not None for order in orders] == [False, True, True]


async def test_a_row_that_somebody_took_away_is_missed(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    holder = scene.holder()
    order = scene.order(holder)
    async with scene.ledger.purchase(order, holder) as purchase:
        with scene.door.writing() as connection:
            connection.execute(PURCHASES.delete())
        await purchase.settle(settled(order))
    assert (scene.told.lost, scene.ledger.waiting()) == (1, 0)
    assert "the row of a purchase is gone" in caplog.messages


async def test_what_the_database_will_never_take_costs_nobody_the_reply(scene: Scene) -> None:
    holder = scene.holder()
    order = scene.order(holder)
    async with scene.ledger.purchase(order, holder) as purchase:
        await purchase.settle(settled(order, 2**70))
    assert (scene.told.lost, scene.ledger.waiting()) == (1, 0)
    await buy(scene, holder)


# Best effort


async def test_where_nobody_has_a_budget_rows_are_written_when_the_database_has_time(scene: Scene) -> None:
    ledger = scene.process(strict=False)
    with scene.away():
        done = await buy(scene, ledger=ledger)
        failed = scene.order()
        await fail(ledger, failed, None, UpstreamTimeout("late"))
        torn = scene.order()
        await fail(ledger, torn, None, asyncio.CancelledError())
        refused = scene.order()
        await fail(ledger, refused, None, UpstreamUnreachable("no"))
        opened_at = scene.clock.wall()
        scene.clock.advance(5)
        await ledger.tend()
        assert ledger.waiting() == 4
        assert problem(ledger) == "database is locked"
    await ledger.tend()
    assert [scene.outcome(each) for each in (done, failed, torn, refused)] == [
        ("settled", 5 * CENT),
        ("unknown", 6 * CENT),
        ("unknown", 6 * CENT),
        ("released", 0),
    ]
    row = scene.row(done)
    assert row is not None
    assert (row["opened_at"], row["closed_at"]) == (opened_at, opened_at + 5)
    assert (ledger.waiting(), problem(ledger)) == (0, None)
    assert scene.books.spends_since(None)[0] == []


async def test_a_best_effort_row_whose_answer_was_lost_is_written_once(scene: Scene) -> None:
    ledger = scene.process(strict=False)
    order = await buy(scene, ledger=ledger)
    with scene.losing_answers():
        await ledger.tend()
    await ledger.tend()
    assert scene.outcome(order) == ("settled", 5 * CENT)
    assert (ledger.waiting(), scene.told.lost) == (0, 0)


async def test_one_row_that_cannot_be_written_is_in_nobody_s_way(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = scene.process(strict=False)
    orders = [scene.order(model=model) for model in ("a", "\ud800secret", "b")]
    for order in orders:
        async with ledger.purchase(order, None) as purchase:
            await purchase.settle(settled(order))
    tally(ledger, "a")
    await ledger.tend()
    assert [scene.outcome(order) is not None for order in orders] == [True, False, True]
    assert len(scene.tallies()) == 1
    assert (ledger.waiting(), scene.told.lost) == (0, 1)
    assert "secret" not in str([vars(record) for record in caplog.records])


# Answers that cost nothing


def tallied(model: str) -> Tallied:
    return Tallied(1_795_003_200, "", "", "image_generation", model, "1024x1024", "high", "hit")


def tally(ledger: Ledger, model: str, times: int = 1) -> None:
    for _ in range(times):
        ledger.tally(tallied(model), images=2, tokens=30, saved=400)


async def test_hits_are_counted_in_memory_and_written_together(scene: Scene) -> None:
    tally(scene.ledger, "a", 3)
    tally(scene.ledger, "b")
    assert (scene.ledger.waiting(), scene.tallies()) == (2, [])
    await scene.ledger.tend()
    assert scene.ledger.waiting() == 0
    tally(scene.ledger, "a")
    await scene.ledger.tend()
    await scene.ledger.tend()
    assert scene.tallies() == [("a", 4, 8, 120, 1600), ("b", 1, 2, 30, 400)]


async def test_hits_that_could_not_be_written_are_written_once(scene: Scene) -> None:
    tally(scene.ledger, "a", 3)
    with scene.away():
        await scene.ledger.tend()
        tally(scene.ledger, "a", 2)
        await scene.ledger.tend()
        tally(scene.ledger, "b")
    assert scene.ledger.waiting() == 2
    await scene.ledger.tend()
    assert scene.tallies() == [("a", 5, 10, 150, 2000), ("b", 1, 2, 30, 400)]
    assert scene.told.lost == 0


async def test_hits_that_come_while_others_are_written_are_not_lost(scene: Scene) -> None:
    tally(scene.ledger, "a", 3)
    with scene.held_back():
        tending = asyncio.create_task(scene.ledger.tend())
        await asyncio.sleep(0)
        tally(scene.ledger, "a", 2)
    await tending
    await scene.ledger.tend()
    assert scene.tallies() == [("a", 5, 10, 150, 2000)]


async def test_hits_whose_writing_is_cancelled_are_written_once(scene: Scene) -> None:
    tally(scene.ledger, "a", 3)
    with scene.held_back():
        tending = asyncio.create_task(scene.ledger.tend())
        await asyncio.sleep(0)
        tending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tending
    await scene.idle()
    assert scene.tallies() == []
    await scene.ledger.tend()
    assert scene.tallies() == [("a", 3, 6, 90, 1200)]


async def test_kinds_of_hits_are_bounded_and_what_is_lost_is_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_WAITING", 2)
    with scene.away():
        for model in ("a", "b"):
            tally(scene.ledger, model)
        with scene.held_back():
            tending = asyncio.create_task(scene.ledger.tend())
            await asyncio.sleep(0)
            for model in ("b", "c", "d"):
                tally(scene.ledger, model)  # "d" finds no room, and then "a" does not come back
        await tending
    assert (scene.ledger.waiting(), scene.told.lost) == (2, 2)
    await scene.ledger.tend()
    assert scene.tallies() == [("b", 2, 4, 60, 800), ("c", 1, 2, 30, 400)]


async def test_one_hit_that_cannot_be_written_is_in_nobody_s_way(scene: Scene) -> None:
    for model in ("a", "\ud800", "b"):
        tally(scene.ledger, model)
    await scene.ledger.tend()
    assert [each[0] for each in scene.tallies()] == ["a", "b"]
    assert (scene.ledger.waiting(), scene.told.lost) == (0, 1)


# The dead, and the living


async def look(scene: Scene, ledger: Ledger | None = None, *, after: float = RECOVER_SECONDS) -> None:
    scene.clock.advance(after)
    await (ledger or scene.ledger).tend()


async def test_what_a_dead_process_left_open_is_closed_at_the_second_look(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    holder = scene.holder(max_budget=1)
    order = scene.order(holder)
    async with scene.die_while_buying(order, holder):
        await look(scene, after=LEASE_SECONDS)
        await look(scene)
        assert scene.outcome(order) == ("open", None)
        await look(scene, after=1)
        assert scene.outcome(order) == ("open", None)
        await look(scene)
    assert scene.outcome(order) == ("unknown", 6 * CENT)
    row = scene.row(order)
    assert row is not None
    assert row["error"] == "lease_expired"
    assert scene.spent(holder) == (6 * CENT, 0)
    assert scene.ledger.accounts.spent(holder.key) == Decimal("0.06")
    assert "a purchase of a dead process was closed" in caplog.messages


async def test_what_a_dead_process_stored_is_settled_exactly(scene: Scene) -> None:
    holder = scene.holder(max_budget="0.06")
    order = scene.order(holder)
    async with scene.die_while_buying(order, holder):
        scene.found[order.id] = settled(order, 8 * CENT)
        await look(scene, after=LEASE_SECONDS + 1)
        await look(scene)
    assert scene.outcome(order) == ("settled", 8 * CENT)
    assert scene.told.overshoots == [("key", Decimal("0.02"))]


@pytest.mark.parametrize("found", ["what cannot be written", "an error"])
async def test_one_purchase_that_cannot_be_recovered_exactly_keeps_up_no_other(scene: Scene, found: str) -> None:
    holder = scene.holder()
    first, second = scene.order(holder), scene.order(holder)
    async with scene.die_while_buying(first, holder), scene.die_while_buying(second, holder):
        scene.found[first.id] = OSError("the disk") if found == "an error" else settled(first, 2**70)
        scene.found[second.id] = settled(second)
        await look(scene, after=LEASE_SECONDS + 1)
        await look(scene)
    assert scene.outcome(first) == ("unknown", 6 * CENT)
    assert scene.outcome(second) == ("settled", 5 * CENT)


async def test_a_recovery_that_is_interrupted_is_finished_later(scene: Scene) -> None:
    order = scene.order(scene.holder())
    async with scene.die_while_buying(order):
        await look(scene, after=LEASE_SECONDS + 1)
        with scene.away():
            await look(scene)
        assert scene.outcome(order) == ("open", None)
        await look(scene)
    assert scene.outcome(order) == ("unknown", 6 * CENT)


async def test_what_this_process_is_buying_is_never_taken_from_it(scene: Scene) -> None:
    order = scene.order(scene.holder())
    async with scene.ledger.purchase(order, None) as purchase:
        scene.clock.advance(LEASE_SECONDS + 1)
        for _ in range(3):
            scene.clock.advance(RECOVER_SECONDS)
            await scene.ledger.recover()
        assert scene.outcome(order) == ("open", None)
        await purchase.settle(settled(order))


async def test_what_this_process_has_still_to_write_is_not_taken_from_it(scene: Scene) -> None:
    order = scene.order(scene.holder())
    async with scene.ledger.purchase(order, None) as purchase:
        with scene.away():
            await purchase.settle(settled(order))
    scene.clock.advance(LEASE_SECONDS + 1)
    for _ in range(2):
        await scene.ledger.recover()
    assert scene.outcome(order) == ("open", None)
    await scene.ledger.tend()
    assert scene.outcome(order) == ("settled", 5 * CENT)


async def test_a_purchase_that_outlives_its_lease_is_renewed_by_its_process(scene: Scene) -> None:
    other, order = scene.process(), scene.order(scene.holder())
    async with scene.ledger.purchase(order, None):
        for _ in range(60):
            scene.clock.advance(RECOVER_SECONDS)
            await scene.ledger.tend()
            await other.tend()
        assert scene.outcome(order) == ("open", None)


async def test_a_lease_is_renewed_once_a_minute_and_not_at_every_look(scene: Scene) -> None:
    order = scene.order(scene.holder())
    renewed = []
    async with scene.ledger.purchase(order, None):
        scene.clock.advance(LEASE_SECONDS)
        for _ in range(120):
            before = scene.row(order)
            await scene.ledger.tend()
            renewed.append(scene.row(order) != before)
            scene.clock.advance(1)
    assert sum(renewed) == 2


async def test_a_lease_that_is_renewed_between_two_looks_is_not_taken(scene: Scene) -> None:
    other, order = scene.process(), scene.order(scene.holder())
    async with scene.ledger.purchase(order, None):
        await look(scene, other, after=LEASE_SECONDS + 1)  # this process was asleep
        await scene.ledger.tend()
        for _ in range(3):
            await look(scene, other)
        assert scene.outcome(order) == ("open", None)


@pytest.mark.parametrize("seconds", [DAY, 365 * DAY, -DAY])
async def test_a_clock_that_is_set_kills_nothing_that_lives(scene: Scene, seconds: float) -> None:
    other, order = scene.process(), scene.order(scene.holder())
    async with scene.ledger.purchase(order, None) as purchase:
        await other.tend()
        scene.clock.jump(seconds)
        for _ in range(5):
            await look(scene, other)
            await look(scene, after=1)
        assert scene.outcome(order) == ("open", None)
        await purchase.settle(settled(order))
    assert scene.outcome(order) == ("settled", 5 * CENT)


async def test_who_was_taken_for_dead_has_the_last_word(scene: Scene) -> None:
    other, holder = scene.process(), scene.holder(max_budget=1)
    order = scene.order(holder)
    async with scene.ledger.purchase(order, holder) as purchase:
        await look(scene, other, after=LEASE_SECONDS + 1)
        await look(scene, other)
        assert scene.outcome(order) == ("unknown", 6 * CENT)
        await purchase.settle(settled(order))
    assert scene.outcome(order) == ("settled", 5 * CENT)
    assert scene.spent(holder) == (5 * CENT, 0)


# What others have spent, and what is old


async def test_what_other_processes_spend_is_heard_of(scene: Scene) -> None:
    other, holder = scene.process(), scene.holder()
    await scene.ledger.tend()
    await buy(scene, holder, ledger=other)
    await scene.ledger.tend()
    assert scene.ledger.accounts.spent(holder.key) == 0
    scene.clock.advance(REFRESH_SECONDS)
    await scene.ledger.tend()
    assert scene.ledger.accounts.spent(holder.key) == Decimal("0.05")


async def test_only_what_changed_is_asked_for_except_after_a_failure_and_now_and_then(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def since(_: Books, mark: int | None) -> tuple[Sequence[Spend], int | None]:
        asked.append(mark)
        return [], len(asked)

    async def refresh(after_seconds: float = REFRESH_SECONDS) -> int | None:
        scene.clock.advance(after_seconds)
        await scene.ledger.tend()
        return asked[-1]

    monkeypatch.setattr(Books, "spends_since", since)
    assert [await refresh() for _ in range(5)] == [None, None, None, 1, 2]
    with scene.losing_answers():
        assert await refresh() == 3
        assert await refresh() is None
    assert [await refresh() for _ in range(4)] == [None, None, None, 8]
    assert await refresh(REREAD_SECONDS) is None
    assert [await refresh() for _ in range(3)] == [None, None, 12]
    assert len(asked) == 15


def test_a_change_is_read_again_for_as_long_as_an_answer_of_our_own_may_be_on_its_way() -> None:
    """Such an answer brings an older sum, which would hide what was read until somebody buys again."""
    assert (REFRESHES_THAT_OVERLAP - 1) * REFRESH_SECONDS > DEADLINE_SECONDS


@pytest.mark.parametrize("strict", [True, False])
async def test_what_is_old_is_forgotten_every_hour_and_as_often_as_it_takes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    monkeypatch.setattr("proxy.database.purchaserows._MOST_FORGOTTEN", 2)

    def left() -> int:
        with scene.door.reading() as connection:
            return len(connection.execute(select(PURCHASES.c.id)).all())

    ledger = scene.process(strict=strict, retention_seconds=10 * DAY)
    for _ in range(5):
        bought(scene.door, scene.clock.wall() - 11 * DAY)
    for expected in (3, 1, 0, 0):
        await ledger.tend()
        assert left() == expected
    bought(scene.door, scene.clock.wall() - 11 * DAY)
    await ledger.tend()
    assert left() == 1
    scene.clock.advance(FORGET_SECONDS)
    await ledger.tend()
    assert left() == 0


async def test_without_a_retention_nothing_is_forgotten(scene: Scene) -> None:
    bought(scene.door, 0.0)
    await scene.ledger.tend()
    with scene.door.reading() as connection:
        assert len(connection.execute(select(PURCHASES.c.id)).all()) == 1


# Life


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_what_waits_is_written_by_itself_and_no_defect_ends_that(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger_module, "FLUSH_SECONDS", 0.001)
    recover: Callable[[], Awaitable[None]] = scene.ledger.recover
    defects = iter([ValueError("a secret")])

    async def broken(_: Ledger) -> None:
        if (error := next(defects, None)) is not None:
            raise error
        await recover()

    monkeypatch.setattr(Ledger, "recover", broken)
    await scene.ledger.start()
    await until(lambda: "the ledger failed" in caplog.messages)
    tally(scene.ledger, "a")
    await until(scene.tallies)
    await scene.ledger.close()
    assert "a secret" not in caplog.text


async def test_the_end_writes_what_waits(scene: Scene) -> None:
    holder = scene.holder()
    order = scene.order(holder)
    await scene.ledger.start()
    async with scene.ledger.purchase(order, holder) as purchase:
        with scene.away():
            await purchase.settle(settled(order))
    tally(scene.ledger, "a")
    await scene.ledger.close()
    await scene.ledger.close()
    assert scene.outcome(order) == ("settled", 5 * CENT)
    assert len(scene.tallies()) == 1
    assert scene.told.lost == 0


async def test_what_cannot_be_written_at_the_end_is_counted(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    ledger = scene.process(strict=False)
    await buy(scene, ledger=ledger)
    tally(ledger, "a")
    with scene.away():
        await ledger.close()
        await ledger.close()
    assert scene.told.lost == 2
    lines = [record for record in caplog.records if record.message == "the ledger could not be written"]
    assert [(line.levelno, vars(line)["count"], vars(line)["reason"]) for line in lines] == [
        (logging.ERROR, 2, "database is locked")
    ]


async def test_at_the_end_a_refused_purchase_is_released_and_one_that_was_never_written_is_no_loss(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    holder = scene.holder()
    written = scene.order(holder)
    with scene.losing_answers(), pytest.raises(DatabaseUnavailable):
        await scene.ledger.purchase(written, holder).__aenter__()
    with scene.away(), pytest.raises(DatabaseUnavailable):
        await buy(scene, holder)
    await scene.ledger.close()
    assert scene.outcome(written) == ("released", 0)
    assert scene.told.lost == 0
    assert "the ledger could not be written" not in caplog.messages


async def test_hits_that_are_being_written_at_the_end_are_written_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "FLUSH_SECONDS", 0.0)
    tally(scene.ledger, "a", 3)
    scene.database.gate.clear()
    asked = scene.database.asked
    await scene.ledger.start()
    await until(lambda: scene.database.asked > asked)
    closing = asyncio.create_task(scene.ledger.close())
    await until(lambda: scene.database.asked > asked + 1)
    scene.database.gate.set()
    await closing
    await scene.idle()
    assert scene.tallies() == [("a", 3, 6, 90, 1200)]

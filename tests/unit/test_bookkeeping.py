"""The books on real databases of either kind: no budget is overdrawn, nothing is counted twice, nothing is forgotten."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, text, update

from proxy import budget
from proxy.bookkeeping import Books, Closed
from proxy.database.engine import Database
from proxy.database.sqlitefile import SqliteFile
from proxy.database.tables import KEYS, PURCHASES, SPENDS, TALLIES
from proxy.errors import (
    BudgetExceeded,
    BudgetReserved,
    DatabaseUnavailable,
    KeyWithdrawn,
    PayerRefusal,
    Unpriced,
)
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.keystore import KeyStore
from proxy.model import Usage
from proxy.purchase import Closing, Ending, Order, Spend, Tallied, Tally
from tests.support.clock import ManualClock
from tests.support.ledger import bought, tallied

pytest_plugins = ["tests.support.databases"]
ACTOR = "cli:root"
CENT = 10_000_000
DOLLAR = 100 * CENT
HOUR = 3600
DAY = 24 * HOUR
LEASE_SECONDS = 660.0
NUMBERS = itertools.count(1)
BILLED = (Ending.SETTLED, Ending.ESTIMATED, Ending.UNKNOWN)


class Scene:
    """Books, what is in them, and administrators who change keys."""

    def __init__(self, database: Database, *, allow_unpriced: bool = False) -> None:
        self.database = database
        self.clock = ManualClock()
        self.keys = KeyStore(database, self.clock)
        self.books = Books(database, self.clock, allow_unpriced=allow_unpriced)

    def key(self, team: TeamRecord | None = None, **fields: Any) -> KeyRecord:
        if team is not None:
            fields["team_id"] = team.id
        return self.keys.create_key({"key_alias": f"key {next(NUMBERS)}", **fields}, ACTOR)[0]

    def team(self, **fields: Any) -> TeamRecord:
        return self.keys.create_team({"team_alias": f"team {next(NUMBERS)}", **fields}, ACTOR)

    def open(self, key: KeyRecord | None = None, estimate: int | None = 6 * CENT, **fields: Any) -> Order:
        made = order(key, estimate, **fields)
        self.books.open(made)
        return made

    def close(self, of: Order, ending: Ending = Ending.SETTLED, cost: int | None = None, **fields: Any) -> Closed:
        return self.books.close(Closing(id=of.id, ending=ending, cost=cost, **fields))

    def row(self, of: Order | str) -> dict[str, Any] | None:
        name = of if isinstance(of, str) else of.id
        with self.database.reading() as connection:
            row = connection.execute(select(PURCHASES).where(PURCHASES.c.id == name)).mappings().one_or_none()
        return None if row is None else dict(row)

    def spent(self, holder: KeyRecord | TeamRecord) -> tuple[int, int]:
        """(settled, reserved)."""
        found = {each.holder_id: each for each in self.books.spends_since(None)[0]}[holder.id]
        return found.settled, found.reserved

    def everything(self) -> list[Any]:
        with self.database.reading() as connection:
            return [connection.execute(select(table)).all() for table in (PURCHASES, SPENDS, TALLIES)]

    def refusal(self, made: Order) -> PayerRefusal:
        """Nothing may be written when somebody is refused."""
        before = self.everything()
        with pytest.raises(PayerRefusal) as caught:
            self.books.open(made)
        assert self.everything() == before
        return caught.value


def order(key: KeyRecord | None = None, estimate: int | None = 6 * CENT, **fields: Any) -> Order:
    made = Order(
        id=f"buy_{next(NUMBERS):032x}",
        instance="0123456789abcdef",
        lease_seconds=LEASE_SECONDS,
        key_id=key.id if key else None,
        team_id=key.team_id if key else None,
        operation="image_generation",
        model="gpt-image-2",
        upstream="openai",
        size="1024x1024",
        quality="high",
        n=1,
        cache_keys=("ab" * 32, "cd" * 32),
        request_id="req_1",
        estimate=estimate,
        price_version="2026-11-01",
        tags=("a", "b"),
    )
    return replace(made, **fields)


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


# Opening


def test_a_purchase_is_written_and_reserved_before_anything_is_sent(scene: Scene) -> None:
    team = scene.team(max_budget=1)
    key = scene.key(team, max_budget=1)
    made = order(key)
    spends = scene.books.open(made)
    assert spends == [Spend(key.id, 0.0, 0, 6 * CENT), Spend(team.id, 0.0, 0, 6 * CENT)]
    row = scene.row(made)
    assert row is not None
    expected = {
        "outcome": "open",
        "opened_at": scene.clock.wall(),
        "closed_at": None,
        "lease_until": scene.clock.wall() + LEASE_SECONDS,
        "instance": "0123456789abcdef",
        "key_id": key.id,
        "team_id": team.id,
        "upstream": "openai",
        "estimate": 6 * CENT,
        "cost": None,
        "cache_keys": ["ab" * 32, "cd" * 32],
        "tags": ["a", "b"],
        "price_version": "2026-11-01",
    }
    assert {name: row[name] for name in expected} == expected


def test_the_last_nano_dollar_may_be_spent_and_not_one_more(scene: Scene) -> None:
    key = scene.key(max_budget="0.12")
    first = scene.open(key)
    assert isinstance(scene.refusal(order(key, 6 * CENT + 1)), BudgetReserved)
    scene.close(first, cost=6 * CENT)
    assert isinstance(scene.refusal(order(key, 6 * CENT + 1)), BudgetExceeded)
    scene.open(key, 6 * CENT)
    assert scene.spent(key) == (6 * CENT, 6 * CENT)
    assert isinstance(scene.refusal(order(key, 1)), BudgetReserved)


def test_a_team_s_budget_is_shared_by_its_keys(scene: Scene) -> None:
    team = scene.team(max_budget="0.10")
    one, two, stranger = scene.key(team, max_budget=5), scene.key(team), scene.key()
    made = scene.open(one)
    error = scene.refusal(order(two))
    assert isinstance(error, BudgetReserved)
    assert error.scope == "team"
    scene.open(stranger)
    scene.close(made, cost=5 * CENT)
    assert scene.refusal(order(two)).scope == "team"
    scene.open(two, 5 * CENT)
    assert scene.spent(team) == (5 * CENT, 5 * CENT)
    assert scene.spent(one) == (5 * CENT, 0)
    assert scene.spent(two) == (0, 5 * CENT)


def test_a_key_s_own_budget_is_judged_first(scene: Scene) -> None:
    key = scene.key(scene.team(max_budget=0), max_budget=0)
    assert scene.refusal(order(key)).scope == "key"


def test_a_budget_of_nothing_buys_what_costs_nothing(scene: Scene) -> None:
    key = scene.key(max_budget=0)
    assert isinstance(scene.refusal(order(key, 1)), BudgetExceeded)
    scene.open(key, 0)
    assert scene.spent(key) == (0, 0)


def test_what_a_key_without_a_budget_spends_is_counted_too(scene: Scene) -> None:
    key = scene.key()
    scene.close(scene.open(key), cost=5 * CENT)
    scene.keys.update_key(key.id, {"max_budget": "0.05"}, ACTOR)
    assert isinstance(scene.refusal(order(key, 1)), BudgetExceeded)


def test_without_a_key_a_purchase_is_written_and_nobody_s_budget_asked(scene: Scene) -> None:
    made = order()
    assert scene.books.open(made) == []
    assert scene.row(made) is not None
    assert not scene.close(made, cost=1).spends
    assert scene.books.spends_since(None)[0] == []


@pytest.mark.parametrize("holder", ["key", "team"])
def test_what_has_no_price_is_refused_where_there_is_a_budget_unless_that_is_allowed(scene: Scene, holder: str) -> None:
    team = scene.team(**({"max_budget": 1} if holder == "team" else {}))
    key = scene.key(team, **({"max_budget": 1} if holder == "key" else {}))
    error = scene.refusal(order(key, None))
    assert isinstance(error, Unpriced)
    assert error.scope == holder
    lenient = Books(scene.database, scene.clock, allow_unpriced=True)
    made = order(key, None)
    lenient.open(made)
    assert scene.spent(key) == scene.spent(team) == (0, 0)
    lenient.close(Closing(id=made.id, ending=Ending.SETTLED))
    row = scene.row(made)
    assert row is not None
    assert (row["estimate"], row["cost"]) == (None, None)
    assert scene.spent(key) == (0, 0)


def test_what_has_no_price_needs_no_permission_without_a_budget(scene: Scene) -> None:
    scene.open(scene.key(scene.team()), None)


@pytest.mark.parametrize(
    "withdraw",
    [
        lambda scene, key, team: scene.keys.revoke_key(key.id, ACTOR),
        lambda scene, key, team: scene.keys.update_key(key.id, {"blocked": True}, ACTOR),
        lambda scene, key, team: scene.keys.update_team(team.id, {"blocked": True}, ACTOR),
        lambda scene, key, team: scene.clock.advance(HOUR),
    ],
    ids=["revoked", "blocked", "team blocked", "expired"],
)
def test_the_database_knows_better_than_the_caller_whether_a_key_works(
    scene: Scene, withdraw: Callable[[Scene, KeyRecord, TeamRecord], object]
) -> None:
    team = scene.team()
    key = scene.key(team, expires="1h")
    scene.open(key)
    withdraw(scene, key, team)
    error = scene.refusal(order(key))
    assert isinstance(error, KeyWithdrawn)
    assert (error.status, error.code) == (401, "invalid_api_key")


def test_a_key_that_the_database_never_heard_of_buys_nothing(scene: Scene) -> None:
    key = scene.key()
    assert isinstance(scene.refusal(order(key, key_id="key_gone")), KeyWithdrawn)


def test_a_budget_is_the_database_s_and_not_the_caller_s(scene: Scene) -> None:
    key = scene.key(max_budget=1)
    scene.keys.update_key(key.id, {"max_budget": 0}, ACTOR)
    assert isinstance(scene.refusal(order(key)), BudgetExceeded)


def test_the_team_that_a_key_belongs_to_now_pays(scene: Scene) -> None:
    former, present = scene.team(), scene.team(max_budget=1)
    key = scene.key(former)
    scene.keys.update_key(key.id, {"team_id": present.id}, ACTOR)
    made = scene.open(key)
    row = scene.row(made)
    assert row is not None
    assert row["team_id"] == present.id
    assert scene.spent(present) == (0, 6 * CENT)
    assert former.id not in {each.holder_id for each in scene.books.spends_since(None)[0]}


def test_a_key_that_is_revoked_while_its_purchase_waits_for_the_budget_buys_nothing(scene: Scene) -> None:
    key = scene.key()
    first = order(key)
    waiting = threading.Event()
    with ThreadPoolExecutor(2) as pool:

        def revokes_while_another_waits() -> bool:
            following.append(pool.submit(scene.books.open, order(key)))
            waiting.wait(0.2)  # the other one stands before the budget by then, on either database
            if not isinstance(scene.database.__dict__.get("_file"), SqliteFile):  # there nobody else can write now
                scene.keys.revoke_key(key.id, ACTOR)
            return True

        following: list[Any] = []
        scene.books.open(first, revokes_while_another_waits)
        if isinstance(scene.database.__dict__.get("_file"), SqliteFile):
            following[0].result(timeout=10)
            return
        with pytest.raises(KeyWithdrawn):
            following[0].result(timeout=10)


def test_a_busy_key_can_be_changed_at_once(scene: Scene) -> None:
    """Buyers that follow each other without a gap must not keep an administrator waiting."""
    key, stop = scene.key(), threading.Event()

    def buys() -> None:
        while not stop.is_set():
            with suppress(PayerRefusal):
                scene.books.open(order(key))

    with ThreadPoolExecutor(6) as pool:
        buying = [pool.submit(buys) for _ in range(6)]
        try:
            for number in range(3):
                scene.keys.update_key(key.id, {"rpm_limit": number + 1}, ACTOR)
            scene.keys.revoke_key(key.id, ACTOR)
        finally:
            stop.set()
        for each in buying:
            each.result(timeout=10)
    assert isinstance(scene.refusal(order(key)), KeyWithdrawn)


def test_nothing_is_opened_for_somebody_who_has_gone(scene: Scene) -> None:
    key = scene.key(max_budget=1)
    scene.open(key)
    before = scene.everything()
    with pytest.raises(DatabaseUnavailable):
        scene.books.open(order(key), lambda: False)
    assert scene.everything() == before


# Many at once


def at_once(count: int, work: Callable[[int], Any]) -> Sequence[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def test_of_forty_at_once_ten_fit_into_a_budget_for_ten(scene: Scene) -> None:
    key = scene.key(scene.team(max_budget=5), max_budget="0.60")

    def attempt(_: int) -> bool:
        try:
            scene.open(key)
        except BudgetReserved:
            return False
        return True

    assert sum(at_once(40, attempt)) == 10
    assert scene.spent(key) == (0, 60 * CENT)


def test_keys_of_one_team_open_and_close_at_once_without_waiting_in_a_circle(scene: Scene) -> None:
    team = scene.team(max_budget=100)
    keys = [scene.key(team, max_budget=100) for _ in range(2)]

    def buy_some(number: int) -> None:
        for _ in range(5):
            scene.close(scene.open(keys[number % 2]), cost=5 * CENT)

    at_once(8, buy_some)
    assert scene.spent(team) == (8 * 5 * 5 * CENT, 0)
    assert [scene.spent(key) for key in keys] == [(4 * 5 * 5 * CENT, 0)] * 2


def test_one_purchase_closed_by_many_is_counted_once(scene: Scene) -> None:
    key = scene.key(max_budget=1)
    made = scene.open(key)
    at_once(8, lambda _: scene.close(made, cost=5 * CENT))
    assert scene.spent(key) == (5 * CENT, 0)


def test_a_new_window_that_many_begin_at_once_is_counted_once(scene: Scene) -> None:
    key = scene.key(max_budget=1, budget_duration="1h")
    old = [scene.open(key, CENT) for _ in range(5)]
    scene.clock.advance(HOUR)

    def do(number: int) -> None:
        if number % 2:
            scene.close(old[number // 2], cost=CENT)
        else:
            scene.open(key)

    at_once(10, do)
    assert scene.spent(key) == (0, 30 * CENT)


# Closing


@pytest.mark.parametrize(
    ("ending", "cost", "settled"),
    [
        (Ending.SETTLED, 5 * CENT, 5 * CENT),
        (Ending.SETTLED, 7 * CENT, 7 * CENT),
        (Ending.SETTLED, 0, 0),
        (Ending.SETTLED, None, 6 * CENT),
        (Ending.ESTIMATED, None, 6 * CENT),
        (Ending.UNKNOWN, None, 6 * CENT),
        (Ending.UNKNOWN, 2 * CENT, 2 * CENT),
        (Ending.RELEASED, None, 0),
        (Ending.RELEASED, 5 * CENT, 0),
    ],
)
def test_what_a_purchase_comes_to(scene: Scene, ending: Ending, cost: int | None, settled: int) -> None:
    team = scene.team(max_budget=1)
    key = scene.key(team, max_budget=1)
    other = scene.open(key, CENT)
    made = scene.open(key)
    scene.clock.advance(20)
    for _ in range(2):
        closed = scene.close(made, ending, cost)
        assert closed.was_found
        assert scene.spent(key) == scene.spent(team) == (settled, CENT)
    row = scene.row(made)
    assert row is not None
    assert (row["outcome"], row["cost"], row["closed_at"]) == (ending.value, settled, scene.clock.wall())
    assert scene.row(other) is not None


def test_what_the_reply_told_is_kept(scene: Scene) -> None:
    made = scene.open(scene.key())
    usage = Usage(text_in=10, image_in=20, text_out=3, image_out=400, cached_text_in=4, cached_image_in=5, unknown_in=6)
    told = {"upstream": "azure", "images": 2, "upstream_request_id": "r", "price_version": "later", "seconds": 1.5}
    scene.close(made, Ending.SETTLED, 5 * CENT, usage=usage, error=None, **told)
    row = scene.row(made)
    assert row is not None
    assert {name: row[name] for name in told} == told
    assert {name: row[name] for name in ("text_in", "image_out", "cached_image_in", "unknown_in")} == {
        "text_in": 10,
        "image_out": 400,
        "cached_image_in": 5,
        "unknown_in": 6,
    }


def test_what_was_not_told_stays_as_it_was_ordered(scene: Scene) -> None:
    made = scene.open(scene.key())
    scene.close(made, Ending.UNKNOWN, error="upstream_timeout")
    row = scene.row(made)
    assert row is not None
    assert (row["upstream"], row["price_version"], row["error"]) == ("openai", "2026-11-01", "upstream_timeout")


@pytest.mark.parametrize("first", [Ending.SETTLED, Ending.ESTIMATED, Ending.RELEASED])
@pytest.mark.parametrize("second", list(Ending))
def test_what_is_closed_for_good_stays_so(scene: Scene, first: Ending, second: Ending) -> None:
    key = scene.key()
    made = scene.open(key)
    scene.close(made, first, 5 * CENT)
    before = scene.everything()
    scene.clock.advance(5)
    assert scene.close(made, second, 1) == Closed()
    assert scene.everything() == before


@pytest.mark.parametrize(
    ("ending", "cost", "settled"),
    [
        (Ending.SETTLED, 4 * CENT, 4 * CENT),
        (Ending.ESTIMATED, None, 6 * CENT),
        (Ending.UNKNOWN, None, 6 * CENT),
        (Ending.RELEASED, None, 0),
    ],
)
def test_what_was_unknown_may_still_become_what_it_was(
    scene: Scene, ending: Ending, cost: int | None, settled: int
) -> None:
    team = scene.team()
    key = scene.key(team)
    made = scene.open(key)
    scene.close(made, Ending.UNKNOWN)
    scene.close(made, ending, cost)
    assert scene.spent(key) == scene.spent(team) == (settled, 0)


def test_what_was_never_opened_cannot_be_closed(scene: Scene) -> None:
    assert scene.close(order()) == Closed(was_found=False)


def test_going_beyond_a_budget_is_told_by_how_much_and_whose(scene: Scene) -> None:
    team = scene.team(max_budget="0.10")
    key = scene.key(team, max_budget="0.06")
    made = scene.open(key)
    closed = scene.close(made, cost=11 * CENT)
    assert closed.overshoot == [("key", 5 * CENT), ("team", CENT)]
    assert scene.close(made, cost=11 * CENT).overshoot == ()
    assert scene.spent(key) == (11 * CENT, 0)


def test_estimates_that_held_go_beyond_nothing(scene: Scene) -> None:
    key = scene.key(max_budget="0.12")
    orders = [scene.open(key), scene.open(key)]
    assert [scene.close(each, cost=6 * CENT).overshoot for each in orders] == [[], []]


# Windows


def test_a_window_that_ends_gives_the_whole_budget_again(scene: Scene) -> None:
    key = scene.key(max_budget="0.06", budget_duration="1h")
    scene.close(scene.open(key), cost=6 * CENT)
    error = scene.refusal(order(key))
    assert "It is renewed at" in error.message
    scene.clock.advance(HOUR)
    scene.open(key)
    assert scene.spent(key) == (0, 6 * CENT)


@pytest.mark.parametrize("ending", BILLED)
def test_what_is_closed_after_its_window_ended_does_not_touch_the_next_one(scene: Scene, ending: Ending) -> None:
    team = scene.team(max_budget=1, budget_duration="1d")
    key = scene.key(team, max_budget=1, budget_duration="1h")
    late = scene.open(key)
    scene.clock.advance(HOUR)
    scene.open(key, CENT)
    assert scene.spent(key) == (0, CENT)
    spends = scene.close(late, ending, 5 * CENT).spends
    assert [each.holder_id for each in spends] == [team.id]
    assert scene.spent(key) == (0, CENT)
    assert scene.spent(team) == (5 * CENT, CENT)


def test_until_somebody_buys_in_the_new_window_the_old_one_is_still_counted_right(scene: Scene) -> None:
    key = scene.key(max_budget=1, budget_duration="1h")
    late = scene.open(key)
    scene.clock.advance(HOUR)
    scene.close(late, cost=5 * CENT)
    assert scene.spent(key) == (5 * CENT, 0)
    scene.open(key, CENT)
    assert scene.spent(key) == (0, CENT)


def test_a_changed_duration_counts_what_was_bought_in_its_window(scene: Scene) -> None:
    key = scene.key(max_budget=1)
    scene.close(scene.open(key), cost=5 * CENT)
    scene.clock.advance(2 * DAY)
    scene.close(scene.open(key), Ending.UNKNOWN, 4 * CENT)
    scene.close(scene.open(key), Ending.RELEASED)
    scene.open(key, 3 * CENT)
    scene.keys.update_key(key.id, {"budget_duration": "1d"}, ACTOR)
    scene.open(key, CENT)
    assert scene.spent(key) == (4 * CENT, 4 * CENT)
    scene.keys.update_key(key.id, {"budget_duration": "30d"}, ACTOR)
    scene.open(key, CENT)
    assert scene.spent(key) == (9 * CENT, 5 * CENT)
    scene.keys.update_key(key.id, {"budget_duration": None}, ACTOR)
    scene.open(key, CENT)
    assert scene.spent(key) == (9 * CENT, 6 * CENT)


def test_a_clock_that_is_set_back_and_forth_loses_nothing(scene: Scene) -> None:
    key = scene.key(max_budget=1, budget_duration="1h")
    scene.close(scene.open(key), cost=5 * CENT)
    scene.clock.jump(-10 * HOUR)
    scene.open(key, CENT)
    assert scene.spent(key) == (5 * CENT, CENT)
    scene.clock.jump(10 * HOUR)
    scene.open(key, CENT)
    assert scene.spent(key) == (5 * CENT, CENT)


def test_a_purchase_at_the_very_boundary_belongs_to_the_window_that_begins(scene: Scene) -> None:
    key = scene.key(max_budget=1, budget_duration="1h")
    scene.clock.advance(HOUR - scene.clock.wall() % HOUR)
    made = scene.open(key)
    scene.close(made, cost=5 * CENT)
    assert scene.spent(key) == (5 * CENT, 0)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('books')}/imagegate.db")
    database.open()
    yield database
    database.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 1), st.integers(0, 8)),
        st.tuples(st.just("close"), st.integers(0, 9), st.sampled_from(Ending), st.none() | st.integers(0, 9)),
        st.tuples(st.just("pass"), st.sampled_from([0.0, 59.5, 1800.0, 3600.0, 90_000.0, 40 * DAY])),
        st.tuples(st.just("jump"), st.sampled_from([-90_000.0, -3600.0, 3600.0, 90_000.0])),
        st.tuples(st.just("duration"), st.integers(0, 2), st.sampled_from([None, "1h", "1d", "7h", "30d", "1mo"])),
    ),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_what_a_budget_counts_is_the_sum_of_its_window_s_purchases(
    lasting: Database, steps: Sequence[tuple[Any, ...]]
) -> None:
    with lasting.writing() as connection:
        for table in (PURCHASES, SPENDS):
            connection.execute(delete(table))
    scene = Scene(lasting)
    team = scene.team(max_budget=30 / 10**6)
    keys = [scene.key(team, max_budget=20 / 10**6), scene.key(team)]
    orders: list[Order] = []
    for what, *told in steps:
        if what == "open":
            with suppress(PayerRefusal):
                orders.append(scene.open(keys[told[0]], told[1] * 1000))
        elif what == "close" and told[0] < len(orders):
            scene.close(orders[told[0]], told[1], told[2] if told[2] is None else told[2] * 1000)
        elif what == "pass":
            scene.clock.advance(told[0])
        elif what == "jump":
            scene.clock.jump(told[0])
        elif what == "duration":
            change = scene.keys.update_key if told[0] < 2 else scene.keys.update_team
            change([*keys, team][told[0]].id, {"budget_duration": told[1]}, ACTOR)
        assert_true_sums(scene)
    for key in keys:
        scene.open(scene.keys.update_key(key.id, {"max_budget": None}, ACTOR), 0)
        scene.keys.update_team(team.id, {"max_budget": None}, ACTOR)
    starts = {each.holder_id: each.window_start for each in scene.books.spends_since(None)[0]}
    records: Sequence[KeyRecord | TeamRecord] = [scene.keys.get_team(team.id), *map(scene.keys.get_key, ids_of(keys))]
    for record in records:
        assert starts[record.id] == budget.window(record, scene.clock.wall())[0]
    assert_true_sums(scene)


def ids_of(keys: Sequence[KeyRecord]) -> Sequence[str]:
    return [key.id for key in keys]


def assert_true_sums(scene: Scene) -> None:
    with scene.database.reading() as connection:
        for spend in scene.books.spends_since(None)[0]:
            holder = PURCHASES.c.team_id if spend.holder_id.startswith("team") else PURCHASES.c.key_id
            ours = (holder == spend.holder_id) & (PURCHASES.c.opened_at >= spend.window_start)
            cost = select(func.coalesce(func.sum(PURCHASES.c.cost), 0)).where(ours, PURCHASES.c.outcome != "open")
            taken = select(func.coalesce(func.sum(PURCHASES.c.estimate), 0)).where(ours, PURCHASES.c.outcome == "open")
            sums = connection.execute(cost).scalar_one(), connection.execute(taken).scalar_one()
            assert (spend.settled, spend.reserved) == sums


# After the fact, and after a death


def test_a_purchase_that_nobody_s_budget_waited_for_is_one_row_however_often_it_is_told(scene: Scene) -> None:
    made = order()
    opened_at = scene.clock.wall()
    scene.clock.advance(30)
    closing = Closing(id=made.id, ending=Ending.SETTLED, cost=5 * CENT, images=1)
    for _ in range(2):
        scene.books.record(made, closing, opened_at)
    row = scene.row(made)
    assert row is not None
    assert (row["outcome"], row["cost"], row["opened_at"], row["closed_at"]) == (
        "settled",
        5 * CENT,
        opened_at,
        opened_at + 30,
    )
    assert len(scene.everything()[0]) == 1
    assert scene.books.expired() == []


def test_a_lease_runs_out_unless_it_is_renewed_or_closed(scene: Scene) -> None:
    dead, alive, done = (scene.open(scene.key()) for _ in range(3))
    scene.close(done)
    scene.clock.advance(LEASE_SECONDS)
    assert scene.books.expired() == []
    scene.clock.advance(1)
    scene.books.renew([alive.id, done.id, "buy_unknown"], 120)
    found = scene.books.expired()
    assert [(each.id, each.cache_keys) for each in found] == [(dead.id, dead.cache_keys)]
    assert found[0].lease_until == scene.clock.wall() - 1
    scene.clock.advance(121)
    assert [each.id for each in scene.books.expired()] == [dead.id, alive.id]


def test_of_some_orders_those_are_found_that_were_written_and_are_open(scene: Scene) -> None:
    first, done, never = scene.open(), scene.open(), order()
    scene.close(done)
    scene.open()
    assert scene.books.open_among([first.id, done.id, never.id]) == [first.id]
    assert scene.books.open_among([]) == []


def test_a_probe_finds_out_whether_anything_can_be_written(scene: Scene, tmp_path: Path) -> None:
    before = scene.everything()
    scene.books.probe()
    assert scene.everything() == before
    impatient = Database(f"sqlite:///{tmp_path}/other.db", wait_seconds=0.02)
    impatient.open()
    with impatient.writing(), pytest.raises(DatabaseUnavailable):
        Books(impatient, scene.clock).probe()
    impatient.close()


# Tallies


def tallied_by(**fields: Any) -> Tallied:
    given = {"hour": 1_795_003_200, "key_id": "", "team_id": "", "operation": "image_generation"}
    named = {"model": "gpt-image-2", "size": "1024x1024", "quality": "high", "how": "hit"}
    return Tallied(**{**given, **named, **fields})


def test_tallies_are_added_up(scene: Scene) -> None:
    hit, coalesced = tallied_by(), tallied_by(how="coalesced")
    scene.books.add({hit: Tally(1, 2, 3, 4), coalesced: Tally(5, 6, 7, 8)})
    scene.books.add({hit: Tally(10, 20, 30, 40)})
    with scene.database.reading() as connection:
        rows = connection.execute(select(TALLIES).order_by(TALLIES.c.how)).mappings().all()
    counts = ("answers", "images", "tokens", "saved")
    assert [tuple(row[name] for name in counts) for row in rows] == [(5, 6, 7, 8), (11, 22, 33, 44)]


def test_processes_that_tally_the_same_at_once_do_not_wait_in_a_circle(scene: Scene) -> None:
    by = [tallied_by(model=f"model {number}") for number in range(20)]

    def add(number: int) -> None:
        ordered = by if number % 2 else by[::-1]
        scene.books.add({each: Tally(1, 1, 1, 1) for each in ordered})

    at_once(8, add)
    with scene.database.reading() as connection:
        assert connection.execute(select(TALLIES.c.answers)).scalars().all() == [8] * 20


def test_tallies_that_were_taken_back_are_not_added(scene: Scene) -> None:
    with pytest.raises(DatabaseUnavailable):
        scene.books.add({tallied_by(): Tally(1, 1, 1, 1)}, lambda: False)
    assert scene.everything()[2] == []


# Retention


def test_what_is_old_and_closed_is_forgotten(scene: Scene) -> None:
    now = scene.clock.wall()
    old = bought(scene.database, now - 10 * DAY - 1)
    forever = bought(scene.database, now - 11 * DAY, outcome="open", cost=None)
    young = bought(scene.database, now - 10 * DAY + 1)
    hour = now // HOUR * HOUR
    tallied(scene.database, hour - 10 * DAY - 2 * HOUR)
    tallied(scene.database, hour - 10 * DAY)
    assert scene.books.forget(10 * DAY) == 2
    assert scene.row(old) is None
    assert scene.row(forever) is not None
    assert scene.row(young) is not None
    assert [row.hour for row in scene.everything()[2]] == [hour - 10 * DAY]
    assert scene.books.forget(10 * DAY) == 0


def test_much_is_forgotten_little_by_little_the_oldest_first(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.database.purchaserows._MOST_FORGOTTEN", 2)
    now = scene.clock.wall()
    ids = [bought(scene.database, now - 20 * DAY + number) for number in range(5)]
    counts = []
    while count := scene.books.forget(10 * DAY):
        counts.append(count)
        assert scene.row(ids[len(counts) * 2 - 2]) is None
        assert len(scene.everything()[0]) == 5 - sum(counts)
    assert counts == [2, 2, 1]


def test_what_is_spent_stays_spent_though_its_purchases_are_forgotten(scene: Scene) -> None:
    key = scene.key(max_budget="0.06")
    scene.close(scene.open(key), cost=6 * CENT)
    scene.clock.advance(10 * DAY)
    assert scene.books.forget(DAY) == 1
    assert isinstance(scene.refusal(order(key, 1)), BudgetExceeded)
    assert scene.keys.standing(key)["spent_usd"] == 0.06


def test_whoever_looks_sees_the_present_window_before_anybody_buys_in_it(scene: Scene) -> None:
    key = scene.key(max_budget="0.06", budget_duration="1h")
    scene.close(scene.open(key), cost=6 * CENT)
    assert scene.keys.standing(key)["remaining_usd"] == 0
    scene.clock.advance(HOUR)
    told = scene.keys.standing(key)
    assert (told["spent_usd"], told["remaining_usd"]) == (0, 0.06)
    assert told["budget_resets_at"] == scene.clock.wall() // HOUR * HOUR + HOUR


# A database that is damaged by hand


def test_a_duration_that_nobody_can_read_is_a_defect_and_writes_nothing(scene: Scene) -> None:
    key = scene.key(max_budget=1)
    with scene.database.writing() as connection:
        connection.execute(update(KEYS).where(KEYS.c.id == key.id).values(budget_duration="soon"))
    with pytest.raises(ValueError, match="must be a period"):
        scene.books.open(order(key))
    with scene.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM spends")).scalar_one() == 0

"""What a process knows of budgets: what it tells in headers and gauges, and when it warns."""

from decimal import Decimal
from typing import Any

import pytest

from proxy.accounts import Accounts, Budget
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.model import Holder, Standing
from proxy.period import parse_period
from proxy.purchase import Spend
from tests.support.clock import ManualClock

CENT = 10_000_000
DOLLAR = 100 * CENT
CREATED = 1_795_000_000.0
HOUR = 3600


class Scene:
    def __init__(self) -> None:
        self.clock = ManualClock(wall=CREATED)
        self.warned: list[str] = []
        self.accounts = Accounts(self.clock, self.warned.append)

    def learn(self, record: KeyRecord | TeamRecord, settled: int, reserved: int = 0) -> None:
        duration = record.budget_duration
        start = parse_period(duration).window(CREATED, self.clock.wall())[0] if duration else 0.0
        self.accounts.learn([Spend(record.id, start, settled, reserved)])


@pytest.fixture
def scene() -> Scene:
    return Scene()


def key(**fields: Any) -> KeyRecord:
    times = {"created_at": CREATED, "updated_at": CREATED, "revision": 1}
    return KeyRecord(id="key_1", digest=b"d", shown="sk-ig-…Ab3x", key_alias="web", **{**times, **fields})


def team(**fields: Any) -> TeamRecord:
    return TeamRecord(id="team_1", team_alias="art", created_at=CREATED, updated_at=CREATED, revision=1, **fields)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [vars(record) for record in caplog.records if record.message == "a soft budget is used up"]
    return [(each.get("key") or f"team {each['team']}", each["spent_usd"]) for each in found]


def test_of_a_key_that_never_bought_nothing_is_spent(scene: Scene) -> None:
    assert scene.accounts.standing(Holder(key()), {}) == Standing(Decimal(0))
    assert list(scene.accounts.budgets([key(), team()])) == []


def test_a_standing_is_what_is_settled_beside_the_budget_and_the_limits(scene: Scene) -> None:
    mine = key(max_budget=DOLLAR, soft_budget=60 * CENT)
    scene.learn(mine, 60 * CENT, 5 * CENT)
    limits = {"x-ratelimit-limit-requests": "5"}
    expected = Standing(Decimal("0.6"), Decimal(1), is_past_soft_budget=False, limits=limits)
    assert scene.accounts.standing(Holder(mine), limits) == expected
    scene.learn(mine, 60 * CENT + 1)
    assert scene.accounts.standing(Holder(mine), limits).is_past_soft_budget


def test_a_team_past_its_soft_budget_is_told_to_its_keys(scene: Scene) -> None:
    ours = team(soft_budget=0)
    scene.learn(ours, 1)
    standing = scene.accounts.standing(Holder(key(), ours), {})
    assert standing.is_past_soft_budget
    assert standing.spent == 0


def test_with_its_window_a_budget_begins_anew(scene: Scene) -> None:
    mine = key(max_budget=DOLLAR, soft_budget=CENT, budget_duration="1h")
    start = CREATED // HOUR * HOUR
    scene.learn(mine, 70 * CENT, 20 * CENT)
    assert list(scene.accounts.budgets([mine])) == [Budget("key", "web", Decimal(1), Decimal("0.1"), start + HOUR)]
    scene.clock.advance(start + HOUR - CREATED)
    assert scene.accounts.standing(Holder(mine), {}) == Standing(Decimal(0), Decimal(1))
    assert list(scene.accounts.budgets([mine])) == [Budget("key", "web", Decimal(1), Decimal(1), start + 2 * HOUR)]
    scene.clock.jump(-1)
    assert scene.accounts.spent(mine) == Decimal("0.7")


def test_a_budget_that_was_overdrawn_shows_by_how_much(scene: Scene) -> None:
    ours = team(max_budget=DOLLAR)
    scene.learn(ours, 110 * CENT)
    assert list(scene.accounts.budgets([key(), ours])) == [Budget("team", "art", Decimal(1), Decimal("-0.1"), None)]


def test_each_purchase_beyond_a_soft_budget_is_counted_and_the_first_of_a_window_logged(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    mine, ours = key(soft_budget=5 * CENT, budget_duration="1h"), team(soft_budget=6 * CENT)
    holder = Holder(mine, ours)
    for settled in (5, 6, 7):
        scene.learn(mine, settled * CENT)
        scene.learn(ours, settled * CENT)
        scene.accounts.settled(holder)
    assert scene.warned == ["key", "key", "team"]
    assert lines(caplog) == [("web", "0.06"), ("team art", "0.07")]
    scene.clock.advance(HOUR)
    scene.accounts.settled(holder)
    assert scene.warned == ["key", "key", "team", "team"]
    scene.learn(mine, 6 * CENT)
    scene.accounts.settled(holder)
    assert lines(caplog)[2:] == [("web", "0.06")]


def test_nobody_s_purchase_warns_nobody(scene: Scene) -> None:
    scene.accounts.settled(None)
    scene.accounts.settled(Holder(key(), team()))
    assert scene.warned == []

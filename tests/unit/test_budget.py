"""Whether there is room in a budget: to the last nano-dollar, and in whose words a refusal is put."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import budget
from proxy.errors import BudgetExceeded, BudgetReserved, PayerRefusal, Unpriced
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.purchase import Spend

DOLLAR = 10**9
CREATED = 1_795_000_000.25
NOW = 1_795_348_800.0  # 2026-11-22 12:00:00Z


def key(**fields: Any) -> KeyRecord:
    times = {"created_at": CREATED, "updated_at": CREATED, "revision": 1}
    return KeyRecord(id="key_1", digest=b"d", shown="sk-ig-…Ab3x", key_alias="web", **{**times, **fields})


def team(**fields: Any) -> TeamRecord:
    return TeamRecord(id="team_1", team_alias="art", created_at=CREATED, updated_at=CREATED, revision=1, **fields)


def spend(settled: int, reserved: int = 0) -> Spend:
    return Spend("key_1", 0.0, settled, reserved)


def refusal(record: KeyRecord | TeamRecord, spent: Spend, estimate: int) -> PayerRefusal | None:
    try:
        budget.refuse_without_room(record, spent, estimate, NOW)
    except PayerRefusal as error:
        return error
    return None


@pytest.mark.parametrize(
    ("settled", "reserved", "estimate", "refused"),
    [
        (0, 0, DOLLAR, None),
        (0, 0, DOLLAR + 1, BudgetExceeded),
        (DOLLAR - 1, 0, 1, None),
        (DOLLAR, 0, 1, BudgetExceeded),
        (DOLLAR - 1, 1, 1, BudgetReserved),
        (0, DOLLAR, 1, BudgetReserved),
        (0, 1, DOLLAR, BudgetReserved),
        (1, 1, DOLLAR, BudgetExceeded),
        (DOLLAR, 0, 0, None),
        (DOLLAR + 1, 0, 0, BudgetExceeded),
        (0, DOLLAR, 0, None),
    ],
)
def test_room_ends_exactly_at_the_budget(
    settled: int, reserved: int, estimate: int, refused: type[PayerRefusal] | None
) -> None:
    error = refusal(key(max_budget=DOLLAR), spend(settled, reserved), estimate)
    assert (type(error) if error else None) is refused


amounts = st.integers(0, 30)


@given(amounts, amounts, amounts, amounts)
def test_refused_is_what_does_not_fit_and_reserved_is_what_will_fit_if_all_in_flight_comes_to_nothing(
    most: int, settled: int, reserved: int, estimate: int
) -> None:
    error = refusal(key(max_budget=most), spend(settled, reserved), estimate)
    assert (error is not None) == (settled + reserved + estimate > most)
    assert isinstance(error, BudgetReserved) == (error is not None and settled + estimate <= most)


def test_a_budget_of_nothing_lets_nothing_through_that_costs_something() -> None:
    assert refusal(key(max_budget=0), spend(0), 0) is None
    assert isinstance(refusal(key(max_budget=0), spend(0), 1), BudgetExceeded)


def test_without_a_budget_there_is_always_room() -> None:
    assert refusal(key(), spend(10**18, 10**18), 10**18) is None


def test_who_has_spent_too_much_is_told_what_and_when_it_ends_and_not_to_try_again() -> None:
    error = refusal(key(max_budget=DOLLAR, budget_duration="1d"), spend(995_000_000, 4_000_000), 6_000_000)
    assert error is not None
    assert (error.status, error.type, error.code, error.should_retry) == (
        429,
        "insufficient_quota",
        "budget_exceeded",
        False,
    )
    assert error.message == (
        "You exceeded your current quota: the budget of this key is 1 USD, 0.995 USD are spent, and this request may "
        "cost 0.006 USD. It is renewed at 2026-11-23 00:00:00Z."
    )
    assert "retry-after" not in error.headers
    assert error.scope == "key"


def test_a_budget_that_is_never_renewed_says_whom_to_ask() -> None:
    error = refusal(team(max_budget=DOLLAR), spend(DOLLAR), 1)
    assert error is not None
    assert "the budget of the team of this key is 1 USD" in error.message
    assert error.message.endswith("Ask whoever runs this imagegate for more.")
    assert error.scope == "team"


def test_what_is_only_reserved_may_be_tried_again_soon() -> None:
    error = refusal(team(max_budget=DOLLAR), spend(0, DOLLAR), 60_000_000)
    assert error is not None
    assert (error.status, error.type, error.code, error.should_retry) == (
        429,
        "insufficient_quota",
        "budget_reserved",
        None,
    )
    assert error.headers == {"retry-after": "10"}
    assert "0 USD are spent, 1 USD are reserved for requests in flight" in error.message
    assert error.scope == "team"


@pytest.mark.parametrize(("record", "whose"), [(key, "this key"), (team, "the team of this key")])
def test_what_has_no_price_is_not_for_budgets_in_money(record: Any, whose: str) -> None:
    budget.refuse_unpriced(record())
    with pytest.raises(Unpriced, match=f"and {whose} has a budget") as caught:
        budget.refuse_unpriced(record(max_budget=0))
    error = caught.value
    assert (error.status, error.code, error.param, error.scope) == (403, "model_unpriced", "model", record().KIND)


@pytest.mark.parametrize(
    ("most", "before", "after", "beyond"),
    [
        (None, 0, 100, 0),
        (100, 0, 100, 0),
        (100, 90, 101, 1),
        (100, 100, 107, 7),
        (100, 120, 127, 7),
        (100, 120, 110, 0),
        (100, 120, 120, 0),
        (0, 0, 5, 5),
    ],
)
def test_a_settlement_goes_beyond_a_budget_by_its_own_part(
    most: int | None, before: int, after: int, beyond: int
) -> None:
    assert budget.overshoot(key(max_budget=most), before, after) == beyond


def test_a_budget_without_a_duration_is_for_all_of_time() -> None:
    assert budget.window(key(max_budget=1), NOW) == (0.0, None)


def test_a_budget_with_a_duration_is_for_its_window() -> None:
    days = 30 * 86_400
    assert budget.window(key(budget_duration="30d"), CREATED) == (CREATED, CREATED + days)
    assert budget.window(team(budget_duration="30d"), CREATED + days) == (CREATED + days, CREATED + 2 * days)
    assert budget.window(key(budget_duration="1h"), NOW + 1) == (NOW, NOW + 3600)

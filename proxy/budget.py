"""Whether there is room in a budget. Pure: what has been spent, and the time, are told."""

from proxy.errors import BudgetExceeded, BudgetReserved, Unpriced
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.money import dollars
from proxy.period import parse_period
from proxy.purchase import Spend, usd
from proxy.quantities import moment

RESERVED_RETRY_SECONDS = 10

Record = KeyRecord | TeamRecord


def window(record: Record, now: float) -> tuple[float, float | None]:
    """The present window of what it may spend, [start, end). Without a duration it is all of time."""
    if record.budget_duration is None:
        return 0.0, None
    return parse_period(record.budget_duration).window(record.created_at, now)


def refuse_without_room(record: Record, spend: Spend, estimate: int, now: float) -> None:
    """Raises BudgetExceeded if what is settled leaves too little, BudgetReserved if only what is in flight does."""
    if record.max_budget is None or spend.settled + spend.reserved + estimate <= record.max_budget:
        return
    budget = f"the budget of {_whose(record)} is {_usd(record.max_budget)} USD"
    costs = f"this request may cost {_usd(estimate)} USD"
    if spend.settled + estimate <= record.max_budget:
        reserved = BudgetReserved(
            f"You exceeded your current quota: {budget}, {_usd(spend.settled)} USD are spent, "
            f"{_usd(spend.reserved)} USD are reserved for requests in flight, and {costs}. "
            "Please try again when they are finished.",
            headers={"retry-after": str(RESERVED_RETRY_SECONDS)},
        )
        reserved.scope = record.KIND
        raise reserved
    end = window(record, now)[1]
    again = f"It is renewed at {moment(end)}." if end is not None else "Ask whoever runs this imagegate for more."
    exceeded = BudgetExceeded(
        f"You exceeded your current quota: {budget}, {_usd(spend.settled)} USD are spent, and {costs}. {again}"
    )
    exceeded.scope = record.KIND
    raise exceeded


def refuse_unpriced(record: Record) -> None:
    """Raises Unpriced: what nobody can price may not be bought with a budget of money."""
    if record.max_budget is None:
        return
    unpriced = Unpriced(
        f"This model has no price here, and {_whose(record)} has a budget in money. Use a model with a price; "
        "the operator may add one (rules.catalogue), or allow it (limits.unpriced)."
    )
    unpriced.scope = record.KIND
    raise unpriced


def overshoot(record: Record, before: int, after: int) -> int:
    """By how much a settlement took what is spent from `before` to `after` beyond the budget."""
    if record.max_budget is None:
        return 0
    return max(0, after - max(record.max_budget, before))


def _whose(record: Record) -> str:
    return "this key" if record.KIND == "key" else "the team of this key"


def _usd(nanos: int) -> str:
    return dollars(usd(nanos))

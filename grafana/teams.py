"""The page for who pays: spending by team, budgets and how much of them is left, and who ran into a limit."""

from grafana.page import Page, Row
from grafana.panel import Bars, Chart, Column, Number, Table
from grafana.query import Query, in_range, or_flat, or_zero, per_hour, per_minute, series

SPENT = series("upstream_cost_usd_total")
SAVED = series("saved_cost_usd_total")
UNKNOWN = series("unknown_cost_usd_total")
OVERSHOOT = series("budget_overshoot_usd_total")
SOFT = series("soft_budget_exceeded_total")
LIMITED = series("rate_limited_total")

# Every process on one database tells the same budgets: the least that one of them knows to be left is the latest.
LIMIT = f"max by (scope, name) ({series('budget_limit_usd')})"
REMAINING = f"min by (scope, name) ({series('budget_remaining_usd')})"
RESET = f"max by (scope, name) ({series('budget_reset_timestamp_seconds')})"
USED = f"1 - {REMAINING} / ({LIMIT} > 0)"
NO_BUDGETS = "no budgets: auth.mode = keys, and max_budget on a key or a team"

_FIRST = Row(
    (
        Number(
            id=1,
            title="Spent by these teams",
            description="Dollars that purchases of the chosen teams cost in this range, by the price table.",
            unit="currencyUSD",
            width=4,
            query=Query(or_zero(in_range(SPENT))),
            colour="orange",
            decimals=2,
        ),
        Number(
            id=2,
            title="Saved for these teams",
            description="Dollars that the chosen teams did not spend in this range, because a reply was there already.",
            unit="currencyUSD",
            width=4,
            query=Query(or_zero(in_range(SAVED))),
            colour="green",
            decimals=2,
        ),
        Number(
            id=3,
            title="Perhaps billed",
            description="Dollars of calls in this range that may have been billed and brought nothing (timeouts, lost "
            "connections), at their estimate. They count against budgets. If it grows, compare with the "
            "vendor's bill, and look at the upstream's errors on the dashboard 'Operations'.",
            unit="currencyUSD",
            width=4,
            query=Query(or_zero(in_range(UNKNOWN))),
            decimals=2,
        ),
        Number(
            id=4,
            title="Requests refused by limits",
            description="In this range, all limits together; 'Limits hit' says which. Many: the limits are too small "
            "for the work, or somebody's loop is broken.",
            unit="short",
            width=4,
            query=Query(or_zero(in_range(LIMITED))),
            decimals=0,
        ),
        Number(
            id=5,
            title="Spent beyond budgets",
            description="Dollars by which purchases in this range cost more than was estimated and so went beyond a "
            "budget. Cents are normal. More: the estimates of some model are too low; see 'imagegate "
            "validate' and its auto_estimate.",
            unit="currencyUSD",
            width=4,
            query=Query(or_zero(in_range(OVERSHOOT))),
            decimals=2,
        ),
        Number(
            id=6,
            title="Budgets with nothing left",
            description="Keys and teams whose purchases are refused now (hits still pass). 'Budgets' below says which, "
            "and when they are renewed; raise one with 'imagegate keys update' or 'imagegate teams "
            "update'.",
            unit="short",
            width=4,
            query=Query(or_zero(f"count({REMAINING} <= 0)")),
            thresholds=((1, "red"),),
            decimals=0,
        ),
    )
)

_SPENDING = Row(
    id=10,
    title="Spending",
    panels=(
        Chart(
            id=11,
            title="Spent per hour by team",
            description="Dollars per hour; none: keys without a team, and the modes without keys. A sudden step: ask "
            "that team what it released, or block the key (imagegate keys update --blocked).",
            unit="currencyUSD",
            queries=(Query(per_hour(SPENT, "team"), "{{team}}"),),
            stacked=True,
        ),
        Bars(
            id=12,
            title="Spent by team in this range",
            description="Dollars, the twenty that spent most. Those without a budget and far up are who needs one.",
            unit="currencyUSD",
            query=Query(or_flat(f"topk(20, {in_range(SPENT, 'team')} > 0)", "team"), "{{team}}"),
            colour="orange",
        ),
        Table(
            id=13,
            title="Teams and models in this range",
            description="What each team bought of each model, and what it got for nothing. Sort by a column. Much "
            "spent and little saved: this team's requests never repeat, or it sends no-store. The table by "
            "key is 'imagegate usage --by key'.",
            columns=(
                Column("Spent", f"{in_range(SPENT, 'team', 'model')} > 0", "currencyUSD"),
                Column("Saved", f"{in_range(SAVED, 'team', 'model')} > 0", "currencyUSD"),
                Column("Images bought", f"{in_range(series('upstream_images_total'), 'team', 'model')} > 0", "short"),
                Column("Tokens billed", f"{in_range(series('upstream_tokens_total'), 'team', 'model')} > 0", "short"),
                Column("Tokens saved", f"{in_range(series('saved_tokens_total'), 'team', 'model')} > 0", "short"),
            ),
            quiet="nothing bought or saved in this range",
            width=14,
        ),
        Table(
            id=14,
            title="Keys in this range",
            description="What each virtual key bought, by its alias; it takes metrics.per_key = true. A key far above "
            "its kind: ask its owner, or give it a budget (imagegate keys update --max-budget).",
            columns=(
                Column("Spent", f"{in_range(series('key_upstream_cost_usd_total'), 'key')} > 0", "currencyUSD"),
                Column("Tokens billed", f"{in_range(series('key_upstream_tokens_total'), 'key')} > 0", "short"),
            ),
            quiet="nothing bought by a key, or metrics.per_key is off",
            width=10,
        ),
    ),
)

_BUDGETS = Row(
    id=20,
    title="Budgets",
    panels=(
        Bars(
            id=21,
            title="Share of each budget that is used",
            description="Spent and reserved, of the present window; the twenty fullest. Orange from 80 in 100: tell "
            "its owner. Red: purchases are refused until the reset or until the budget is raised.",
            unit="percentunit",
            query=Query(f"topk(20, {USED})", "{{scope}} {{name}}"),
            quiet=NO_BUDGETS,
            thresholds=((0.8, "orange"), (1, "red")),
            full=1,
        ),
        Table(
            id=22,
            title="Budgets: limit, rest, reset",
            description="Every budget of a key or a team (at most 1,000 of each, teams first). Rest may be below 0: "
            "what purchases cost beyond their estimate. No reset: it is never renewed. A budget that is "
            "used up long before its reset is too small, or its owner too busy.",
            columns=(
                Column("Used", USED, "percentunit"),
                Column("Limit", LIMIT, "currencyUSD"),
                Column("Rest", REMAINING, "currencyUSD"),
                Column("Reset", f"{RESET} * 1000", "dateTimeFromNow"),
            ),
            quiet=NO_BUDGETS,
            width=12,
        ),
        Chart(
            id=23,
            title="Rest of the tightest budgets",
            description="Dollars left of the ten budgets with least left. A line that heads for 0 before its reset: "
            "raise it or speak to its owner now.",
            unit="currencyUSD",
            queries=(Query(f"bottomk(10, {REMAINING})", "{{scope}} {{name}}"),),
            quiet=NO_BUDGETS,
        ),
        Chart(
            id=24,
            title="Purchases beyond a soft budget",
            description="Per minute. A soft budget refuses nothing: it is there so that somebody looks. Look at the "
            "owner's spending, and raise the soft budget if it is right.",
            unit="short",
            queries=(Query(per_minute(SOFT, "scope"), "{{scope}}"),),
            width=6,
        ),
        Chart(
            id=25,
            title="Dollars beyond budgets per hour",
            description="What purchases cost beyond their estimate, where that went beyond a budget. Steady: the "
            "estimates of a model are too low.",
            unit="currencyUSD",
            queries=(Query(per_hour(OVERSHOOT, "scope"), "{{scope}}"),),
            width=6,
        ),
    ),
)

_LIMITS = Row(
    id=30,
    title="Limits and keys",
    panels=(
        Chart(
            id=31,
            title="Limits hit",
            description="Requests refused per minute, by whose limit and which: rpm, ipm, concurrency, budget. key "
            "rpm: the caller should wait as Retry-After says. upstream concurrency: the queue is full for "
            "all.",
            unit="short",
            queries=(Query(per_minute(LIMITED, "scope", "limit"), "{{scope}} {{limit}}"),),
            stacked=True,
            width=8,
        ),
        Chart(
            id=32,
            title="Keys not accepted",
            description="Requests per minute without a credential or with one that does not hold, by reason. expired "
            "or blocked: an owner who was not told. malformed and unknown in number: somebody tries keys; "
            "find the address in the log.",
            unit="short",
            queries=(Query(per_minute(series("auth_failures_total"), "reason"), "{{reason}}"),),
            stacked=True,
            width=8,
        ),
        Chart(
            id=33,
            title="Perhaps billed per hour by team",
            description="Dollars, at the estimate, of calls that may have been billed and brought nothing. Not in what "
            "was spent. Compare with the vendor's bill; raise upstreams.total_timeout_seconds if timeouts "
            "are the cause.",
            unit="currencyUSD",
            queries=(Query(per_hour(UNKNOWN, "team"), "{{team}}"),),
            stacked=True,
            width=8,
        ),
    ),
)

TEAMS = Page(
    name="teams",
    title="Teams and keys",
    description="Who spends, what is left of whose budget, and who ran into a limit.",
    rows=(_FIRST, _SPENDING, _BUDGETS, _LIMITS),
)

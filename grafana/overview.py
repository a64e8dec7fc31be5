"""The first page: what imagegate does, what it costs, what it saves, and how that feels to who calls it."""

from grafana.page import Page, Row
from grafana.panel import OF_QUANTILES, OF_THE_CACHE, Bars, Chart, Column, Number, Table
from grafana.query import (
    WHOLE_RANGE,
    Query,
    growth,
    in_range,
    or_flat,
    or_zero,
    per_hour,
    per_minute,
    per_second,
    quantile,
    series,
    share,
)

FREE = series("requests_total", 'cache=~"hit|coalesced"', 'code="200"')
ANSWERED = series("requests_total", 'cache!="none"', 'code="200"')
# As the alerts count: the 504 of a request that wanted nothing but the cache is its caller's doing.
LATE = growth(series("requests_total", 'code="504"', 'cache!="none"'))
BROKEN = growth(series("requests_total", 'code=~"5.."', 'code!="504"'))
PLAIN = growth(series("requests_total", 'code!~"4.."', 'code!="504"'))
FAILED = f"sum({BROKEN} or {LATE})"
BLAMELESS = f"sum({PLAIN} or {LATE})"
SPENT = series("upstream_cost_usd_total")
SAVED = series("saved_cost_usd_total")

STATUS = {
    "200": "green",
    "400": "yellow",
    "401": "orange",
    "429": "purple",
    "499": "gray",
    "500": "red",
    "502": "dark-red",
    "503": "semi-dark-red",
    "504": "light-red",
}
BILLED = {"output image": "orange", "input image": "dark-orange", "input text": "yellow"}
FREE_OF_CHARGE = {"output image": "green", "input image": "dark-green", "input text": "light-green"}
SLOW_SECONDS = 120.0

_FIRST = Row(
    (
        Number(
            id=1,
            title="Saved by the cache in this range",
            description="Dollars that hits and shared calls would have cost, by the price table, in the time chosen at "
            "the top right (a day unless you choose otherwise). What the bill would have been without "
            "imagegate is this and what was spent, added. Near 0 beside a large bill: look at 'Answers "
            "that cost nothing' and ask whether callers vary what need not vary.",
            unit="currencyUSD",
            width=6,
            query=Query(or_zero(in_range(SAVED))),
            loud=True,
            colour="green",
            decimals=2,
        ),
        Number(
            id=2,
            title="Spent on new images in this range",
            description="Dollars that replies cost which were bought from an upstream, by the price table, in the time "
            "chosen at the top right. More than expected: the dashboard 'Teams and keys' says who. The "
            "ledger (imagegate usage) is exact to the cent; this counts what changed between scrapes.",
            unit="currencyUSD",
            width=5,
            query=Query(or_zero(in_range(SPENT))),
            colour="orange",
            decimals=2,
        ),
        Number(
            id=3,
            title="Answers that cost nothing",
            description="The hit ratio: of all answers with an image in this range, the share that came from the store "
            "or shared a call with another request. It falls when prompts, sizes or seeds begin to vary, "
            "after a purge, or when callers send Cache-Control.",
            unit="percentunit",
            width=4,
            query=Query(share(in_range(FREE), in_range(ANSWERED))),
            quiet="no answers yet",
            colour="green",
            decimals=1,
        ),
        Number(
            id=4,
            title="Requests per second",
            description="What is asked just now; the line is the range. Nothing where you expect traffic: look whether "
            "callers reach imagegate, then at 'Requests by status'.",
            unit="reqps",
            width=3,
            query=Query(or_zero(per_second(series("requests_total")))),
            trend=True,
            colour="blue",
        ),
        Number(
            id=5,
            title="Requests that failed",
            description="The error ratio: of all requests in this range that the caller had not got wrong (no 4xx, no "
            "504 to only-if-cached), the share that ended with 5xx. Above 1 in 100, look at 'Requests by "
            "status', then at the upstream's errors on the dashboard 'Operations'.",
            unit="percentunit",
            width=3,
            query=Query(share(FAILED, BLAMELESS)),
            quiet="no requests yet",
            thresholds=((0.01, "orange"), (0.05, "red")),
            colour="green",
            decimals=2,
        ),
        Number(
            id=6,
            title="Wait for a new image",
            description="95 of 100 requests that had to be bought were answered within this time, in this range. It is "
            "the upstream's time: beyond two minutes, see 'Time of one call' on the dashboard "
            "'Operations', and whether requests queue.",
            unit="s",
            width=3,
            query=Query(
                quantile(
                    0.95, series("request_duration_seconds_bucket", 'cache=~"miss|refresh|bypass"'), window=WHOLE_RANGE
                )
            ),
            quiet="none bought yet",
            thresholds=((SLOW_SECONDS, "red"),),
            decimals=1,
        ),
    )
)

_MONEY = Row(
    id=20,
    title="Money",
    panels=(
        Chart(
            id=21,
            title="Spent and saved per hour",
            description="Dollars per hour. Both together are what would be spent without imagegate. A rise of what is "
            "spent alone is new work, or a cache that no longer matches: look at the hit ratio at that "
            "time.",
            unit="currencyUSD",
            queries=(
                Query(or_zero(per_hour(SPENT)), "spent"),
                Query(or_zero(per_hour(SAVED)), "saved"),
            ),
            stacked=True,
            colours={"spent": "orange", "saved": "green"},
        ),
        Bars(
            id=22,
            title="Spent by model in this range",
            description="Dollars, the ten dearest. A dear model where a cheaper one would do: tell its callers, or "
            "point an alias (rules.aliases) at the cheaper one.",
            unit="currencyUSD",
            query=Query(or_flat(f"topk(10, {in_range(SPENT, 'model')} > 0)", "model"), "{{model}}"),
            width=6,
            colour="orange",
        ),
        Chart(
            id=23,
            title="What the bill does not know",
            description="Calls per minute whose cost is missing or a guess. no price: the catalogue has none for the "
            "model, add it in a file under rules.catalogue. no usage: the reply told none and the estimate "
            "was taken. Anything but 0 means that 'Spent' is not the whole bill.",
            unit="short",
            queries=(
                Query(or_zero(per_minute(series("unpriced_requests_total"))), "no price"),
                Query(or_zero(per_minute(series("usage_missing_total"))), "no usage"),
            ),
            width=6,
        ),
    ),
)

_TRAFFIC = Row(
    id=10,
    title="Traffic",
    panels=(
        Chart(
            id=11,
            title="Requests by the cache's part",
            description="hit: from the store. coalesced: shared the call of another. miss: bought. refresh: bought at "
            "the caller's wish though it was stored. bypass: neither looked up nor stored. none: ended "
            "before the cache was asked, refused for the most part. Much refresh or bypass: somebody sends "
            "Cache-Control and pays for it.",
            unit="reqps",
            queries=(Query(per_second(series("requests_total"), "cache"), "{{cache}}"),),
            stacked=True,
            width=8,
            colours=OF_THE_CACHE,
        ),
        Chart(
            id=12,
            title="Requests by status",
            description="The status that was sent; 499: the client had gone. 4xx are the caller's: 'Refused before it "
            "cost anything' says what they got wrong. 5xx are ours or the upstream's: see 'Operations'.",
            unit="reqps",
            queries=(Query(per_second(series("requests_total"), "code"), "{{code}}"),),
            stacked=True,
            width=8,
            colours=STATUS,
        ),
        Chart(
            id=13,
            title="Share of answers that cost nothing",
            description="The hit ratio over time. A step down at the time of a release of some caller: its requests "
            "are no longer the same; compare two of them with X-Imagegate-Dry-Run.",
            unit="percentunit",
            queries=(
                Query(
                    share(per_second(FREE), per_second(ANSWERED)),
                    "cost nothing",
                ),
            ),
            quiet="no answers in this range",
            width=8,
            colours={"cost nothing": "green"},
            full=1,
        ),
    ),
)

_TOKENS = Row(
    id=30,
    title="Tokens",
    panels=(
        Chart(
            id=31,
            title="Tokens billed per minute",
            description="What upstreams billed, by direction and modality; together they are the bill. Image output is "
            "most of it: lower quality or size before anything else. Much image input: edits of large "
            "pictures.",
            unit="short",
            queries=(
                Query(
                    per_minute(series("upstream_tokens_total"), "direction", "modality"),
                    "{{direction}} {{modality}}",
                ),
            ),
            stacked=True,
            width=9,
            colours=BILLED,
        ),
        Chart(
            id=32,
            title="Tokens saved per minute",
            description="What hits and shared calls would have been billed, by direction and modality. Compare its "
            "height with the panel on the left.",
            unit="short",
            queries=(
                Query(
                    per_minute(series("saved_tokens_total"), "direction", "modality"),
                    "{{direction}} {{modality}}",
                ),
            ),
            stacked=True,
            width=9,
            colours=FREE_OF_CHARGE,
        ),
        Chart(
            id=33,
            title="Input billed at the cached price",
            description="Input tokens per minute that the upstream billed at its own cached price. They are a part of "
            "the input billed, not beside it: do not add them. Nothing to do here; it explains a bill "
            "lower than tokens at the list price.",
            unit="short",
            queries=(
                Query(
                    or_flat(per_minute(series("upstream_cached_input_tokens_total"), "modality"), "modality"),
                    "{{modality}}",
                ),
            ),
            width=6,
        ),
    ),
)

_IMAGES = Row(
    id=40,
    title="Images",
    panels=(
        Chart(
            id=41,
            title="Images delivered per minute",
            description="Images that clients received, by the cache's part. The orange part was paid for.",
            unit="short",
            queries=(Query(or_flat(per_minute(series("images_total"), "cache"), "cache"), "{{cache}}"),),
            stacked=True,
            width=8,
            colours=OF_THE_CACHE,
        ),
        Chart(
            id=42,
            title="Images bought and delivered",
            description="Per minute. Bought without being delivered: clients had hung up; the image is stored and paid "
            "for once. If it happens often, their timeouts are too short: 600 seconds is right.",
            unit="short",
            queries=(
                Query(or_zero(per_minute(series("upstream_images_total"))), "bought"),
                Query(or_zero(per_minute(series("images_total"))), "delivered"),
            ),
            width=8,
            colours={"bought": "orange", "delivered": "green"},
        ),
        Table(
            id=43,
            title="Images by size and quality in this range",
            description="What was delivered, and how much of it was bought for that very request. Much bought at a "
            "large size or high quality is where money can be saved.",
            columns=(
                Column(
                    "Delivered",
                    f"{in_range(series('images_total'), 'model', 'size', 'quality')} > 0",
                    "short",
                ),
                Column(
                    "Bought",
                    in_range(series("images_total", 'cache=~"miss|refresh|bypass"'), "model", "size", "quality")
                    + " > 0",
                    "short",
                ),
            ),
            quiet="no images in this range",
            width=8,
        ),
    ),
)

_WAITING = Row(
    id=50,
    title="How long callers wait",
    panels=(
        Chart(
            id=51,
            title="Duration of hits",
            description="From the request's head to the end of its answer, for what came from the store: milliseconds, "
            "and the caller's own network. Tens of milliseconds at the median: look at 'Time of a lookup' "
            "and at the disk.",
            unit="s",
            queries=tuple(
                Query(quantile(q, series("request_duration_seconds_bucket", 'cache="hit"')), f"p{q * 100:g}")
                for q in (0.5, 0.95, 0.99)
            ),
            quiet="no hits in this range",
            colours=OF_QUANTILES,
        ),
        Chart(
            id=52,
            title="Duration of misses",
            description="The same for what was bought, or shared while it was being bought: the upstream's seconds. "
            "Beyond the red line callers complain: see the dashboard 'Operations', row 'Upstreams'.",
            unit="s",
            queries=tuple(
                Query(
                    quantile(q, series("request_duration_seconds_bucket", 'cache=~"miss|refresh|bypass|coalesced"')),
                    f"p{q * 100:g}",
                )
                for q in (0.5, 0.95, 0.99)
            ),
            quiet="nothing bought in this range",
            colours=OF_QUANTILES,
            thresholds=((SLOW_SECONDS, "red"),),
        ),
    ),
)

_REFUSED = Row(
    id=60,
    title="What was refused, and why",
    panels=(
        Bars(
            id=61,
            title="Refused before it cost anything",
            description="Requests in this range that the model would have refused, by parameter and error code, the "
            "ten most frequent. The error that the caller got names the nearest valid value; a long bar is "
            "a caller to talk to.",
            unit="short",
            query=Query(
                or_flat(f"topk(10, {in_range(series('validation_rejections_total'), 'param', 'reason')} > 0)", "param"),
                "{{param}} {{reason}}",
            ),
            width=8,
        ),
        Bars(
            id=62,
            title="Refused by a limit",
            description="Requests in this range refused by a limit of imagegate's own: of a key, a team, or the "
            "connections to an upstream. budget: raise it or wait for its reset; upstream concurrency: "
            "raise upstreams.max_connections.",
            unit="short",
            query=Query(
                or_flat(f"{in_range(series('rate_limited_total'), 'scope', 'limit')} > 0", "scope"),
                "{{scope}} {{limit}}",
            ),
            width=5,
        ),
        Bars(
            id=63,
            title="Not let in",
            description="Requests in this range without a credential, or with one that does not hold. missing: a "
            "client that is not set up. unknown or malformed in number: somebody tries keys. admin: wrong "
            "admin tokens.",
            unit="short",
            query=Query(or_flat(f"{in_range(series('auth_failures_total'), 'reason')} > 0", "reason"), "{{reason}}"),
            width=5,
        ),
        Chart(
            id=64,
            title="Clients that hung up",
            description="Per minute, by what was under way: waiting in the queue, for the upstream, or taking the "
            "answer. What was being bought is finished and stored all the same. Many at 'upstream': client "
            "timeouts below 600 seconds.",
            unit="short",
            queries=(Query(per_minute(series("client_disconnects_total"), "stage"), "{{stage}}"),),
            width=6,
        ),
    ),
)

OVERVIEW = Page(
    name="overview",
    title="Overview",
    description="What imagegate does, what it costs, what it saves, and how long callers wait.",
    rows=(_FIRST, _MONEY, _TRAFFIC, _TOKENS, _IMAGES, _WAITING, _REFUSED),
)

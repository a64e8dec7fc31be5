"""The page for who runs it: latency, the upstreams, the store, what is degraded, and the process itself."""

from grafana.page import Page, Row
from grafana.panel import OF_QUANTILES, OF_THE_CACHE, Bars, Chart, Column, Number, Table
from grafana.query import (
    RATE_WINDOW,
    Query,
    in_range,
    or_flat,
    or_zero,
    per_minute,
    per_second,
    process,
    quantile,
    series,
    share,
    total,
)

QUANTILES = (0.5, 0.95, 0.99)
BUILD = f"max by (job, instance, version, revision, python) ({series('build_info')})"
OF_PROCESS = "* on (job, instance) group_left () max by (job, instance)"
YES_NO = {"0": "no", "1": "yes"}


def _quantiles(histogram: str, *matchers: str) -> tuple[Query, ...]:
    return tuple(Query(quantile(q, series(f"{histogram}_bucket", *matchers)), f"p{q * 100:g}") for q in QUANTILES)


_FIRST = Row(
    (
        Number(
            id=1,
            title="Processes",
            description="imagegate processes that answer their scrapes. Fewer than you run: look at the missing one's "
            "log and at Prometheus' targets.",
            unit="short",
            width=4,
            query=Query(or_zero(f"count({series('build_info')})")),
            thresholds=((1, "green"),),
            colour="red",
            decimals=0,
        ),
        Number(
            id=2,
            title="Degraded",
            description="Whether a part (the store, the database) is broken and imagegate serves without it. yes: "
            "'Degraded parts' says which; the log says why. It recovers by itself once the cause is gone.",
            unit="short",
            width=4,
            query=Query(or_zero(f"max({series('degraded')})")),
            thresholds=((1, "red"),),
            colour="green",
            words=YES_NO,
        ),
        Number(
            id=3,
            title="Upstreams at rest",
            description="Upstreams that the circuit breaker keeps out of use. Not 0: another one pays in its place; "
            "look at 'Errors of upstreams'.",
            unit="short",
            width=4,
            query=Query(or_zero(f"count({series('upstream_available')} == 0)")),
            thresholds=((1, "orange"),),
            colour="green",
            decimals=0,
        ),
        Number(
            id=4,
            title="Requests waiting",
            description="Requests that wait for a connection to an upstream, now. If it stays above 0, raise "
            "upstreams.max_connections as far as the upstream's rate limit allows.",
            unit="short",
            width=4,
            query=Query(or_zero(total(series("requests_queued")))),
            trend=True,
            colour="blue",
            thresholds=((1, "orange"),),
        ),
        Number(
            id=5,
            title="Requests in progress",
            description="Requests being worked on, now. Purchases take their time: some are normal. Before a restart: "
            "what has to be finished first.",
            unit="short",
            width=4,
            query=Query(or_zero(total(series("requests_in_flight")))),
            trend=True,
            colour="blue",
        ),
        Number(
            id=6,
            title="Ledger rows waiting",
            description="Rows of the ledger that could not be written yet. Not 0 for more than a moment: the database "
            "is slow or gone; after 10,000 rows they are lost.",
            unit="short",
            width=4,
            query=Query(or_zero(total(series("ledger_waiting_rows")))),
            trend=True,
            colour="blue",
            thresholds=((100, "orange"), (5000, "red")),
        ),
    )
)

_LATENCY = Row(
    id=10,
    title="Latency",
    panels=(
        Chart(
            id=11,
            title="Duration by the cache's part, 95 of 100",
            description="95 of 100 requests were answered within this time. hit slow: the disk or the process. miss "
            "slow: the upstream or the queue.",
            unit="s",
            queries=(Query(quantile(0.95, series("request_duration_seconds_bucket"), "cache"), "{{cache}}"),),
            colours=OF_THE_CACHE,
            quiet="no requests in this range",
            width=8,
        ),
        Chart(
            id=12,
            title="Own time of a request",
            description="The part of a request's duration that was no wait for the upstream's answer or for the client, by "
            "the cache's part; 95 of 100 were below. hit: what imagegate itself adds; above 50 ms, look at "
            "'CPU', 'Time of a lookup' and the disk. The others: waiting for a connection is in it; see 'Time "
            "in the queue'.",
            unit="s",
            queries=(Query(quantile(0.95, series("overhead_seconds_bucket"), "cache"), "{{cache}}"),),
            colours=OF_THE_CACHE,
            quiet="no requests in this range",
            width=8,
        ),
        Chart(
            id=13,
            title="Time in the queue",
            description="How long requests waited for a connection to an upstream. Seconds: raise "
            "upstreams.max_connections, or add an upstream. Who waits 30 seconds is refused.",
            unit="s",
            queries=_quantiles("queue_wait_seconds"),
            colours=OF_QUANTILES,
            quiet="nothing had to wait in this range",
            width=8,
        ),
        Chart(
            id=14,
            title="In flight",
            description="Requests in progress by operation, flights (calls under way, each for all who wait for it) "
            "and requests in the queue. Many requests over few flights: coalescing at work.",
            unit="short",
            queries=(
                Query(total(series("requests_in_flight"), "operation"), "{{operation}}"),
                Query(or_zero(total(series("flights_in_flight"))), "flights"),
                Query(or_zero(total(series("requests_queued"))), "queued"),
            ),
            width=8,
        ),
        Chart(
            id=15,
            title="Size of requests",
            description="95 of 100 request bodies were smaller, by operation. Near a limit (server.max_json_bytes, "
            "max_edit_json_bytes, max_multipart_bytes): raise it or ask for smaller pictures.",
            unit="bytes",
            queries=(Query(quantile(0.95, series("request_body_bytes_bucket"), "operation"), "{{operation}}"),),
            quiet="no requests in this range",
            width=8,
        ),
        Chart(
            id=16,
            title="Size of images",
            description="95 of 100 images delivered were smaller, by model, decoded. Growing images fill the store "
            "sooner: compare with 'Bytes in the store'.",
            unit="bytes",
            queries=(Query(quantile(0.95, series("image_bytes_bucket"), "model"), "{{model}}"),),
            quiet="no images in this range",
            width=8,
        ),
    ),
)

_UPSTREAMS = Row(
    id=20,
    title="Upstreams",
    panels=(
        Chart(
            id=21,
            title="Calls by upstream and status",
            description="Calls per minute, retries included; none: no reply came. 429: the upstream's rate limit, see "
            "'Left of the rate limit'. 5xx: its fault; see its status page.",
            unit="short",
            queries=(
                Query(
                    per_minute(series("upstream_attempts_total"), "upstream", "code"),
                    "{{upstream}} {{code}}",
                ),
            ),
            stacked=True,
            width=8,
        ),
        Chart(
            id=22,
            title="Errors of upstreams",
            description="Calls per minute on which something went wrong on the way. connect: name, network or "
            "certificate. timeout: upstreams.total_timeout_seconds. reset and protocol: something between "
            "us cuts long calls. stream: an error among a stream's events.",
            unit="short",
            queries=(
                Query(
                    or_flat(
                        per_minute(series("upstream_attempts_total", 'error!=""'), "upstream", "error"), "upstream"
                    ),
                    "{{upstream}} {{error}}",
                ),
            ),
            stacked=True,
            width=8,
        ),
        Chart(
            id=23,
            title="Time of one call",
            description="Of calls to an upstream, from connecting to the last byte. Rises for all models: the upstream "
            "is slow. Rises for one: its requests became larger or of higher quality.",
            unit="s",
            queries=tuple(
                Query(
                    quantile(q, series("upstream_attempt_duration_seconds_bucket"), "upstream", "model"),
                    f"{{{{upstream}}}} {{{{model}}}} p{q * 100:g}",
                )
                for q in (0.5, 0.95)
            ),
            quiet="no calls in this range",
            width=8,
        ),
        Chart(
            id=24,
            title="Calls made again",
            description="Per minute, by upstream and reason: connect and busy at the same one, failover at this one "
            "after another had failed. None of them can have been billed twice. Many: see 'Errors of "
            "upstreams'.",
            unit="short",
            queries=(
                Query(
                    per_minute(series("upstream_retries_total"), "upstream", "reason"),
                    "{{upstream}} {{reason}}",
                ),
            ),
            width=6,
        ),
        Chart(
            id=25,
            title="Upstreams in use",
            description="1: in use. 0: the circuit breaker lets it rest, since it failed again and again while another "
            "can do its work.",
            unit="short",
            queries=(Query(f"min by (upstream) ({series('upstream_available')})", "{{upstream}}"),),
            steps=True,
            width=6,
        ),
        Chart(
            id=26,
            title="Left of the rate limit",
            description="What the upstream's last reply said was left of its own rate limit, by kind. Near 0: callers "
            "are about to see 429; spread the work, or ask the vendor for more.",
            unit="short",
            queries=(
                Query(
                    f"min by (upstream, model, kind) ({series('upstream_ratelimit_remaining')})",
                    "{{upstream}} {{model}} {{kind}}",
                ),
            ),
            quiet="no upstream told its rate limit",
            width=6,
        ),
        Chart(
            id=27,
            title="Purchases that brought nothing",
            description="Of all calls that were to buy a reply, the share that failed. The caller got the error. Above "
            "5 in 100, see 'Errors of upstreams' and 'Perhaps billed' on the dashboard 'Teams and keys'.",
            unit="percentunit",
            queries=(
                Query(
                    share(
                        per_second(series("purchases_total", 'outcome="failed"')), per_second(series("purchases_total"))
                    ),
                    "failed",
                ),
            ),
            quiet="nothing bought in this range",
            thresholds=((0.05, "red"),),
            width=6,
        ),
    ),
)

_STORE = Row(
    id=30,
    title="The store",
    panels=(
        Chart(
            id=31,
            title="Lookups by tier and result",
            description="Per second. A miss in memory is looked up on disk. stale: there, and too old: "
            "cache.ttl_seconds. error: damaged or unreadable; see 'Entries that left the store' and the "
            "disk.",
            unit="reqps",
            queries=(Query(per_second(series("cache_lookups_total"), "tier", "result"), "{{tier}} {{result}}"),),
            stacked=True,
            width=8,
        ),
        Chart(
            id=32,
            title="Time of a lookup",
            description="95 of 100 lookups took less, by tier. Disk above 50 ms: a slow or network disk; put "
            "cache.directory on a local one.",
            unit="s",
            queries=(Query(quantile(0.95, series("cache_lookup_duration_seconds_bucket"), "tier"), "{{tier}}"),),
            quiet="no lookups in this range",
            width=8,
        ),
        Chart(
            id=33,
            title="Bytes in the store",
            description="Held, and the most that may be held, by tier. A full store is normal: the least used go "
            "first. Full, with a falling hit ratio: raise cache.max_bytes.",
            unit="bytes",
            queries=(
                Query(total(series("cache_bytes"), "tier"), "{{tier}} held"),
                Query(total(series("cache_capacity_bytes"), "tier"), "{{tier}} at most"),
            ),
            width=8,
        ),
        Chart(
            id=34,
            title="Entries in the store",
            description="Replies held, by tier. A sudden fall: a purge, or an index that was damaged and is being "
            "built again.",
            unit="short",
            queries=(Query(total(series("cache_entries"), "tier"), "{{tier}}"),),
            width=8,
        ),
        Chart(
            id=35,
            title="Entries that left the store",
            description="Per minute, by tier and reason: for space, by age, by an operator, or damaged. size on disk "
            "all the time: the store is too small for what is asked. corrupt: check the disk.",
            unit="short",
            queries=(
                Query(
                    per_minute(series("cache_evictions_total"), "tier", "reason"),
                    "{{tier}} {{reason}}",
                ),
            ),
            stacked=True,
            width=8,
        ),
        Chart(
            id=36,
            title="Replies that could not be kept",
            description="Per minute, by tier. They were delivered and paid for, and will be paid for again. Disk full "
            "or read-only: make room, or see cache.min_free_bytes.",
            unit="short",
            queries=(Query(per_minute(series("cache_write_errors_total"), "tier"), "{{tier}}"),),
            width=8,
        ),
    ),
)

_BOOKS = Row(
    id=40,
    title="Degraded, the ledger, the rules",
    panels=(
        Chart(
            id=41,
            title="Degraded parts",
            description="1 while a part is broken and imagegate serves without it. store: nothing is kept, everything "
            "is paid for. database: in mode keys nothing can be bought. The log says why.",
            unit="short",
            queries=(Query(f"max by (part) ({series('degraded')})", "{{part}}"),),
            steps=True,
            width=6,
        ),
        Chart(
            id=42,
            title="Ledger: rows waiting and lost",
            description="Waiting: for the database. Lost: it was gone for too long; 'imagegate usage' is short by "
            "these, the counters here are not. Bring the database back.",
            unit="short",
            queries=(
                Query(or_zero(total(series("ledger_waiting_rows"))), "waiting"),
                Query(or_zero(per_minute(series("ledger_lost_rows_total"))), "lost per minute"),
            ),
            colours={"lost per minute": "red"},
            width=6,
        ),
        Chart(
            id=43,
            title="Let through, retired, completed",
            description="Per minute. let through: violations passed because rules.on_invalid = pass. retired: requests "
            "for a model whose shutdown date has passed; tell their callers. completed: replies of an "
            "upstream that lacked what OpenAI's clients expect, and got it here.",
            unit="short",
            queries=(
                Query(or_zero(per_minute(series("validation_passed_total"))), "let through"),
                Query(or_zero(per_minute(series("retired_requests_total"))), "retired"),
                Query(or_zero(per_minute(series("upstream_amended_total"))), "completed"),
            ),
            width=6,
        ),
        Bars(
            id=44,
            title="Label values that were not expected",
            description="Values in this range that were counted as 'other', by metric and label. Somebody asks for a "
            "model, size or parameter that the catalogue does not know: add it under rules.catalogue. "
            "team: more than 200 teams.",
            unit="short",
            query=Query(
                or_flat(f"topk(10, {in_range(series('label_overflow_total'), 'metric', 'label')} > 0)", "metric"),
                "{{metric}} {{label}}",
            ),
            width=6,
        ),
    ),
)

_PROCESS = Row(
    id=50,
    title="The process",
    panels=(
        Chart(
            id=51,
            title="CPU",
            description="Cores in use, by process; the work on one event loop is one core. Above 0.8 for long: run a "
            "second process behind a load balancer.",
            unit="short",
            queries=(
                Query(
                    f"sum by (instance) (rate({process('cpu_seconds_total')}[{RATE_WINDOW}]))",
                    "{{instance}}",
                ),
            ),
            width=6,
        ),
        Chart(
            id=52,
            title="Memory",
            description="Resident memory, by process. It is flat but for cache.memory_bytes filling up. A line that "
            "climbs for days is a leak: report it.",
            unit="bytes",
            queries=(Query(f"sum by (instance) ({process('resident_memory_bytes')})", "{{instance}}"),),
            width=6,
        ),
        Chart(
            id=53,
            title="Open files",
            description="Of the most that the process may open. Callers, calls and entries being read each need one. "
            "Above 0.8: raise LimitNOFILE (ulimit -n).",
            unit="percentunit",
            queries=(
                Query(
                    f"max by (instance) ({process('open_fds')}) / max by (instance) ({process('max_fds')})",
                    "{{instance}}",
                ),
            ),
            thresholds=((0.8, "red"),),
            width=6,
        ),
        Chart(
            id=54,
            title="Configurations refused",
            description="Per minute: SIGHUP with a file that is wrong; the one before stays in force. 'imagegate "
            "check-config' says what is wrong with it.",
            unit="short",
            queries=(Query(or_zero(per_minute(series("config_reload_failures_total"))), "refused"),),
            width=6,
        ),
        Chart(
            id=55,
            title="Lateness of the event loop",
            description="How late the event loop woke who slept for half a second: every request is late by as much. "
            "Above the red line at p99: something blocks the loop; look at 'CPU' and whether the machine "
            "swaps, and report it with the log of that time.",
            unit="s",
            queries=_quantiles("event_loop_lag_seconds"),
            colours=OF_QUANTILES,
            quiet="no measurement in this range",
            thresholds=((0.1, "red"),),
            width=6,
        ),
        Table(
            id=56,
            title="What is running",
            description="Every process: its version, the revision it was built from, its Python, when it was started "
            "and when it read its configuration. Different versions for long: a rolling restart that "
            "stopped half-way.",
            columns=(
                Column("Started", f"{BUILD} {OF_PROCESS} ({process('start_time_seconds')}) * 1000", "dateTimeFromNow"),
                Column(
                    "Configuration read",
                    f"{BUILD} {OF_PROCESS} ({series('config_last_reload_success_timestamp_seconds')}) * 1000",
                    "dateTimeFromNow",
                ),
            ),
            quiet="no process is being scraped",
            width=18,
        ),
    ),
)

OPERATIONS = Page(
    name="operations",
    title="Operations",
    description="Latency, the upstreams, the store, what is degraded, and the process itself.",
    rows=(_FIRST, _LATENCY, _UPSTREAMS, _STORE, _BOOKS, _PROCESS),
)

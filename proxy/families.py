"""Every metric family, declared once: the table that the scrape, the documentation and the dashboards are held to.

A label takes a value listed here, one configured at start, or `other`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from proxy.model import Operation

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Label:
    """A label and the values it may take beside `other`: those listed, and those configured under a name."""

    name: str
    values: tuple[str, ...] = ()
    configured: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table of metrics.

    `initial` names the children that stand at 0 from the start: each mapping restricts some labels to some values, and
    stands for every combination that is left.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    initial: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    unit: Literal["", "usd"] = ""


def _listed(name: str, values: str) -> Label:
    return Label(name, tuple(values.split()))


_STATUS = (*(str(status.value) for status in HTTPStatus), "499", *map(str, range(520, 531)))
_FAILURES = ("500", "502", "503", "504")
"""They stand at 0 from the start: the first failure of a series that it makes is one that no rate ever shows."""
_ALL: tuple[Mapping[str, tuple[str, ...]], ...] = ({},)
_NO_TEAM = {"team": ("none",)}
_USUAL_TOKENS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {**_NO_TEAM, "direction": ("input",), "modality": ("text",)},
    {**_NO_TEAM, "direction": ("output",), "modality": ("image",)},
)

_OPERATION = Label("operation", tuple(operation.value for operation in Operation))
_MODEL = Label("model", configured="models")
_ASKED_MODEL = Label("model", ("none",), configured="models")
_UPSTREAM = Label("upstream", configured="upstreams")
_TEAM = Label("team", ("none",), configured="teams")
_PAYER = Label("scope", ("team", "key"))
_BUDGET = Label("name", configured="budgets")
_KEY = Label("key", configured="keys")
_CACHE = Label("cache", ("hit", "miss", "refresh", "bypass", "coalesced", "none"))
_TIER = Label("tier", ("memory", "disk"))
_DIRECTION = Label("direction", ("input", "output"))
_MODALITY = Label("modality", ("text", "image", "unknown"))
_SAVED = Label("reason", ("hit", "coalesced"))
_SIZE = _listed(
    "size",
    "auto 1024x1024 1024x1536 1536x1024 2048x1152 1152x2048 2048x2048 2560x1440 1440x2560 2880x2880 "
    "3840x2160 2160x3840 256x256 512x512 1024x1792 1792x1024",
)
_QUALITY = Label("quality", ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"))
_PARAM = _listed(
    "param",
    "body unknown prompt model n size quality background moderation style user output_format "
    "output_compression response_format stream partial_images safety_identifier input_fidelity image "
    "images mask complexity frame_count frame_duration_ms svg imagegate_variant",
)
_REJECTED = _listed(
    "reason",
    "none invalid_value invalid_type request_timeout idempotency_key_in_use unknown_parameter "
    "missing_required_parameter empty_string string_above_max_length integer_above_max_value "
    "integer_below_min_value invalid_png_output_compression empty_array array_above_max_length "
    "duplicate_parameter mutually_exclusive_parameters invalid_multipart unsupported_file_mimetype "
    "invalid_image_file invalid_mask_image_format file_too_large invalid_input_fidelity_model invalid_header "
    "request_too_large unsupported_media_type not_allowed_by_key model_not_found",
)

_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
_OVERHEADS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_WAITS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_IMAGE_BYTES = (1e5, 2.5e5, 5e5, 1e6, 1.5e6, 2e6, 3e6, 5e6, 7.5e6, 1e7, 2e7, 5e7)
_BODY_BYTES = (1e3, 1e4, 1e5, 1e6, 5e6, 1e7, 2.5e7, 5e7)
_LOOKUPS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
_LAGS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1)
_ATTEMPTS = (0.5, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600)

FAMILIES: tuple[Family, ...] = (
    Family(
        "imagegate_requests_total",
        "counter",
        "Requests finished, by the way the cache took part and the status sent (499: the client had gone).",
        (_OPERATION, _ASKED_MODEL, _CACHE, Label("code", _STATUS)),
        initial=({"cache": ("hit", "miss", "coalesced"), "code": ("200",)}, {"cache": ("miss",), "code": _FAILURES}),
    ),
    Family(
        "imagegate_request_duration_seconds",
        "histogram",
        "Time from the request's head to the end of its answer.",
        (_OPERATION, _ASKED_MODEL, _CACHE),
        _DURATIONS,
    ),
    Family(
        "imagegate_overhead_seconds",
        "histogram",
        "The part of a request's duration that was waiting neither for an upstream nor for a client.",
        (_OPERATION, _CACHE),
        _OVERHEADS,
        initial=({"cache": ("hit", "miss")},),
    ),
    Family("imagegate_requests_in_flight", "gauge", "Requests being worked on.", (_OPERATION,), initial=_ALL),
    Family("imagegate_flights_in_flight", "gauge", "Flights in the air: each fills one key, for all who wait for it."),
    Family("imagegate_requests_queued", "gauge", "Requests waiting for a connection to an upstream.", initial=_ALL),
    Family(
        "imagegate_queue_wait_seconds",
        "histogram",
        "Time spent waiting for a connection to an upstream.",
        buckets=_WAITS,
        initial=_ALL,
    ),
    Family(
        "imagegate_client_disconnects_total",
        "counter",
        "Clients that hung up before their answer was complete, by what was under way.",
        (_OPERATION, Label("stage", ("queued", "upstream", "body"))),
        initial=_ALL,
    ),
    Family("imagegate_images_total", "counter", "Images delivered to clients.", (_MODEL, _SIZE, _QUALITY, _CACHE)),
    Family(
        "imagegate_image_bytes", "histogram", "Size of the images delivered, decoded.", (_MODEL,), buckets=_IMAGE_BYTES
    ),
    Family(
        "imagegate_request_body_bytes",
        "histogram",
        "Size of the request bodies received.",
        (_OPERATION,),
        _BODY_BYTES,
        initial=_ALL,
    ),
    Family(
        "imagegate_purchases_total",
        "counter",
        "Calls to an upstream that bought a reply, or failed to.",
        (_MODEL, Label("outcome", ("bought", "failed"))),
        initial=_ALL,
    ),
    Family(
        "imagegate_upstream_images_total",
        "counter",
        "Images bought, whether or not a client was left to take them.",
        (_MODEL, _TEAM),
        initial=(_NO_TEAM,),
    ),
    Family(
        "imagegate_upstream_tokens_total",
        "counter",
        "Tokens billed by upstreams; their sum is the bill.",
        (_MODEL, _TEAM, _DIRECTION, _MODALITY),
        initial=_USUAL_TOKENS,
    ),
    Family(
        "imagegate_upstream_cached_input_tokens_total",
        "counter",
        "Those input tokens that the upstream billed at its cached price; a part of the input tokens, not beside them.",
        (_MODEL, _TEAM, _MODALITY),
    ),
    Family(
        "imagegate_saved_tokens_total",
        "counter",
        "Tokens not billed because a reply was there already: the stored usage, again for each hit and follower.",
        (_MODEL, _TEAM, _DIRECTION, _MODALITY, _SAVED),
        initial=_USUAL_TOKENS,
    ),
    Family(
        "imagegate_upstream_cost_usd_total",
        "counter",
        "What purchases cost by the price table.",
        (_MODEL, _TEAM),
        initial=(_NO_TEAM,),
        unit="usd",
    ),
    Family(
        "imagegate_saved_cost_usd_total",
        "counter",
        "What hits and followers would have cost by the price table.",
        (_MODEL, _TEAM, _SAVED),
        initial=(_NO_TEAM,),
        unit="usd",
    ),
    Family("imagegate_usage_missing_total", "counter", "Purchases whose reply told no usage.", (_MODEL,), initial=_ALL),
    Family(
        "imagegate_unpriced_requests_total",
        "counter",
        "Purchases without a known price: the cost is undercounted by these.",
        (_MODEL,),
        initial=_ALL,
    ),
    Family(
        "imagegate_cache_lookups_total",
        "counter",
        "Lookups in a tier of the store.",
        (_TIER, Label("result", ("hit", "miss", "stale", "error"))),
        initial=_ALL,
    ),
    Family(
        "imagegate_cache_lookup_duration_seconds", "histogram", "Time a lookup took.", (_TIER,), _LOOKUPS, initial=_ALL
    ),
    Family("imagegate_cache_bytes", "gauge", "Bytes held by a tier.", (_TIER,)),
    Family("imagegate_cache_capacity_bytes", "gauge", "Bytes a tier may hold.", (_TIER,)),
    Family("imagegate_cache_entries", "gauge", "Entries held by a tier.", (_TIER,)),
    Family(
        "imagegate_cache_evictions_total",
        "counter",
        "Entries that left a tier: for space, by age, by an operator, or because they were damaged.",
        (_TIER, Label("reason", ("size", "ttl", "manual", "corrupt"))),
        initial=_ALL,
    ),
    Family("imagegate_cache_write_errors_total", "counter", "Replies a tier could not keep.", (_TIER,), initial=_ALL),
    Family(
        "imagegate_degraded",
        "gauge",
        "1 while a part is broken and imagegate serves without it.",
        (Label("part", ("store", "database")),),
    ),
    Family(
        "imagegate_upstream_attempts_total",
        "counter",
        "Calls to an upstream, retries included, by status (none: there was no reply) and what went wrong on the way.",
        (
            _UPSTREAM,
            _MODEL,
            Label("code", ("none", *_STATUS)),
            Label("error", ("", "connect", "timeout", "reset", "protocol", "stream", "cancelled")),
        ),
        initial=({"code": ("200", "429", "500"), "error": ("",)},),
    ),
    Family(
        "imagegate_upstream_amended_total",
        "counter",
        "Replies that lacked a member which OpenAI's clients expect, and got it here.",
        (_UPSTREAM, Label("member", ("created",))),
        initial=_ALL,
    ),
    Family(
        "imagegate_upstream_attempt_duration_seconds",
        "histogram",
        "Time one call to an upstream took, from connecting to the last byte.",
        (_UPSTREAM, _MODEL),
        _ATTEMPTS,
    ),
    Family(
        "imagegate_upstream_retries_total",
        "counter",
        "Calls made again, here or (failover) at this upstream, since the one before was certainly not billed.",
        (_UPSTREAM, Label("reason", ("connect", "busy", "failover"))),
        initial=_ALL,
    ),
    Family(
        "imagegate_upstream_available", "gauge", "0 while an upstream rests (circuit breaker), else 1.", (_UPSTREAM,)
    ),
    Family(
        "imagegate_upstream_ratelimit_remaining",
        "gauge",
        "What the upstream's last reply said was left of its rate limit.",
        (_UPSTREAM, _MODEL, Label("kind", ("requests", "tokens", "images"))),
    ),
    Family(
        "imagegate_validation_rejections_total",
        "counter",
        "Requests refused before they cost anything, by parameter and error code.",
        (_PARAM, _REJECTED),
        initial=({"reason": ("invalid_value",)},),
    ),
    Family(
        "imagegate_validation_passed_total",
        "counter",
        "Violations let through by rules.on_invalid = pass.",
        (_PARAM, _REJECTED),
    ),
    Family(
        "imagegate_retired_requests_total",
        "counter",
        "Valid requests for a model whose shutdown date has passed, answered from the cache or not.",
        (_MODEL,),
        initial=_ALL,
    ),
    Family(
        "imagegate_rate_limited_total",
        "counter",
        "Requests refused by a limit of imagegate's own.",
        (
            Label("scope", ("global", "team", "key", "upstream")),
            Label("limit", ("rpm", "tpm", "ipm", "concurrency", "budget")),
        ),
        initial=(
            {"scope": ("upstream",), "limit": ("concurrency",)},
            {"scope": ("key",), "limit": ("rpm", "ipm", "concurrency", "budget")},
            {"scope": ("team",), "limit": ("budget",)},
        ),
    ),
    Family(
        "imagegate_budget_limit_usd",
        "gauge",
        "Dollars of a budget, for as long as its window. Without budgets it has no samples.",
        (_PAYER, _BUDGET),
        unit="usd",
    ),
    Family(
        "imagegate_budget_remaining_usd",
        "gauge",
        "Dollars left of a budget, what is reserved taken off. Without budgets it has no samples.",
        (_PAYER, _BUDGET),
        unit="usd",
    ),
    Family(
        "imagegate_budget_reset_timestamp_seconds",
        "gauge",
        "When a budget is renewed. One that never is has no sample.",
        (_PAYER, _BUDGET),
    ),
    Family(
        "imagegate_budget_overshoot_usd_total",
        "counter",
        "Dollars by which purchases cost more than was estimated and so went beyond a budget.",
        (_PAYER,),
        initial=_ALL,
        unit="usd",
    ),
    Family(
        "imagegate_soft_budget_exceeded_total",
        "counter",
        "Purchases that were settled beyond a soft budget.",
        (_PAYER,),
        initial=_ALL,
    ),
    Family(
        "imagegate_unknown_cost_usd_total",
        "counter",
        "Estimates of calls that may have been billed, and brought nothing; no part of the cost of purchases.",
        (_MODEL, _TEAM),
        initial=(_NO_TEAM,),
        unit="usd",
    ),
    Family(
        "imagegate_key_upstream_cost_usd_total",
        "counter",
        "What purchases of a virtual key cost by the price table. Only with metrics.per_key.",
        (_KEY,),
        unit="usd",
    ),
    Family(
        "imagegate_key_upstream_tokens_total",
        "counter",
        "Tokens billed for purchases of a virtual key, of all classes. Only with metrics.per_key.",
        (_KEY,),
    ),
    Family("imagegate_ledger_waiting_rows", "gauge", "Rows of the ledger that wait for the database.", initial=_ALL),
    Family(
        "imagegate_ledger_lost_rows_total",
        "counter",
        "Rows of the ledger that were lost, because the database was gone for too long.",
        initial=_ALL,
    ),
    Family(
        "imagegate_auth_failures_total",
        "counter",
        "Requests without a credential or with one that does not hold, and web pages whose origin is not allowed.",
        (Label("reason", ("missing", "origin", "malformed", "unknown", "expired", "blocked", "admin")),),
        initial=_ALL,
    ),
    Family(
        "imagegate_build_info",
        "gauge",
        "1; the labels say what is running.",
        (
            Label("version", configured="version"),
            Label("revision", configured="revision"),
            Label("python", configured="python"),
        ),
    ),
    Family(
        "imagegate_event_loop_lag_seconds",
        "histogram",
        "How late the event loop woke who slept for half a second: what blocks it delays every request.",
        buckets=_LAGS,
        initial=_ALL,
    ),
    Family(
        "imagegate_config_last_reload_success_timestamp_seconds", "gauge", "When the configuration in force was read."
    ),
    Family(
        "imagegate_config_reload_failures_total",
        "counter",
        "Configurations refused on SIGHUP; the one before stays in force.",
        initial=_ALL,
    ),
    Family(
        "imagegate_label_overflow_total",
        "counter",
        "Label values replaced by other, because they were not expected.",
        (Label("metric", configured="families"), Label("label", configured="labels")),
    ),
)

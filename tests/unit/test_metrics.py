"""What is counted, under which labels, and what a scrape shows of it."""

import threading
from collections.abc import Callable, Mapping
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.errors import StoreError
from proxy.families import FAMILIES
from proxy.metrics import MOST_KEYS, Metrics
from proxy.model import Operation, Usage
from proxy.tracing import TraceContext, enter, leave
from tests.support.store import metadata

GENERATION = Operation.GENERATION
CONFIGURED = {"gpt-image-2", "gpt-image-2.5", "openai", "design", "unknown_parameter"}
USAGE = Usage(text_in=30, image_in=200, text_out=7, image_out=4000, cached_text_in=10, cached_image_in=50)


class StoppedClock:
    def wall(self) -> float:
        return 1_800_000_000.0

    def monotonic(self) -> float:
        return 5.0


class Counted:
    """Metrics with a registry to read them from."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(
            models=["gpt-image-2", "gpt-image-2.5"],
            upstreams=["openai"],
            version="1.2.3",
            revision="0f3c",
            clock=StoppedClock(),
            registry=self.registry,
        )
        self.metrics.expect_team("design")

    def total(self, sample: str, **labels: str) -> float:
        """The sum over every series of `imagegate_<sample>` that has these labels."""
        return sum(
            one.value
            for family in self.registry.collect()
            for one in family.samples
            if one.name == f"imagegate_{sample}" and labels.items() <= one.labels.items()
        )

    def series(self) -> int:
        return sum(len(f.samples) for f in self.registry.collect() if f.name.startswith("imagegate_"))

    def series_of(self, name: str) -> int:
        return sum(len(f.samples) for f in self.registry.collect() if f.name == f"imagegate_{name}")

    def overflowed(self, metric: str, label: str) -> float:
        return self.total("label_overflow_total", metric=f"imagegate_{metric}", label=label)


def feed_everything(metrics: Metrics, word: str, number: int) -> None:
    """Every method that takes a label, with a value from outside in its place."""
    metrics.started(word)
    metrics.finished(word)
    metrics.body_bytes(word, number)
    metrics.answered(word, word, word, number, 0.1, 0.1)
    entry = metadata(model=word, size=word, quality=word, cost=Decimal("0.1"), usage=USAGE)
    metrics.delivery(entry, word, word)()
    metrics.disconnected(word, word)
    metrics.purchased(word, word, USAGE, Decimal("0.1"), 1)
    metrics.purchased(word, word, None, None, 1)
    metrics.purchased_by(word, USAGE, Decimal("0.1"))
    metrics.purchase_failed(word)
    for reason in ("hit", "coalesced"):
        metrics.delivery(entry, word, reason)()
    metrics.lookup(word, word, 0.1)
    metrics.evicted(word, word)
    metrics.write_error(word)
    metrics.attempt(word, word, number, word, 0.1)
    metrics.retried(word, word)
    metrics.ratelimit(word, word, {"x-ratelimit-remaining-requests": "7", "x-ratelimit-remaining-" + word: "7"})
    metrics.rejected(word, word)
    metrics.let_through(word, word)
    metrics.past_shutdown(word)
    metrics.auth_failed(word)
    metrics.rate_limited(word, word)


def test_every_family_stands_in_both_formats_before_anything_happened() -> None:
    counted = Counted()
    text = counted.metrics.render(None)[0].decode()
    opened = counted.metrics.render("application/openmetrics-text; version=1.0.0")[0].decode()
    for family in FAMILIES:
        assert f"# TYPE {family.name} {family.kind}\n" in text
        assert f"# TYPE {family.name.removesuffix('_total')} {family.kind}\n" in opened
    assert "_created" not in text + opened
    parsed: list[Metric] = [*parse_text(text), *parse_openmetrics(opened)]  # type: ignore[no-untyped-call]
    assert {family.type for family in parsed} >= {"counter", "gauge", "histogram"}


def test_process_and_interpreter_are_told_too() -> None:
    text = Counted().metrics.render(None)[0].decode()
    assert "process_resident_memory_bytes " in text
    assert "python_info{" in text
    assert 'imagegate_build_info{python="' in text
    assert 'revision="0f3c",version="1.2.3"} 1.0' in text


def test_children_that_are_sure_to_come_stand_at_zero_so_that_increase_sees_the_first_event() -> None:
    registry = Counted().registry
    asked = {"operation": "image_generation", "model": "gpt-image-2", "cache": "miss"}
    assert registry.get_sample_value("imagegate_requests_total", {**asked, "code": "200"}) == 0
    assert registry.get_sample_value("imagegate_requests_total", {**asked, "code": "502"}) == 0
    money = {"model": "gpt-image-2", "team": "none"}
    assert registry.get_sample_value("imagegate_upstream_cost_usd_total", money) == 0
    assert registry.get_sample_value("imagegate_cache_lookups_total", {"tier": "disk", "result": "error"}) == 0


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("application/openmetrics-text; version=2.0.0", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0; q=0", "text/plain; version=0.0.4; charset=utf-8"),
        (";;;=,;version,,", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_no_newer_format_is_promised_than_is_written(accept: str | None, content_type: str) -> None:
    body, told = Counted().metrics.render(accept)
    assert told == content_type
    assert body.endswith(b"# EOF\n") == ("openmetrics" in content_type)


def test_a_request_is_one_count_one_duration_and_one_overhead() -> None:
    counted = Counted()
    counted.metrics.answered(GENERATION, "gpt-image-2", "hit", 200, 0.02, 0.0009)
    counted.metrics.answered(GENERATION, "gpt-image-2", "miss", 502, 12.0, None)
    counted.metrics.answered(GENERATION, None, "none", 401, 0.001, -1e-9)
    for cache in ("hit", "miss", "none"):
        assert counted.total("requests_total", cache=cache) == 1
        assert counted.total("request_duration_seconds_count", cache=cache) == 1
    assert counted.total("requests_total", model="none", code="401") == 1
    assert counted.total("overhead_seconds_count") == 2
    assert counted.total("overhead_seconds_sum") == 0.0009
    assert counted.total("label_overflow_total") == 0


def test_a_value_on_a_bucket_bound_is_inside_the_bucket() -> None:
    counted = Counted()
    for seconds in (0.005, 0.0051, 600, 601):
        counted.metrics.answered(GENERATION, "gpt-image-2", "hit", 200, seconds, None)
    buckets = {le: counted.total("request_duration_seconds_bucket", le=le) for le in ("0.005", "0.01", "600.0", "+Inf")}
    assert buckets == {"0.005": 1, "0.01": 2, "600.0": 3, "+Inf": 4}
    assert counted.total("request_duration_seconds_count") == 4


def test_in_flight_and_queued_come_back_to_zero() -> None:
    counted = Counted()
    counted.metrics.started(GENERATION)
    waiting = [1]
    counted.metrics.watch("imagegate_requests_queued", {}, lambda: waiting[0])
    assert counted.total("requests_in_flight") == counted.total("requests_queued") == 1
    waiting[0] -= 1
    counted.metrics.queue_waited(0.2)
    counted.metrics.finished(GENERATION)
    assert counted.total("requests_in_flight") == counted.total("requests_queued") == 0
    assert counted.total("queue_wait_seconds_count") == 1


def test_the_tokens_of_a_purchase_add_up_to_its_usage_once_and_cached_ones_stand_apart() -> None:
    counted = Counted()
    counted.metrics.purchased("gpt-image-2", "design", USAGE, Decimal("0.17"), 2)
    assert counted.total("upstream_tokens_total") == USAGE.total
    assert counted.total("upstream_tokens_total", direction="input", modality="image") == USAGE.image_in
    assert counted.total("upstream_cached_input_tokens_total") == USAGE.cached_text_in + USAGE.cached_image_in
    assert counted.total("upstream_images_total", team="design") == 2
    assert counted.total("purchases_total", outcome="bought") == 1
    assert counted.total("saved_tokens_total") == counted.total("saved_cost_usd_total") == 0


def test_a_purchase_without_usage_or_price_is_counted_as_such() -> None:
    counted = Counted()
    counted.metrics.purchased("gpt-image-2", "none", None, None, 1)
    counted.metrics.purchase_failed("gpt-image-2")
    assert counted.total("usage_missing_total") == counted.total("unpriced_requests_total") == 1
    assert counted.total("purchases_total", outcome="failed") == 1
    assert counted.total("upstream_cost_usd_total") == counted.total("upstream_tokens_total") == 0


def test_saved_is_the_usage_of_each_hit_and_follower_and_never_on_the_bill() -> None:
    counted = Counted()
    entry = metadata(usage=USAGE, cost=Decimal("0.17"))
    deliver = counted.metrics.delivery(entry, "none", "hit")
    for _ in range(3):
        deliver()
    counted.metrics.delivery(entry, "none", "coalesced")()
    counted.metrics.delivery(entry, "none", "miss")()
    counted.metrics.delivery(metadata(usage=None, cost=None), "none", "hit")()
    assert counted.total("saved_tokens_total", reason="hit") == 3 * USAGE.total
    assert counted.total("saved_tokens_total", reason="coalesced") == USAGE.total
    assert counted.total("saved_cost_usd_total") == 0.68
    assert counted.total("upstream_tokens_total") == counted.total("upstream_cost_usd_total") == 0


@given(st.lists(st.decimals(min_value=0, max_value=10, places=12), max_size=40))
@settings(max_examples=20, deadline=None)
def test_money_adds_up_exactly(costs: list[Decimal]) -> None:
    counted = Counted()
    for cost in costs:
        counted.metrics.purchased("gpt-image-2", "none", None, cost, 1)
    assert counted.total("upstream_cost_usd_total") == float(sum(costs, Decimal(0)))


def test_ten_thousand_strange_values_make_no_series() -> None:
    counted = Counted()
    feed_everything(counted.metrics, "first stranger", 999)
    counted.metrics.answered(GENERATION, "first stranger", "miss", 200, 0.1, 0.1)
    before = counted.series()
    expected = {value for family in FAMILIES for label in family.labels for value in label.values} | CONFIGURED
    strange = st.text(min_size=1, max_size=60).filter(lambda word: word not in expected)

    @given(st.lists(st.tuples(strange, st.integers(600, 10**9)), min_size=100, max_size=100))
    @settings(max_examples=10, deadline=None, database=None)
    def feed(strangers: list[tuple[str, int]]) -> None:
        for word, number in strangers:
            feed_everything(counted.metrics, word, number)

    feed()
    for n in range(10_000):
        counted.metrics.answered(GENERATION, f"gpt-image-{n}-'\n\\", "miss", 200, 0.1, 0.1)
    assert counted.total("requests_total", model="other") >= 10_000
    assert counted.series() == before


def test_what_is_replaced_by_other_is_counted_by_metric_and_label() -> None:
    counted = Counted()
    counted.metrics.delivery(metadata(model="dall-e-9", cost=None, usage=None), "none", "hit")()
    counted.metrics.delivery(metadata(size="17x4", cost=None, usage=None), "none", "hit")()
    assert counted.total("images_total", model="other", size="1024x1024") == 1
    assert counted.overflowed("images_total", "model") == counted.overflowed("images_total", "size") == 1


def test_the_name_of_an_unknown_parameter_is_no_label_and_no_overflow() -> None:
    counted = Counted()
    counted.metrics.rejected("my_secret_parameter", "unknown_parameter")
    counted.metrics.rejected(None, None)
    counted.metrics.let_through("size", "invalid_value")
    assert counted.total("validation_rejections_total", param="unknown", reason="unknown_parameter") == 1
    assert counted.total("validation_rejections_total", param="body", reason="none") == 1
    assert counted.total("validation_passed_total", param="size") == 1
    assert counted.total("label_overflow_total") == 0


def test_an_attempt_without_a_reply_has_no_status() -> None:
    counted = Counted()
    counted.metrics.attempt("openai", "gpt-image-2", None, "connect", 0.3)
    counted.metrics.attempt("openai", "gpt-image-2", 200, "", 31.0)
    assert counted.total("upstream_attempts_total", code="none", error="connect") == 1
    assert counted.total("upstream_attempts_total", code="200", error="") == 1
    assert counted.total("upstream_attempt_duration_seconds_count") == 2


@pytest.mark.parametrize("nonsense", ["", "-1", "1.5", "many", "١٢", "9" * 400])
def test_the_rate_limit_is_read_from_headers_and_nonsense_is_not(nonsense: str) -> None:
    counted = Counted()
    headers = {"x-ratelimit-remaining-requests": nonsense, "x-ratelimit-remaining-input-images": " 249 "}
    counted.metrics.ratelimit("openai", "gpt-image-2", headers)
    assert counted.total("upstream_ratelimit_remaining", kind="images") == 249
    assert counted.series_of("upstream_ratelimit_remaining") == 1


def test_a_gauge_is_read_at_the_scrape_and_one_that_cannot_be_read_costs_only_itself() -> None:
    counted = Counted()
    held = [10.0]

    def broken() -> float:
        raise StoreError("gone")

    counted.metrics.watch("imagegate_cache_bytes", {"tier": "disk"}, lambda: held[0])
    counted.metrics.watch("imagegate_cache_bytes", {"tier": "memory"}, broken)
    assert counted.total("cache_bytes", tier="disk") == 10
    held[0] = 20
    assert counted.total("cache_bytes", tier="disk") == 20
    assert counted.series_of("cache_bytes") == 1


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("imagegate_nothing", {}),
        ("imagegate_requests_total", {"operation": "image_generation"}),
        ("imagegate_cache_bytes", {}),
        ("imagegate_cache_bytes", {"tier": "tape"}),
        ("imagegate_flights_in_flight", {"tier": "disk"}),
    ],
)
def test_a_watch_on_what_is_not_declared_is_a_mistake_at_start(name: str, labels: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match="imagegate_"):
        Counted().metrics.watch(name, labels, lambda: 0)


def test_a_reload_moves_the_timestamp_or_counts_a_failure() -> None:
    counted = Counted()
    assert counted.total("config_last_reload_success_timestamp_seconds") == 1_800_000_000
    counted.metrics.reloaded(False)
    assert counted.total("config_reload_failures_total") == 1


def test_threads_count_evictions_while_scrapes_run_and_nothing_is_lost() -> None:
    counted = Counted()

    def repeat(event: Callable[[], object], times: int) -> threading.Thread:
        return threading.Thread(target=lambda: [event() for _ in range(times)])

    threads = [repeat(lambda: counted.metrics.evicted("disk", "size"), 4000) for _ in range(3)]
    threads += [repeat(lambda: counted.metrics.evicted("tape", "size"), 500) for _ in range(2)]
    threads += [repeat(lambda: counted.metrics.render(None), 5)]
    for thread in threads:
        thread.start()
    for n in range(3000):
        counted.metrics.answered(GENERATION, "gpt-image-2", "hit", 200 + n % 300, 0.1, 0.1)
    for thread in threads:
        thread.join()
    assert counted.total("cache_evictions_total", tier="disk", reason="size") == 12_000
    assert counted.overflowed("cache_evictions_total", "tier") == 1000
    assert counted.total("requests_total") == counted.total("request_duration_seconds_count") == 3000


def test_the_lookups_of_a_tier_and_their_durations_are_equal_in_number() -> None:
    counted = Counted()
    for result in ("hit", "miss", "stale", "error"):
        counted.metrics.lookup("memory", result, 0.0002)
    counted.metrics.evicted("memory", "size", 3)
    counted.metrics.write_error("disk")
    assert counted.total("cache_lookups_total") == counted.total("cache_lookup_duration_seconds_count") == 4
    assert counted.total("cache_evictions_total", reason="size") == 3
    assert counted.total("cache_write_errors_total") == 1


# --- by key -----------------------------------------------------------------------------------------------------------


def test_money_by_key_is_counted_only_if_it_is_wanted() -> None:
    counted = Counted()
    counted.metrics.purchased_by("alice", USAGE, Decimal("0.1"))
    assert counted.series_of("key_upstream_cost_usd") == counted.series_of("key_upstream_tokens") == 0
    counted.metrics.count_keys()
    for cost in (Decimal("0.1"), Decimal("0.2"), None):
        counted.metrics.purchased_by("alice", USAGE, cost)
    counted.metrics.purchased_by("bob", None, Decimal("0.4"))
    assert counted.total("key_upstream_cost_usd_total", key="alice") == 0.3
    assert counted.total("key_upstream_tokens_total", key="alice") == 3 * USAGE.total
    assert counted.total("key_upstream_cost_usd_total", key="bob") == 0.4
    assert counted.total("key_upstream_tokens_total", key="bob") == 0


def test_the_first_keys_have_series_of_their_own_and_the_rest_share_one() -> None:
    counted = Counted()
    counted.metrics.count_keys()
    for number in range(MOST_KEYS + 50):
        counted.metrics.purchased_by(f"key {number}", USAGE, Decimal("0.1"))
    counted.metrics.purchased_by("key 0", USAGE, Decimal("0.1"))
    assert counted.series_of("key_upstream_cost_usd") == counted.series_of("key_upstream_tokens") == MOST_KEYS + 1
    assert counted.total("key_upstream_cost_usd_total", key="other") == 5
    assert counted.total("key_upstream_cost_usd_total", key="key 0") == 0.2
    assert counted.overflowed("key_upstream_cost_usd_total", "key") == 50


# --- the event loop ---------------------------------------------------------------------------------------------------


def test_lag_stands_at_zero_from_the_start_and_is_observed() -> None:
    counted = Counted()
    assert counted.total("event_loop_lag_seconds_count") == 0
    counted.metrics.lagged(0.0)
    counted.metrics.lagged(0.7)
    assert counted.total("event_loop_lag_seconds_bucket", le="0.001") == 1
    assert counted.total("event_loop_lag_seconds_bucket", le="1.0") == 2


# --- exemplars --------------------------------------------------------------------------------------------------------


def in_trace(trace_id: str, event: Callable[[], object], *, is_sampled: bool = True) -> None:
    token = enter(TraceContext(trace_id, "b7ad6b7169203331", is_sampled))
    event()
    leave(token)


def exemplars(counted: Counted) -> dict[tuple[str, str], tuple[dict[str, str], float, float]]:
    """By sample and `le`, as a reader of OpenMetrics sees them; it refuses those that are too long."""
    opened = counted.metrics.render("application/openmetrics-text")[0].decode()
    parsed: list[Metric] = list(parse_openmetrics(opened))  # type: ignore[no-untyped-call]
    return {
        (one.name.removeprefix("imagegate_"), one.labels["le"]): (
            one.exemplar.labels,
            one.exemplar.value,
            float(one.exemplar.timestamp or 0),
        )
        for family in parsed
        for one in family.samples
        if one.exemplar is not None
    }


def test_a_bucket_names_its_latest_request_whose_trace_can_be_looked_up() -> None:
    counted = Counted()

    def answered(seconds: float) -> Callable[[], None]:
        return lambda: counted.metrics.answered(GENERATION, "gpt-image-2", "hit", 200, seconds, None)

    in_trace("a" * 32, answered(0.02))
    in_trace("b" * 32, answered(0.021))
    in_trace("c" * 32, answered(0.022), is_sampled=False)
    answered(0.023)()
    in_trace("d" * 32, answered(700))
    name = "request_duration_seconds_bucket"
    assert exemplars(counted) == {
        (name, "0.025"): ({"trace_id": "b" * 32}, 0.021, 1_800_000_000.0),
        (name, "+Inf"): ({"trace_id": "d" * 32}, 700, 1_800_000_000.0),
    }
    assert counted.total("request_duration_seconds_count") == 5


def test_only_durations_of_requests_and_attempts_have_exemplars_and_only_in_openmetrics() -> None:
    counted = Counted()
    counted.metrics.count_keys()
    in_trace("e" * 32, lambda: feed_everything(counted.metrics, "gpt-image-2", 200))
    in_trace("e" * 32, lambda: counted.metrics.lagged(0.1))
    in_trace("f" * 32, lambda: counted.metrics.attempt("openai", "gpt-image-2", 200, "", 40.0))
    found = exemplars(counted)
    assert {name for name, _ in found} == {
        "request_duration_seconds_bucket",
        "upstream_attempt_duration_seconds_bucket",
    }
    assert found["upstream_attempt_duration_seconds_bucket", "45.0"][0] == {"trace_id": "f" * 32}
    assert all(sum(len(n) + len(v) for n, v in labels.items()) <= 128 for labels, *_ in found.values())
    text = counted.metrics.render(None)[0].decode()
    assert "trace_id" not in text
    assert list(parse_text(text))


def test_a_strangers_series_has_its_exemplar_under_other_and_overflows_once() -> None:
    counted = Counted()
    for trace_id in ("a" * 32, "b" * 32):
        in_trace(trace_id, lambda: counted.metrics.answered(GENERATION, "dall-e-9", "hit", 200, 0.02, None))
    assert exemplars(counted)["request_duration_seconds_bucket", "0.025"][0] == {"trace_id": "b" * 32}
    assert counted.overflowed("request_duration_seconds", "model") == 2

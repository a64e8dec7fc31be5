"""What imagegate counts about itself, and how Prometheus reads it.

Laws of the module:

- `FAMILIES` declares every family once; all of them stand in every scrape, with or without samples.
- A label takes a value declared for it (closed here, or configured at start) or `other`, which is counted in
  `imagegate_label_overflow_total`: nothing a client or an upstream sends can create a series beyond that.
- Counting is a dictionary update. A family is written by one thread, the event loop's, without a lock; what worker
  threads count too (evictions, write errors, overflow) takes a lock. A scrape runs in a third thread and copies with
  `dict.copy` and a list slice: each is one call into C that runs no Python code, so it never meets a half-changed
  dictionary. Between two families, or a histogram's buckets and its sum, it may be one event out.
- A bucket of the durations that are asked about one by one keeps the trace id of its latest request that can be looked
  up, as an exemplar; OpenMetrics tells it, the text format has no words for it.
- Money is kept in whole 10⁻¹² USD, so that a million small costs add up exactly; it becomes a float at the scrape.
"""

import platform
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import islice, product

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from proxy import tracing
from proxy.clock import Clock
from proxy.errors import ImagegateError
from proxy.families import FAMILIES, OTHER, Family, Label
from proxy.model import Metadata, Usage

Key = tuple[str, ...]
"""One value per label, in the family's order."""

MOST_TEAMS = 200
"""Teams that have series of their own; those that come later share `other`."""
MOST_KEYS = 200
"""The same for virtual keys, with `metrics.per_key`."""
MOST_ROWS = 1000
"""Samples of one table, such as budgets."""
_PICO_USD = 10**12


class _Bounds:
    """Which keys a family may have, given what is configured."""

    def __init__(
        self, family: Family, configured: Mapping[str, Iterable[str]], overflowed: Callable[[str, str], None]
    ) -> None:
        self._family = family
        self._allowed = [
            {value: value for value in (*label.values, *configured.get(label.configured, ()), OTHER)}
            for label in family.labels
        ]
        self._overflowed = overflowed

    def admit(self, key: Key) -> Key:
        """The key with every unexpected value replaced by `other`, and counted."""
        return tuple(self._value(*pair) for pair in zip(self._family.labels, self._allowed, key, strict=True))

    def admitted(self, key: Key) -> Key:
        """The same for a key that has been counted already."""
        return tuple(allowed.get(value, OTHER) for allowed, value in zip(self._allowed, key, strict=True))

    def _value(self, label: Label, allowed: Mapping[str, str], value: str) -> str:
        if value in allowed:
            return allowed[value]
        self._overflowed(self._family.name, label.name)
        return OTHER

    def expect(self, configured: str, value: str) -> None:
        """One more value that may be taken by the labels that are configured under this name."""
        for label, allowed in zip(self._family.labels, self._allowed, strict=True):
            if label.configured == configured:
                allowed.setdefault(value, value)

    def exact(self, labels: Mapping[str, str]) -> Key:
        """The key of these labels. Raises ValueError unless they are the family's own, with values declared."""
        names = [label.name for label in self._family.labels]
        if sorted(names) != sorted(labels):
            raise ValueError(f"{self._family.name} has the labels {names}, not {sorted(labels)}")
        for name, allowed in zip(names, self._allowed, strict=True):
            if labels[name] not in allowed:
                raise ValueError(f"{self._family.name}: {name} cannot be {labels[name]!r}")
        return tuple(labels[name] for name in names)

    def initial(self) -> Iterator[Key]:
        for restriction in self._family.initial:
            yield from product(
                *(
                    restriction.get(label.name) or [value for value in allowed if value != OTHER]
                    for label, allowed in zip(self._family.labels, self._allowed, strict=True)
                )
            )


class _Counter:
    """A family of whole numbers that only grow."""

    def __init__(self, family: Family, bounds: _Bounds) -> None:
        self._family = family
        self._bounds = bounds
        self._children: dict[Key, int] = dict.fromkeys(bounds.initial(), 0)

    def add(self, key: Key, amount: int = 1) -> None:
        try:
            self._children[key] += amount  # a key that is here has been admitted
        except KeyError:
            key = self._bounds.admit(key)
            self._children[key] = self._children.get(key, 0) + amount

    def exported(self) -> Metric:
        scale = _PICO_USD if self._family.unit == "usd" else 1
        metric = CounterMetricFamily(self._family.name, self._family.help, labels=_names(self._family))
        for key, value in self._children.copy().items():
            metric.add_metric(key, value / scale)
        return metric


class _Gauge:
    """A family of values that come and go; some are set, some are read at the scrape."""

    def __init__(self, family: Family, bounds: _Bounds) -> None:
        self._family = family
        self._bounds = bounds
        self._children: dict[Key, float] = dict.fromkeys(bounds.initial(), 0)
        self._readers: dict[Key, Callable[[], float]] = {}
        self._tables: list[Callable[[], Iterable[tuple[Key, float]]]] = []

    def set(self, key: Key, value: float) -> None:
        self._children[key if key in self._children else self._bounds.admit(key)] = value

    def add(self, key: Key, amount: float) -> None:
        key = key if key in self._children else self._bounds.admit(key)
        self._children[key] = self._children.get(key, 0) + amount

    def watch(self, labels: Mapping[str, str], read: Callable[[], float]) -> None:
        self._readers[self._bounds.exact(labels)] = read

    def watch_table(self, read: Callable[[], Iterable[tuple[Key, float]]]) -> None:
        self._tables.append(read)

    def exported(self) -> Metric:
        metric = GaugeMetricFamily(self._family.name, self._family.help, labels=_names(self._family))
        values = self._children.copy()
        for table in self._tables:
            values.update(islice(table(), MOST_ROWS))
        for key, read in self._readers.copy().items():
            try:
                values[key] = read()
            except (ImagegateError, OSError):
                continue  # a store that cannot tell its size must not cost the rest of the scrape
        for key, value in values.items():
            metric.add_metric(key, value)
        return metric


class _Histogram:
    """A family of distributions. A child is one list: a count for each bucket, one for +Inf, and the sum."""

    def __init__(self, family: Family, bounds: _Bounds) -> None:
        self._family = family
        self._bounds = bounds
        self._buckets = family.buckets
        self._children: dict[Key, list[float]] = {key: self._empty() for key in bounds.initial()}
        self._exemplars: dict[Key, list[Exemplar | None]] = {}

    def _empty(self) -> list[float]:
        return [0] * (len(self._buckets) + 2)

    def observe(self, key: Key, value: float) -> None:
        child = self._children.get(key)
        if child is None:
            child = self._children.setdefault(self._bounds.admit(key), self._empty())
        child[bisect_left(self._buckets, value)] += 1
        child[-1] += value

    def exemplify(self, key: Key, value: float, trace_id: str, now: float) -> None:
        """Names the trace of what was just observed. 40 of the 128 characters that an exemplar may have."""
        key = key if key in self._children else self._bounds.admitted(key)
        found = self._exemplars.get(key)
        if found is None:
            found = self._exemplars.setdefault(key, [None] * (len(self._buckets) + 1))
        found[bisect_left(self._buckets, value)] = Exemplar({"trace_id": trace_id}, value, now)

    def exported(self) -> Metric:
        metric = HistogramMetricFamily(self._family.name, self._family.help, labels=_names(self._family))
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        exemplars = self._exemplars.copy()
        for key, child in self._children.copy().items():
            *counts, total = child[:]
            running: float = 0
            cumulative: list[tuple[str, float] | tuple[str, float, Exemplar]] = [
                (bound, running := running + count) for bound, count in zip(bounds, counts, strict=True)
            ]
            for at, exemplar in enumerate(exemplars[key][:] if key in exemplars else ()):
                if exemplar is not None:
                    cumulative[at] = (*cumulative[at][:2], exemplar)
            metric.add_metric(key, cumulative, total)
        return metric


class _Scrape(Collector):
    """Hands the families to the client library, in the order of the table."""

    def __init__(self, members: Iterable[_Counter | _Gauge | _Histogram]) -> None:
        self._members = tuple(members)

    def collect(self) -> Iterator[Metric]:
        for member in self._members:
            yield member.exported()


class Metrics:
    """Every counter of imagegate, by the event that feeds it.

    `models` and `upstreams` are the values those labels may take. Arguments are believed nowhere: a value that
    is not declared is counted as `other`. All methods belong to the event loop's thread, except `lookup`, `evicted` and
    `write_error`, which any thread may call, and `render`, which is meant for a thread of its own.
    """

    def __init__(
        self,
        *,
        models: Iterable[str],
        upstreams: Iterable[str],
        version: str,
        revision: str = "unknown",
        clock: Clock,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._clock = clock
        self._registry = registry or CollectorRegistry()
        self._lock = threading.RLock()  # re-entered when a locked count overflows
        configured: dict[str, tuple[str, ...]] = {
            "models": tuple(models),
            "upstreams": tuple(upstreams),
            "teams": (),
            "budgets": (),
            "keys": (),
            "version": (version,),
            "revision": (revision,),
            "python": (platform.python_version(),),
            "families": tuple(family.name for family in FAMILIES),
            "labels": tuple({label.name for family in FAMILIES for label in family.labels}),
        }
        self._teams: set[str] = set()
        self._keys: set[str] | None = None
        self._counters: dict[str, _Counter] = {}
        self._gauges: dict[str, _Gauge] = {}
        self._histograms: dict[str, _Histogram] = {}
        self._bounds = [_Bounds(family, configured, self._overflowed) for family in FAMILIES]
        members = [self._declare(*each) for each in zip(FAMILIES, self._bounds, strict=True)]
        self._name_the_hot_ones()
        self._registry.register(_Scrape(members))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._gauges["imagegate_build_info"].set((version, revision, platform.python_version()), 1)
        self.reloaded(ok=True)

    def _declare(self, family: Family, bounds: _Bounds) -> _Counter | _Gauge | _Histogram:
        match family.kind:
            case "counter":
                return self._counters.setdefault(family.name, _Counter(family, bounds))
            case "gauge":
                return self._gauges.setdefault(family.name, _Gauge(family, bounds))
            case "histogram":
                return self._histograms.setdefault(family.name, _Histogram(family, bounds))

    def _name_the_hot_ones(self) -> None:
        """What every request touches, without a look-up by name."""
        self._requests = self._counters["imagegate_requests_total"]
        self._durations = self._histograms["imagegate_request_duration_seconds"]
        self._overheads = self._histograms["imagegate_overhead_seconds"]
        self._in_flight = self._gauges["imagegate_requests_in_flight"]
        self._images = self._counters["imagegate_images_total"]
        self._image_bytes = self._histograms["imagegate_image_bytes"]
        self._body_bytes = self._histograms["imagegate_request_body_bytes"]
        self._saved_tokens = self._counters["imagegate_saved_tokens_total"]
        self._saved_cost = self._counters["imagegate_saved_cost_usd_total"]
        self._lookups = self._counters["imagegate_cache_lookups_total"]
        self._lookup_durations = self._histograms["imagegate_cache_lookup_duration_seconds"]

    def _overflowed(self, metric: str, label: str) -> None:
        with self._lock:
            self._counters["imagegate_label_overflow_total"].add((metric, label))

    def _exemplify(self, histogram: _Histogram, key: Key, value: float) -> None:
        """With the trace that we are in, if it can be looked up."""
        here = tracing.current()
        if here is not None and here.is_sampled:
            histogram.exemplify(key, value, here.trace_id, self._clock.wall())

    # Requests

    def started(self, operation: str) -> None:
        self._in_flight.add((operation,), 1)

    def finished(self, operation: str) -> None:
        self._in_flight.add((operation,), -1)

    def body_bytes(self, operation: str, n: int) -> None:
        self._body_bytes.observe((operation,), n)

    def answered(
        self, operation: str, model: str | None, cache: str, code: int, seconds: float, overhead_seconds: float | None
    ) -> None:
        """Once per finished request. `model` is None when it was refused before its model was known."""
        model = model or "none"
        self._requests.add((operation, model, cache, str(code)))
        self._durations.observe((operation, model, cache), seconds)
        self._exemplify(self._durations, (operation, model, cache), seconds)
        if overhead_seconds is not None:
            self._overheads.observe((operation, cache), max(0.0, overhead_seconds))

    def delivery(self, metadata: Metadata, team: str, cache: str) -> Callable[[], None]:
        """What counts, each time it is called, that these images were sent to a client, and, if that cost nothing, what it
        saved; `cache` is the word for how the cache took part. Made once for answers that are alike."""
        sizes = [image.size for image in metadata.images]
        adds: list[tuple[_Counter, Key, int]] = [
            (self._images, (metadata.model, metadata.size, metadata.quality, cache), len(sizes))
        ]
        if cache in ("hit", "coalesced"):
            adds += self._savings(metadata, team, cache)
        model = (metadata.model,)

        def count() -> None:
            for counter, key, amount in adds:
                counter.add(key, amount)
            for size in sizes:
                self._image_bytes.observe(model, size)

        return count

    def _savings(self, metadata: Metadata, team: str, reason: str) -> Iterator[tuple[_Counter, Key, int]]:
        if metadata.usage is not None:
            for direction, modality, tokens in _by_class(metadata.usage):
                yield self._saved_tokens, (metadata.model, team, direction, modality, reason), tokens
        if metadata.cost is not None:
            yield self._saved_cost, (metadata.model, team, reason), _pico_usd(metadata.cost)

    def disconnected(self, operation: str, stage: str) -> None:
        self._counters["imagegate_client_disconnects_total"].add((operation, stage))

    def queue_waited(self, seconds: float) -> None:
        self._histograms["imagegate_queue_wait_seconds"].observe((), seconds)

    def rejected(self, param: str | None, reason: str | None) -> None:
        """Refused by validation; `reason` is the error's code.

        The name of an unknown parameter is the caller's own, so it becomes `unknown`; no parameter at all is `body`.
        """
        self._counters["imagegate_validation_rejections_total"].add(_violation(param, reason))

    def let_through(self, param: str | None, reason: str | None) -> None:
        self._counters["imagegate_validation_passed_total"].add(_violation(param, reason))

    def past_shutdown(self, model: str) -> None:
        self._counters["imagegate_retired_requests_total"].add((model,))

    def rate_limited(self, scope: str, limit: str) -> None:
        self._counters["imagegate_rate_limited_total"].add((scope, limit))

    def auth_failed(self, reason: str) -> None:
        self._counters["imagegate_auth_failures_total"].add((reason,))

    # Money

    def expect_team(self, alias: str) -> None:
        """A team that the operator has made: it may be named in a label. Bounded: a label is no list of everything."""
        if alias not in self._teams and len(self._teams) < MOST_TEAMS:
            self._teams.add(alias)
            for bounds in self._bounds:
                bounds.expect("teams", alias)

    def count_keys(self) -> None:
        """From now on money is counted by key, too (`metrics.per_key`)."""
        self._keys = set()

    def overshot(self, scope: str, amount: Decimal) -> None:
        self._counters["imagegate_budget_overshoot_usd_total"].add((scope,), _pico_usd(amount))

    def soft_budget_passed(self, scope: str) -> None:
        self._counters["imagegate_soft_budget_exceeded_total"].add((scope,))

    def unknown(self, model: str, team: str, cost: Decimal | None) -> None:
        """A call that may have been billed, and brought nothing; `cost` is its estimate."""
        if cost is None:
            self._counters["imagegate_unpriced_requests_total"].add((model,))
        else:
            self._counters["imagegate_unknown_cost_usd_total"].add((model, team), _pico_usd(cost))

    def unwritten(self, count: int) -> None:
        """Rows of the ledger that were lost."""
        self._counters["imagegate_ledger_lost_rows_total"].add((), count)

    def purchased(self, model: str, team: str, usage: Usage | None, cost: Decimal | None, images: int) -> None:
        """Once per reply that was bought, by whoever pays for it, whether or not anybody is left to take it."""
        self._counters["imagegate_purchases_total"].add((model, "bought"))
        self._counters["imagegate_upstream_images_total"].add((model, team), images)
        if usage is None:
            self._counters["imagegate_usage_missing_total"].add((model,))
        else:
            for direction, modality, tokens in _by_class(usage):
                self._counters["imagegate_upstream_tokens_total"].add((model, team, direction, modality), tokens)
            cached = self._counters["imagegate_upstream_cached_input_tokens_total"]
            for modality, tokens in (("text", usage.cached_text_in), ("image", usage.cached_image_in)):
                if tokens:
                    cached.add((model, team, modality), tokens)
        if cost is None:
            self._counters["imagegate_unpriced_requests_total"].add((model,))
        else:
            self._counters["imagegate_upstream_cost_usd_total"].add((model, team), _pico_usd(cost))

    def purchased_by(self, key: str, usage: Usage | None, cost: Decimal | None) -> None:
        """The same once more, by the alias of the key that pays, if that is wanted: the first ones by name."""
        if self._keys is None:
            return
        if key not in self._keys and len(self._keys) < MOST_KEYS:
            self._keys.add(key)
            for bounds in self._bounds:
                bounds.expect("keys", key)
        self._counters["imagegate_key_upstream_tokens_total"].add((key,), usage.total if usage is not None else 0)
        if cost is not None:
            self._counters["imagegate_key_upstream_cost_usd_total"].add((key,), _pico_usd(cost))

    def purchase_failed(self, model: str, team: str = "none", cost: Decimal | None = None) -> None:
        """`cost` is what the upstream says it charged for its refusal."""
        self._counters["imagegate_purchases_total"].add((model, "failed"))
        if cost:
            self._counters["imagegate_upstream_cost_usd_total"].add((model, team), _pico_usd(cost))

    # The store

    def lookup(self, tier: str, result: str, seconds: float) -> None:
        self._lookups.add((tier, result))
        self._lookup_durations.observe((tier,), seconds)

    def evicted(self, tier: str, reason: str, count: int = 1) -> None:
        """From any thread, as `write_error`."""
        with self._lock:
            self._counters["imagegate_cache_evictions_total"].add((tier, reason), count)

    def write_error(self, tier: str) -> None:
        with self._lock:
            self._counters["imagegate_cache_write_errors_total"].add((tier,))

    # Upstreams

    def attempt(self, upstream: str, model: str, code: int | None, error: str | None, seconds: float) -> None:
        """One call. `code` is None when no reply came, `error` None or empty when nothing broke on the way."""
        status = "none" if code is None else str(code)
        self._counters["imagegate_upstream_attempts_total"].add((upstream, model, status, error or ""))
        durations = self._histograms["imagegate_upstream_attempt_duration_seconds"]
        durations.observe((upstream, model), seconds)
        self._exemplify(durations, (upstream, model), seconds)

    def amended(self, upstream: str, member: str) -> None:
        """A reply got a `member` that its vendor leaves out."""
        self._counters["imagegate_upstream_amended_total"].add((upstream, member))

    def retried(self, upstream: str, reason: str) -> None:
        self._counters["imagegate_upstream_retries_total"].add((upstream, reason))

    def ratelimit(self, upstream: str, model: str, headers: Mapping[str, str]) -> None:
        """Reads `x-ratelimit-remaining-*` from a reply's headers (lower-case names, or a mapping that ignores case)."""
        for header, kind in _REMAINING:
            left = headers.get(header, "").strip()
            if left.isascii() and left.isdigit() and len(left) <= 15:
                self._gauges["imagegate_upstream_ratelimit_remaining"].set((upstream, model, kind), int(left))

    # The process

    def lagged(self, seconds: float) -> None:
        """The event loop woke so late."""
        self._histograms["imagegate_event_loop_lag_seconds"].observe((), seconds)

    def reloaded(self, ok: bool) -> None:
        if ok:
            now = self._clock.wall()
            self._gauges["imagegate_config_last_reload_success_timestamp_seconds"].set((), now)
        else:
            self._counters["imagegate_config_reload_failures_total"].add(())

    def watch(self, name: str, labels: Mapping[str, str], read: Callable[[], float]) -> None:
        """Reads the gauge `name` (the whole name, as in FAMILIES) at every scrape, in the scrape's thread.

        When `read` raises OSError or an ImagegateError, that scrape goes without the sample. Raises ValueError for a
        gauge, label or value that is not declared.
        """
        if name not in self._gauges:
            raise ValueError(f"there is no gauge {name}")
        self._gauges[name].watch(labels, read)

    def watch_table(self, name: str, read: Callable[[], Iterable[tuple[Key, float]]]) -> None:
        """The same for samples that come and go, such as those of budgets: (label values in the family's order, value).

        At most `MOST_ROWS`, the first ones. `read` is called in the scrape's thread.
        """
        if name not in self._gauges:
            raise ValueError(f"there is no gauge {name}")
        self._gauges[name].watch_table(read)

    def render(self, accept: str | None) -> tuple[bytes, str]:
        """The scrape and its content type: OpenMetrics 1.0.0 for who accepts it, else the text format 0.0.4.

        Takes about 12 µs of CPU per series: call it in a thread. A newer OpenMetrics is never promised, because the
        client library writes 1.0.0 whatever it announces.
        """
        if _accepts_openmetrics(accept or ""):
            body: str | bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body if isinstance(body, bytes) else body.encode(), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


_REMAINING = (
    ("x-ratelimit-remaining-requests", "requests"),
    ("x-ratelimit-remaining-tokens", "tokens"),
    ("x-ratelimit-remaining-images", "images"),
    ("x-ratelimit-remaining-input-images", "images"),
)


def _names(family: Family) -> tuple[str, ...]:
    return tuple(label.name for label in family.labels)


def _violation(param: str | None, reason: str | None) -> Key:
    return "unknown" if reason == "unknown_parameter" else param or "body", reason or "none"


def _by_class(usage: Usage) -> Iterator[tuple[str, str, int]]:
    """The classes that are billed and not empty, as (direction, modality, tokens)."""
    if usage.text_in:
        yield "input", "text", usage.text_in
    if usage.image_in:
        yield "input", "image", usage.image_in
    if usage.unknown_in:
        yield "input", "unknown", usage.unknown_in
    if usage.text_out:
        yield "output", "text", usage.text_out
    if usage.image_out:
        yield "output", "image", usage.image_out


def _pico_usd(cost: Decimal) -> int:
    return int((cost * _PICO_USD).to_integral_value())


def _accepts_openmetrics(accept: str) -> bool:
    for offer in accept.lower().split(","):
        media, *parameters = (part.strip() for part in offer.split(";"))
        given = dict(part.partition("=")[::2] for part in parameters)
        wanted = given.get("version", "1.0.0").strip('"') == "1.0.0" and given.get("q") not in (
            "0",
            "0.0",
            "0.00",
            "0.000",
        )
        if media == "application/openmetrics-text" and wanted:
            return True
    return False

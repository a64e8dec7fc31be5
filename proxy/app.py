"""The composition root: builds every concrete thing, wires it, opens it and closes it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy import __version__, catalogue, ids
from proxy.accounts import Accounts, Budget
from proxy.admission import Admission
from proxy.asking import Doorkeeper
from proxy.auth import Authenticator, VirtualKeys
from proxy.bodies import Bodies
from proxy.clock import Clock, SystemClock
from proxy.configuration import environment
from proxy.crosschecks import check_vendors
from proxy.database.background import BackgroundDatabase
from proxy.errors import ConfigurationError
from proxy.eventstream import SILENCE_SECONDS
from proxy.filelinks import FileLinks
from proxy.health import Health
from proxy.idempotency import Idempotency
from proxy.keyfeed import KeyFeed
from proxy.keyring import Keyring
from proxy.ledger import Ledger
from proxy.looplag import LoopLag
from proxy.metrics import Metrics
from proxy.middleware import Caught, Guarded, Recorded, Recorder
from proxy.outcomes import Fill, closing
from proxy.pipeline import Pipeline
from proxy.purchase import Closing, OpenPurchase
from proxy.render import Renderer
from proxy.replay import Replays
from proxy.routes import Endpoint, Files, ImagesApi, LateRoutes, MetricsPage, Models, other_routes
from proxy.settings import RulesSection, Settings, TracingSection, UpstreamSection
from proxy.singleflight import Flights
from proxy.store import Store
from proxy.stores.secret import cache_secret
from proxy.tracing import Tracer, Untold
from proxy.uploads import Limits, Uploads
from proxy.upstream import Upstreams, Wire
from proxy.validation import Validator

logger = logging.getLogger("imagegate")

REVISION_VARIABLE = "IMAGEGATE_REVISION"
"""What the build says it was made from; the metric `imagegate_build_info` tells it."""
CHECKERS = 2
"""Replies parsed at once: each has its megabytes mapped while it is."""
ADMIN_ROOTS = ("/admin/v1/", "/v1/organization/")
"""What the paths of the admin API begin with."""
EXPOSED_HEADERS = (
    *("age", "cache-status", "server-timing", "x-request-id", "x-imagegate-cache", "x-imagegate-cache-key"),
    *("x-imagegate-cost-usd", "x-imagegate-saved-usd", "x-imagegate-adjusted", "x-imagegate-upstream-request-id"),
    *("x-imagegate-key-spend", "x-imagegate-key-max-budget", "x-imagegate-soft-budget"),
    *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    *("retry-after", "retry-after-ms", "x-should-retry", "sunset", "deprecation", "openai-processing-ms"),
)


@dataclass(slots=True)
class App:
    """imagegate as an ASGI application; opened and closed by the lifespan protocol."""

    settings: Settings
    asgi: ASGIApp
    metrics_asgi: ASGIApp
    """The same metrics page, for a listener of its own (`metrics.listen`)."""
    pipeline: Pipeline
    store: Store
    flights: Flights[Fill]
    health: Health
    metrics: Metrics
    checkers: ThreadPoolExecutor
    databases: Sequence[BackgroundDatabase]
    ledger: Ledger
    keyfeed: KeyFeed | None
    """In mode `keys`."""
    replays: Replays | None
    """None where every request is told to a tracer."""
    lag: LoopLag
    tracer: Tracer
    failure: ConfigurationError | None = None
    """Why it could not be opened."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self.asgi(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.open()
        except ConfigurationError as error:
            self.failure = error
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def open(self) -> None:
        """Raises ConfigurationError for a database that is not ours to use."""
        self.lag.start()
        await self.store.start()
        if self.keyfeed is not None:
            await self.keyfeed.start()
        await self.ledger.start()

    async def close(self, drain_seconds: float | None = None) -> int:
        """Lets the flights land, then closes ledger and store; how many flights had not landed in time."""
        self.health.drain(self.settings.server.drain_seconds if drain_seconds is None else drain_seconds)
        lost = await self.flights.drain(self.health.seconds_left)
        if lost:
            logger.error("flights were still in the air at the end of server.drain_seconds", extra={"count": lost})
        if self.keyfeed is not None:
            await self.keyfeed.close()
        await self.ledger.close()
        for database in self.databases:
            await database.close()
        await self.store.close()
        self.checkers.shutdown(wait=False)
        self.lag.stop()
        await self.tracer.close()
        return lost

    def reload(self, settings: Settings) -> None:
        """New rules, aliases, catalogue, prices and limits (SIGHUP). Raises ConfigurationError and keeps the old."""
        self.pipeline.doorkeeper.validator = _validator(settings.rules, self.settings.upstreams)
        self.ledger.allow_unpriced = settings.limits.unpriced == "allow"


def build(
    settings: Settings,
    *,
    clock: Clock | None = None,
    silence_seconds: float = SILENCE_SECONDS,
    tracer: Tracer | None = None,
) -> App:
    """The whole application from its settings. Raises ConfigurationError."""
    clock = clock or SystemClock()
    tracer = tracer or _tracer(settings.tracing)
    validator = _validator(settings.rules, settings.upstreams)
    metrics = _metrics(settings, validator, clock)
    if settings.metrics.per_key:
        metrics.count_keys()
    instance_id = ids.instance_id()
    store = Store(settings.cache, clock, instance_id=instance_id, observer=metrics)
    checkers = ThreadPoolExecutor(CHECKERS, thread_name_prefix="check")
    wire = Wire(tcp_keepalive_seconds=settings.server.tcp_keepalive_seconds)
    upstreams = Upstreams(
        settings.upstreams,
        spools=store.spools,
        wire=wire,
        executor=checkers,
        observer=metrics,
        clock=clock,
    )
    upstreams.tracer = tracer
    secret = cache_secret(settings.cache)
    money = BackgroundDatabase(settings.database.url)
    # Neither a report over years nor purchases that wait for a lock are to hold up the rest.
    desk, reports, listing = money.beside(threads=2), money.beside(threads=1), money.beside(threads=1)
    needs_database = settings.auth.mode == "keys"
    health = Health(
        store_is_writable=lambda: store.healthy,
        database_problem=lambda: (ledger.problem or listing.problem) if needs_database else None,
        clock=clock,
    )
    flights: Flights[Fill] = Flights()
    keyring = Keyring()
    keyfeed = KeyFeed(listing, keyring, clock, metrics.expect_team) if needs_database else None
    accounts = Accounts(clock, metrics.soft_budget_passed)
    ledger = Ledger(
        money,
        accounts,
        clock,
        metrics,
        strict=needs_database,
        look_up=partial(_bought, store),
        allow_unpriced=settings.limits.unpriced == "allow",
        retention_seconds=settings.database.retention_seconds,
        tracer=tracer,
    )
    authenticator = Authenticator(
        settings.auth.mode,
        secret,
        origins=settings.server.cors_origins,
        keys=VirtualKeys(keyring, settings.cache.scope, clock) if needs_database else None,
    )
    admission = Admission(clock, metrics.rate_limited)
    pipeline = Pipeline(
        doorkeeper=Doorkeeper(authenticator, validator, settings.upstreams, admission, metrics, clock),
        admission=admission,
        ledger=ledger,
        accounts=accounts,
        store=store,
        flights=flights,
        upstreams=upstreams,
        idempotency=Idempotency(store.claims, store.executor, clock),
        cache=settings.cache,
        health=health,
        metrics=metrics,
        clock=clock,
        instance_id=instance_id,
        tracer=tracer,
    )
    links = FileLinks(secret)
    renderer = Renderer(settings.render, links)
    page = MetricsPage(metrics, settings.metrics)
    others = other_routes(
        models=Models(pipeline.doorkeeper),
        files=Files(store, links, renderer, clock),
        metrics_page=None if settings.metrics.listen else page,
        health=health,
        more=LateRoutes(ADMIN_ROOTS, partial(_admin_routes, settings, (desk, reports), keyfeed, metrics, clock)),
    )
    recorder = Recorder(metrics, clock, log_access=settings.log.access)
    replays = Replays(pipeline, renderer, recorder, clock)
    api = ImagesApi(
        pipeline=pipeline,
        bodies=Bodies(settings.server, _uploads(settings, store)),
        renderer=renderer,
        server=settings.server,
        metrics=metrics,
        clock=clock,
        others=others,
        replays=replays,
        silence_seconds=silence_seconds,
    )
    _watch(metrics, settings, store, flights, upstreams)
    _watch_money(metrics, ledger, accounts, keyring)
    return App(
        settings=settings,
        asgi=_onion(api, settings, metrics, renderer, clock, tracer),
        metrics_asgi=Recorded(
            Caught(Router([Route("/metrics", Endpoint("/metrics", page))]), renderer),
            metrics=metrics,
            clock=clock,
            log_access=False,
        ),
        pipeline=pipeline,
        store=store,
        flights=flights,
        health=health,
        metrics=metrics,
        checkers=checkers,
        databases=(money, desk, reports, listing),
        ledger=ledger,
        keyfeed=keyfeed,
        replays=None if settings.tracing.enabled else replays,
        lag=LoopLag(metrics.lagged),
        tracer=tracer,
    )


async def _bought(store: Store, purchase: OpenPurchase) -> Closing | None:
    """What an open purchase of a dead process brought, if its reply is in the store."""
    for key in purchase.cache_keys:
        entry = await store.lookup(key, promote=False)
        if entry is not None and entry.metadata.purchase_id == purchase.id:
            return closing(entry.metadata, is_exact=entry.metadata.usage is not None)
    return None


def _admin_routes(
    settings: Settings,
    databases: tuple[BackgroundDatabase, BackgroundDatabase],
    keyfeed: KeyFeed | None,
    metrics: Metrics,
    clock: Clock,
) -> Sequence[Route]:
    # Late: 30 ms of a start, and most processes are never asked for it.
    from proxy import admin

    desk, reports = databases

    async def changed() -> None:
        if keyfeed is not None:
            await keyfeed.poll()

    return admin.routes(
        admin.AdminParts(
            settings=settings, database=desk, reports=reports, clock=clock, metrics=metrics, on_change=changed
        )
    )


def _validator(rules: RulesSection, upstreams: Iterable[UpstreamSection]) -> Validator:
    """The rules in force, with a catalogue that has the vendor of every upstream. Raises ConfigurationError."""
    loaded = catalogue.load(rules.catalogue)
    check_vendors(upstreams, loaded.vendors)
    return Validator(loaded, rules)


def _uploads(settings: Settings, store: Store) -> Uploads:
    server = settings.server
    limits = Limits(
        multipart_bytes=server.max_multipart_bytes,
        json_bytes=server.max_edit_json_bytes,
        least_free_bytes=settings.cache.min_free_bytes,
    )
    return Uploads(store.spools, server.max_json_bytes, limits)


def _tracer(section: TracingSection) -> Tracer:
    """Raises ConfigurationError if spans are to be sent and the packages for it are not there."""
    if not section.enabled:
        return Untold(forwards=section.forward)
    try:
        from proxy import otel
    except ModuleNotFoundError as error:
        problem = f"tracing.enabled: there is no package {error.name}: pip install imagegate[otel]"
        raise ConfigurationError([problem]) from error
    return otel.connected(section, __version__)


def _onion(
    api: ASGIApp, settings: Settings, metrics: Metrics, renderer: Renderer, clock: Clock, tracer: Tracer
) -> Recorded:
    """What every request passes, from the inside out."""
    app: ASGIApp = Caught(Guarded(api), renderer)
    if settings.server.cors_origins:
        # Outside of what renders errors: without these headers a browser hides an error from its own page.
        app = CORSMiddleware(
            app,
            allow_origins=settings.server.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=86_400,
        )
    return Recorded(app, metrics=metrics, clock=clock, log_access=settings.log.access, tracer=tracer)


def _metrics(settings: Settings, validator: Validator, clock: Clock) -> Metrics:
    models = {name for models in validator.catalogue.by_vendor.values() for name in models}
    return Metrics(
        models=sorted(models | set(settings.rules.aliases.values())),
        upstreams=[section.name for section in settings.upstreams],
        version=__version__,
        revision=environment().get(REVISION_VARIABLE, "").strip()[:64] or "unknown",
        clock=clock,
    )


def _watch(metrics: Metrics, settings: Settings, store: Store, flights: Flights[Fill], upstreams: Upstreams) -> None:
    """Gauges that are read when somebody scrapes."""
    metrics.watch("imagegate_flights_in_flight", {}, flights.in_flight)
    metrics.watch("imagegate_requests_queued", {}, upstreams.queued)
    for section in settings.upstreams:
        labels = {"upstream": section.name}
        metrics.watch("imagegate_upstream_available", labels, partial(upstreams.is_available, section.name))
    tiers: tuple[Literal["memory", "disk"], ...] = ("memory", "disk")
    for tier in tiers:
        metrics.watch("imagegate_cache_entries", {"tier": tier}, partial(store.entries, tier))
        metrics.watch("imagegate_cache_capacity_bytes", {"tier": tier}, partial(store.capacity, tier))
    metrics.watch("imagegate_cache_bytes", {"tier": "memory"}, store.bytes_in_memory)
    metrics.watch("imagegate_cache_bytes", {"tier": "disk"}, store.bytes_on_disk)
    metrics.watch("imagegate_degraded", {"part": "store"}, lambda: bool(store.degraded))


def _watch_money(metrics: Metrics, ledger: Ledger, accounts: Accounts, keyring: Keyring) -> None:
    """Budgets, and whether the ledger can be written."""
    metrics.watch("imagegate_degraded", {"part": "database"}, lambda: bool(ledger.problem))
    metrics.watch("imagegate_ledger_waiting_rows", {}, ledger.waiting)

    def budgets() -> Iterator[Budget]:
        """Those of teams first: they are few, and what is most asked for."""
        yield from accounts.budgets(keyring.teams())
        yield from accounts.budgets(holder.key for holder in keyring.holders())

    gauges: tuple[tuple[str, Callable[[Budget], float | None]], ...] = (
        ("imagegate_budget_limit_usd", lambda each: float(each.limit)),
        ("imagegate_budget_remaining_usd", lambda each: float(each.remaining)),
        ("imagegate_budget_reset_timestamp_seconds", lambda each: each.resets_at),
    )

    def table(value_of: Callable[[Budget], float | None]) -> Iterator[tuple[tuple[str, str], float]]:
        for each in budgets():
            if (value := value_of(each)) is not None:
                yield (each.scope, each.name), value

    for name, value_of in gauges:
        metrics.watch_table(name, partial(table, value_of))

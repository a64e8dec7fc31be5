"""THE REQUEST PATH: the order of the stages, and nothing else.

generate   who asks what          authenticate; believe; answer; account
answer     from the cache or not  look up; why forward?; a hit, or fly
fill       once per key           look up again; buy
buy        money                  upstream (which checks); store; count
"""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from hashlib import sha256
from typing import Any

from proxy import ids, policy, strictjson, validation
from proxy.auth import Authenticator
from proxy.cachekey import cache_key
from proxy.clock import Clock
from proxy.errors import NotCached, QueueFull, RequestError, Unauthenticated, UnsupportedByModel, UpstreamError
from proxy.health import Health
from proxy.metrics import Metrics
from proxy.model import (
    Answer,
    Candidate,
    Entry,
    Forward,
    ImageRequest,
    Inbound,
    Metadata,
    Outcome,
    Principal,
    Rehearsal,
    Relay,
)
from proxy.routing import eligible
from proxy.settings import CacheSection, UpstreamSection
from proxy.singleflight import Flights
from proxy.store import Store
from proxy.upstream import Caller, Generation, Upstreams
from proxy.validation import Validator


@dataclass(frozen=True, slots=True)
class Ask:
    """Who asks what: a call that was believed."""

    inbound: Inbound
    principal: Principal
    candidates: tuple[Candidate, ...]
    directives: policy.Directives

    @property
    def first(self) -> Candidate:
        return self.candidates[0]

    @property
    def caller(self) -> Caller:
        return Caller(self.principal.credential, self.inbound.headers.get("openai-beta", ""))


@dataclass(frozen=True, slots=True)
class Fill:
    """How a flight was satisfied, not only with what: a flight that found an entry is no purchase."""

    entry: Entry
    bought: bool
    stored: bool = False
    relay: Relay = field(default_factory=Relay)
    upstream_seconds: float = 0.0


@dataclass(slots=True)
class Pipeline:
    """The stages of the path; each knows nothing of the others. `validator` is exchanged whole on a reload."""

    authenticator: Authenticator
    validator: Validator
    upstream_sections: tuple[UpstreamSection, ...]
    cache: CacheSection
    store: Store
    flights: Flights[Fill]
    upstreams: Upstreams
    health: Health
    metrics: Metrics
    clock: Clock

    # --- generate: who asks what --------------------------------------------------------------------------------------

    async def generate(self, inbound: Inbound) -> Answer:
        """The answer to a call. Raises RequestError, NotCached, Unavailable or UpstreamError."""
        ask = self._believe(inbound)
        outcome = await self._answer(ask)
        self._account(ask, outcome)
        return Answer(ask.first.request, outcome)

    async def rehearse(self, inbound: Inbound) -> Rehearsal:
        """What would happen to a call (`X-Imagegate-Dry-Run`); nothing is sent, stored or counted as a purchase."""
        ask = self._believe(inbound)
        _, why = await self._look_up(ask, promote=False)
        return Rehearsal(ask.first, why)

    def _believe(self, inbound: Inbound) -> Ask:
        """Who is asking, and a request that is valid at every upstream that may answer it."""
        principal = self._authenticate(inbound)
        try:
            document = strictjson.parse_object(inbound.body)
            candidates = self._candidates(inbound, principal, document)
            directives = policy.directives(inbound.headers)
        except RequestError as error:
            self.metrics.rejected(error.param, error.code)
            raise
        self._note(inbound, candidates[0])
        return Ask(inbound, principal, candidates, directives)

    def _authenticate(self, inbound: Inbound) -> Principal:
        try:
            principal = self.authenticator.authenticate(inbound.headers)
        except Unauthenticated:
            self.metrics.auth_failed("missing")
            raise
        inbound.progress.team = principal.team
        return principal

    def _candidates(self, inbound: Inbound, principal: Principal, document: dict[str, Any]) -> tuple[Candidate, ...]:
        """The preferred upstream judges the request; another one is a candidate if it would take it too."""
        model = self.validator.model_of(document)
        sections = eligible(self.upstream_sections, model)
        if not sections and model:
            raise UnsupportedByModel(f"The model '{model}' does not exist.", param="model", code="invalid_value")
        found: list[Candidate] = []
        for section in sections or self.upstream_sections[:1]:
            try:
                request = self.validator.validate(document, inbound.operation, section.vendor)
            except RequestError:
                if not found:
                    raise
                continue
            request = _varied(request, inbound.headers.get("x-imagegate-variant"))
            key = cache_key(
                request,
                scope=principal.scope,
                cache_group=section.cache_group,
                openai_beta=inbound.headers.get("openai-beta", ""),
            )
            found.append(Candidate(section.name, section.cache_group, request, key))
        return tuple(found)

    # --- answer: from the cache or not --------------------------------------------------------------------------------

    async def _answer(self, ask: Ask) -> Outcome:
        if ask.directives.no_store:
            return await self._alone(ask)
        entry, why = await self._look_up(ask)
        if why is None and entry is not None:
            return self._hit(entry)
        if ask.directives.only_if_cached:
            raise NotCached("The image is not in the cache, and the request allows nothing else (only-if-cached).")
        while True:
            fill, led = await self.flights.do(ask.first.key, partial(self._fill, ask))
            if led or fill.bought or self._may_use(fill.entry, ask):
                break
        if not fill.bought:
            return self._hit(fill.entry)
        return self._bought(fill, why or Forward.URI_MISS, collapsed=not led)

    async def _alone(self, ask: Ask) -> Outcome:
        """`no-store`: no look-up, no store, shared with nobody; but a flight like any other, so it outlives its caller."""
        fill, _ = await self.flights.do(ids.purchase_id(), partial(self._buy, ask, may_store=False))
        return self._bought(fill, Forward.BYPASS, collapsed=False)

    async def _look_up(
        self, ask: Ask, *, in_flight: bool = False, promote: bool = True
    ) -> tuple[Entry | None, Forward | None]:
        """An entry that may be used, with None; else why the request must go on. Tries the groups by priority."""
        why = Forward.URI_MISS
        for candidate in ask.candidates:
            entry = await self.store.lookup(candidate.key, promote=promote)
            reason = policy.reason_to_forward(
                entry.metadata if entry else None,
                ask.directives,
                now=self.clock.wall(),
                arrived=ask.inbound.arrived_wall,
                in_flight=in_flight,
            )
            if reason is None:
                return entry, None
            if reason is not Forward.URI_MISS:
                why = reason
        return None, why

    def _may_use(self, entry: Entry, ask: Ask) -> bool:
        now, arrived = self.clock.wall(), ask.inbound.arrived_wall
        why = policy.reason_to_forward(entry.metadata, ask.directives, now=now, arrived=arrived, in_flight=True)
        return why is None

    # --- fill: once per key -------------------------------------------------------------------------------------------

    async def _fill(self, ask: Ask) -> Fill:
        """Looks up again, then buys.

        The second look-up closes a race: A looks up and misses; before A asks for the flight, B's flight for the same
        key stores its reply and lands; A then starts a flight of its own, and without this would pay a second time.
        """
        entry, why = await self._look_up(ask, in_flight=True)
        if why is None and entry is not None:
            return Fill(entry, bought=False)
        return await self._buy(ask)

    # --- buy: money ---------------------------------------------------------------------------------------------------

    async def _buy(self, ask: Ask, *, may_store: bool = True) -> Fill:
        """One purchase: called, checked, stored and counted once, whoever is still waiting for it."""
        self.health.refuse_new_purchases_when_draining()
        begun = self.store.epoch()
        try:
            generation = await self.upstreams.generate(ask.candidates, ask.caller)
        except QueueFull:
            self.metrics.rate_limited("upstream", "concurrency")
            raise
        except UpstreamError:
            self.metrics.purchase_failed(ask.first.request.model)
            raise
        metadata = self._describe(ask, generation)
        self.metrics.purchased(metadata.model, ask.principal.team, metadata.usage, metadata.cost, len(metadata.images))
        if may_store and _is_whole(generation):
            entry, stored = await self.store.commit(generation.spool, metadata, begun_epoch=begun)
        else:
            entry, stored = await self.store.keep(generation.spool, metadata), False
        return Fill(entry, True, stored, generation.relay, generation.seconds)

    def _describe(self, ask: Ask, generation: Generation) -> Metadata:
        """What is kept beside the reply."""
        candidate, request, now = generation.candidate, generation.candidate.request, self.clock.wall()
        ttl = self.cache.ttl_seconds if ask.directives.ttl is None else ask.directives.ttl
        images, usage, price = generation.inspection.images, generation.inspection.usage, request.price
        return Metadata(
            key=candidate.key,
            scope=ask.principal.scope,
            purchase_id=ids.purchase_id(),
            stored_at=now,
            expires_at=now + ttl,
            operation=request.operation.value,
            model=request.model,
            upstream=candidate.upstream,
            cache_group=candidate.cache_group,
            size=request.size,
            quality=request.quality,
            images=images,
            usage=usage,
            cost=price.cost(usage or request.estimate, len(images)) if price else None,
            price_version=price.version if price else "",
            upstream_request_id=generation.upstream_request_id,
            upstream_seconds=generation.seconds,
            request=_kept(request.canonical, keep_prompt=self.cache.keep_prompts),
        )

    # --- account: what a finished call means --------------------------------------------------------------------------

    def _hit(self, entry: Entry) -> Outcome:
        now = self.clock.wall()
        return Outcome(
            entry=entry,
            forward=None,
            stored=True,
            ttl_seconds=policy.seconds_left(entry.metadata, now),
            age_seconds=policy.age_seconds(entry.metadata, now),
            cost=Decimal(0),
            saved=entry.metadata.cost,
        )

    def _bought(self, fill: Fill, why: Forward, *, collapsed: bool) -> Outcome:
        """Followers share the reply, not the bill, and nothing that concerns the leader's call alone."""
        cost = fill.entry.metadata.cost
        return Outcome(
            entry=fill.entry,
            forward=why,
            stored=fill.stored,
            collapsed=collapsed,
            cost=Decimal(0) if collapsed else cost,
            saved=cost if collapsed else Decimal(0),
            upstream_seconds=fill.upstream_seconds,
            relay=Relay() if collapsed else fill.relay,
        )

    def _account(self, ask: Ask, outcome: Outcome) -> None:
        """Counts what was delivered and what it saved; what it cost was counted where it was bought."""
        metadata = outcome.entry.metadata
        sizes = [image.size for image in metadata.images]
        self.metrics.delivered(metadata.model, metadata.size, metadata.quality, outcome.label, len(sizes), sizes)
        if outcome.label in ("hit", "coalesced"):
            self.metrics.saved(metadata.model, ask.principal.team, outcome.label, metadata.usage, metadata.cost)

    def _note(self, inbound: Inbound, candidate: Candidate) -> None:
        """What the log line and the metrics of this call need, however it ends."""
        request, progress = candidate.request, inbound.progress
        progress.model, progress.key = request.model, candidate.key
        progress.size, progress.quality = request.size, request.quality
        progress.prompt_characters = len(request.prompt)
        for param, code in request.violations:
            self.metrics.let_through(param, code)
        if request.shutdown_date is not None and self.clock.wall() > _midnight_utc(request.shutdown_date):
            self.metrics.past_shutdown(request.model)


def _is_whole(generation: Generation) -> bool:
    """Whether every image that was asked for came, as bytes. Anything less is delivered, and never stored."""
    inspection = generation.inspection
    return not inspection.links and len(inspection.images) >= generation.candidate.request.n


def _varied(request: ImageRequest, header: str | None) -> ImageRequest:
    """With the variant of the header `X-Imagegate-Variant`, which goes before the field of the body."""
    return request if header is None else replace(request, variant=validation.variant(header))


def _kept(canonical: bytes, *, keep_prompt: bool) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(canonical)
    if not keep_prompt and "prompt" in request:
        request["prompt_sha256"] = sha256(request.pop("prompt").encode()).hexdigest()
    return request


def _midnight_utc(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()

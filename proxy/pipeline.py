"""THE REQUEST PATH: the order of the stages, and nothing else.

believe    who asks what          authenticate; read; validate; key
generate   what they get          claim; answer; account
answer     from the cache or not  look up; why forward?; a hit, or fly
fill       once per key           look up again; buy
buy        money                  reserve; upstream (which checks); count; store; settle
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from proxy import ids, outcomes
from proxy.accounts import Accounts
from proxy.admission import Admission
from proxy.asking import Ask, Doorkeeper
from proxy.cachekey import fingerprint
from proxy.clock import Clock
from proxy.errors import (
    BudgetExceeded,
    BudgetReserved,
    IdempotencyMismatch,
    ImagegateError,
    InternalError,
    NotCached,
    QueueFull,
    UpstreamError,
)
from proxy.eventlog import EventLog
from proxy.health import Health
from proxy.idempotency import Idempotency
from proxy.ledger import Ledger
from proxy.memo import Memo
from proxy.metrics import Metrics
from proxy.model import Answer, Entry, Forward, Inbound, Metadata, Outcome, Rehearsal, Standing
from proxy.outcomes import Fill, Worth
from proxy.policy import reason_to_forward
from proxy.settings import CacheSection
from proxy.singleflight import Flights
from proxy.store import Store
from proxy.tracing import UNTOLD, Tracer
from proxy.upstream import Generation, Upstreams

WORTHS_BYTES = 4 << 20
WORTH_BYTES = 2500
"""What one of them takes, about."""
LEASE_MARGIN_SECONDS = 60.0
"""What checking, storing and settling may take after an upstream's deadline."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of the path; each knows nothing of the others."""

    doorkeeper: Doorkeeper
    admission: Admission
    ledger: Ledger
    accounts: Accounts
    store: Store
    flights: Flights[Fill]
    upstreams: Upstreams
    idempotency: Idempotency
    cache: CacheSection
    health: Health
    metrics: Metrics
    clock: Clock
    instance_id: str
    tracer: Tracer = UNTOLD
    worths: Memo[tuple[str | int | None, ...], Worth] = field(default_factory=lambda: Memo(WORTHS_BYTES), repr=False)
    """What is counted for an answer: by its purchase, how the cache took part, the key and the team that asked, the hour."""

    # --- who asks what, and what they get -----------------------------------------------------------------------------

    async def believe(self, inbound: Inbound) -> Ask:
        """The call, once it is believed. Raises RequestError."""
        with self.tracer.span("authenticate and validate"):
            return await self.doorkeeper.believe(inbound)

    def at_hand(self, ask: Ask) -> Entry | None:
        """The entry that answers a call, if nothing needs to be waited for: fresh, and in memory. Counts nothing."""
        if ask.idempotency_key is not None or ask.bypasses_cache:
            return None
        entry = self.store.at_hand(ask.first.key)
        return entry if entry is not None and self._why_forward(entry, ask, in_flight=False) is None else None

    def serve(self, ask: Ask, entry: Entry) -> Answer:
        """The answer from an entry that is at hand: a hit."""
        self.store.taken(ask.first.key)
        return self._answered(ask, outcomes.hit(entry, self.clock.wall()))

    async def generate(self, ask: Ask) -> Answer:
        """The answer to a call.

        Raises IdempotencyMismatch, NotCached, PayerRefusal, Unavailable, UpstreamError or InternalError.
        """
        ask = await self._claim(ask)
        try:
            outcome = await self._answer(ask)
        except ImagegateError as error:
            if isinstance(error, BudgetExceeded | BudgetReserved):  # a limit's refusal is counted where it is judged
                self.metrics.rate_limited(error.scope, "budget")
            ask.progress.standing = self._standing(ask)
            await self._free(ask)
            raise
        await self._settle(ask, outcome)
        return self._answered(ask, outcome)

    def _answered(self, ask: Ask, outcome: Outcome) -> Answer:
        self._account(ask, outcome)
        return Answer(ask.first.request, outcome, self._standing(ask))

    async def rehearse(self, ask: Ask) -> Rehearsal:
        """What would happen to a call (`X-Imagegate-Dry-Run`); nothing is sent, stored or counted as a purchase."""
        _, why = await self._look_up(ask, promote=False)
        return Rehearsal(ask.first, why)

    # --- claim: the same Idempotency-Key, the same success ------------------------------------------------------------

    async def _claim(self, ask: Ask) -> Ask:
        """The call with what its Idempotency-Key stands for, if it has one. Raises IdempotencyMismatch."""
        if ask.idempotency_key is None:
            return ask
        asked = fingerprint(ask.first.request, openai_beta=ask.openai_beta)
        try:
            claim = await self.idempotency.claim(ask.principal, ask.idempotency_key, asked)
        except IdempotencyMismatch as error:
            self.metrics.rejected(error.param, error.code)
            raise
        return replace(ask, claim=claim)

    async def _settle(self, ask: Ask, outcome: Outcome) -> None:
        if ask.claim is not None and outcome.stored:
            await self.idempotency.settle(ask.claim, outcome.entry.metadata.purchase_id)
        else:  # what is not stored cannot be given again
            await self._free(ask)

    async def _free(self, ask: Ask) -> None:
        if ask.claim is not None:
            await self.idempotency.free(ask.claim)

    # --- answer: from the cache or not --------------------------------------------------------------------------------

    async def _answer(self, ask: Ask) -> Outcome:
        entry, why = await self._look_up(ask)
        if entry is not None:
            return outcomes.hit(entry, self.clock.wall())
        if ask.directives.only_if_cached:
            raise NotCached("The image is not in the cache, and the request allows nothing else (only-if-cached).")
        ask.progress.forward, ask.progress.standing = why, self._standing(ask)
        if ask.bypasses_cache:
            return await self._alone(ask)
        while True:
            fill, led = await self._fly(ask, ask.first.key, self._fill)
            # A flight that found an older entry satisfies who began it, but not a refresh that joined it on the way.
            if led or fill.bought or self._why_forward(fill.entry, ask, in_flight=True) is None:
                break
        if not fill.bought:
            return outcomes.hit(fill.entry, self.clock.wall())
        return outcomes.bought(fill, why or Forward.URI_MISS, collapsed=not led)

    async def _alone(self, ask: Ask) -> Outcome:
        """No look-up, no store, nothing shared; but a flight all the same, so that it outlives its caller."""
        key = ids.purchase_id() if ask.claim is None else ask.claim.flight_key
        fill, led = await self._fly(ask, key, self._buy)
        return outcomes.bought(fill, Forward.BYPASS, collapsed=not led)

    async def _fly(self, ask: Ask, key: str, fill: Callable[[Ask], Awaitable[Fill]]) -> tuple[Fill, bool]:
        """What the flight of `key` brings, and whether this call led it. The trace of who leads it tells of the flight."""
        ask.progress.collapsed = self.flights.is_in_flight(key)
        with self.tracer.wait(key, joins=ask.progress.collapsed):
            return await self.flights.do(key, partial(fill, ask), ask.listener)

    async def _look_up(
        self, ask: Ask, *, in_flight: bool = False, promote: bool = True
    ) -> tuple[Entry | None, Forward | None]:
        """An entry that may be used and None, or None and why the request must go on. Tries the groups by priority."""
        if ask.bypasses_cache:
            return None, Forward.BYPASS
        why = Forward.URI_MISS
        with self.tracer.span("look up"):
            for candidate in ask.candidates:
                entry = await self.store.lookup(candidate.key, promote=promote)
                reason = self._why_forward(entry, ask, in_flight=in_flight)
                if reason is None:
                    return entry, None
                why = reason if why is Forward.URI_MISS else why
        return None, why

    def _why_forward(self, entry: Entry | None, ask: Ask, *, in_flight: bool) -> Forward | None:
        if entry is not None and ask.claim is not None and ask.claim.replays(entry.metadata):
            return None
        metadata, now = entry.metadata if entry is not None else None, self.clock.wall()
        return reason_to_forward(metadata, ask.directives, now=now, arrived=ask.arrived, in_flight=in_flight)

    # --- fill: once per key -------------------------------------------------------------------------------------------

    async def _fill(self, ask: Ask) -> Fill:
        """Looks up again, then buys.

        The second look-up closes a race: A looks up and misses; before A asks for the flight, B's flight for the same
        key stores its reply and lands; A then starts a flight of its own, and without this would pay a second time.
        """
        entry, _ = await self._look_up(ask, in_flight=True)
        return Fill(entry, bought=False) if entry is not None else await self._buy(ask)

    # --- buy: money ---------------------------------------------------------------------------------------------------

    async def _buy(self, ask: Ask) -> Fill:
        """One purchase: reserved, called, checked, counted, stored and settled once, whoever still waits for it."""
        self.health.refuse_new_purchases_when_draining()
        ask = outcomes.payable(ask, allow_unpriced=self.ledger.allow_unpriced)
        begun, lease = self.store.epoch(), self.upstreams.deadline_seconds(ask.candidates) + LEASE_MARGIN_SECONDS
        order = outcomes.order(ask, instance=self.instance_id, lease_seconds=lease)
        with self.admission.buying(ask.principal, order.n):
            async with self.ledger.purchase(order, ask.principal.holder) as purchase:
                generation = await self._call(ask)
                paid = outcomes.describe(ask, generation, self.cache, order.id, self.clock.wall())
                self._count(ask, paid)
                with self.tracer.span("store"):
                    if ask.bypasses_cache or not outcomes.is_whole(generation):
                        entry, stored = await self.store.keep(generation.spool, paid), False
                    else:
                        entry, stored = await self.store.commit(generation.spool, paid, begun_epoch=begun)
                await purchase.settle(outcomes.closing(paid, is_exact=outcomes.is_exact(generation)))
        return Fill(entry, True, stored, generation.relay, generation.waited_seconds + generation.seconds)

    def _count(self, ask: Ask, paid: Metadata) -> None:
        """What was bought, once, by who pays for it."""
        self.metrics.purchased(paid.model, ask.principal.team, paid.usage, paid.cost, len(paid.images))
        if ask.principal.holder is not None:
            self.metrics.purchased_by(ask.principal.holder.key.key_alias, paid.usage, paid.cost)

    async def _call(self, ask: Ask) -> Generation:
        try:
            return await self.upstreams.generate(ask.candidates, ask.caller, ask.listener.log or EventLog())
        except QueueFull:
            self.metrics.rate_limited("upstream", "concurrency")
            raise
        except (UpstreamError, InternalError) as error:
            self.metrics.purchase_failed(ask.first.request.model, ask.principal.team, error.told_cost)
            await self._free(ask)  # whoever asked may have left
            raise

    # --- account: what a finished call means --------------------------------------------------------------------------

    def _account(self, ask: Ask, outcome: Outcome) -> None:
        """Counts what was delivered and what it saved; what it cost was counted where it was bought."""
        metadata, principal, hour = outcome.entry.metadata, ask.principal, outcomes.hour(self.clock.wall())
        team = principal.holder.key.team_id if principal.holder is not None else None
        known = (metadata.purchase_id, outcome.label, principal.name, principal.team, team, hour)
        worth = self.worths.get(known)
        if worth is None:
            deliver = self.metrics.delivery(metadata, principal.team, outcome.label)
            worth = self.worths.keep(known, outcomes.worth(ask, outcome, hour, deliver), WORTH_BYTES)
        worth.deliver()
        if outcome.forward is None or outcome.collapsed:
            self.ledger.tally(worth.by, images=worth.images, tokens=worth.tokens, saved=worth.saved)

    def _standing(self, ask: Ask) -> Standing | None:
        """What the caller is told of its key; None without one."""
        holder = ask.principal.holder
        return None if holder is None else self.accounts.standing(holder, self.admission.standing(ask.principal))

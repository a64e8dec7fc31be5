"""The ledger: what is bought is written down before it is bought, and settled before it is answered.

Mode `keys` is *strict*: no purchase without its row, so a database that is gone refuses purchases (503), and nothing else.
In the other modes nobody's budget waits for a row: it is written after the fact, when the database has time.

A settlement that fails is tried again until it is written; if this process dies before, its lease runs out, and another
process settles it: exactly if the reply is in the store, else as `unknown`, at the estimate. Belongs to one event loop.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from proxy.accounts import Accounts
from proxy.clock import Clock
from proxy.database.background import BackgroundDatabase
from proxy.errors import ConfigurationError, DatabaseUnavailable, ImagegateError
from proxy.model import Holder
from proxy.purchase import Closing, Ending, OpenPurchase, Order, Tallied, Tallies, Tally, nanos, usd
from proxy.tracing import UNTOLD, Tracer

if TYPE_CHECKING:
    from proxy.bookkeeping import Books, Closed

logger = logging.getLogger("imagegate")

FLUSH_SECONDS = 1.0
REFRESH_SECONDS = 10.0
REFRESHES_THAT_OVERLAP = 3
"""So often each change is read. The answer to a purchase of our own may come late, by what a database is waited for, and
bring a sum that is older than the one that was read meanwhile: then there is a refresh to come that puts it right."""
REREAD_SECONDS = 600.0
"""So often what others spent is read whole, whatever the database says has changed."""
RECOVER_SECONDS = 30.0
FORGET_SECONDS = 3600.0
RENEW_BEFORE_SECONDS = 60.0
"""A lease that ends sooner is renewed, by so much and a minute."""
GIVEN_UP_SECONDS = 120.0
"""How long a row is looked for that may have been written although we were told that it could not be."""
MOST_DOUBTED = 1000
"""How many such rows are looked for; of more, the lease runs out."""
MOST_WAITING = 10_000
"""Rows, and tallies, that are kept while the database is gone; what is more is lost, and counted."""
_AWAY = (DatabaseUnavailable, ConfigurationError)
"""What the database raises that may be there again later; whoever made it too new for us may put that right."""

T = TypeVar("T")


class Observer(Protocol):
    """Who counts what happens to money."""

    def overshot(self, scope: str, amount: Decimal) -> None:
        """A settlement went beyond a budget by this many USD."""

    def unknown(self, model: str, team: str, cost: Decimal | None) -> None:
        """A purchase of which nobody knows whether it was billed."""

    def unwritten(self, count: int) -> None:
        """Rows of the ledger that were lost."""


@dataclass(eq=False, slots=True)
class Purchase:
    """One order that is being bought. Whoever leaves its block without having settled it has it closed for them."""

    order: Order
    holder: Holder | None
    opened_at: float
    lease_until: float
    """On the wall clock, by which others judge it: when that is set forward, it is renewed at once."""
    _close: Callable[["Purchase", Closing], Awaitable[None]] = field(repr=False)
    is_closed: bool = False

    async def settle(self, closing: Closing) -> None:
        """Durable when this returns, unless the database is gone: then as soon as it is back."""
        await self._close(self, closing)


class _Unwritten(NamedTuple):
    """A closing that is still to be written, and what else is known of it."""

    closing: Closing
    purchase: Purchase


def _no_marks() -> deque[int | None]:
    return deque([None] * REFRESHES_THAT_OVERLAP, REFRESHES_THAT_OVERLAP)


@dataclass(slots=True)
class Ledger:
    """`strict`: no purchase without its row. `look_up` finds what an open purchase brought, in the store."""

    database: BackgroundDatabase
    accounts: Accounts
    clock: Clock
    observer: Observer
    strict: bool
    look_up: Callable[[OpenPurchase], Awaitable[Closing | None]]
    allow_unpriced: bool = False
    retention_seconds: int = 0
    tracer: Tracer = UNTOLD
    _flying: dict[str, Purchase] = field(default_factory=dict, init=False)
    _unwritten: deque[_Unwritten] = field(default_factory=deque, init=False)
    _doubted: dict[str, float] = field(default_factory=dict, init=False)
    """Orders that may have been written although we were told that they could not be, and until when (monotonic) their
    rows may appear."""
    _tallies: dict[Tallied, Tally] = field(default_factory=dict, init=False)
    _suspects: dict[str, float] = field(default_factory=dict, init=False)
    """Expired leases that were seen the last time: whose process lives would have renewed them since."""
    _fault: str | None = field(default=None, init=False)
    """Why the last writing failed, if it did."""
    _marks: deque[int | None] = field(default_factory=_no_marks, init=False)
    """Up to where the others' spends were read by the last refreshes; None: not at all, or not for sure."""
    _due: dict[str, float] = field(default_factory=dict, init=False)
    _tending: "asyncio.Task[None] | None" = field(default=None, init=False)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._tending = asyncio.create_task(self._keep_tending(), name="ledger")

    async def close(self) -> None:
        """Flights must have landed. What is still to be written is tried once more. Idempotent."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        await self._guarded(self._flush())
        if self._doubted:  # else a process that never bought would open the database on its way out
            await self._guarded(self._release_doubted())
        left = len(self._unwritten) + len(self._tallies)
        if left:
            logger.error("the ledger could not be written", extra={"count": left, "reason": self.problem})
            self.observer.unwritten(left)
            self._unwritten.clear()
            self._tallies.clear()

    @property
    def problem(self) -> str | None:
        """Why it cannot be written, as far as is known; None when it can."""
        return self._fault or self.database.problem

    def in_flight(self) -> int:
        """Purchases that are open in this process."""
        return len(self._flying)

    def waiting(self) -> int:
        """Rows that wait for the database."""
        return len(self._unwritten) + len(self._tallies)

    # --- purchases ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def purchase(self, order: Order, holder: Holder | None) -> AsyncIterator[Purchase]:
        """Opened, with its estimate reserved. Raises PayerRefusal, or, if strict, DatabaseUnavailable: nothing is bought.

        An error that leaves the block closes it: released if it was certainly not billed, else `unknown`.
        """
        now = self.clock.wall()
        purchase = Purchase(order, holder, now, now + order.lease_seconds, self._settle)
        with self.tracer.span("reserve"):
            if self.strict:
                await self._open(purchase)
        self._flying[order.id] = purchase
        try:
            yield purchase
            if not purchase.is_closed:
                await self._close_after(purchase, None)
        except BaseException as error:
            if not purchase.is_closed:
                await self._close_after(purchase, error)
            raise
        finally:
            del self._flying[order.id]

    async def _open(self, purchase: Purchase) -> None:
        order = purchase.order
        wanted = True
        try:
            self.accounts.learn(await self._writing(lambda books: books.open(order, lambda: wanted)))
        except (DatabaseUnavailable, asyncio.CancelledError):
            # It may have been written all the same, or be written yet.
            wanted = False
            if len(self._doubted) >= MOST_DOUBTED:
                del self._doubted[next(iter(self._doubted))]
            self._doubted[order.id] = self.clock.monotonic() + GIVEN_UP_SECONDS
            raise

    async def _close_after(self, purchase: Purchase, error: BaseException | None) -> None:
        known = isinstance(error, ImagegateError)
        billed = error.billed if isinstance(error, ImagegateError) else True
        code = (error.code if isinstance(error, ImagegateError) else None) or ("refused" if known else "failed")
        told = error.told_cost if isinstance(error, ImagegateError) else None
        ending = Ending.SETTLED if told else Ending.UNKNOWN if billed else Ending.RELEASED
        closing = Closing(id=purchase.order.id, ending=ending, error=code, cost=nanos(told) if told else None)
        if ending is Ending.UNKNOWN:
            team = purchase.holder.team.team_alias if purchase.holder and purchase.holder.team else "none"
            estimate = purchase.order.estimate
            self.observer.unknown(purchase.order.model, team, None if estimate is None else usd(estimate))
        if known:
            await self._close(purchase, closing)
        else:  # on the way out: nothing is waited for any more
            purchase.is_closed = True
            self._keep_for_later(_Unwritten(closing, purchase))

    async def _settle(self, purchase: Purchase, closing: Closing) -> None:
        with self.tracer.span("settle"):
            await self._close(purchase, closing)

    async def _close(self, purchase: Purchase, closing: Closing) -> None:
        purchase.is_closed = True
        unwritten = _Unwritten(closing, purchase)
        if not self.strict:
            self._keep_for_later(unwritten)
            return
        try:
            await self._write(unwritten)
        except asyncio.CancelledError:
            self._keep_for_later(unwritten)
            raise
        except _AWAY as error:
            self._keep_for_later(unwritten)
            logger.warning("a purchase is settled later", extra={"reason": _reason(error)})

    async def _write(self, unwritten: _Unwritten) -> None:
        """Raises what the database is away by. What it will never take is lost, and counted: it is in nobody's way."""
        closing, purchase = unwritten
        try:
            if self.strict:
                await self._write_closing(closing, purchase.holder)
            else:
                await self._writing(lambda books: books.record(purchase.order, closing, purchase.opened_at))
        except _AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - a defect of one row is nobody else's
            self._lose(1, error)

    async def _write_closing(self, closing: Closing, holder: Holder | None) -> None:
        closed = await self._writing(lambda books: books.close(closing))
        if not closed.was_found:
            self.observer.unwritten(1)
            logger.error("the row of a purchase is gone")
            return
        self._count(closed)
        if closing.ending is not Ending.RELEASED:
            self.accounts.settled(holder)

    def _count(self, closed: "Closed") -> None:
        self.accounts.learn(closed.spends)
        for scope, amount in closed.overshoot:
            self.observer.overshot(scope, usd(amount))

    def _keep_for_later(self, unwritten: _Unwritten) -> None:
        if len(self._unwritten) >= MOST_WAITING:
            self._unwritten.popleft()
            self.observer.unwritten(1)
        self._unwritten.append(unwritten)

    def _lose(self, count: int, error: Exception) -> None:
        self.observer.unwritten(count)
        logger.error("the database refused rows of the ledger", extra={"reason": _reason(error), "count": count})

    # --- answers that cost nothing ------------------------------------------------------------------------------------

    def tally(self, by: Tallied, *, images: int, tokens: int, saved: int) -> None:
        """Counted in memory, and written within a second or so."""
        self._add(by, Tally(1, images, tokens, saved))

    def _add(self, by: Tallied, more: Tally) -> None:
        tally = self._tallies.get(by)
        if tally is None:
            if len(self._tallies) >= MOST_WAITING:
                self.observer.unwritten(1)
                return
            tally = self._tallies[by] = Tally()
        tally.answers += more.answers
        tally.images += more.images
        tally.tokens += more.tokens
        tally.saved += more.saved

    # --- what is due now and then -------------------------------------------------------------------------------------

    async def _keep_tending(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.tend()

    async def tend(self) -> None:
        """Writes what waits; renews, recovers and forgets what is due. A database that is gone stops none of it for good."""
        if self._fault is not None:  # nobody may be left who would find out that it works again
            await self._guarded(self._writing(lambda books: books.probe()))
        if self._unwritten or self._tallies:
            await self._guarded(self._flush())
        if self._doubted:
            await self._guarded(self._release_doubted())
        if self.strict:
            await self._guarded(self._renew())
            if self._is_due("refresh", REFRESH_SECONDS):
                await self._guarded(self._refresh())
            if self._is_due("recover", RECOVER_SECONDS):
                await self._guarded(self.recover())
        if self.retention_seconds and self._is_due("forget", FORGET_SECONDS):
            await self._guarded(self._forget())

    async def recover(self) -> None:
        """Closes what dead processes left open: leases that ran out, and were not renewed since the last look."""
        expired = [each for each in await self._run(lambda books: books.expired()) if each.id not in self._flying]
        ours = {each.closing.id for each in self._unwritten} | self._doubted.keys()
        for purchase in expired:
            if self._suspects.get(purchase.id) == purchase.lease_until and purchase.id not in ours:
                await self._guarded_but_away(self._close_abandoned(purchase))
        self._suspects = {each.id: each.lease_until for each in expired}

    async def _close_abandoned(self, purchase: OpenPurchase) -> None:
        unknown = Closing(id=purchase.id, ending=Ending.UNKNOWN, error="lease_expired")
        try:
            closing = await self.look_up(purchase) or unknown
            closed = await self._writing(lambda books: books.close(closing))
        except _AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - a defect of one row is nobody else's
            logger.error("what a purchase brought cannot be settled", extra={"reason": _reason(error)})
            closing = unknown
            closed = await self._writing(lambda books: books.close(unknown))
        self._count(closed)
        if closing.ending is Ending.UNKNOWN:  # one that brought a reply was counted by the process that died
            cost = None if purchase.estimate is None else usd(purchase.estimate)
            self.observer.unknown(purchase.model, purchase.team, cost)
        logger.warning("a purchase of a dead process was closed", extra={"reason": closing.ending.value})

    async def _flush(self) -> None:
        for _ in range(len(self._unwritten)):
            unwritten = self._unwritten.popleft()
            is_done = False
            try:
                await self._write(unwritten)
                is_done = True
            finally:
                if not is_done:
                    self._unwritten.append(unwritten)
        if self._tallies:
            tallies, self._tallies = self._tallies, {}
            await self._write_tallies(tallies)

    async def _write_tallies(self, tallies: Tallies) -> None:
        """Added once: what fails is taken back, and then a thread that comes late does not add it."""
        wanted = True
        try:
            await self._writing(lambda books: books.add(tallies, lambda: wanted))
        except (*_AWAY, asyncio.CancelledError):
            wanted = False
            for by, tally in tallies.items():
                self._add(by, tally)
            raise
        except Exception as error:  # noqa: BLE001 - a defect of one row is nobody else's
            if len(tallies) == 1:
                self._lose(1, error)
                return
            for by, tally in tallies.items():  # each alone: only the guilty one is lost
                self._add(by, tally)
            for by in tallies:
                if (alone := self._tallies.pop(by, None)) is not None:
                    await self._write_tallies({by: alone})

    async def _release_doubted(self) -> None:
        """What was written although its purchase had been refused."""
        now, doubted = self.clock.monotonic(), list(self._doubted)
        for purchase_id in await self._run(lambda books: books.open_among(doubted)):
            await self._release(purchase_id)
        for purchase_id in doubted:
            if self._doubted.get(purchase_id, now) < now:
                del self._doubted[purchase_id]

    async def _release(self, purchase_id: str) -> None:
        closing = Closing(id=purchase_id, ending=Ending.RELEASED, error="not_sent")
        self._count(await self._writing(lambda books: books.close(closing)))
        self._doubted.pop(purchase_id, None)

    async def _renew(self) -> None:
        now = self.clock.wall()
        ending = [each for each in self._flying.values() if each.lease_until - now < RENEW_BEFORE_SECONDS]
        if ending:
            seconds = RENEW_BEFORE_SECONDS * 2
            await self._writing(lambda books: books.renew([each.order.id for each in ending], seconds))
            for each in ending:
                each.lease_until = now + seconds

    async def _forget(self) -> None:
        if await self._run(lambda books: books.forget(self.retention_seconds)):
            del self._due["forget"]  # there may be more

    async def _refresh(self) -> None:
        """What other processes have spent since the refresh before the two before this."""
        marks = _no_marks() if self._is_due("reread", REREAD_SECONDS) else self._marks
        self._marks = _no_marks()  # after a failure everything is read: it may be another server
        spends, mark = await self._run(lambda books: books.spends_since(marks[0]))
        self.accounts.learn(spends)
        marks.append(mark)
        self._marks = marks

    def _is_due(self, what: str, every_seconds: float) -> bool:
        now = self.clock.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + every_seconds
        return True

    async def _guarded(self, work: Awaitable[T]) -> None:
        try:
            await self._guarded_but_away(work)
        except _AWAY:
            pass  # `problem` says why; it is tried again

    async def _guarded_but_away(self, work: Awaitable[T]) -> None:
        try:
            await work
        except _AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - the end of tending would be the end of the ledger, and nobody told
            logger.error("the ledger failed", extra={"reason": _reason(error)})

    async def _writing(self, work: "Callable[[Books], T]") -> T:
        try:
            found = await self._run(work)
        except DatabaseUnavailable as error:
            if self._fault is None:
                logger.warning("the database cannot be written", extra={"reason": error.reason})
            self._fault = error.reason
            raise
        if self._fault is not None:
            logger.info("the database can be written again")
            self._fault = None
        return found

    async def _run(self, work: "Callable[[Books], T]") -> T:
        def in_thread(database: object) -> T:
            from proxy.bookkeeping import Books
            from proxy.database.engine import Database

            assert isinstance(database, Database)
            return work(Books(database, self.clock, allow_unpriced=self.allow_unpriced))

        return await self.database.run(in_thread)


def _reason(error: Exception) -> str:
    """For the operator. Of a defect only its name: its words may hold what was to be written."""
    if isinstance(error, ImagegateError):
        return str(getattr(error, "reason", error.message))
    return type(error).__name__

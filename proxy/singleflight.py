"""Single flight: identical requests at the same time share one purchase.

The law of this file:

0. A refusal that concerns only the payer (a budget, a limit) is no outcome of the flight. The leader gets it, and payment
   passes to the first of those waiting who can pay; who cannot waits on. Only when none can does each have its own refusal.
1. At most one flight per key.
2. A flight outlives its leader: it is a task of this registry, never of a request.
3. A failure reaches everyone who waits, and is remembered by no one.
4. A flight that nobody waits for any more is still flown to its end and retrieved.
5. `drain(seconds)` lets flights land.
6. `in_flight()` and `waiting(key)` exist, so that tests and gauges see without sleeping.
7. Everyone who waits gets an exception of their own: one exception raised in N tasks would grow N tracebacks.
8. What a flight tells before it lands it tells in its log, which whoever joins is given, whenever they join.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proxy.errors import ImagegateError, InternalError, forget_frames
from proxy.eventlog import EventLog, Listener

T = TypeVar("T")
Fill = Callable[[], Awaitable[T]]


@dataclass(eq=False, slots=True)
class _Waiter(Generic[T]):
    """One request that waits, and how it would pay."""

    fill: Fill[T]
    landed: "asyncio.Future[T]"
    pays: bool = False


@dataclass(eq=False, slots=True)
class _Flight(Generic[T]):
    waiters: dict[_Waiter[T], None] = field(default_factory=dict)
    """In the order in which they came."""
    untried: "deque[_Waiter[T]]" = field(default_factory=deque)
    """Those of them who were not asked to pay yet."""
    log: EventLog = field(default_factory=EventLog)
    task: "asyncio.Task[None] | None" = None

    def next_payer(self) -> "_Waiter[T] | None":
        """Nobody twice; who has just left may still be listed: its task has not run since."""
        while self.untried:
            waiter = self.untried.popleft()
            if not (waiter.pays or waiter.landed.done()):
                return waiter
        return None


class Flights(Generic[T]):
    """The registry of flights. Belongs to one event loop."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    async def do(self, key: str, fill: Fill[T], listener: Listener | None = None) -> tuple[T, bool]:
        """The value of the flight for `key`, and whether this call led it: was the one that paid, or would have.

        Joins the flight in the air, else starts one with `fill`; `listener` has its log before `fill` is called.
        Cancelling the caller leaves the flight alone.
        """
        flight = self._flights.get(key)
        waiter = _Waiter(fill, asyncio.get_running_loop().create_future())
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.create_task(self._fly(key, flight, waiter), name=f"flight {key[:12]}")
        flight.waiters[waiter] = None
        flight.untried.append(waiter)
        if listener is not None:
            listener.join(flight.log)
        try:
            return await waiter.landed, waiter.pays
        finally:
            flight.waiters.pop(waiter, None)

    def in_flight(self) -> int:
        """Flights in the air."""
        return len(self._flights)

    def is_in_flight(self, key: str) -> bool:
        """Whether a flight for `key` is in the air, waited for or not."""
        return key in self._flights

    def waiting(self, key: str) -> int:
        """How many wait for the flight of `key`."""
        flight = self._flights.get(key)
        return len(flight.waiters) if flight else 0

    async def drain(self, seconds: float) -> int:
        """Waits until all flights have landed, `seconds` at most; how many had not."""
        try:
            async with asyncio.timeout(seconds):
                while flying := [f.task for f in self._flights.values() if f.task is not None and not f.task.done()]:
                    await asyncio.wait(flying)
        except TimeoutError:
            pass
        return len(self._flights)

    async def _fly(self, key: str, flight: _Flight[T], leader: _Waiter[T]) -> None:
        """Flies with one payer after the other until there is an outcome; then tells everyone who waits."""
        payer: _Waiter[T] | None = leader
        refused: dict[_Waiter[T], ImagegateError] = {}
        failure: BaseException | None = None
        value: T | None = None
        try:
            while payer is not None:
                payer.pays = True
                try:
                    value = await payer.fill()
                except ImagegateError as error:
                    if not error.concerns_payer_only:
                        failure = error
                        break
                    # Law 0. Not the flight's end: someone else who waits may be able to pay.
                    refused[payer] = error
                    _fail(leader, refused[leader])
                    waits_on, payer = payer, flight.next_payer()
                    waits_on.pays = False
                else:
                    break
        except BaseException as error:  # noqa: BLE001 - law 3: whatever it was, nobody may be left waiting
            failure = error
        finally:
            # From here on the key is free: who asks now looks up again, and finds what this flight stored.
            del self._flights[key]
            is_unpaid = failure is None and payer is None
            for waiter in flight.waiters:
                reason = refused.get(waiter) if is_unpaid else failure
                if reason is not None:
                    _fail(waiter, reason)
                elif not waiter.landed.done():
                    waiter.landed.set_result(value)  # type: ignore[arg-type]  # no failure: there is a value
            for told in (failure, *refused.values()):
                if isinstance(told, ImagegateError):  # a defect is still to be logged, by who waited
                    forget_frames(told)


def _fail(waiter: _Waiter[T], error: BaseException) -> None:
    if waiter.landed.done():
        return
    if isinstance(error, ImagegateError):
        waiter.landed.set_exception(error.again())
    elif isinstance(error, asyncio.CancelledError):
        waiter.landed.cancel()
    else:
        mine = InternalError("imagegate failed while it was waiting for this image.")
        mine.__cause__ = error
        waiter.landed.set_exception(mine)

"""Single flight: each law of the module, with barriers instead of time."""

import asyncio
import gc
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from proxy.errors import ImagegateError, InternalError, UpstreamUnreachable
from proxy.singleflight import Flights

pytestmark = pytest.mark.anyio


class CannotPay(ImagegateError):
    """A refusal that concerns the payer only."""

    concerns_payer_only = True


class Purchase:
    """A fill that is held at a gate, and counts how often it was begun."""

    def __init__(self, outcome: "str | BaseException" = "picture") -> None:
        self.outcome = outcome
        self.begun = 0
        self.landed = 0
        self.gate = asyncio.Event()
        self.started = asyncio.Event()

    async def __call__(self) -> str:
        self.begun += 1
        self.started.set()
        await self.gate.wait()
        self.landed += 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def open_purchase(outcome: "str | BaseException" = "picture") -> Purchase:
    purchase = Purchase(outcome)
    purchase.gate.set()
    return purchase


async def never() -> str:
    raise AssertionError("this fill must not be asked")


Waiting = asyncio.Task[tuple[str, bool]]


async def joined(flights: Flights[str], fill: Callable[[], Awaitable[str]], count: int = 1) -> list[Waiting]:
    """`count` more callers, each seen waiting before the next comes."""
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(flights.do("key", fill)))
        await asyncio.sleep(0)
    return tasks


async def left(task: Waiting) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@asynccontextmanager
async def no_complaints() -> AsyncIterator[None]:
    """The event loop has nothing to say about exceptions that nobody took."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    asyncio.get_running_loop().set_exception_handler(None)
    assert complaints == []


# --- law 0 -----------------------------------------------------------------------------------------------------------


async def test_payment_passes_to_the_first_who_can_pay() -> None:
    flights: Flights[str] = Flights()
    leader = Purchase(CannotPay("leader"))
    tasks = await joined(flights, leader)
    tasks += await joined(flights, open_purchase(CannotPay("second")))
    third, fourth = open_purchase(), Purchase()
    tasks += await joined(flights, third)
    tasks += await joined(flights, fourth)
    leader.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert str(outcomes[0]) == "leader"
    assert outcomes[1:] == [("picture", False), ("picture", True), ("picture", False)], "who paid is the one that led"
    assert (third.begun, fourth.begun) == (1, 0)


async def test_the_refused_leader_hears_of_it_while_another_still_pays() -> None:
    flights: Flights[str] = Flights()
    leader, second = Purchase(CannotPay("leader")), Purchase()
    (first,) = await joined(flights, leader)
    (other,) = await joined(flights, second)
    leader.gate.set()
    with pytest.raises(CannotPay):
        await first
    await second.started.wait()
    assert flights.in_flight() == 1
    second.gate.set()
    assert await other == ("picture", True)


async def test_when_none_can_pay_each_gets_a_refusal_of_its_own() -> None:
    flights: Flights[str] = Flights()
    leader = Purchase(CannotPay("0"))
    tasks = await joined(flights, leader)
    for number in (1, 2, 3):
        tasks += await joined(flights, open_purchase(CannotPay(str(number))))
    leader.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["0", "1", "2", "3"]
    assert flights.in_flight() == 0


async def test_who_has_left_is_never_asked_to_pay() -> None:
    flights: Flights[str] = Flights()
    leader, last = Purchase(CannotPay("leader")), open_purchase()
    (first,) = await joined(flights, leader)
    (second,) = await joined(flights, never)
    (third,) = await joined(flights, never)
    (fourth,) = await joined(flights, last)
    await left(second)
    leader.gate.set()
    third.cancel()  # the flight's task runs before the one that leaves
    assert await fourth == ("picture", True)
    assert third.cancelled()
    assert isinstance(first.exception(), CannotPay)


async def test_a_leader_who_left_and_cannot_pay_leaves_payment_to_those_who_wait() -> None:
    flights: Flights[str] = Flights()
    leader = Purchase(CannotPay("leader"))
    (first,) = await joined(flights, leader)
    (second,) = await joined(flights, open_purchase())
    await left(first)
    leader.gate.set()
    assert await second == ("picture", True)


async def test_a_failure_of_the_second_payer_reaches_those_behind_it() -> None:
    flights: Flights[str] = Flights()
    leader = Purchase(CannotPay("leader"))
    tasks = await joined(flights, leader)
    tasks += await joined(flights, open_purchase(UpstreamUnreachable("no")))
    tasks += await joined(flights, never)
    leader.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [CannotPay, UpstreamUnreachable, UpstreamUnreachable]


# --- laws 1 and 2 ----------------------------------------------------------------------------------------------------


async def test_those_who_ask_at_the_same_time_share_one_purchase() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase()
    tasks = await joined(flights, purchase, 10)
    assert (flights.in_flight(), flights.waiting("key")) == (1, 10)
    purchase.gate.set()
    outcomes = await asyncio.gather(*tasks)
    assert purchase.begun == 1
    assert [led for _, led in outcomes] == [True] + [False] * 9


async def test_other_keys_fly_by_themselves_and_a_landed_flight_is_over() -> None:
    flights: Flights[str] = Flights()
    assert await flights.do("a", open_purchase("one")) == ("one", True)
    assert await flights.do("a", open_purchase("two")) == ("two", True)
    purchases = [Purchase(), Purchase()]
    tasks = [asyncio.create_task(flights.do(key, p)) for key, p in zip("ab", purchases, strict=True)]
    for purchase in purchases:
        await purchase.started.wait()
        purchase.gate.set()
    assert await asyncio.gather(*tasks) == [("picture", True)] * 2


async def test_a_flight_outlives_its_leader() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase()
    leader, follower = await joined(flights, purchase, 2)
    await left(leader)
    assert flights.waiting("key") == 1
    purchase.gate.set()
    assert await follower == ("picture", False)
    assert purchase.begun == 1


async def test_a_leader_who_leaves_before_the_flight_took_off_does_not_stop_it() -> None:
    flights: Flights[str] = Flights()
    purchase = open_purchase()
    leader = asyncio.create_task(flights.do("key", purchase))
    await asyncio.sleep(0)
    await left(leader)
    assert await flights.drain(10) == 0
    assert purchase.landed == 1


# --- laws 3, 4 and 7 -------------------------------------------------------------------------------------------------


async def test_a_failure_reaches_everyone_and_is_remembered_by_no_one() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase(UpstreamUnreachable("no route"))
    tasks = await joined(flights, purchase, 5)
    purchase.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no route"] * 5
    assert await flights.do("key", open_purchase()) == ("picture", True)


async def test_everyone_gets_an_exception_of_their_own() -> None:
    flights: Flights[str] = Flights()
    original = UpstreamUnreachable("no route", headers={"retry-after": "1"})
    purchase = Purchase(original)
    tasks = await joined(flights, purchase, 50)
    purchase.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, UpstreamUnreachable)]
    assert len({id(failure) for failure in [*failures, original]}) == 51
    assert {failure.headers["retry-after"] for failure in failures} == {"1"}
    assert len({len(traceback.extract_tb(failure.__traceback__)) for failure in failures}) == 1


async def test_a_defect_reaches_everyone_as_an_internal_error_that_names_it_for_the_log() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase(ValueError("a defect"))
    tasks = await joined(flights, purchase, 3)
    purchase.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [InternalError] * 3
    assert all(isinstance(o, InternalError) and isinstance(o.__cause__, ValueError) for o in outcomes)
    assert all("a defect" not in str(outcome) for outcome in outcomes)
    assert flights.in_flight() == 0


async def test_not_even_an_exit_leaves_anybody_waiting() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase(SystemExit(1))
    tasks = await joined(flights, purchase, 3)
    purchase.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [InternalError] * 3
    assert flights.in_flight() == 0


async def test_a_cancelled_flight_leaves_nobody_waiting() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase()
    tasks = await joined(flights, purchase, 3)
    await purchase.started.wait()
    (flight,) = [task for task in asyncio.all_tasks() if task.get_name().startswith("flight")]
    flight.cancel()
    done, waiting = await asyncio.wait(tasks, timeout=10)
    assert (len(done), waiting) == (3, set())
    assert flights.in_flight() == 0


async def test_a_flight_that_nobody_waits_for_is_flown_to_its_end() -> None:
    async with no_complaints():
        flights: Flights[str] = Flights()
        good, bad = Purchase(), Purchase(ValueError("nobody hears this"))
        for purchase in (good, bad):
            for task in await joined(flights, purchase, 3):
                await left(task)
            assert (flights.in_flight(), flights.waiting("key")) == (1, 0)
            purchase.gate.set()
            assert await flights.drain(10) == 0
            assert purchase.landed == 1


async def test_who_comes_while_nobody_waits_still_joins() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase()
    (leader,) = await joined(flights, purchase)
    await left(leader)
    (late,) = await joined(flights, never)
    purchase.gate.set()
    assert await late == ("picture", False)


async def test_leaving_at_the_moment_of_landing_is_quiet() -> None:
    async with no_complaints():
        flights: Flights[str] = Flights()
        purchase = Purchase(UpstreamUnreachable("no"))
        tasks = await joined(flights, purchase, 4)
        purchase.gate.set()
        while flights.in_flight():
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        del tasks


# --- laws 5 and 6 ----------------------------------------------------------------------------------------------------


async def test_drain_gives_up_after_its_time_and_leaves_the_flights_in_the_air() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase()
    (task,) = await joined(flights, purchase)
    assert await flights.drain(0.01) == 1
    assert not task.done()
    purchase.gate.set()
    assert await flights.drain(10) == 0
    assert await task == ("picture", True)


async def test_drain_waits_for_flights_that_took_off_meanwhile() -> None:
    flights: Flights[str] = Flights()
    first, second = Purchase(), Purchase()
    one = asyncio.create_task(flights.do("one", first))
    await first.started.wait()
    drained = asyncio.create_task(flights.drain(10))
    await asyncio.sleep(0)
    two = asyncio.create_task(flights.do("two", second))
    await second.started.wait()
    first.gate.set()
    await one
    for _ in range(5):
        await asyncio.sleep(0)
    assert not drained.done()
    second.gate.set()
    assert await drained == 0
    await two


async def test_drain_of_nothing_returns_at_once() -> None:
    flights: Flights[str] = Flights()
    assert await flights.drain(0) == 0
    assert (flights.in_flight(), flights.waiting("key")) == (0, 0)


async def test_thousands_may_wait_and_leave_in_any_order() -> None:
    flights: Flights[str] = Flights()
    purchase = Purchase()
    tasks = [asyncio.create_task(flights.do("key", purchase)) for _ in range(5000)]
    await purchase.started.wait()
    assert flights.waiting("key") == 5000
    for task in reversed(tasks[2500:]):
        task.cancel()
    await asyncio.wait(tasks[2500:])
    assert flights.waiting("key") == 2500
    purchase.gate.set()
    outcomes = await asyncio.gather(*tasks[:2500])
    assert purchase.begun == 1
    assert sum(led for _, led in outcomes) == 1

"""Slots: never more at once than allowed, and never fewer afterwards, whoever was cancelled where."""

import asyncio
import random
from collections.abc import Callable

import pytest

from proxy.errors import QueueFull
from proxy.upstream.slots import MOVING_BYTES_PER_SECOND, CallSlots, ReceiveSlots
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio

CLOCK = ManualClock()


class Call:
    """A call that holds its place until it is told to end."""

    def __init__(self, slots: CallSlots, waited: Callable[[float], None] = lambda seconds: None) -> None:
        self.end = asyncio.Event()
        self.holds = asyncio.Event()
        self.task = asyncio.create_task(self._run(slots, waited))

    async def _run(self, slots: CallSlots, waited: Callable[[float], None]) -> None:
        async with slots.hold(waited, CLOCK.monotonic):
            self.holds.set()
            await self.end.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def places_free(slots: CallSlots, limit: int) -> bool:
    """Exactly `limit` places can be taken."""
    calls = [Call(slots) for _ in range(limit + 1)]
    await settle()
    free = [call.holds.is_set() for call in calls] == [True] * limit + [False]
    for call in calls:
        call.end.set()
    await asyncio.gather(*(call.task for call in calls))
    return free


# --- calls -----------------------------------------------------------------------------------------------------------


async def test_calls_beyond_the_limit_wait_their_turn() -> None:
    slots, waits = CallSlots(2), list[float]()
    calls = [Call(slots, waits.append) for _ in range(4)]
    await settle()
    assert [call.holds.is_set() for call in calls] == [True, True, False, False]
    assert slots.waiting == 2
    calls[1].end.set()
    await calls[2].holds.wait()
    assert not calls[3].holds.is_set()
    for call in calls:
        call.end.set()
    await asyncio.gather(*(call.task for call in calls))
    assert (slots.waiting, len(waits)) == (0, 2)
    assert await places_free(slots, 2)


async def test_a_full_queue_refuses_at_once() -> None:
    slots = CallSlots(1, queue_limit=1)
    calls = [Call(slots) for _ in range(3)]
    with pytest.raises(QueueFull) as caught:
        await calls[2].task
    assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "10")
    calls[0].end.set()
    calls[1].end.set()
    await asyncio.gather(calls[0].task, calls[1].task)
    assert await places_free(slots, 1)


async def test_waiting_in_the_queue_ends_and_takes_no_place_with_it() -> None:
    slots, waits = CallSlots(1, wait_seconds=0.01), list[float]()
    holder = Call(slots)
    await holder.holds.wait()
    with pytest.raises(QueueFull):
        await Call(slots, waits.append).task
    assert (slots.waiting, len(waits)) == (0, 1)
    holder.end.set()
    await holder.task
    assert await places_free(slots, 1)


async def test_a_newcomer_does_not_overtake_the_queue() -> None:
    slots = CallSlots(1)
    first, second = Call(slots), Call(slots)
    await settle()
    first.end.set()
    third = Call(slots)
    await second.holds.wait()
    await settle()
    assert not third.holds.is_set()
    for call in (second, third):
        call.end.set()
    await asyncio.gather(second.task, third.task)


async def test_no_place_leaks_whoever_is_cancelled_wherever() -> None:
    slots = CallSlots(3)
    dice = random.Random(7)
    for _ in range(60):
        calls = [Call(slots) for _ in range(10)]
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        for call in dice.sample(calls, 6):
            call.task.cancel() if dice.random() < 0.6 else call.end.set()
            if dice.random() < 0.3:
                await asyncio.sleep(0)
        for call in calls:
            call.end.set()
        await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
        assert slots.waiting == 0
    assert await places_free(slots, 3)


async def test_a_failing_call_gives_its_place_back() -> None:
    slots = CallSlots(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="the call"):
            async with slots.hold(lambda seconds: None, CLOCK.monotonic):
                raise ValueError("the call")
    assert await places_free(slots, 1)


# --- bodies ----------------------------------------------------------------------------------------------------------

CHECK_SECONDS = 0.02
FAST = int(MOVING_BYTES_PER_SECOND * CHECK_SECONDS) * 4


class Reading:
    """A body that is read as its events say."""

    def __init__(self, slots: ReceiveSlots) -> None:
        self.chunks: asyncio.Queue[int] = asyncio.Queue()
        self.begun = asyncio.Event()
        self.read = 0
        self.task = asyncio.create_task(self._run(slots))

    async def _run(self, slots: ReceiveSlots) -> None:
        async with slots.receiving() as slot:
            self.begun.set()
            while size := await self.chunks.get():
                await slot.moved(size)
                self.read += size

    async def finish(self) -> None:
        self.chunks.put_nowait(0)
        await self.task


async def watches() -> int:
    """Timers of ours that are still set."""
    loop = asyncio.get_running_loop()
    scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]  # no public way to see them
    return sum("ReceiveSlot" in repr(handle) for handle in scheduled if not handle.cancelled())


async def test_only_so_many_bodies_are_read_at_once() -> None:
    slots = ReceiveSlots(2)
    bodies = [Reading(slots) for _ in range(3)]
    await settle()
    assert [body.begun.is_set() for body in bodies] == [True, True, False]
    await bodies[0].finish()
    await bodies[2].begun.wait()
    for body in bodies[1:]:
        await body.finish()
    assert await watches() == 0


async def test_a_body_that_stands_still_gives_its_place_to_another() -> None:
    slots = ReceiveSlots(1, check_seconds=CHECK_SECONDS)
    slow, next_one = Reading(slots), Reading(slots)
    async with asyncio.timeout(5):
        await next_one.begun.wait()
    assert not slow.task.done()
    await next_one.finish()
    await slow.finish()
    third = Reading(slots)
    await third.begun.wait()
    await third.finish()


async def test_a_body_that_trickles_reads_on_without_a_place() -> None:
    slots = ReceiveSlots(1, check_seconds=CHECK_SECONDS)
    slow, holder = Reading(slots), Reading(slots)
    async with asyncio.timeout(5):
        await holder.begun.wait()
        while slow.read < 3:
            slow.chunks.put_nowait(1)
            await asyncio.sleep(0)
    await slow.finish()
    await holder.finish()


async def test_a_body_that_runs_again_waits_for_a_place() -> None:
    slots = ReceiveSlots(1, check_seconds=CHECK_SECONDS)
    slow = Reading(slots)
    async with asyncio.timeout(5):
        holder = Reading(slots)
        await holder.begun.wait()  # the slow one has given way
        slow.chunks.put_nowait(FAST)
        holder.chunks.put_nowait(FAST)
        await settle()
        assert (slow.read, holder.read) == (0, FAST)
        await holder.finish()
        while not slow.read:
            await asyncio.sleep(0)
        await slow.finish()
    last = Reading(slots)
    await settle()
    assert last.begun.is_set()
    await last.finish()
    assert await watches() == 0, "a body that took its place twice is watched once, and not after its end"


async def test_no_body_place_leaks_whoever_is_cancelled_wherever() -> None:
    slots = ReceiveSlots(2, check_seconds=0.001)
    dice = random.Random(11)
    for _ in range(60):
        bodies = [Reading(slots) for _ in range(6)]
        for body in bodies:
            for _ in range(3):
                body.chunks.put_nowait(dice.choice([1, FAST]))
        for _ in range(dice.randrange(12)):
            await asyncio.sleep(dice.choice([0, 0, 0, 0.0015]))
        for body in dice.sample(bodies, 3):
            body.task.cancel()
        for body in bodies:
            body.chunks.put_nowait(0)
        await asyncio.gather(*(body.task for body in bodies), return_exceptions=True)
    bodies = [Reading(slots) for _ in range(2)]
    await settle()
    assert all(body.begun.is_set() for body in bodies)
    for body in bodies:
        await body.finish()
    assert await watches() == 0

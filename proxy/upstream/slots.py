"""Bounds: how many calls an upstream gets at once, and how many reply bodies are read at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from proxy.errors import QueueFull

QUEUE_CALLS = 1000
QUEUE_SECONDS = 30.0
MOVING_BYTES_PER_SECOND = 64 * 1024
RECEIVE_SLOTS = 8
"""64 replies of 12 MB at once: 320 to 376 MB of memory when all are read together, 99 MB when eight are."""


def queue_full() -> QueueFull:
    return QueueFull(
        "Too many images are being generated at once. Please try again later.", headers={"retry-after": "10"}
    )


class CallSlots:
    """At most `limit` calls at once; `queue_limit` more may wait, `wait_seconds` each."""

    def __init__(self, limit: int, *, queue_limit: int = QUEUE_CALLS, wait_seconds: float = QUEUE_SECONDS) -> None:
        self._free = asyncio.Semaphore(limit)
        self._queue_limit = queue_limit
        self._wait_seconds = wait_seconds
        self.waiting = 0

    @asynccontextmanager
    async def hold(self, waited: Callable[[float], None], monotonic: Callable[[], float]) -> AsyncIterator[None]:
        """A place among the calls. Raises QueueFull (429, `Retry-After`) instead of waiting for ever."""
        if self._free.locked():
            await self._queue(waited, monotonic)
        else:
            await self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    async def _queue(self, waited: Callable[[float], None], monotonic: Callable[[], float]) -> None:
        if self.waiting >= self._queue_limit:
            raise queue_full()
        began = monotonic()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise queue_full() from None
        finally:
            self.waiting -= 1
            waited(monotonic() - began)


class ReceiveSlots:
    """At most `limit` reply bodies are read at once; the others wait in the kernel's buffers."""

    def __init__(self, limit: int = RECEIVE_SLOTS, *, check_seconds: float = 1.0) -> None:
        self._free = asyncio.Semaphore(limit)
        self._check_seconds = check_seconds

    @asynccontextmanager
    async def receiving(self, *, at_once: bool = True) -> AsyncIterator["ReceiveSlot"]:
        """With a place from the start, or, not `at_once`, with one when the body begins to run.

        The head of a reply says that its bytes are coming, that of a stream comes long before its picture.
        """
        slot = ReceiveSlot(self._free, self._check_seconds)
        if at_once:
            await slot.take()
        else:
            slot.watch()
        try:
            yield slot
        finally:
            slot.give_back()


class ReceiveSlot:
    """One body's place. A body that moves slowly gives it back, and takes one again before it may move fast."""

    def __init__(self, free: asyncio.Semaphore, check_seconds: float) -> None:
        self._free = free
        self._check_seconds = check_seconds
        self._enough_bytes = MOVING_BYTES_PER_SECOND * check_seconds
        self._held = False
        self._moved_bytes = 0
        self._check: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        await self._free.acquire()
        self._held = True
        self.watch()

    async def moved(self, count: int) -> None:
        """Counts what arrived; a body that gave its place back and runs again waits here for another."""
        self._moved_bytes += count
        if not self._held and self._moved_bytes >= self._enough_bytes:
            await self.take()

    def give_back(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None
        self._let_go()

    def watch(self) -> None:
        """Looks again and again whether the body moves."""
        if self._check is not None:  # one watch a body, however often it takes its place again
            self._check.cancel()
        self._moved_bytes = 0
        self._check = asyncio.get_running_loop().call_later(self._check_seconds, self._judge)

    def _judge(self) -> None:
        if self._moved_bytes < self._enough_bytes:
            self._let_go()
        self.watch()

    def _let_go(self) -> None:
        if self._held:
            self._held = False
            self._free.release()

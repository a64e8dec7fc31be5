"""The database for the event loop: opened and used in threads of its own, each wait bounded.

A server that hangs without closing holds a thread, never a request: after `deadline_seconds` whoever waits is told that
the database is unavailable, and while every thread hangs nobody waits any more. Nor does the end of the process.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.errors import ConfigurationError, DatabaseUnavailable, PayerRefusal

if TYPE_CHECKING:
    from proxy.database.engine import Database

THREADS = 4
DEADLINE_SECONDS = 12.0
"""Longer than any wait that the database bounds by itself."""
WAIT_SECONDS = 5.0
"""How long the database waits for a lock, a connection, or a server."""

T = TypeVar("T")


class BackgroundDatabase:
    """SQLAlchemy is imported, and the database opened, by the first work that is run."""

    def __init__(
        self,
        url: str,
        *,
        threads: int = THREADS,
        deadline_seconds: float = DEADLINE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._opened = _Opened(url, wait_seconds)
        self._deadline_seconds = deadline_seconds
        self._count = threads
        self._threads = _Threads(threads)
        self._hanging = 0
        self._is_closed = False
        self.problem: str | None = None
        """The database's own word for why it cannot be used, as far as is known; None when it can."""

    def beside(self, *, threads: int = THREADS) -> "BackgroundDatabase":
        """The same database with threads of its own: what hangs in these holds up nothing in those.

        Not another one of this address: a file that was removed meanwhile would be made anew, and empty.
        """
        other = BackgroundDatabase("", threads=threads, deadline_seconds=self._deadline_seconds)
        other._opened = self._opened
        return other

    async def run(self, work: "Callable[[Database], T]") -> T:
        """What `work` gives, in a thread. Raises DatabaseUnavailable, or whatever `work` raises.

        Work that is given up on, or whose caller is cancelled, may still be done later.
        """
        if self._is_closed:
            raise DatabaseUnavailable("it is closed")
        if self._hanging >= self._count:
            raise DatabaseUnavailable("it does not answer")
        running: Future[T] = self._threads.submit(lambda: work(self._opened.database()))
        told = asyncio.wrap_future(running)
        try:
            async with asyncio.timeout(self._deadline_seconds) as deadline:
                found = await asyncio.shield(told)
        except TimeoutError:
            if not deadline.expired():
                raise  # it is the work's own
            self._give_up_on(running, told)
            self.problem = "it does not answer"
            raise DatabaseUnavailable(self.problem) from None
        except asyncio.CancelledError:
            # Nobody waits for it any more, and so nobody would find out that it hangs.
            told.get_loop().call_later(self._deadline_seconds, self._give_up_on, running, told)
            raise
        except DatabaseUnavailable as error:
            self.problem = error.reason
            raise
        except ConfigurationError as error:
            self.problem = error.message
            raise
        except PayerRefusal:
            self.problem = None  # that is an answer
            raise
        self.problem = None
        return found

    async def close(self) -> None:
        """What is running may end; what hangs is not waited for. Idempotent."""
        self._is_closed = True
        self._threads.close()
        if not self._hanging:
            await asyncio.to_thread(self._opened.close)

    def _give_up_on(self, running: "Future[T]", told: "asyncio.Future[T]") -> None:
        if told.done() or running.cancel():
            return  # it ended after all, or never began
        self._hanging += 1

        def ended(future: "asyncio.Future[T]") -> None:
            self._hanging -= 1
            if not future.cancelled():
                future.exception()  # retrieved: there is nobody to be told

        told.add_done_callback(ended)


class _Opened:
    """The database, opened by whoever asks first; for any thread."""

    def __init__(self, url: str, wait_seconds: float) -> None:
        self._url = url
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._is_closed = False

    def database(self) -> "Database":
        """Raises DatabaseUnavailable or ConfigurationError; then it is tried again the next time."""
        with self._lock:
            if self._is_closed:
                raise DatabaseUnavailable("it is closed")
            if self._database is None:
                from proxy.database.engine import Database

                database = Database(self._url, wait_seconds=self._wait_seconds)
                try:
                    database.open()
                except BaseException:
                    database.close()
                    raise
                self._database = database
            return self._database

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._database is not None:
                self._database.close()
                self._database = None


class _Threads:
    """As many threads, from the first work on. One that hangs does not keep the process from ending, as an executor's
    would: those are joined by the interpreter on its way out.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._is_started = False

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        if not self._is_started:
            self._is_started = True
            for number in range(self._count):
                threading.Thread(target=self._serve, name=f"database_{number}", daemon=True).start()
        future: Future[T] = Future()
        self._waiting.put((future, work))
        return future

    def close(self) -> None:
        """After what was submitted."""
        for _ in range(self._count if self._is_started else 0):
            self._waiting.put(None)

    def _serve(self) -> None:
        while (each := self._waiting.get()) is not None:
            _do(*each)
            del each  # a thread that waits holds nothing of what it did


def _do(future: Future[T], work: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        found = work()
    except BaseException as error:  # noqa: BLE001 - told to whoever waits for it
        future.set_exception(error)
    else:
        future.set_result(found)

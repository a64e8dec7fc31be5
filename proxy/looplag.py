"""How late the event loop wakes who asked to be woken: what it loses to whatever blocks it."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

SLEEP_SECONDS = 0.5


class Alarms(Protocol):
    """What is used of an event loop: its clock, and being called at a time of it."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Any:
        """Gives what can be cancelled."""


class LoopLag:
    """Sleeps for half a second by the loop's clock, again and again, and tells `observe` how late it woke."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._alarm: Any = None

    def start(self, loop: Alarms | None = None) -> None:
        """Idempotent."""
        self.stop()
        self._sleep(loop or asyncio.get_running_loop())

    def stop(self) -> None:
        """Idempotent."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _sleep(self, loop: Alarms) -> None:
        due = loop.time() + SLEEP_SECONDS

        def wake() -> None:
            self._observe(max(0.0, loop.time() - due))  # a clock of whole milliseconds may wake us too early
            self._sleep(loop)

        self._alarm = loop.call_at(due, wake)

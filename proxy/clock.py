"""Time, as an argument: wall clock for what is stored, monotonic clock for durations."""

import time
from datetime import UTC, date, datetime
from typing import Protocol


class Clock(Protocol):
    """The only source of time in imagegate; tests turn one by hand."""

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump in either direction."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def midnight(day: date) -> datetime:
    """The moment at which a day begins, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

"""Waits for something to become true, up to a deadline: the only place where tests pause."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_SECONDS = 0.01


def eventually(look: Callable[[], T | None], *, seconds: float = 20.0, what: str = "what was waited for") -> T:
    """The first true value that `look` gives. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:g} seconds")
        time.sleep(PAUSE_SECONDS)

"""Whether this process is alive, ready and taking new work; on its way out, which part of the way, and until when."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from proxy.clock import Clock
from proxy.errors import Draining


class Phase(Enum):
    """Of a process's life, in this order."""

    SERVING = auto()
    LEAVING = auto()
    """Not ready for new traffic any more, but still serving what comes."""
    DRAINING = auto()
    """The listener is closed: nothing new is bought, what flies may land."""


@dataclass(slots=True)
class Health:
    """`store_is_writable` asks the store. The server moves the phase; everybody else reads it here."""

    store_is_writable: Callable[[], bool]
    clock: Clock
    database_problem: Callable[[], str | None] = lambda: None
    """Why nothing can be bought, where purchases need the database."""
    phase: Phase = Phase.SERVING
    _ends_at: float = math.inf

    @property
    def is_draining(self) -> bool:
        return self.phase is Phase.DRAINING

    @property
    def seconds_left(self) -> float:
        """Of this phase; never below 0."""
        return max(0.0, self._ends_at - self.clock.monotonic())

    def leave(self, seconds: float) -> None:
        """The way out begins; the listener closes in so many seconds."""
        self.phase, self._ends_at = Phase.LEAVING, self.clock.monotonic() + seconds

    def drain(self, seconds: float) -> None:
        """What is in progress has so many seconds from now on. There is one deadline: a second call changes nothing."""
        if not self.is_draining:
            self.phase, self._ends_at = Phase.DRAINING, self.clock.monotonic() + seconds

    def problems(self) -> list[str]:
        """Why this process should get no new traffic; empty when it is ready."""
        found = []
        if self.phase is not Phase.SERVING:
            found.append("shutting down")
        if not self.store_is_writable():
            found.append("the cache cannot be written")
        if self.database_problem() is not None:
            found.append("the database cannot be used")
        return found

    def refuse_new_purchases_when_draining(self) -> None:
        """Raises Draining (503): a flight that begins now might not land before this process ends."""
        if self.is_draining:
            raise Draining("This imagegate is shutting down. Please try again.", headers={"retry-after": "1"})

"""Whether this process is alive, ready and taking new work."""

from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import Draining


@dataclass(slots=True)
class Health:
    """`store_is_writable` asks the store; the server sets the two flags, in this order, on its way out."""

    store_is_writable: Callable[[], bool]
    leaving: bool = False
    """Not ready for new traffic any more, but still serving what comes."""
    draining: bool = False
    """The listener is closed: nothing new is bought, what flies may land."""

    def problems(self) -> list[str]:
        """Why this process should get no new traffic; empty when it is ready."""
        found = []
        if self.leaving or self.draining:
            found.append("shutting down")
        if not self.store_is_writable():
            found.append("the cache cannot be written")
        return found

    def refuse_new_purchases_when_draining(self) -> None:
        """Raises Draining (503): a flight that begins now might not land before this process ends."""
        if self.draining:
            raise Draining("This imagegate is shutting down. Please try again.", headers={"retry-after": "1"})

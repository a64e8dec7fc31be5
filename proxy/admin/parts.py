"""What the admin API is made of."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.database.background import BackgroundDatabase
from proxy.metrics import Metrics
from proxy.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    settings: Settings
    database: BackgroundDatabase
    reports: BackgroundDatabase
    """The same with threads of its own."""
    clock: Clock
    metrics: Metrics
    on_change: Callable[[], Awaitable[None]]
    """Waited for after each change to keys or teams, and before its answer: what was answered holds in this process.

    May raise ImagegateError: the change is made all the same, and told as made.
    """

"""The nouns of the ledger: an order, how it ended, what a holder has spent; frozen values, nothing here does anything.

Money is in nano-dollars, as integers; seconds are wall clock, since the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from proxy.keyrecord import NANOS_PER_DOLLAR
from proxy.model import Usage


class Ending(StrEnum):
    """How a purchase ended, as the ledger keeps it."""

    SETTLED = "settled"
    """The usage that the reply told, at its price."""
    ESTIMATED = "estimated"
    """A reply without usage: the estimate."""
    UNKNOWN = "unknown"
    """Nobody knows whether it was billed: the estimate, counted apart."""
    RELEASED = "released"
    """Certainly not billed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is about to be bought, and by whom: a row of the ledger before a byte goes upstream."""

    id: str
    instance: str
    """The process that buys."""
    lease_seconds: float
    """How long nobody else may close it; the process renews it while it lives."""
    key_id: str | None = None
    team_id: str | None = None
    operation: str
    model: str
    upstream: str
    """The one that is asked first."""
    size: str
    quality: str
    n: int
    cache_keys: tuple[str, ...]
    """Where its reply may be stored, one for each upstream that may be asked."""
    request_id: str
    estimate: int | None
    """None for what has no price."""
    price_version: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """How an order ended."""

    id: str
    ending: Ending
    cost: int | None = None
    """None: what was estimated, and nothing where it was released."""
    upstream: str | None = None
    """The one that answered; None if none did."""
    images: int = 0
    usage: Usage | None = None
    upstream_request_id: str | None = None
    price_version: str | None = None
    seconds: float | None = None
    """What the upstream took."""
    error: str | None = None
    """The code of the error that it ended with."""


@dataclass(frozen=True, slots=True)
class OpenPurchase:
    """One whose lease has run out: whoever bought it may have died."""

    id: str
    lease_until: float
    cache_keys: tuple[str, ...]
    model: str = ""
    team: str = "none"
    """Its alias."""
    estimate: int | None = None


@dataclass(frozen=True, slots=True)
class Spend:
    """What a key or a team has spent since its window began, and what calls in flight may still cost it."""

    holder_id: str
    window_start: float
    settled: int
    reserved: int


class Tallied(NamedTuple):
    """What answers that cost nothing are counted by. `how` is `hit` or `coalesced`."""

    hour: int
    key_id: str
    team_id: str
    operation: str
    model: str
    size: str
    quality: str
    how: str


@dataclass(slots=True)
class Tally:
    """How many there were, and what the purchases that they repeat had cost."""

    answers: int = 0
    images: int = 0
    tokens: int = 0
    saved: int = 0


Tallies = Mapping[Tallied, Tally]


def nanos(dollars: Decimal) -> int:
    """To the nearest nano-dollar; halves up."""
    return int((dollars * NANOS_PER_DOLLAR).to_integral_value(ROUND_HALF_UP))


def nanos_at_least(dollars: Decimal) -> int:
    """For what is reserved: never less."""
    return int((dollars * NANOS_PER_DOLLAR).to_integral_value(ROUND_CEILING))


@lru_cache(maxsize=1024)
def usd(nanos: int) -> Decimal:
    return Decimal(nanos) / NANOS_PER_DOLLAR

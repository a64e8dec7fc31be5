"""What goes to an upstream and what comes back: the values of the door."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from proxy.model import Candidate, Credential, Relay
from proxy.reply import Inspection
from proxy.spool import Spool


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made: in passthrough mode with their credential, else with ours."""

    credential: Credential | None = None
    openai_beta: str = ""


@dataclass(slots=True)
class Generation:
    """What an upstream returned, checked whole; the spool is the receiver's to commit, keep or discard."""

    candidate: Candidate
    spool: Spool
    inspection: Inspection
    upstream_request_id: str | None
    began: float
    """Monotonic: when the call that succeeded was begun."""
    seconds: float
    """Of the call that succeeded: from connecting to the last byte of its reply."""
    waited_seconds: float = 0.0
    """Until that call began: for a place at the upstream, and for the calls before it that failed."""
    told_cost: Decimal | None = None
    """USD, where the vendor itself says what it charged."""
    partials: int = 0
    """Pictures on the way that a stream brought; they are billed."""
    relay: Relay = field(default_factory=Relay)


class Observer(Protocol):
    """Who counts what happens at the door."""

    def attempt(self, upstream: str, model: str, code: int | None, error: str, seconds: float) -> None: ...

    def amended(self, upstream: str, member: str) -> None: ...

    def retried(self, upstream: str, reason: str) -> None: ...

    def ratelimit(self, upstream: str, model: str, headers: Mapping[str, str]) -> None: ...

    def queue_waited(self, seconds: float) -> None: ...

"""The headers of a reply, beside those that say what its body is: how the cache took part, what it cost, what is new."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from proxy.clock import midnight
from proxy.model import ImageRequest, Outcome, Progress, Standing
from proxy.money import dollars
from proxy.noun import noun

SUNSET_NOTICE = timedelta(days=60)

Headers = list[tuple[bytes, bytes]]


@noun
class Moment:
    """When a response is written: wall clock, and seconds since the request arrived."""

    wall: float
    elapsed_seconds: float


def cache_status(outcome: Outcome) -> str:
    """The member of `Cache-Status` that is ours (RFC 9211 §2)."""
    if outcome.forward is None:
        return f"imagegate; hit; ttl={outcome.ttl_seconds}; detail={outcome.entry.tier}"
    parameters = ["imagegate", f"fwd={outcome.forward.value}"]
    if outcome.stored:
        parameters.append("stored")
    if outcome.collapsed:
        parameters.append("collapsed")
    return "; ".join(parameters)


def forward_headers(progress: Progress) -> Iterable[tuple[bytes, bytes]]:
    """How the cache took part in a call that was sent on and failed there."""
    if progress.forward is not None:
        collapsed = "; collapsed" if progress.collapsed else ""
        yield b"cache-status", f"imagegate; fwd={progress.forward.value}{collapsed}".encode("ascii")
        yield b"x-imagegate-cache", progress.forward.label(collapsed=progress.collapsed).upper().encode("ascii")
        yield b"x-imagegate-cache-key", progress.key[:12].encode("ascii")


def cache_headers(outcome: Outcome) -> Iterable[tuple[bytes, bytes]]:
    """How the cache took part, and what that cost."""
    yield from lasting_headers(outcome)
    yield from passing_headers(outcome)


def lasting_headers(outcome: Outcome) -> Iterable[tuple[bytes, bytes]]:
    """Those of them that are the same for every hit of an entry."""
    metadata = outcome.entry.metadata
    yield b"cache-control", b"private, no-store"
    yield b"x-imagegate-cache", outcome.label.upper().encode("ascii")
    yield b"x-imagegate-cache-key", metadata.key[:12].encode("ascii")
    if outcome.cost is not None:
        yield b"x-imagegate-cost-usd", dollars(outcome.cost).encode("ascii")
    if outcome.saved is not None:
        yield b"x-imagegate-saved-usd", dollars(outcome.saved).encode("ascii")
    if outcome.forward is not None and not outcome.collapsed and metadata.upstream_request_id:
        yield b"x-imagegate-upstream-request-id", metadata.upstream_request_id.encode("ascii")


def passing_headers(outcome: Outcome) -> Iterable[tuple[bytes, bytes]]:
    """Those of them that depend on the moment."""
    yield b"cache-status", cache_status(outcome).encode("ascii")
    if outcome.forward is None:
        yield b"age", b"%d" % outcome.age_seconds


def standing_headers(standing: Standing | None) -> Iterable[tuple[bytes, bytes]]:
    """How the caller's virtual key stands: dollars in the present window of its budget, and limits in time."""
    if standing is None:
        return
    yield b"x-imagegate-key-spend", dollars(standing.spent).encode("ascii")
    if standing.max_budget is not None:
        yield b"x-imagegate-key-max-budget", dollars(standing.max_budget).encode("ascii")
    if standing.is_past_soft_budget:
        yield b"x-imagegate-soft-budget", b"exceeded"


def relayed(headers: Mapping[str, str], standing: Standing | None) -> Iterable[tuple[bytes, bytes]]:
    """The upstream's own headers; of two limits the caller is told the tighter one, the upstream's or its key's."""
    limits = standing.limits if standing is not None else {}
    if not headers:
        return encoded(limits)
    tighter = limits if _left(limits) <= _left(headers) else {}
    return encoded({**headers, **tighter})


def _left(headers: Mapping[str, str]) -> float:
    told = headers.get("x-ratelimit-remaining-requests", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 16 else math.inf


def notices(request: ImageRequest, moment: Moment) -> Iterable[tuple[bytes, bytes]]:
    """What the caller should know: what was adjusted, and a model's end (RFC 8594, RFC 9745)."""
    if request.adjusted:
        yield b"x-imagegate-adjusted", ", ".join(request.adjusted).encode("ascii", "replace")
    if request.shutdown_date is None:
        return
    sunset = midnight(request.shutdown_date)
    if sunset - SUNSET_NOTICE <= datetime.fromtimestamp(moment.wall, UTC):
        deprecated = midnight(request.announced_date or request.shutdown_date)
        yield b"sunset", format_datetime(sunset, usegmt=True).encode("ascii")
        yield b"deprecation", b"@%d" % int(deprecated.timestamp())


def server_timing(outcome: Outcome, moment: Moment) -> bytes:
    """Milliseconds in all, upstream, and here (W3C Server Timing)."""
    total = moment.elapsed_seconds * 1000
    upstream = min(outcome.upstream_seconds * 1000, total)
    return b"total;dur=%.1f, upstream;dur=%.1f, proxy;dur=%.1f" % (total, upstream, total - upstream)


def encoded(headers: Mapping[str, str]) -> Iterable[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]

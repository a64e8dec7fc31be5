"""When a stored reply may be used: the request's directives against an entry's age, decided purely.

imagegate memoises POST answers as a gateway that acts as the origin for its callers (RFC 9110 §3.7); it follows the
vocabulary of RFC 9111, whose rules for shared caches forbid storing them. Request directives: RFC 9111 §5.2.1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.errors import InvalidRequest
from proxy.model import Forward, Metadata

MAX_SECONDS = 2**31
"""A delta-seconds above this is this (RFC 9111 §1.2.2)."""
MOST_TAGS = 10
CLOCK_SKEW_SECONDS = 300
"""An entry that claims to be stored later than this from now was stored under another clock: it counts as stale."""

_TAG = re.compile(r"[A-Za-z0-9_.:/@-]{1,64}", re.ASCII)
# Possessive throughout: a header written to make the expression go back and forth costs no more than another.
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))++', re.DOTALL)
_DIRECTIVE = re.compile(r'([!#$%&\'*+.^_`|~\w-]++)(?:\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]*+)))?+', re.ASCII)


@dataclass(frozen=True, slots=True)
class Directives:
    """What the caller asked of the cache. Times are seconds."""

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    ttl: int | None = None
    """`X-Imagegate-Cache-Ttl`: how long what is bought for this request may be used."""


NO_DIRECTIVES = Directives()


def directives(headers: Mapping[str, str]) -> Directives:
    """The directives of a request. Unknown and malformed ones are ignored, as RFC 9111 §5.2 asks.

    Raises InvalidRequest if `X-Imagegate-Cache-Ttl`, which is ours, is not a whole number of seconds.
    """
    control, ttl = headers.get("cache-control"), headers.get("x-imagegate-cache-ttl")
    if control is None and ttl is None:
        return NO_DIRECTIVES
    given = _parse(control or "")
    return Directives(
        no_store="no-store" in given,
        no_cache="no-cache" in given,
        only_if_cached="only-if-cached" in given,
        max_age=_seconds(given.get("max-age")),
        min_fresh=_seconds(given.get("min-fresh")),
        max_stale=MAX_SECONDS if given.get("max-stale", ...) is None else _seconds(given.get("max-stale")),
        ttl=_own_ttl(ttl),
    )


def reason_to_forward(
    entry: Metadata | None, asked: Directives, *, now: float, arrived: float, in_flight: bool = False
) -> Forward | None:
    """Why a request must go upstream although `entry` was found; None if the entry may be used.

    `arrived` is when the request came, `now` the moment of the look-up, both wall clock. Inside a flight a refresh takes
    an entry that was stored after the request arrived: somebody else has just paid for the very answer it wants.
    """
    if asked.no_store:
        return Forward.BYPASS
    if entry is None:
        return Forward.URI_MISS
    remaining = seconds_left(entry, now)
    if remaining <= 0 and (asked.max_stale is None or -remaining > asked.max_stale):
        return Forward.STALE
    just_bought = (
        in_flight and arrived <= entry.stored_at <= now
    )  # later than now: bought before the clock was put back
    refused_by_caller = (
        asked.no_cache
        or (asked.max_age is not None and age_seconds(entry, now) > asked.max_age)
        or (asked.min_fresh is not None and remaining < asked.min_fresh)
    )
    return Forward.REQUEST if refused_by_caller and not just_bought else None


def age_seconds(entry: Metadata, now: float) -> int:
    """Whole seconds since the entry was stored; never negative, whatever the clock did (RFC 9111 §4.2.3)."""
    return max(0, int(now - entry.stored_at))


def seconds_left(entry: Metadata, now: float) -> int:
    """Whole seconds for which the entry stays fresh; zero or less when it is stale."""
    if entry.stored_at - now > CLOCK_SKEW_SECONDS:
        return 0
    lifetime = entry.expires_at - entry.stored_at
    return int(min(lifetime, entry.expires_at - now))


def tags(headers: Mapping[str, str]) -> tuple[str, ...]:
    """`X-Imagegate-Tags: a, b`: words to find a purchase by in the ledger. Raises InvalidRequest."""
    given = headers.get("x-imagegate-tags")
    if given is None:
        return ()
    found = tuple(dict.fromkeys(tag for tag in (each.strip(" \t") for each in given.split(",")) if tag))
    if len(found) > MOST_TAGS or not all(_TAG.fullmatch(tag) for tag in found):
        raise InvalidRequest(
            f"Invalid 'X-Imagegate-Tags': expected at most {MOST_TAGS} words of at most 64 letters, digits and _.:/@-.",
            code="invalid_header",
        )
    return found


def _parse(value: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for member in _MEMBER.findall(value[:4096]):
        if match := _DIRECTIVE.fullmatch(member.strip()):
            name, quoted, token = match.groups()
            found.setdefault(name.lower(), quoted if quoted is not None else token)
    return found


def _seconds(value: str | None) -> int | None:
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return min(int(value[:12]), MAX_SECONDS)


def _own_ttl(value: str | None) -> int | None:
    if value is None:
        return None
    seconds = _seconds(value.strip())
    if seconds is None:
        raise InvalidRequest(
            "Invalid 'X-Imagegate-Cache-Ttl': expected a whole number of seconds.", code="invalid_header"
        )
    return seconds

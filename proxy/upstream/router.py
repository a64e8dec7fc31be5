"""Chooses upstreams and decides what may be tried again: only what certainly was not billed.

Tried again at the same upstream, `max_retries` times: a connection that was not made, and a 429 or 503 that names a wait
of at most `max_retry_wait_seconds`. Then at the next upstream, for the same reasons. Everything else may have been paid
for and is told to the caller with `x-should-retry: false`, because the SDKs would pay again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.errors import (
    InternalError,
    QueueFull,
    StoreError,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.model import Candidate, Relay
from proxy.settings import UpstreamSection
from proxy.spool import Spool, Spools
from proxy.upstream.breaker import Breaker
from proxy.upstream.calls import Caller, Generation, Observer
from proxy.upstream.checker import Checker
from proxy.upstream.receive import receive, refusal, relayed, request_id_of
from proxy.upstream.slots import CallSlots, ReceiveSlots
from proxy.upstream.wire import Post, Wire

PATHS = {"image_generation": "/images/generations"}
RECONNECT_SECONDS = 0.2
_ATTEMPT_ERRORS = {
    UpstreamUnreachable: "connect",
    UpstreamTimeout: "timeout",
    UpstreamConnectionLost: "reset",
    UpstreamInvalidResponse: "protocol",
}


@dataclass(slots=True)
class _Standing:
    """One configured upstream and how it is doing."""

    section: UpstreamSection
    slots: CallSlots
    breaker: Breaker


class Upstreams:
    """All configured upstreams. `executor` is where replies are parsed: its size bounds how many at once."""

    def __init__(
        self,
        sections: Sequence[UpstreamSection],
        *,
        spools: Spools,
        wire: Wire,
        executor: Executor,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._standing = {
            section.name: _Standing(section, CallSlots(section.max_connections), Breaker(clock)) for section in sections
        }
        self._receive_slots = ReceiveSlots()
        self._spools = spools
        self._wire = wire
        self._checker = Checker(executor, wire)
        self._observer = observer
        self._clock = clock

    def is_available(self, name: str) -> bool:
        """False while the upstream rests."""
        return not self._standing[name].breaker.rests

    def queued(self) -> int:
        """Calls that wait for a place at their upstream."""
        return sum(standing.slots.waiting for standing in self._standing.values())

    async def generate(self, candidates: Sequence[Candidate], caller: Caller) -> Generation:
        """Buys from the first candidate that takes the request. Raises UpstreamError or QueueFull."""
        began = self._clock.monotonic()
        failure: UpstreamError | QueueFull | None = None
        for candidate in self._awake(candidates):
            if failure is not None:
                self._observer.retried(candidate.upstream, "failover")
            try:
                return await self._persist(candidate, caller, began)
            except (UpstreamError, QueueFull) as error:
                if not _certainly_not_billed(error):
                    raise
                failure = error
        assert failure is not None
        raise failure

    def _awake(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that do not rest; if all do, all of them: the last one never rests."""
        awake = [candidate for candidate in candidates if self.is_available(candidate.upstream)]
        return awake or list(candidates)

    async def _persist(self, candidate: Candidate, caller: Caller, began: float) -> Generation:
        """One upstream, with its retries, within its total deadline."""
        standing = self._standing[candidate.upstream]
        async with standing.slots.hold(self._waited, self._clock.monotonic):
            left = standing.section.total_timeout_seconds - (self._clock.monotonic() - began)
            try:
                async with asyncio.timeout(left):
                    return await self._retry(standing, candidate, caller)
            except TimeoutError:
                standing.breaker.failed()
                seconds = self._clock.monotonic() - began
                self._observer.attempt(candidate.upstream, candidate.request.model, None, "timeout", seconds)
                raise UpstreamTimeout(
                    f"The upstream did not answer within {standing.section.total_timeout_seconds:g} seconds. "
                    "The image may have been billed; imagegate does not try again by itself."
                ) from None

    async def _retry(self, standing: _Standing, candidate: Candidate, caller: Caller) -> Generation:
        retries_left = standing.section.max_retries
        while True:
            try:
                return await self._attempt(standing, candidate, caller)
            except UpstreamError as error:
                wait = _may_retry_after(error, standing.section.max_retry_wait_seconds)
                if wait is None or retries_left == 0:
                    raise
                reason = "connect" if isinstance(error, UpstreamUnreachable) else "busy"
            retries_left -= 1
            self._observer.retried(candidate.upstream, reason)
            await asyncio.sleep(wait)

    async def _attempt(self, standing: _Standing, candidate: Candidate, caller: Caller) -> Generation:
        """One call, one connection; counted whatever becomes of it."""
        began, model = self._clock.monotonic(), candidate.request.model
        spool = self._spools.open()
        try:
            generation = await self._exchange(standing.section, candidate, caller, spool)
        except StoreError as error:
            spool.discard()
            raise InternalError("imagegate lost a reply that it had received. It may have been billed.") from error
        except BaseException as error:
            spool.discard()
            if isinstance(error, UpstreamError):
                status = error.status if isinstance(error, UpstreamRefusal) else None
                seconds = self._clock.monotonic() - began
                self._observer.attempt(candidate.upstream, model, status, _ATTEMPT_ERRORS.get(type(error), ""), seconds)
                self._judge(standing, error)
            raise
        generation.seconds = self._clock.monotonic() - began
        self._observer.attempt(candidate.upstream, model, 200, "", generation.seconds)
        standing.breaker.succeeded()
        return generation

    async def _exchange(
        self, section: UpstreamSection, candidate: Candidate, caller: Caller, spool: Spool
    ) -> Generation:
        post = _post(section, candidate, caller)
        total = section.total_timeout_seconds
        async with self._wire.exchange(
            post, connect_seconds=section.connect_timeout_seconds, io_seconds=total
        ) as reply:
            self._observer.ratelimit(section.name, candidate.request.model, reply.headers)
            if reply.status >= 400:
                raise await refusal(reply, secret=_own_key(section, caller))
            if reply.status != 200:
                raise UpstreamInvalidResponse(f"The upstream answered {reply.status}, which is no answer to a request.")
            await receive(reply, spool, self._receive_slots, images=candidate.request.n)
            headers = reply.headers
        inspection, echo = await self._checker.check(spool, upstream_base_url=section.base_url)
        return Generation(
            candidate=candidate,
            spool=spool,
            inspection=inspection,
            upstream_request_id=request_id_of(headers),
            seconds=0.0,
            relay=Relay(relayed(headers), echo),
        )

    def _judge(self, standing: _Standing, error: UpstreamError) -> None:
        """What the breaker counts: failures of the upstream, never refusals of the request or of its rate."""
        if not isinstance(error, UpstreamRefusal) or error.status >= 500:
            standing.breaker.failed()
        else:
            standing.breaker.succeeded()

    def _waited(self, seconds: float) -> None:
        self._observer.queue_waited(seconds)


def _certainly_not_billed(error: UpstreamError | QueueFull) -> bool:
    busy = isinstance(error, UpstreamRefusal) and error.status in (429, 503)
    return busy or isinstance(error, (UpstreamUnreachable, QueueFull))


def _may_retry_after(error: UpstreamError, longest: float) -> float | None:
    """How many seconds to wait before the same upstream may be asked again; None if it may not."""
    if isinstance(error, UpstreamUnreachable):
        return RECONNECT_SECONDS
    if not isinstance(error, UpstreamRefusal) or error.status not in (429, 503):
        return None
    seconds = _wait_named_in(error.headers)
    return seconds if seconds is not None and seconds <= longest else None


def _wait_named_in(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms`, else `Retry-After` in seconds (RFC 9110 §10.2.3; its dates are never short enough to wait for)."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if value.replace(".", "", 1).isdecimal() and value.isascii() and len(value) < 10:
            return float(value) * scale
    return None


def _post(section: UpstreamSection, candidate: Candidate, caller: Caller) -> Post:
    """The request as it goes out: the canonical body, and no header that is not named here."""
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "imagegate",
    }
    if caller.openai_beta:
        headers["openai-beta"] = caller.openai_beta
    if caller.credential is not None:
        headers[caller.credential.header] = caller.credential.value
        if caller.credential.organization:
            headers["openai-organization"] = caller.credential.organization
        if caller.credential.project:
            headers["openai-project"] = caller.credential.project
    elif section.api_key is not None:
        headers["authorization"] = f"Bearer {section.api_key.reveal()}"
    path = PATHS[candidate.request.operation.value]
    return Post("POST", section.base_url.rstrip("/") + path, headers, candidate.request.wire_body())


def _own_key(section: UpstreamSection, caller: Caller) -> str | None:
    return section.api_key.reveal() if caller.credential is None and section.api_key is not None else None

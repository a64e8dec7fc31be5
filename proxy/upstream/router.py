"""Chooses upstreams and decides what may be tried again: only what certainly was not billed.

Tried again at the same upstream, `max_retries` times: a connection that was not made, and a 429 or 503 that names a wait
of at most `max_retry_wait_seconds`. Then at the next upstream, for the same reasons. Everything else may have been paid
for and is told to the caller with `x-should-retry: false`, because the SDKs would pay again.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from proxy import tracing, vendors
from proxy.clock import Clock
from proxy.errors import (
    InternalError,
    QueueFull,
    ReplyLost,
    RequestError,
    StoreError,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamStreamFailure,
    UpstreamTimeout,
    UpstreamUnreachable,
    forget_frames,
)
from proxy.eventlog import EventLog
from proxy.model import Candidate, Relay
from proxy.settings import UpstreamSection
from proxy.spool import Spools
from proxy.tracing import UNTOLD, Tracer
from proxy.upstream.attempt import Attempt
from proxy.upstream.breaker import Breaker
from proxy.upstream.calls import Caller, Generation, Observer
from proxy.upstream.checker import Checked, Checker
from proxy.upstream.receive import content_type_of, relayed, reply_limit, request_id_of
from proxy.upstream.slots import QUEUE_SECONDS, CallSlots, ReceiveSlots, queue_full
from proxy.upstream.stream import Intake
from proxy.upstream.wire import Wire

RECONNECT_SECONDS = 0.2
_FAILURES: dict[type, str] = {
    UpstreamUnreachable: "connect",
    UpstreamTimeout: "timeout",
    UpstreamConnectionLost: "reset",
    UpstreamInvalidResponse: "protocol",
    UpstreamStreamFailure: "stream",
    asyncio.CancelledError: "cancelled",
}
"""How an attempt ends without an answer of the upstream, by the word it is counted under."""


@dataclass(slots=True)
class _Standing:
    """One configured upstream and how it is doing."""

    section: UpstreamSection
    slots: CallSlots
    breaker: Breaker


class Upstreams:
    """All configured upstreams. `executor` is where replies are parsed: its size bounds how many at once."""

    tracer: Tracer = UNTOLD
    """Who is told of each call; set before the first one."""

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
        self._checker = Checker(executor, wire, spools)
        self._observer = observer
        self._clock = clock

    def is_available(self, name: str) -> bool:
        """False while the upstream rests."""
        return not self._standing[name].breaker.rests

    def queued(self) -> int:
        """Calls that wait for a place at their upstream."""
        return sum(standing.slots.waiting for standing in self._standing.values())

    def deadline_seconds(self, candidates: Sequence[Candidate]) -> float:
        """The longest that `generate` waits for an upstream."""
        return QUEUE_SECONDS + self._standing[self._awake(candidates)[0].upstream].section.total_timeout_seconds

    async def generate(self, candidates: Sequence[Candidate], caller: Caller, log: EventLog) -> Generation:
        """Buys from the first candidate that takes the request, within the first one's total deadline and one queue's.

        What a stream tells before its end goes to `log`.

        Raises UpstreamError, QueueFull, InternalError (the reply was lost here), or InvalidRequest (nothing was sent).
        """
        awake, asked = self._awake(candidates), self._clock.monotonic()
        latest = asked + self.deadline_seconds(candidates)
        failure: UpstreamError | QueueFull | None = None
        for candidate in awake:
            if failure is not None:
                if self._clock.monotonic() >= latest:
                    break
                self._observer.retried(candidate.upstream, "failover")
            try:
                generation = await self._buy(candidate, caller, log, latest)
            except (UpstreamError, QueueFull) as error:
                if not _certainly_not_billed(error):
                    raise
                forget_frames(error)
                # The caller is told the refusal that says most: a backup out of reach must not hide a `Retry-After`.
                if failure is None or isinstance(error, UpstreamRefusal):
                    failure = error
            else:
                generation.waited_seconds = generation.began - asked
                return generation
        assert failure is not None
        raise failure

    def _awake(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that do not rest; if all do, all of them: the last one never rests."""
        awake = [candidate for candidate in candidates if self.is_available(candidate.upstream)]
        return awake or list(candidates)

    async def _buy(self, candidate: Candidate, caller: Caller, log: EventLog, latest: float) -> Generation:
        """From one upstream, with its retries. Its total deadline begins when it has a place for us."""
        standing = self._standing[candidate.upstream]
        section = standing.section
        retries_left = section.max_retries
        async with standing.slots.hold(self._waited, self._clock.monotonic):
            until = min(latest, self._clock.monotonic() + section.total_timeout_seconds)
            if self._clock.monotonic() >= until:
                raise queue_full()
            while True:
                try:
                    intake = Intake(self._spools, self._checker, log)
                    return await self._attempt(
                        Attempt(section, candidate, caller, self._spools.open(scans=True), intake), until
                    )
                except UpstreamError as error:
                    wait = _may_retry_after(error, section.max_retry_wait_seconds)
                    # A wait that outlasts the deadline would turn what was not billed into a timeout.
                    if wait is None or retries_left == 0 or self._clock.monotonic() + wait >= until:
                        raise
                    reason = "connect" if isinstance(error, UpstreamUnreachable) else "busy"
                    forget_frames(error)
                retries_left -= 1
                self._observer.retried(candidate.upstream, reason)
                await asyncio.sleep(wait)

    async def _attempt(self, attempt: Attempt, until: float) -> Generation:
        """One call, as a span of its own."""
        name = f"generate_content {attempt.candidate.request.model}"
        with self.tracer.call(name, attempt.described()) as attempt.span:
            if self.tracer.forwards:
                attempt.headers = tracing.traceparent()
            generation = await self._receive(attempt, until)
            attempt.tell_usage(generation.inspection.usage)
            return generation

    async def _receive(self, attempt: Attempt, until: float) -> Generation:
        """One connection: received whole within the deadline, then checked in peace."""
        began = self._clock.monotonic()
        with self._counted(attempt):
            try:
                await attempt.receive(self._wire, self._receive_slots, until - began)
            finally:
                attempt.seconds = self._clock.monotonic() - began
            checked = await self._check(attempt)
        assert attempt.reply is not None
        told = attempt.reply.headers
        return Generation(
            candidate=attempt.candidate,
            spool=attempt.spool,
            inspection=checked.inspection,
            told_cost=vendors.of(attempt.section.vendor).cost_of(checked.inspection.told_usage),
            upstream_request_id=request_id_of(told),
            began=began,
            seconds=attempt.seconds,
            partials=attempt.intake.partials,
            relay=Relay(relayed(told), content_type_of(told), checked.echo),
        )

    async def _check(self, attempt: Attempt) -> Checked:
        vendor, now = vendors.of(attempt.section.vendor), self._clock.wall()
        if attempt.is_event:
            checked = await self._checker.check_event(attempt.spool, vendor, now)
        else:
            limit = reply_limit(attempt.candidate.request.n)
            checked = await self._checker.check(
                attempt.spool, vendor, now, upstream_base_url=attempt.section.base_url, limit_bytes=limit
            )
        if checked.is_amended:
            self._observer.amended(attempt.section.name, "created")
        return checked

    @contextmanager
    def _counted(self, attempt: Attempt) -> Iterator[None]:
        """Counts an attempt, once, whatever becomes of it; of one that failed nothing is left behind."""
        failure: BaseException | None = None
        try:
            yield
        except StoreError as error:
            if attempt.reply is not None:
                failure = ReplyLost("imagegate lost a reply that it had received. It may have been billed.")
            else:
                failure = InternalError("imagegate could not read back a picture that was to be sent.")
            raise failure from error
        except BaseException as error:
            failure = error
            raise
        finally:
            if failure is not None:
                attempt.spool.discard()
            if not isinstance(failure, RequestError):  # one that we could not send was none
                self._count(attempt, failure)

    def _count(self, attempt: Attempt, failure: BaseException | None) -> None:
        name, model = attempt.section.name, attempt.candidate.request.model
        breaker = self._standing[name].breaker
        if attempt.reply is not None:
            self._observer.ratelimit(name, model, attempt.reply.headers)
        status = failure.status if isinstance(failure, UpstreamRefusal) else None
        if failure is None or isinstance(failure, (InternalError, UpstreamStreamFailure)):
            status = 200  # what is lost here is no fault of the upstream; a stream that failed had begun well
        error = _FAILURES.get(type(failure), "")
        self._observer.attempt(name, model, status, error, attempt.seconds)
        if failure is not None:
            attempt.span.fail(error or (str(status) if status else type(failure).__name__))
        # The breaker counts failures of the upstream, never refusals of the request or of its rate.
        if isinstance(failure, UpstreamStreamFailure):
            breaker.failed() if failure.status >= 500 else breaker.succeeded()
        elif status is not None and status < 500:
            breaker.succeeded()
        elif isinstance(failure, UpstreamError):
            breaker.failed()

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
    if error.headers.get("x-should-retry") == "false":
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

"""What every request gets, as pure ASGI, outermost first: a record, a net for errors, a guard against what is no request.

`BaseHTTPMiddleware` is not used: it puts a queue between the app and the server, and copies context.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy import accessline, ids, log, tracing
from proxy.accessline import AccessLine, Same
from proxy.addresses import is_authority
from proxy.clock import Clock
from proxy.errors import HeadersTooLarge, ImagegateError, InternalError, InvalidRequest, forget_frames
from proxy.metrics import Metrics
from proxy.model import Operation, Outcome, Progress
from proxy.render import Renderer
from proxy.tracing import UNRECORDED, UNTOLD, Span, TraceContext, Tracer, Value

CLIENT_GONE = 499
"""The code, in metrics and log, of a call whose client hung up before its answer (nginx's)."""
UNLOGGED_ROUTES = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines; logged when they fail."""
MAX_HEADER_COUNT = 100
MAX_HEADER_BYTES = 32 * 1024
FORWARDED = frozenset((b"authorization", b"api-key", b"openai-organization", b"openai-project", b"openai-beta"))
"""Headers that go on to the upstream, and so must be what any HTTP library will send."""
SINGLE = (b"authorization", b"api-key", b"x-api-key", b"content-length", b"content-type", b"idempotency-key")
_JUDGED = FORWARDED.union(SINGLE, (b"host", b"transfer-encoding"))

logger = logging.getLogger("imagegate")


@dataclass(slots=True)
class Call:
    """The record of one request: written by whoever learns something, read once when it is over."""

    request_id: str
    arrived_wall: float
    arrived_monotonic: float
    method: str
    client: str | None
    """The peer's address."""
    operation: Operation | None = None
    """Set for the routes of the Images API only; the others are no business of the metrics."""
    route: str = "other"
    progress: Progress = field(default_factory=Progress)
    outcome: Outcome | None = None
    error: ImagegateError | None = None
    is_stream: bool = False
    gone: bool = False
    is_over: bool = False
    """The response has been sent to its end."""
    status: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    first_byte_monotonic: float | None = None
    trace: TraceContext | None = None
    told: str = ""
    """`alike` of it, where that is known beforehand."""
    answering: Span = UNRECORDED
    """From the response's head to its end."""

    @property
    def code(self) -> int:
        """The status; of a stream that failed after its head the one that it would have had."""
        if self.gone:
            return CLIENT_GONE
        return self.error.status if self.error is not None and self.is_stream else self.status

    @property
    def cache(self) -> str:
        """The word for how the cache took part: `none` for what was refused before the look-up, or was not forwarded."""
        if self.outcome is not None:
            return self.outcome.label
        forward = self.progress.forward
        return forward.label(collapsed=self.progress.collapsed) if forward is not None else "none"


def call_of(scope: Scope) -> Call:
    """The record of the request that `scope` belongs to."""
    call: Call = scope["state"]["call"]
    return call


@dataclass(frozen=True, slots=True)
class Recorder:
    """Counts a call, and writes its line, when it is over."""

    metrics: Metrics
    clock: Clock
    log_access: bool

    def close(self, call: Call) -> None:
        seconds = self.clock.monotonic() - call.arrived_monotonic
        code, cache, overhead = call.code, call.cache, _overhead(call)
        if call.operation is not None:
            self.metrics.answered(call.operation.value, call.progress.model or None, cache, code, seconds, overhead)
            if call.gone:
                # Before the model is known the request's body was on its way, after the status the answer's.
                stage = "body" if call.status or not call.progress.model else "upstream"
                self.metrics.disconnected(call.operation.value, stage)
        if self.log_access and (code >= 400 or call.route not in UNLOGGED_ROUTES):
            log.access(_line(call, seconds, overhead), self.clock.wall())


class Recorded:
    """Names every request, times it, counts it, logs it once, and begins its part of a trace."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, clock: Clock, log_access: bool, tracer: Tracer = UNTOLD
    ) -> None:
        self._app = app
        self._recorder = Recorder(metrics, clock, log_access)
        self._clock = clock
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(
            ids.request_id(_header(scope, b"x-request-id")),
            self._clock.wall(),
            self._clock.monotonic(),
            scope["method"],
            scope["client"][0] if scope.get("client") else None,
        )
        scope.setdefault("state", {})["call"] = call
        parent = tracing.received([value for name, value in scope["headers"] if name == b"traceparent"])
        with self._tracer.request(parent, scope["method"], scope["path"]) as span:
            call.trace = span.context or tracing.child_of(parent)
            token = tracing.enter(call.trace)
            try:
                await self._app(scope, receive, self._noting(call, send))
            except asyncio.CancelledError:
                call.gone = True
                raise
            finally:
                call.answering.end()
                self._recorder.close(call)
                if span is not UNRECORDED:
                    _describe(span, call)
                tracing.leave(token)

    def _noting(self, call: Call, send: Send) -> Send:
        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                call.first_byte_monotonic = self._clock.monotonic()
                call.answering = self._tracer.span("answer") if call.operation is not None else UNRECORDED
                headers = [*message["headers"], (b"x-request-id", call.request_id.encode("ascii"))]
                message = {**message, "headers": headers}
            else:
                call.sent_bytes += len(message.get("body", b""))
                call.is_over = not message.get("more_body", False)
            await send(message)

        return recorded


def _describe(span: Span, call: Call) -> None:
    """A status of 4xx is no failure of a server (HTTP semantic conventions)."""
    told: dict[str, Value] = {"imagegate.cache.result": call.cache}
    if call.status:
        told["http.response.status_code"] = call.status
    span.tell(told)
    if call.gone:
        span.fail("client_gone")
    elif call.code >= 500:
        span.fail(type(call.error).__name__ if call.error is not None else str(call.code))


def _overhead(call: Call) -> float | None:
    """Seconds of a success that were ours: up to the first byte, less the wait for the upstream.

    A stream's first byte comes before its upstream's last: what of it was ours cannot be told.
    """
    if call.outcome is None or call.first_byte_monotonic is None:
        return None
    if call.is_stream and call.outcome.forward is not None:
        return None
    return max(0.0, call.first_byte_monotonic - call.arrived_monotonic - call.outcome.upstream_seconds)


def _line(call: Call, seconds: float, overhead: float | None) -> AccessLine:
    return AccessLine(
        call.told or alike(call),
        call.request_id,
        seconds * 1000,
        None if overhead is None else overhead * 1000,
        None if call.trace is None else call.trace.trace_id,
        None if call.trace is None else call.trace.span_id,
    )


def alike(call: Call) -> str:
    """What the line of a call has in common with those of calls that are like it."""
    outcome, progress = call.outcome, call.progress
    metadata = outcome.entry.metadata if outcome is not None else None
    usage = metadata.usage if metadata is not None else None
    same = Same(
        method=call.method,
        route=call.route,
        status=call.code,
        cache=call.cache,
        error_code=call.error.code or call.error.type if call.error is not None else None,
        cache_key=progress.key[:12] or None,
        model=progress.model or None,
        upstream=metadata.upstream if metadata is not None else None,
        upstream_request_id=metadata.upstream_request_id if metadata is not None else None,
        upstream_ms=outcome.upstream_seconds * 1000 if outcome is not None else None,
        images=len(metadata.images) if metadata is not None else None,
        size=progress.size or None,
        quality=progress.quality or None,
        tokens=usage.total if usage is not None else None,
        cost_usd=outcome.cost if outcome is not None else None,
        saved_usd=outcome.saved if outcome is not None else None,
        bytes_in=call.received_bytes,
        bytes_out=call.sent_bytes,
        team=progress.team or None,
        key_id=progress.key_id or None,
        client=call.client,
        prompt_len=progress.prompt_characters or None,
    )
    return accessline.told(same)


class Caught:
    """The one place that catches everything: an error is rendered once, here."""

    def __init__(self, app: ASGIApp, renderer: Renderer) -> None:
        self._app = app
        self._renderer = renderer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        try:
            await self._app(scope, receive, send)
        except ImagegateError as error:
            call.error = error
            if isinstance(error, InternalError):  # a defect inside a flight: its cause has been told to nobody yet
                logger.error("unexpected error", exc_info=error, extra={"request_id": call.request_id})
        except Exception:
            logger.exception("unexpected error", extra={"request_id": call.request_id})
            call.error = InternalError(f"imagegate failed. Please report this with the request id {call.request_id}.")
        if call.error is None:
            return
        forget_frames(call.error)
        if call.is_over:  # the failure of a stream may have been its last event
            return
        if call.status:  # the response has begun: only a broken connection can still tell the truth
            raise call.error
        await self._renderer.error(send, call.error, call.progress, head_only=scope["method"] == "HEAD")


class Guarded:
    """Refuses what different servers would read differently, before anything believes it (RFC 9112 §3.2, §6.3)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _judge(scope)
        await self._app(scope, receive, send)


def _judge(scope: Scope) -> None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size, judged = 0, []
    for header in headers:
        size += len(header[0]) + len(header[1])
        if header[0] in _JUDGED:
            judged.append(header)
    if len(headers) > MAX_HEADER_COUNT or size > MAX_HEADER_BYTES:
        raise HeadersTooLarge("The headers of your request are too large.")
    names = [name for name, _ in judged]
    _judge_host([value for name, value in judged if name == b"host"], scope)
    if b"transfer-encoding" in names and b"content-length" in names:
        raise InvalidRequest(
            "Your request has both Content-Length and Transfer-Encoding.",
            code="invalid_header",
            headers={"connection": "close"},
        )
    if len(set(names)) < len(names):
        for single in SINGLE:
            if names.count(single) > 1:
                raise InvalidRequest(f"Your request has more than one {single.decode()} header.", code="invalid_header")
    for name, value in judged:
        if name in FORWARDED and not (value.isascii() and value.strip(b" \t").decode("ascii").isprintable()):
            raise InvalidRequest(f"Your {name.decode()} header must be printable ASCII.", code="invalid_header")
    if not scope.get("raw_path", b"/").startswith(b"/"):
        raise InvalidRequest("Your request's target must be a path.", code="invalid_target")


def _judge_host(values: Sequence[bytes], scope: Scope) -> None:
    hosts = [value.decode("latin-1").strip(" \t") for value in values]
    needed = scope.get("http_version") != "1.0"
    if len(hosts) > 1 or (needed and not hosts) or not all(map(is_authority, hosts)):
        raise InvalidRequest(
            "Your request must have exactly one Host header, with a host in it.", code="invalid_header"
        )


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            decoded: str = value.decode("latin-1")
            return decoded
    return None


def headers_of(scope: Scope, wanted: Mapping[bytes, str]) -> dict[str, str]:
    """The headers we know, by the names we use; lines of one list header are joined (RFC 9110 §5.3)."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        known = wanted.get(name)
        if known is not None:
            text = value.decode("latin-1").strip(" \t")  # optional white space, RFC 9110 §5.5
            found[known] = f"{found[known]}, {text}" if known in found else text
    return found

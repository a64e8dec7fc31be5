"""The one importer of OpenTelemetry: makes spans, and sends them to a collector from a thread of the SDK's own.

Imported only if `tracing.enabled` is set: the packages are an extra, `imagegate[otel]`. The ambient place in the trace is
ours (`proxy.tracing`), not the library's, so that it is there without the library, too. Of an exception its class is told,
never its words: they may quote a prompt.

Sources: OpenTelemetry semantic conventions, HTTP spans and GenAI spans.
"""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextvars import Token
from types import TracebackType
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from proxy import tracing
from proxy.settings import TracingSection
from proxy.targets import target_of
from proxy.tracing import Span, TraceContext, Value

logger = logging.getLogger("imagegate")

CLOSING_SECONDS = 5.0
"""How long a collector may take for what is left at the end."""
MOST_FLIGHTS = 1000
"""Flights whose leaders are remembered, for the links of those who join them."""
_LONGEST = 128
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))


class _Recorded:
    """A span of the library as ours."""

    __slots__ = ("_has_failed", "_span", "_token", "context")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._has_failed = False
        self._token: Token[TraceContext | None] | None = None
        self.context: TraceContext | None = _ours(span.get_span_context())

    def tell(self, attributes: Mapping[str, Value]) -> None:
        self._span.set_attributes(attributes)

    def fail(self, error_type: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> "_Recorded":
        if self.context is not None:
            self._token = tracing.enter(self.context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            tracing.leave(self._token)
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


class OpenTelemetry:
    """A tracer that tells a collector. `processor` is what finished spans are given to."""

    def __init__(
        self,
        processor: SpanProcessor,
        *,
        version: str,
        sample_ratio: float = 1.0,
        forwards: bool = False,
        closing_seconds: float = CLOSING_SECONDS,
    ) -> None:
        self.forwards = forwards
        self._closing_seconds = closing_seconds
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample_ratio),
            resource=_resource(version),
            shutdown_on_exit=False,  # it would wait for the collector for as long as it likes
            span_limits=SpanLimits(max_span_attribute_length=_LONGEST),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("imagegate", version)
        self._leaders: OrderedDict[str, SpanContext] = OrderedDict()
        """Of the last flights, by key, where their leaders wait."""

    def request(self, parent: TraceContext | None, method: str, path: str) -> Span:
        target = target_of(path)
        if target is None:
            return tracing.UNRECORDED
        known = method if method in _METHODS else "_OTHER"
        attributes = {"http.request.method": known, "http.route": target.route}
        name = f"{'HTTP' if known == '_OTHER' else known} {target.route}"
        return _Recorded(
            self._tracer.start_span(
                name, _below(parent, is_remote=True), SpanKind.SERVER, attributes, record_exception=False
            )
        )

    def span(self, name: str) -> Span:
        return self._begin(name)

    def wait(self, flight: str, *, joins: bool) -> Span:
        """A flight tells its leader's trace; who joins it links there."""
        leader = self._leaders.get(flight) if joins else None
        span = self._begin("wait for the flight", links=[Link(leader)] if leader is not None else [])
        if not joins and span.context is not None:
            self._leaders[flight] = _theirs(span.context)
            self._leaders.move_to_end(flight)
            if len(self._leaders) > MOST_FLIGHTS:
                self._leaders.popitem(last=False)
        return span

    def call(self, name: str, attributes: Mapping[str, Value]) -> Span:
        return self._begin(name[:_LONGEST], SpanKind.CLIENT, attributes)

    async def close(self) -> None:
        """In a thread that the process need not wait for: the library waits for a silent collector for half a minute."""
        loop, delivered = asyncio.get_running_loop(), asyncio.Event()

        def deliver() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(delivered.set)
            except RuntimeError:
                pass  # too late: the loop is closed

        threading.Thread(target=deliver, name="close tracing", daemon=True).start()
        try:
            async with asyncio.timeout(self._closing_seconds):
                await delivered.wait()
        except TimeoutError:
            logger.warning("the last spans could not be delivered", extra={"seconds": self._closing_seconds})

    def _begin(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Value] | None = None,
        links: Sequence[Link] = (),
    ) -> _Recorded:
        here = _below(tracing.current(), is_remote=False)
        return _Recorded(self._tracer.start_span(name, here, kind, attributes, links, record_exception=False))


def connected(section: TracingSection, version: str) -> OpenTelemetry:
    """To the collector of the settings, else to the one of the SDK's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`)."""
    endpoint = section.endpoint
    if endpoint and urlsplit(endpoint).path in ("", "/"):
        endpoint = endpoint.rstrip("/") + "/v1/traces"
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint or None))
    return OpenTelemetry(processor, version=version, sample_ratio=section.sample_ratio, forwards=section.forward)


def _resource(version: str) -> Resource:
    """What the operator says of the service in the SDK's variables goes before what we say."""
    given = Resource.create()
    named = not str(given.attributes.get("service.name", "")).startswith("unknown_service")
    ours = {"service.version": version} if named else {"service.name": "imagegate", "service.version": version}
    return given.merge(Resource(ours))


def _below(parent: TraceContext | None, *, is_remote: bool) -> Context:
    """What the library takes a span's parent from. Without a parent empty, and not the library's own idea of one."""
    if parent is None:
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(_theirs(parent, is_remote=is_remote)), Context())


def _theirs(context: TraceContext, *, is_remote: bool = False) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote, flags)


def _ours(context: SpanContext) -> TraceContext | None:
    if not context.is_valid:
        return None  # OTEL_SDK_DISABLED
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return TraceContext(trace_id, span_id, context.trace_flags.sampled)

"""Whose trace a piece of work belongs to: W3C Trace Context, and the spans that tell of it to whoever listens.

The trace context of a request is ambient: what runs on behalf of the request, its flight included, finds it with `current`.
It is there whether or not spans are recorded, for log lines, exemplars and, if wanted, the upstream. Spans begin with
their making; `with` makes one the parent of what is begun inside.

Source: W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/).
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import NamedTuple, Protocol

_VERSION_00 = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LATER_VERSION = re.compile(rb"(?!00|ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.DOTALL)
_NO_TRACE, _NO_SPAN_ID = b"0" * 32, b"0" * 16
_SAMPLED = 0x01

Value = str | int | float
"""Of an attribute."""


class TraceContext(NamedTuple):
    """A place in a trace. The ids are lower-case hex: 32 digits and 16."""

    trace_id: str
    span_id: str
    is_sampled: bool
    """Somebody records this trace: it can be looked up."""


_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


def current() -> TraceContext | None:
    """Where we are in which trace; None outside of requests."""
    return _current.get()


def enter(context: TraceContext) -> Token[TraceContext | None]:
    """Makes `context` the current one, until `leave` is given the token in the same task."""
    return _current.set(context)


def leave(token: Token[TraceContext | None]) -> None:
    _current.reset(token)


def received(values: Sequence[bytes]) -> TraceContext | None:
    """The caller's place, from its `traceparent` headers; None for none, and for what is malformed (§3.2.2, §4.3).

    Of a later version only what version 00 has is read, and only if it stands where version 00 has it.
    """
    if len(values) != 1:
        return None
    value = values[0].strip(b" \t")
    found = _VERSION_00.fullmatch(value) or _LATER_VERSION.fullmatch(value)
    if found is None or found[1] == _NO_TRACE or found[2] == _NO_SPAN_ID:
        return None
    return TraceContext(found[1].decode(), found[2].decode(), bool(int(found[3], 16) & _SAMPLED))


def child_of(parent: TraceContext | None) -> TraceContext:
    """A new place below `parent`; in a new trace, which nobody records, without one."""
    if parent is None:
        digits = secrets.token_hex(24)  # one call for both: half the time
        return TraceContext(digits[:32], digits[32:], False)
    return TraceContext(parent.trace_id, secrets.token_hex(8), parent.is_sampled)


def traceparent() -> Mapping[str, str]:
    """The header that tells another service where we are; empty outside of requests. Never `tracestate` or `baggage`."""
    here = _current.get()
    return {} if here is None else {"traceparent": f"00-{here.trace_id}-{here.span_id}-{here.is_sampled:02x}"}


class Span(Protocol):
    """A piece of work with a beginning and an end. What it is told must be no prompt, image, credential or key."""

    @property
    def context(self) -> TraceContext | None:
        """Its place; None if it is not recorded and has none of its own."""

    def tell(self, attributes: Mapping[str, Value]) -> None: ...

    def fail(self, error_type: str) -> None:
        """Marks it as failed; the first word stays."""

    def end(self) -> None: ...

    def __enter__(self) -> "Span": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends it; with an exception it has failed."""


class Tracer(Protocol):
    """Who is told of the work. The names of its methods say whose work it is."""

    @property
    def forwards(self) -> bool:
        """Whether upstreams are sent a `traceparent`."""

    def request(self, parent: TraceContext | None, method: str, path: str) -> Span:
        """The whole of a request to us, below the caller's place if it told one."""

    def span(self, name: str) -> Span:
        """A step of ours."""

    def wait(self, flight: str, *, joins: bool) -> Span:
        """The wait for a flight, by its key: of its leader, or of one who joins it."""

    def call(self, name: str, attributes: Mapping[str, Value]) -> Span:
        """A request of ours to an upstream."""

    async def close(self) -> None:
        """Delivers what was told, within seconds; never raises for a listener that is gone."""


class _Unrecorded:
    """The span of whoever records none."""

    context = None

    def tell(self, attributes: Mapping[str, Value]) -> None:
        pass

    def fail(self, error_type: str) -> None:
        pass

    def end(self) -> None:
        pass

    def __enter__(self) -> "_Unrecorded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


UNRECORDED = _Unrecorded()


class Untold:
    """The tracer that tells nobody."""

    def __init__(self, *, forwards: bool = False) -> None:
        self.forwards = forwards

    def request(self, parent: TraceContext | None, method: str, path: str) -> Span:
        return UNRECORDED

    def span(self, name: str) -> Span:
        return UNRECORDED

    def wait(self, flight: str, *, joins: bool) -> Span:
        return UNRECORDED

    def call(self, name: str, attributes: Mapping[str, Value]) -> Span:
        return UNRECORDED

    async def close(self) -> None:
        pass


UNTOLD = Untold()

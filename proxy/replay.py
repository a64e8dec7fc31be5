"""A request that comes again, byte for byte, and whose answer lies in memory, is answered on the spot: before it is parsed.

The law: a replay is the path itself, by the path's own functions and in its order, without what cannot turn out otherwise
for the same bytes: parsing, validation, the key, the shape of the reply. Whatever may turn out otherwise is asked each time:
whether the caller is still let in and has room in its limits, whether the rules are the same, whether the entry is still
there, fresh, and may be used. If anything is in the way nothing has been done, and the request is read as any other: it is
there that refusals are worded, misses are bought, and whatever takes time is waited for.

What is kept of a request is its digest, and what was understood of it; no credential, and of a key its digest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

from starlette.types import Scope

from proxy import ids
from proxy.asking import Ask
from proxy.clock import Clock
from proxy.memo import Memo
from proxy.middleware import Call, Recorder, alike
from proxy.model import Answer, Rendering
from proxy.pipeline import Pipeline
from proxy.render import Renderer, Wish
from proxy.replyheaders import Moment
from proxy.splice import Piece
from proxy.stores.body import MemoryBody
from proxy.tracing import UNRECORDED, TraceContext
from proxy.validation import Validator

WHOLE_REQUEST = "imagegate.whole_request"
"""Among the extensions of an ASGI scope: the bytes of a request that came in one piece, on a connection that stays open."""
MAX_BYTES = 1 << 14
"""Of a request that is kept in mind, with its head."""
LIMIT_BYTES = 16 << 20
_HEARD_BYTES = 3000
"""What one takes beside its texts, about."""
_COPIES = 3
"""How often the texts of a request are held: in canonical form, as a prompt, and room for escapes."""
_OF_ONE_CALL = frozenset((b"x-request-id", b"traceparent", b"origin"))
"""Headers whose sender wants something said of that very call, or that are answered outside of the path."""


class Heard(NamedTuple):
    """What was understood of a request, which a hit in memory has answered."""

    ask: Ask
    still_stands: Callable[[], bool]
    """Whether its caller would be let in again, as the same."""
    validator: Validator
    """The rules that it was judged by."""
    wish: Wish
    call: Call
    """Its record, but for what the answer was: what is kept must not hold on to memory that is given to others."""
    told: dict[tuple[str, str | None], str]
    """Begins empty. What the line of such a call says anyway, by the purchase that answers and the client: the last one."""

    def told_of(self, call: Call) -> str:
        """`alike` of a call that was answered to its end."""
        assert call.outcome is not None
        known = (call.outcome.entry.metadata.purchase_id, call.client)
        told = self.told.get(known)
        if told is None:
            self.told.clear()
            told = self.told[known] = alike(call)
        return told


@dataclass(slots=True)
class Reply:
    """What goes out for a request: the head's fields, then the windows; then it must be told that it is over."""

    fields: bytes
    """Of the head, each line with its end; the status is 200."""
    _windows: Iterator[Piece]
    _body: MemoryBody
    _call: Call
    _heard: Heard
    _recorder: Recorder
    untaken_bytes: int = 0
    """Of what was given out, what waited for the peer when last looked at."""

    @property
    def _operation(self) -> str:
        return self._heard.ask.first.request.operation.value

    def windows(self, count: int) -> list[bytes | memoryview]:
        """The next pieces of the body, so many at most; none behind the last one."""
        every = [each if isinstance(each, bytes) else self._body.view(*each) for each in islice(self._windows, count)]
        self._call.sent_bytes += sum(map(len, every))
        return every

    def begin(self) -> None:
        """From now on a client is being served from this memory."""
        self._body.readers += 1
        self._recorder.metrics.started(self._operation)

    def end(self, *, is_gone: bool = False) -> None:
        """All of it was written, or the client has gone before that."""
        self._body.readers -= 1
        self._recorder.metrics.finished(self._operation)
        self._call.gone = is_gone
        if is_gone:
            self._call.sent_bytes -= self.untaken_bytes
        else:
            self._call.told = self._heard.told_of(self._call)
        self._recorder.close(self._call)


def is_repeatable(scope: Scope) -> bool:
    """Whether the request came as bytes that may come again."""
    return WHOLE_REQUEST in scope.get("extensions", ()) and _OF_ONE_CALL.isdisjoint(
        [name for name, _ in scope["headers"]]
    )


@dataclass(slots=True)
class Replays:
    """Belongs to the event loop's thread."""

    pipeline: Pipeline
    renderer: Renderer
    recorder: Recorder
    clock: Clock
    _heard: Memo[bytes, Heard] = field(default_factory=lambda: Memo(LIMIT_BYTES), init=False, repr=False)

    def keep(self, request: bytes, heard: Heard) -> None:
        """A hit in memory has just answered this request, which came as these bytes. Kept if a replay could not be told from
        the path: not if something is done for it beside answering, nor if its reply has links, which expire; nor if it holds
        on to pictures that were sent."""
        ask, asked = heard.ask, heard.ask.first.request
        is_plain = not (asked.violations or asked.shutdown_date or ask.idempotency_key or asked.images)
        if len(request) > MAX_BYTES or not is_plain or self.renderer.rendering(asked, heard.wish) is Rendering.URL:
            return
        plain = replace(ask, principal=replace(ask.principal, credential=None))
        record = replace(heard.call, outcome=None, answering=UNRECORDED, trace=None)
        weight = _HEARD_BYTES * len(ask.candidates) + _COPIES * len(request)
        self._heard.keep(sha256(request).digest(), heard._replace(ask=plain, call=record), weight)

    def reply(self, request: bytes, client: str | None) -> Reply | None:
        """The answer to the request that these bytes are; None if it has to be read."""
        heard = self._heard.get(sha256(request).digest()) if len(request) <= MAX_BYTES else None
        if heard is None:
            return None
        ask, pipeline = heard.ask, self.pipeline
        if heard.validator is not pipeline.doorkeeper.validator or not heard.still_stands():
            return None
        entry = pipeline.at_hand(ask)
        if entry is None or not isinstance(entry.body, MemoryBody) or not pipeline.admission.admits(ask.principal):
            return None
        call = self._call(heard, client)
        self.recorder.metrics.body_bytes(ask.first.request.operation.value, call.received_bytes)
        return self._reply(pipeline.serve(ask, entry), heard, call, entry.body)

    def _call(self, heard: Heard, client: str | None) -> Call:
        """The record of this one."""
        former, (request_id, trace_id, span_id) = heard.call, ids.request_and_trace()
        return Call(
            request_id,
            self.clock.wall(),
            self.clock.monotonic(),
            former.method,
            client,
            former.operation,
            former.route,
            progress=former.progress,
            received_bytes=former.received_bytes,
            trace=TraceContext(trace_id, span_id, False),
        )

    def _reply(self, answer: Answer, heard: Heard, call: Call, body: MemoryBody) -> Reply:
        call.outcome, call.status = answer.outcome, 200
        call.first_byte_monotonic = self.clock.monotonic()
        moment = Moment(call.arrived_wall, call.first_byte_monotonic - call.arrived_monotonic)
        fields, windows = self.renderer.written(answer, heard.wish, moment)
        fields += b"x-request-id: %s\r\n" % call.request_id.encode("ascii")
        return Reply(fields, iter(windows), body, call, heard, self.recorder)

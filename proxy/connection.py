"""One connection: limits and deadlines for whoever sends or reads slowly, or sends what was not asked for.

The law: a connection always has a deadline, unless we owe it an answer. We wait for one thing at a time (`_settle`): the
peer is silent between requests, sends a head, or has been sent off; each has its seconds, counted from when it began.
While an answer is owed, the application keeps the time: it has its own for the body, and the upstream's.

uvicorn's httptools protocol has no limit for heads or trailers, no deadline but for silence, and writes its refusals
wherever it stands. This module adds what is missing, at the connection.
"""

import asyncio
import fcntl
import sys
import termios
from collections import deque
from enum import Enum, auto
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.health import Health
from proxy.replay import WHOLE_REQUEST, Replays, Reply
from proxy.settings import ServerSection

MAX_HEAD_BYTES = 64 * 1024
"""Of a head; and of anything else that is no content: trailers, and what may stand beside the size of a chunk."""
_CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"
MAX_DROPPED_BYTES = 2 * 2**20
"""Of what is still read, for the sake of our answer, from a peer that was sent off because it does not keep to HTTP."""
_OFFERS = (b"upgrade", b"http2-settings")
GATHERED_WINDOWS = 4
"""Written at once on the spot: the kernel takes what it can, and the rest are views. TLS would make a copy of each."""
MAX_UNANSWERED = 16
"""Requests on one connection whose answers are not out. One read may hold thousands of small ones."""


class Reading(Enum):
    """Where in what the peer sends we are."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()
    """And trailers, and the framing of chunks."""
    OVER = auto()
    """This connection will not be used again: what still comes is dropped."""


class Connection(HttpToolsProtocol):
    """Reads requests, one after the other, and answers them in their order."""

    def __init__(
        self, *args: Any, limits: ServerSection, health: Health, replays: Replays | None = None, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._limits = limits
        self._health = health
        self._replays = replays
        self._reply: Reply | None = None
        """What is being written on the spot, and waits for the peer to take more."""
        self._busy_at = 0.0
        """When it was last answered on the spot, by the event loop's clock."""
        self._reading = Reading.BETWEEN
        self._loose_bytes = 0
        """Received since a head began, content came, or the peer was sent off."""
        self._droppable_bytes = MAX_DROPPED_BYTES
        self._unanswered: deque[RequestResponseCycle] = deque()
        """Requests whose heads were read and whose answers are not out, the oldest first."""
        self._may_stay = True
        """Whether the last of them lets the connection be used again."""
        self._awaited: Reading | None = None
        """What the deadline is for; None while an answer is owed."""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        self._uptake = Uptake(transport, self.loop, self._limits.send_timeout_seconds)
        # What an answer is written to: the transport, but for its end, which is ours to decide.
        self._outlet = SimpleNamespace(
            write=transport.write, is_closing=transport.is_closing, close=self._leave_answered
        )
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None:
            self._reply.end(is_gone=True)
            self._reply = None
        self._uptake.forget()
        self._set_deadline(None)
        for request in self._unanswered:  # uvicorn tells the last one only
            request.disconnected = True
            request.message_event.set()
        self._unanswered.clear()
        super().connection_lost(exc)
        self._outlet.close = self.transport.close  # else a circle of references keeps the last answer's file open

    # --- What the peer sends --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        is_first = self._replays is not None and self._reading is Reading.BETWEEN and not self._unanswered
        if is_first and self._replay(data):
            return
        self._loose_bytes += len(data)
        if self._reading is Reading.OVER:
            if self._loose_bytes > self._droppable_bytes and not self._unanswered:
                self.transport.close()
            return
        self._parse(data)
        if is_first and self._reading is Reading.BETWEEN and len(self._unanswered) == 1 and self._may_stay:
            self.scope["extensions"] = {WHOLE_REQUEST: {"bytes": data}}
        if self._loose_bytes > MAX_HEAD_BYTES and self._reading in (Reading.HEAD, Reading.BODY):
            self._refuse(431, "headers_too_large", "The headers of your request are too large.")
        self._settle()

    def _parse(self, data: bytes) -> None:
        """A request that offers another protocol (Java's client offers h2c with every POST) is read as if it had not: a
        server may ignore the offer (RFC 9110 section 7.8), but the parser takes what follows for the other protocol."""
        self._unset_keepalive_if_required()
        pieces = [memoryview(data)]
        try:
            while pieces:
                piece = pieces.pop()
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade as upgrade:
                    pieces += (piece[upgrade.args[0] :], memoryview(self._head_without_offer()))
                    self.parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError:
            self._refuse(400, "invalid_http_request", "This is not an HTTP request that can be understood.")

    def _head_without_offer(self) -> bytes:
        """The head that has just been read, as it would stand without `Upgrade`. CONNECT, which is no offer, is none."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            return b"CONNECT is not served\r\n\r\n"
        kept = [
            (name, _without_offer(value) if name == b"connection" else value)
            for name, value in self.headers
            if name not in _OFFERS
        ]
        lines = [b"%s: %s\r\n" % header for header in kept if header != (b"connection", b"")]
        version = self.parser.get_http_version().encode("ascii")
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(lines))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._read_on(Reading.HEAD)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        if len(self._unanswered) >= MAX_UNANSWERED:
            raise BufferError("too many requests without an answer")  # the parser stops, and `_parse` refuses the rest
        super().on_headers_complete()
        # uvicorn stops reading behind a request that must wait for its turn, and would not see that the client has gone.
        self.flow.resume_reading()
        self._read_on(Reading.BODY)
        # What the application was given is complete: trailers go where nobody looks (RFC 9110 section 6.5.1).
        self.headers = []
        self._unanswered.append(self.cycle)
        is_old = self.scope["http_version"] == "1.0"
        self.cycle.transport = _Unchunked(self._outlet) if is_old else self._outlet  # type: ignore[assignment]
        # Whoever answers a request before it was read whole has the last word on this connection.
        self._may_stay, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._loose_bytes = 0

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._read_on(Reading.BETWEEN)
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._may_stay and not self._health.is_draining

    def _read_on(self, reading: Reading) -> None:
        self._reading, self._loose_bytes = reading, 0

    def shutdown(self) -> None:
        """The server's word that the listener is closed."""
        if self._unanswered:
            super().shutdown()
        elif self._reply is None:  # else its end closes
            self.transport.close()

    # --- What is answered on the spot -----------------------------------------------------------------------------------

    def _replay(self, data: bytes) -> bool:
        """Whether these bytes are a request that could be answered without reading it."""
        if self._replays is None or self._health.is_draining or self.flow.write_paused or self.transport.is_closing():
            return False
        reply = self._replays.reply(data, self.client[0] if self.client else None)
        if reply is None:
            return False
        if not self._busy_at:
            self._awaited = None  # from now on there are other seconds for being silent
        self._reply = reply
        reply.begin()
        self._write_on(b"%s%s\r\n" % (_top_of_head(*self.server_state.default_headers), reply.fields))
        return True

    def _write_on(self, head: bytes = b"") -> None:
        """Some windows at a time, until the peer takes no more; then its taking calls again."""
        reply = self._reply
        assert reply is not None
        count = 1 if self._is_encrypted else GATHERED_WINDOWS
        while windows := reply.windows(count):
            self.transport.writelines([head, *windows] if head else windows)
            head = b""
            if self.transport.is_closing():
                return  # the peer was gone; `connection_lost` says so
            reply.untaken_bytes = self.transport.get_write_buffer_size()
            if self.flow.write_paused:
                self.transport.pause_reading()  # what comes next is read when this is out
                self._settle()
                return
            if len(windows) < count:
                break
        self._reply = None
        self._busy_at = self.loop.time()
        reply.end()
        self.server_state.total_requests += 1
        self._uptake.watch()
        self.transport.resume_reading()
        self._settle()
        if self._health.is_draining:
            self.transport.close()

    # --- What is sent to the peer ---------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._uptake.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._uptake.progressed()
        if self._reply is not None:
            self._write_on()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        self._uptake.watch()
        if self._reading is not Reading.OVER or self._unanswered:
            super().on_response_complete()
            self._unset_keepalive_if_required()  # ours instead
        self._settle()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """An answer to what is no request, in OpenAI's shape; then the end of the connection."""
        broken_off = self._reading is Reading.BODY
        self._read_on(Reading.OVER)
        if self._unanswered:
            asked = self._unanswered[-1]
            asked.keep_alive = False
            if len(self._unanswered) > 1 or not broken_off or asked.response_started:
                return  # an answer has its place before ours: it is finished, and is the last
            self._unanswered.clear()
            asked.disconnected = True
            asked.message_event.set()
        body = f'{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{code}"}}}}'
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "x-should-retry: false\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self._leave()

    def _leave_answered(self) -> None:
        """The application has the last word. Who sends all before it reads must be let, even if that is an upload, or it
        never learns why that was refused, and sends it again."""
        self._droppable_bytes = max(MAX_DROPPED_BYTES, self._limits.max_multipart_bytes)
        self._leave()

    def _leave(self) -> None:
        """Closes, once the peer has taken what was written. If it is still sending, we first read on for a while: to
        close with bytes unread resets the connection, and our answer may be lost with it (RFC 9112 section 9.6)."""
        was_read_whole = self._reading is Reading.BETWEEN
        is_broken = bool(self._unanswered) and not self._unanswered[0].response_complete
        self._read_on(Reading.OVER)
        self._uptake.watch()
        while self.pipeline:  # asked after what was to be the last
            self.pipeline.pop()
            self._unanswered.pop()
        if was_read_whole or is_broken:
            self.transport.close()
        elif not self.transport.is_closing():
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._settle()

    # --- Time -------------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Sets the one deadline anew if something else is waited for."""
        awaited = None if self._unanswered or self._reply is not None else self._reading
        if awaited is self._awaited or self.transport.is_closing():
            return
        self._awaited = awaited
        if awaited is None:
            self._set_deadline(None)
        elif awaited is Reading.BETWEEN and (self._busy_at or self.cycle is not None):
            self._set_deadline(self.timeout_keep_alive)
        else:
            self._set_deadline(self._limits.receive_timeout_seconds)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._is_late)

    def _is_late(self) -> None:
        if self.transport.get_write_buffer_size():  # still taking the end of an answer, at a pace that `Uptake` judges
            self._set_deadline(self._limits.send_timeout_seconds)
        elif (
            self._reading is Reading.BETWEEN
            and (left := self._busy_at + self.timeout_keep_alive - self.loop.time()) > 0
        ):
            self._set_deadline(left)
        elif self._reading is Reading.HEAD:
            self._refuse(408, "request_timeout", "The headers of your request did not arrive in time.")
        else:
            self.transport.close()


@lru_cache(maxsize=2)
def _top_of_head(*fields: tuple[bytes, bytes]) -> bytes:
    """What every answer on the spot begins with: the status, and uvicorn's own fields, which change once a second."""
    return b"HTTP/1.1 200 OK\r\n" + b"".join([b"%s: %s\r\n" % field for field in fields])


class _Unchunked:
    """What an answer to a client of HTTP/1.0 is written to. uvicorn sends what has no length in chunks, which such a client
    need not understand (RFC 9112 section 6.1): it gets the content alone, and the end of the connection is its end.

    Each write of uvicorn's is a head, or a chunk, or the last chunk, whole.
    """

    def __init__(self, outlet: SimpleNamespace) -> None:
        self._outlet = outlet
        self._is_chunked: bool | None = None
        """None before the head."""

    def is_closing(self) -> bool:
        return bool(self._outlet.is_closing())

    def close(self) -> None:
        self._outlet.close()

    def write(self, data: bytes) -> None:
        if self._is_chunked is None:
            head = data.replace(_CHUNKED, b"\r\n")
            self._is_chunked, data = head != data, head
        elif self._is_chunked:
            data = _content(data)
        self._outlet.write(data)


def _content(chunks: bytes) -> bytes:
    """What stands in one chunk, with or without the last one behind it."""
    size, _, rest = chunks.partition(b"\r\n")
    return rest[: int(size, 16)]


class Uptake:
    """Whether the peer takes what is written to it. It may be as slow as it likes; one that took nothing at all between
    two looks is gone, and neither close() nor the kernel would ever give it up."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._transport = transport
        self._loop = loop
        self._seconds = seconds
        self._look: asyncio.TimerHandle | None = None
        self._untaken = 0

    def watch(self) -> None:
        """From now on, until everything is taken."""
        if self._look is None and self._transport.get_write_buffer_size():
            self._untaken = self._measure()
            self._look = self._loop.call_later(self._seconds, self._judge)

    def progressed(self) -> None:
        self._untaken = sys.maxsize

    def forget(self) -> None:
        if self._look is not None:
            self._look.cancel()

    def _judge(self) -> None:
        self._look = None
        if self._transport.get_write_buffer_size() and self._measure() >= self._untaken:
            self._transport.abort()
        else:
            self.watch()

    def _measure(self) -> int:
        """Bytes that the peer has not acknowledged. The kernel holds megabytes of them and takes no more from us until a
        third of that is gone, so that our own buffer alone would make a slow reader look like none."""
        ours: int = self._transport.get_write_buffer_size()
        try:
            kernels = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):  # the descriptor has just been closed
            return ours
        return ours + int.from_bytes(kernels, sys.byteorder)


def _without_offer(connection: bytes) -> bytes:
    """The options of a `Connection` header that have nothing to do with an offer."""
    return b",".join(option for option in connection.split(b",") if option.strip().lower() not in _OFFERS)

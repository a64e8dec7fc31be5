"""An upstream that misbehaves on demand: a raw TCP server whose every connection plays one act of a script.

    async with FaultyUpstream() as upstream:
        upstream.play(refused(429, retry_after="1"), replied(reply(picture("a"))))
        ...                         # point imagegate at upstream.base_url
        assert upstream.calls == 2

Acts are taken in order; when the script is at its end the last act given to `always` is played (a small good reply unless
set). Nothing here waits for a clock but `dripped`: `held(gate, act)` waits for an `asyncio.Event`, `upstream.heard_calls(n)`
returns once n requests have arrived whole. One connection, one exchange: it is closed after the act.
"""

import asyncio
import gzip
import json
import socket
import ssl
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.support.images import picture, reply

JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
"""Most acts take `headers`: with these a body of events suffers what a reply may suffer."""
REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(frozen=True)
class Heard:
    """One request as it arrived. Header names are lower-case; `header_list` keeps order and duplicates."""

    method: str
    target: str
    header_list: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.header_list)

    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """The server's end of one connection, for acts to speak on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", *(f"{k}: {v}" for k, v in headers.items())]
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def until_closed(self) -> None:
        """Returns when the other side has hung up."""
        while await self._reader.read(65536):
            pass

    async def hear(self) -> Heard:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = [line.partition(":") for line in lines]
        headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
        if dict(headers).get("transfer-encoding", "").lower() == "chunked":
            return Heard(method, target, headers, b"".join([chunk async for chunk in self._chunks()]))
        body = await self._reader.readexactly(int(dict(headers).get("content-length", "0")))
        return Heard(method, target, headers, body)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass  # a trailer


@dataclass(frozen=True)
class Act:
    """What is done with one connection. `after_request` False: before its request was read."""

    play: Callable[[Line], Awaitable[None]]
    after_request: bool = True


# --- acts ------------------------------------------------------------------------------------------------------------


def replied(body: bytes, *, status: int = 200, headers: Mapping[str, str] = JSON, announce: int | None = None) -> Act:
    """A whole reply. With `announce` its announced length is that, and the connection ends after `body`."""

    async def play(line: Line) -> None:
        length = len(body) if announce is None else announce
        await line.head(status, {**headers, "content-length": str(length)})
        await line.send(body)

    return Act(play)


def refused(status: int, *, code: str = "scripted", retry_after: str | None = None, **headers: str) -> Act:
    """An error in OpenAI's shape. Further headers by keyword, underscores for hyphens."""
    error = {"message": f"scripted {status}", "type": "scripted_error", "param": None, "code": code}
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    if retry_after is not None:
        more["retry-after"] = retry_after
    return replied(json.dumps({"error": error}).encode(), status=status, headers={**JSON, **more})


def html(status: int = 200) -> Act:
    return replied(b"<html><body>Bad gateway</body></html>", status=status, headers={"content-type": "text/html"})


def truncated(body: bytes, after: int, *, headers: Mapping[str, str] = JSON) -> Act:
    """The whole length is announced; FIN comes after `after` bytes."""
    return replied(body[:after], headers=headers, announce=len(body))


def unannounced(body: bytes, *, headers: Mapping[str, str] = JSON) -> Act:
    """No length: the end of the connection ends the body."""

    async def play(line: Line) -> None:
        await line.head(200, {**headers, "connection": "close"})
        await line.send(body)

    return Act(play)


def chunked(body: bytes, *, size: int = 4096, finished: bool = True, headers: Mapping[str, str] = JSON) -> Act:
    """Chunked transfer coding; unless `finished`, the last chunk never comes."""
    return _in_chunks([body[at : at + size] for at in range(0, len(body), size)], finished, headers)


def streamed(*events: bytes, finished: bool = True) -> Act:
    """Server-sent events, each in a chunk of its own; unless `finished`, the last chunk never comes."""
    return _in_chunks(events, finished, SSE)


def _in_chunks(chunks: Sequence[bytes], finished: bool, headers: Mapping[str, str]) -> Act:
    async def play(line: Line) -> None:
        await line.head(200, {**headers, "transfer-encoding": "chunked"})
        for chunk in chunks:
            await line.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if finished:
            await line.send(b"0\r\n\r\n")

    return Act(play)


def compressed(body: bytes, encoding: str = "gzip", *, headers: Mapping[str, str] = JSON) -> Act:
    """Compressed, though nobody asked for it."""
    data = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    return replied(data, headers={**headers, "content-encoding": encoding})


def bomb(megabytes: int) -> Act:
    """A few kilobytes that inflate to `megabytes`."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    zeros = bytes(1_000_000)
    data = b"".join([*(deflater.compress(zeros) for _ in range(megabytes)), deflater.flush()])
    return replied(data, headers={**JSON, "content-encoding": "gzip"})


def dripped(body: bytes, *, size: int = 1, every_seconds: float = 0.01, headers: Mapping[str, str] = JSON) -> Act:
    """The body in drops, until it is complete or the other side leaves."""

    async def play(line: Line) -> None:
        await line.head(200, {**headers, "content-length": str(len(body))})
        for at in range(0, len(body), size):
            await line.send(body[at : at + size])
            await asyncio.sleep(every_seconds)

    return Act(play)


def reset(body: bytes = b"", after: int = 0, *, headers: Mapping[str, str] = JSON) -> Act:
    """RST: after `after` bytes of a body that was announced whole, or without any answer if there is no body."""

    async def play(line: Line) -> None:
        if body:
            await line.head(200, {**headers, "content-length": str(len(body))})
            await line.send(body[:after])
        line.reset()

    return Act(play)


def hung_up() -> Act:
    """The request is read, the connection closed without an answer."""

    async def play(line: Line) -> None:
        del line

    return Act(play)


def slammed() -> Act:
    """Accepted and closed at once, before the request is read."""

    async def play(line: Line) -> None:
        line.reset()

    return Act(play, after_request=False)


def silent() -> Act:
    """No answer, until the other side leaves."""

    async def play(line: Line) -> None:
        await line.until_closed()

    return Act(play)


def held(gate: asyncio.Event, act: Act) -> Act:
    """`act`, once `gate` is set."""

    async def play(line: Line) -> None:
        await gate.wait()
        await act.play(line)

    return Act(play, act.after_request)


def split(first: bytes, gate: asyncio.Event, rest: bytes, *, headers: Mapping[str, str] = JSON) -> Act:
    """A good head and `first`; then `rest`, once `gate` is set."""

    async def play(line: Line) -> None:
        await line.head(200, {**headers, "content-length": str(len(first) + len(rest))})
        await line.send(first)
        await gate.wait()
        await line.send(rest)

    return Act(play)


# --- the server ------------------------------------------------------------------------------------------------------


class FaultyUpstream:
    """Listens on a free port of the loopback for as long as the context lasts."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.heard: list[Heard] = []
        self.connections = 0
        self.port = 0
        self._tls = tls
        self._acts: deque[Act] = deque()
        self._always = replied(reply(picture("scripted")))
        self._lines: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> int:
        """Requests that arrived whole."""
        return len(self.heard)

    def play(self, *acts: Act) -> None:
        """Adds to the script."""
        self._acts.extend(acts)

    def always(self, act: Act) -> None:
        """What is played when the script is at its end."""
        self._always = act

    async def heard_calls(self, count: int) -> None:
        """Returns once `count` requests have arrived whole."""
        async with self._news:
            await self._news.wait_for(lambda: self.calls >= count)

    async def __aenter__(self) -> "FaultyUpstream":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._lines:
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        self.connections += 1
        try:
            await self._exchange(Line(reader, writer))
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other side left, or the server closes
        finally:
            self._lines.discard(task)
            writer.close()

    async def _exchange(self, line: Line) -> None:
        act = self._acts.popleft() if self._acts else self._always
        if act.after_request:
            heard = await line.hear()
            async with self._news:
                self.heard.append(heard)
                self._news.notify_all()
        await act.play(line)


def closed_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port

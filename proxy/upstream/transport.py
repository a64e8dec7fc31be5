"""One HTTP/1.1 call over one connection, in place of httpx's own transport; requests, replies and errors stay httpx's.

The laws of a call:

1. A head that HTTP does not allow is refused before there is a connection.
2. Whatever goes wrong with the connection or with what arrives is an error of httpx; nothing is logged.
3. A reply that is there is read, also when the upstream did not take the whole request.
4. With the last byte of the reply the call is over: we hang up, whatever would still come or go.
5. Of a body nothing is read before somebody asks for it, but what came with its head; then at most 512 KiB wait.
6. Closing hangs up at once. It can be done at any time and any number of times, and leaves no task, timer or socket.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable
from socket import IPPROTO_TCP, TCP_NODELAY

import httpx

from proxy.upstream import dial
from proxy.upstream.dial import SocketOption
from proxy.upstream.message import Message

MAX_WAITING_BYTES = 1 << 19
_PORTS = {"http": 80, "https": 443}

# RFC 9110 section 5.1 and 5.5; RFC 9112 section 3.2.
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"([\x21-\x7e\x80-\xff]+([ \t]+[\x21-\x7e\x80-\xff]+)*)?")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_LENGTH = re.compile(rb"[0-9]{1,20}")


class OneCall(httpx.AsyncBaseTransport):
    """A transport for one request. Its timeouts are httpx's: `connect` bounds TCP, then TLS; the others bound silences."""

    def __init__(self, tls: ssl.SSLContext, socket_options: Iterable[SocketOption] = ()) -> None:
        tls.set_alpn_protocols(["http/1.1"])
        self._tls = tls
        self._socket_options = ((IPPROTO_TCP, TCP_NODELAY, 1), *socket_options)
        self._connection = _Connection()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends all of the request, then gives the reply when its head has arrived."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        if request.url.scheme not in _PORTS or not request.url.host:
            raise httpx.UnsupportedProtocol("Only addresses of http and https can be called.")
        head, length = _head(request)
        seconds = request.extensions.get("timeout", {})
        connection = self._connection
        try:
            await self._connect(request, seconds.get("connect"))
            await connection.send(head, request.stream, length, seconds.get("write"))
            await connection.head_received(seconds.get("read"))
        except BaseException:
            connection.close()
            raise
        message = connection.message
        return httpx.Response(message.status, headers=message.headers, stream=_Body(connection, seconds.get("read")))

    async def aclose(self) -> None:
        self._connection.close()

    async def _connect(self, request: httpx.Request, seconds: float | None) -> None:
        url, host = request.url, request.url.raw_host.decode("ascii")
        # The handshake begins on a socket that nobody has read: what is said before it is never taken for a reply.
        tls = self._tls if url.scheme == "https" else None
        name = request.extensions.get("sni_hostname") or host if tls else None
        try:
            async with asyncio.timeout(seconds):
                connected = await dial.connected(host, url.port or _PORTS[url.scheme], self._socket_options)
            async with asyncio.timeout(seconds):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: self._connection, sock=connected, ssl=tls, server_hostname=name)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("The connection was not made in time.") from error
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(str(error)) from error


class _Body(httpx.AsyncByteStream):
    def __init__(self, connection: "_Connection", seconds: float | None) -> None:
        self._connection = connection
        self._seconds = seconds

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._connection.pieces(self._seconds)

    async def aclose(self) -> None:
        self._connection.close()


def _head(request: httpx.Request) -> tuple[bytes, int]:
    """The head, and the length of the body that it announces. Raises LocalProtocolError."""
    method, target, fields = request.method.encode(), request.url.raw_path, request.headers.raw
    # No error quotes a value: it may be a credential.
    for name, value in fields:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise httpx.LocalProtocolError(f"The header {name!r} cannot be sent.")
    named = [(name.lower(), value) for name, value in fields]
    lengths = [value for name, value in named if name == b"content-length"]
    hosts = [value for name, value in named if name == b"host"]
    if len(hosts) != 1 or len(lengths) > 1 or any(name == b"transfer-encoding" for name, _ in named):
        raise httpx.LocalProtocolError("A request has one host, and a body of a known length.")
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target) or not all(map(_LENGTH.fullmatch, lengths)):
        raise httpx.LocalProtocolError("The method, the target or the length cannot be sent.")
    lines = [b"%s %s HTTP/1.1\r\n" % (method, target), *[b"%s: %s\r\n" % field for field in fields], b"\r\n"]
    return b"".join(lines), int(lengths[0]) if lengths else 0


class _Connection(asyncio.Protocol):
    """Sends a request, then gives the reply. One coroutine at a time waits, for news of either."""

    def __init__(self) -> None:
        self.message = Message()
        self._failure: httpx.TransportError | None = None
        """Why the message ended before its time."""
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._may_write = True
        self._news: asyncio.Future[None] | None = None

    async def send(self, head: bytes, body: httpx.AsyncByteStream, length: int, seconds: float | None) -> None:
        """Returns when all has gone out, or when the reply or the connection has come to its end."""
        self._write(head)
        sent = 0
        async for piece in body:
            sent += len(piece)
            if sent > length:
                raise httpx.LocalProtocolError("The body is longer than announced.")
            self._write(piece)
            while not self._may_write and not self.message.is_over:
                await self._wait(seconds, httpx.WriteTimeout)
            if sent < length:
                await asyncio.sleep(0)  # a turn for what has come: writing on may fail, and lose a reply that is there
            if self.message.is_over:
                return
        if sent < length:
            raise httpx.LocalProtocolError("The body is shorter than announced.")

    async def head_received(self, seconds: float | None) -> None:
        while not self.message.status and not self.message.is_over:
            await self._wait(seconds, httpx.ReadTimeout)
        if not self.message.status and self._failure is not None:
            raise self._failure
        if self._transport is not None:
            self._transport.pause_reading()

    async def pieces(self, seconds: float | None) -> AsyncIterator[bytes]:
        """The body as it arrives. What came before a failure is given before it is raised."""
        while True:
            if self._transport is not None and self._waiting_bytes <= MAX_WAITING_BYTES // 2:
                self._transport.resume_reading()
            if self._waiting:
                self._waiting_bytes -= len(self._waiting[0])
                yield self._waiting.popleft()
            elif self._failure is not None:
                raise self._failure
            elif self.message.is_over:
                return
            else:
                await self._wait(seconds, httpx.ReadTimeout)

    def close(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
        self._end(httpx.ReadError("The call was closed."))

    # --- What the event loop calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        # We wait until the kernel has taken all of a piece. With TLS the last 64 KiB may still be on their way to it.
        transport.set_write_buffer_limits(high=1, low=0)

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._tell()

    def data_received(self, data: bytes) -> None:
        if content := self.message.feed(data):
            self._waiting.append(content)
            self._waiting_bytes += len(content)
        if self.message.is_over:
            self._end()
        elif self._waiting_bytes > MAX_WAITING_BYTES and self._transport is not None:
            self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(None if exc is None else httpx.ReadError(str(exc)))

    # ----------------------------------------------------------------------------------------------------------------

    def _end(self, failure: httpx.TransportError | None = None) -> None:
        """No more will come: the reply is over, the upstream has ended it by its silence, or there is a failure."""
        if failure is not None and not self.message.is_over:
            self._failure = failure
        self.message.end()
        if self.message.fault and self._failure is None:
            self._failure = httpx.RemoteProtocolError(self.message.fault)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._tell()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _wait(self, seconds: float | None, late: type[httpx.TimeoutException]) -> None:
        self._news = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._news
        except TimeoutError as error:
            raise late("The upstream was silent for too long.") from error
        finally:
            self._news = None

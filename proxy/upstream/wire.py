"""The door of httpx: one call, one connection.

httpx 0.28.1 is used at transport level, and the transport is ours (`proxy/upstream/transport.py`). A connection for each
call removes by construction what a shared client brings to a paid POST: a pool that cancelled connects exhaust
(encode/httpcore#1093), a cookie jar shared by tenants, and the race in which a server closes an idle connection just as we
write to it. A TLS handshake is noise beside 10 to 300 seconds.
"""

import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from socket import IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL
from typing import Protocol

import certifi
import httpx

from proxy.errors import InvalidRequest, UpstreamConnectionLost, UpstreamInvalidResponse, UpstreamUnreachable
from proxy.upstream.transport import OneCall

INFLATED_CHUNK_BYTES = 1 << 16
WRITE_SECONDS = 60.0
"""An upstream that takes nothing of a request for so long does not want it."""


class Content(Protocol):
    """A body of known length, in pieces."""

    def __len__(self) -> int: ...
    def chunks(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Post:
    """A request to be made. `server_name` is the host to be proven by TLS when `url` names an address instead."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: "Content | None" = None
    server_name: str | None = None


class Reply:
    """The head of a reply, and its body as it arrives. Header names are lower-case."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

    @property
    def announced_bytes(self) -> int | None:
        """`Content-Length`, if there is one; the body that arrives may be larger once it is decompressed."""
        value = self.headers.get("content-length", "")
        return int(value) if value.isascii() and value.isdigit() else None

    async def chunks(self, limit: int) -> AsyncGenerator[bytes, None]:
        """The body, decompressed if it came compressed although we asked for identity.

        Raises UpstreamInvalidResponse when it grows past `limit` bytes, UpstreamConnectionLost when it ends early.
        """
        inflater = _inflater(self.headers.get("content-encoding", ""))
        received = 0
        assert isinstance(self._response.stream, httpx.AsyncByteStream)
        with _translated():
            async for chunk in self._response.stream:
                for piece in inflater.feed(chunk):
                    received += len(piece)
                    if received > limit:
                        raise UpstreamInvalidResponse(f"The upstream's reply is larger than {limit} bytes.")
                    yield piece
        if not inflater.finished:
            raise UpstreamConnectionLost("The upstream's compressed reply ended early.")


class Wire:
    """Makes connections. `tcp_keepalive_seconds` keeps NATs that drop silent connections awake during long calls."""

    def __init__(self, *, tcp_keepalive_seconds: int) -> None:
        self._tls = ssl.create_default_context(cafile=certifi.where())
        self._socket_options = (
            (SOL_SOCKET, SO_KEEPALIVE, 1),
            (IPPROTO_TCP, TCP_KEEPIDLE, tcp_keepalive_seconds),
            (IPPROTO_TCP, TCP_KEEPINTVL, tcp_keepalive_seconds),
            (IPPROTO_TCP, TCP_KEEPCNT, 4),
        )

    def trust(self, certificate_authority: str) -> None:
        """Accepts also what this PEM file vouches for."""
        self._tls.load_verify_locations(cafile=certificate_authority)

    @asynccontextmanager
    async def exchange(self, post: Post, *, connect_seconds: float, io_seconds: float) -> AsyncIterator[Reply]:
        """Sends a request and gives the reply when its head has arrived; closes the connection on leaving.

        The total deadline is the caller's: `connect_seconds` bounds TCP, then TLS; `io_seconds` single reads and writes.
        While the request has not been sent whole, raises UpstreamUnreachable, or InvalidRequest for a header that HTTP does
        not allow; afterwards UpstreamConnectionLost.
        """
        write_seconds = min(io_seconds, WRITE_SECONDS)
        timeout = {"connect": connect_seconds, "read": io_seconds, "write": write_seconds, "pool": None}
        extensions: dict[str, object] = {"timeout": timeout}
        if post.server_name is not None:
            extensions["sni_hostname"] = post.server_name
        async with OneCall(self._tls, self._socket_options) as transport:
            content = None if post.content is None else _Sending(post.content)
            with _translated(content), _refused_by_ourselves():
                # A caller's credential may hold any byte that a header may: httpx by itself takes ASCII only.
                headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in post.headers.items()]
                if post.content is not None:
                    headers.append((b"content-length", b"%d" % len(post.content)))
                request = httpx.Request(post.method, post.url, headers=headers, content=content, extensions=extensions)
                response = await transport.handle_async_request(request)
            try:
                yield Reply(response)
            finally:
                await response.aclose()


class _Sending:
    """A body on its way out. Until its last piece is given to the connection, nobody can have acted on it; that its write
    failed then says nothing: the upstream may have read all, and hung up."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._given_bytes = 0

    @property
    def is_whole(self) -> bool:
        return self._given_bytes >= len(self._content)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._content.chunks():
            self._given_bytes += len(chunk)
            yield chunk


@contextmanager
def _refused_by_ourselves() -> Iterator[None]:
    """The transport checks the head before there is a connection."""
    try:
        yield
    except (httpx.LocalProtocolError, UnicodeEncodeError) as error:
        raise InvalidRequest(
            "A header of your request holds characters that cannot be sent.", code="invalid_header"
        ) from error


@contextmanager
def _translated(sending: _Sending | None = None) -> Iterator[None]:
    """Nothing of httpx leaks: its errors become ours, by whether a request may have reached the upstream."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise UpstreamUnreachable("The upstream could not be reached.") from error
    except httpx.DecodingError as error:
        raise UpstreamInvalidResponse("The upstream's reply could not be decompressed.") from error
    except httpx.TransportError as error:
        if sending is not None and not sending.is_whole:
            raise UpstreamUnreachable("The upstream did not take the whole request.") from error
        raise UpstreamConnectionLost(
            "The connection to the upstream was lost before its reply was complete."
        ) from error


class _Identity:
    finished = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if chunk:
            yield chunk


class _Inflater:
    """Inflates in bounded pieces: a bomb is seen as it grows, not after (httpx 0.28 gives 67 MB at once)."""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)

    @property
    def finished(self) -> bool:
        return self._zlib.eof

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk and not self._zlib.eof:
                if piece := self._zlib.decompress(chunk, INFLATED_CHUNK_BYTES):
                    yield piece
                chunk = self._zlib.unconsumed_tail
        except zlib.error as error:
            raise UpstreamInvalidResponse("The upstream's reply could not be decompressed.") from error


def _inflater(encoding: str) -> _Identity | _Inflater:
    match encoding.strip().lower():
        case "" | "identity":
            return _Identity()
        case "gzip" | "x-gzip":
            return _Inflater(16 + zlib.MAX_WBITS)
        case "deflate":
            return _Inflater(zlib.MAX_WBITS)
        case _:
            raise UpstreamInvalidResponse("The upstream's reply is compressed in a way that was not asked for.")

"""The transport: one call as bytes on a socket, in both directions, and every way in which it can break."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from proxy.upstream import dial
from proxy.upstream.message import MAX_HEAD_BYTES
from proxy.upstream.transport import MAX_WAITING_BYTES, OneCall
from tests.support import faulty
from tests.support.application import eventually
from tests.support.faulty import Act, FaultyUpstream, Line

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
BODY = bytes(range(256)) * 1000
NO_CHANGE: Mapping[str, float] = {}


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: the one of the tests, and the one that serves."""
    return ("asyncio", {"use_uvloop": request.param})


@pytest.fixture(autouse=True)
def _leaves_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def said(*parts: bytes, slowly: bool = False, stays: bool = False, after_request: bool = True) -> Act:
    """These bytes; then the end of the connection, or, with `stays`, not before the other side's."""

    async def play(line: Line) -> None:
        for part in parts:
            for piece in [part[at : at + 1] for at in range(len(part))] if slowly else [part]:
                await line.send(piece)
                await asyncio.sleep(0)
        if stays:
            await line.until_closed()

    return Act(play, after_request)


def content(*pieces: bytes) -> Callable[[], AsyncIterator[bytes]]:
    async def flow() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return flow


def requested(
    url: str,
    *,
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: AsyncIterator[bytes] | None = None,
    server_name: str | None = None,
    seconds: Mapping[str, float] = NO_CHANGE,
) -> httpx.Request:
    extensions: dict[str, object] = {"timeout": {"connect": 5.0, "read": 5.0, "write": 5.0, **seconds}}
    if server_name:
        extensions["sni_hostname"] = server_name
    return httpx.Request(method, url, headers=headers, content=body, extensions=extensions)


def one_call(tls: ssl.SSLContext | None = None, *options: tuple[int, int, int]) -> OneCall:
    return OneCall(tls or ssl.create_default_context(), options)


@asynccontextmanager
async def answered(call: OneCall, request: httpx.Request) -> AsyncIterator[httpx.Response]:
    async with call:
        response = await call.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()


async def pieces(response: httpx.Response) -> list[bytes]:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return [piece async for piece in response.stream]


async def exchanged(act: Act, seconds: Mapping[str, float] = NO_CHANGE) -> tuple[int, bytes]:
    async with FaultyUpstream() as upstream:
        upstream.play(act)
        request = requested(upstream.base_url, method="GET", seconds=seconds)
        async with answered(one_call(), request) as response:
            return response.status_code, b"".join(await pieces(response))


@asynccontextmanager
async def leaving_nothing() -> AsyncIterator[None]:
    """No socket stays open, and no task runs on."""
    sockets, tasks = open_sockets(), len(asyncio.all_tasks())
    yield
    await eventually(lambda: open_sockets() <= sockets and len(asyncio.all_tasks()) <= tasks)


def open_sockets() -> int:
    """Of this process. Other files do not count: libuv keeps a spare one from its first connection on."""
    return sum(Path("/proc/self/fd", name).is_socket() for name in os.listdir("/proc/self/fd"))


# --- what is sent -----------------------------------------------------------------------------------------------------


async def test_the_head_is_what_was_named_in_its_order() -> None:
    async with FaultyUpstream() as upstream:
        headers = [(b"X-One", b"1"), (b"content-length", b"5"), (b"x-two", b"\xe4\t \xff"), (b"x-three", b"")]
        request = requested(upstream.base_url + "/a%20b?c=d", headers=headers, body=content(b"ab", b"", b"cde")())
        async with answered(one_call(), request) as response:
            assert response.status_code == 200
        (heard,) = upstream.heard
    assert (heard.method, heard.target, heard.body) == ("POST", "/v1/a%20b?c=d", b"abcde")
    assert heard.header_list == (
        ("host", f"127.0.0.1:{upstream.port}"),
        ("x-one", "1"),
        ("content-length", "5"),
        ("x-two", "\xe4\t \xff"),
        ("x-three", ""),
    )


UNSENDABLE = [
    *[(name, b"x") for name in (b"", b"a b", b"a:", b"a\r\nb", b"a\x00", b"\xe4", b"a\n")],
    *[(b"a", bytes([byte])) for byte in (*range(0x21), 0x7F)],
    *[(b"a", value) for value in (b" b", b"b ", b"\tb", b"b\t", b"b\r\nc: d", b"b\nc", b"b\x00c", b"b\x7fc", b"b\n")],
    (b"host", b"another"),
    (b"Transfer-Encoding", b"chunked"),
    *[(b"content-length", value) for value in (b"-1", b"+1", b"1, 1", b"1x", b"9" * 21)],
]


async def test_a_head_that_http_does_not_allow_is_not_sent() -> None:
    async with FaultyUpstream() as upstream:
        for header in UNSENDABLE:
            request = requested(upstream.base_url, method="GET", headers=[(b"host", b"one"), header])
            async with one_call() as call:
                with pytest.raises(httpx.LocalProtocolError):
                    await call.handle_async_request(request)
                    pytest.fail(str(header))
        assert upstream.connections == 0


async def test_a_method_that_is_no_token_and_a_request_without_a_host_are_not_sent() -> None:
    nameless = requested("http://127.0.0.1:1/", method="GET")
    del nameless.headers["host"]
    for request in (requested("http://127.0.0.1:1/", method="GE T"), nameless):
        async with one_call() as call:
            with pytest.raises(httpx.LocalProtocolError):
                await call.handle_async_request(request)


@pytest.mark.parametrize("sent", [(b"abc",), (b"abcd", b"ef"), ()])
async def test_a_body_is_as_long_as_announced(sent: tuple[bytes, ...]) -> None:
    async with FaultyUpstream() as upstream:
        headers = [(b"content-length", b"5")]
        async with one_call() as call:
            with pytest.raises(httpx.LocalProtocolError):
                await call.handle_async_request(requested(upstream.base_url, headers=headers, body=content(*sent)()))
        assert upstream.calls == 0


class Supply:
    """A large body, and how many of its pieces were taken."""

    def __init__(self, count: int = 400, size: int = 1 << 16) -> None:
        self.taken = 0
        self._count, self._size = count, size
        self.headers = [(b"content-length", b"%d" % (count * size))]

    async def flow(self) -> AsyncIterator[bytes]:
        for _ in range(self._count):
            self.taken += 1
            yield bytes(self._size)


async def test_no_more_of_a_body_is_taken_than_goes_out() -> None:
    supply, gate = Supply(), asyncio.Event()

    async def play(line: Line) -> None:
        await gate.wait()
        heard = await line.hear()
        await line.head(200, {"content-length": "0", "x-heard": str(len(heard.body))})

    async with FaultyUpstream() as upstream:
        upstream.play(Act(play, after_request=False))
        request = requested(upstream.base_url, headers=supply.headers, body=supply.flow())
        async with one_call(None, (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)) as call:
            task = asyncio.create_task(call.handle_async_request(request))
            await eventually(lambda: supply.taken > 1)
            await asyncio.sleep(0.1)
            assert supply.taken < 200
            gate.set()
            assert (await task).headers["x-heard"] == str(400 << 16)


async def test_an_upstream_that_takes_nothing_is_left_in_time() -> None:
    supply = Supply()
    async with FaultyUpstream() as upstream:
        upstream.play(faulty.held(asyncio.Event(), Act(faulty.silent().play, after_request=False)))
        request = requested(upstream.base_url, headers=supply.headers, body=supply.flow(), seconds={"write": 0.05})
        async with one_call() as call:
            with pytest.raises(httpx.WriteTimeout):
                await call.handle_async_request(request)
    assert supply.taken < 400


async def test_the_write_timeout_is_for_the_last_byte_too_and_then_nothing_lingers() -> None:
    """What the kernel has not taken is neither left to the read timeout nor waited for when the call is closed."""
    with socket.socket() as listener:  # accepts nobody
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        headers = [(b"content-length", b"60000")]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        request = requested(url, headers=headers, body=content(bytes(60_000))(), seconds={"write": 0.05, "read": 0.05})
        async with leaving_nothing(), one_call(None, (socket.SOL_SOCKET, socket.SO_SNDBUF, 1)) as call:
            with pytest.raises(httpx.WriteTimeout):
                await call.handle_async_request(request)


@pytest.mark.parametrize("ending", ["closes", "stays", "half"])
async def test_a_reply_before_the_request_has_gone_out_is_read(ending: str) -> None:
    """An upstream that refuses a large upload by its head."""
    supply = Supply()

    async def play(line: Line) -> None:
        await line.send(b"HTTP/1.1 413 Large\r\n" + (b"\r\nno" if ending == "half" else b"content-length: 2\r\n\r\nno"))
        if ending == "half":
            line._writer.write_eof()
        await asyncio.sleep(0.01 if ending == "closes" else 1)

    async with FaultyUpstream() as upstream:
        upstream.play(Act(play, after_request=False))
        request = requested(upstream.base_url, headers=supply.headers, body=supply.flow())
        async with asyncio.timeout(0.9), answered(one_call(), request) as response:
            assert (response.status_code, await pieces(response)) == (413, [b"no"])
    assert supply.taken < 400


@pytest.mark.parametrize("act", [faulty.slammed(), said(after_request=False)])
async def test_an_upstream_that_leaves_while_we_send_is_sent_no_more(act: Act) -> None:
    supply = Supply()
    async with FaultyUpstream() as upstream:
        upstream.play(act)
        async with one_call() as call:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await call.handle_async_request(
                    requested(upstream.base_url, headers=supply.headers, body=supply.flow())
                )
    assert supply.taken < 400


async def test_an_error_of_the_body_passes_through() -> None:
    class Unreadable(Exception):
        pass

    async def flow() -> AsyncIterator[bytes]:
        yield b"a"
        raise Unreadable

    async with FaultyUpstream() as upstream, leaving_nothing(), one_call() as call:
        with pytest.raises(Unreadable):
            await call.handle_async_request(
                requested(upstream.base_url, headers=[(b"content-length", b"5")], body=flow())
            )


# --- what comes back --------------------------------------------------------------------------------------------------


REPLIES = {
    "length": (OK + b"content-length: 5\r\n\r\nabcde", 200, b"abcde"),
    "nothing": (OK + b"content-length: 0\r\n\r\n", 200, b""),
    "kept-alive": (OK + b"connection: keep-alive\r\nContent-Length: 5 \r\n\r\nabcde", 200, b"abcde"),
    "until-end": (OK + b"\r\nabcde", 200, b"abcde"),
    "1.0": (b"HTTP/1.0 200 OK\r\n\r\nabcde", 200, b"abcde"),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
    "chunk-extensions": (CHUNKED + b'5;a="b"\r\nabcde\r\n0\r\n\r\n', 200, b"abcde"),
    "chunk-spaces": (CHUNKED + b"5  \r\nabcde\r\n0\r\n\r\n", 200, b"abcde"),
    "trailers": (CHUNKED + b"5\r\nabcde\r\n0\r\nx: y\r\nz: w\r\n\r\n", 200, b"abcde"),
    "chunked-upper": (OK + b"Transfer-Encoding: Chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", 200, b"abcde"),
    "line-feeds": (b"HTTP/1.1 200 OK\ncontent-length: 5\n\nabcde", 200, b"abcde"),
    "no-reason": (b"HTTP/1.1 429\r\ncontent-length: 5\r\n\r\nabcde", 429, b"abcde"),
    "continue": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + OK + b"\r\nabcde",
        200,
        b"abcde",
    ),
    "no-content": (b"HTTP/1.1 204 None\r\ncontent-length: 5\r\n\r\n", 204, b""),
    "upgrade": (OK + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\nabcde", 200, b"abcde"),
    "switched": (b"HTTP/1.1 101 Switch\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nabc", 101, b""),
    "switched-to-nothing": (b"HTTP/1.1 101 Switch\r\n\r\nabc", 101, b""),
}


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.parametrize("name", REPLIES)
async def test_a_reply_is_read_however_it_is_framed(name: str, slowly: bool) -> None:
    reply, status, body = REPLIES[name]
    assert await exchanged(said(reply, slowly=slowly)) == (status, body)


@pytest.mark.parametrize("name", [name for name in REPLIES if name not in ("until-end", "1.0", "continue")])
async def test_a_reply_ends_with_its_last_byte_and_then_we_hang_up(name: str) -> None:
    """What is sent behind it is nobody's; the upstream never closes by itself."""
    reply, status, body = REPLIES[name]
    for parts in ([reply], [reply + OK + b"content-length: 3\r\n\r\nxyz"], [reply, b"noise"]):
        hung_up = asyncio.Event()

        async def play(line: Line, parts: list[bytes] = parts, hung_up: asyncio.Event = hung_up) -> None:
            try:
                await said(*parts, stays=True).play(line)
            except OSError:
                pass  # hung up while it was still talking
            hung_up.set()

        async with FaultyUpstream() as upstream:
            upstream.play(Act(play))
            async with answered(one_call(), requested(upstream.base_url, method="GET")) as response:
                assert (response.status_code, b"".join(await pieces(response))) == (status, body)
                async with asyncio.timeout(5):
                    await hung_up.wait()


async def test_headers_are_those_of_the_last_head_and_not_the_trailers() -> None:
    head = b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + OK + b"A:  b \r\nA: c\r\nE:\r\ntransfer-encoding: chunked\r\n\r\n"
    async with FaultyUpstream() as upstream:
        upstream.play(said(head + b"1\r\na\r\n0\r\ntrailer: x\r\n\r\n"))
        async with answered(one_call(), requested(upstream.base_url, method="GET")) as response:
            await pieces(response)
            assert response.headers.raw == [(b"A", b"b"), (b"A", b"c"), (b"E", b""), (b"transfer-encoding", b"chunked")]


async def test_a_large_body_comes_in_pieces_of_a_read() -> None:
    for act in (faulty.replied(BODY * 8), faulty.chunked(BODY * 8, size=10_000), faulty.unannounced(BODY * 8)):
        async with FaultyUpstream() as upstream:
            upstream.play(act)
            async with answered(one_call(), requested(upstream.base_url, method="GET")) as response:
                came = await pieces(response)
        assert b"".join(came) == BODY * 8
        assert max(map(len, came)) <= 1 << 18
        assert len(came) < 150


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        OK,
        OK + b"content-length: 5\r\n",
        OK + b"content-length: 5\r\n\r\n",
        OK + b"content-length: 5\r\n\r\nabcd",
        CHUNKED,
        CHUNKED + b"5\r\nabcde\r\n",
        CHUNKED + b"5\r\nabcde\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        *[OK + b"content-length: %s\r\n\r\nabcde" % value for value in (b"", b"-5", b"+5", b"5x", b"9" * 30)],
        *[CHUNKED + size + b"\r\nabcde\r\n0\r\n\r\n" for size in (b"x", b"-5", b"0x5", b"", b"1" * 20)],
        CHUNKED + b"5\r\nabcdefg\r\n0\r\n\r\n",
        *[OK + b"transfer-encoding: %s\r\n\r\nabcde" % value for value in (b"gzip", b"gzip, chunked", b"identity")],
        OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        OK + b"a b: c\r\ncontent-length: 5\r\n\r\nabcde",
        OK + b"a: \x00\r\ncontent-length: 5\r\n\r\nabcde",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("slowly", [False, True])
async def test_a_reply_that_is_none_is_a_protocol_error(reply: bytes, slowly: bool) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await exchanged(said(reply, slowly=slowly))


FIELD = b"a: " + b"x" * 1000 + b"\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        OK + b"a: " + b"x" * MAX_HEAD_BYTES + b"\r\ncontent-length: 5\r\n\r\nabcde",
        OK + FIELD * 70 + b"content-length: 5\r\n\r\nabcde",
        OK + b"a: " + b"x" * 3 * MAX_WAITING_BYTES,
        b"HTTP/1.1 200 " + b"x" * 3 * MAX_WAITING_BYTES,
        b"HTTP/1.1 103 Hints\r\n" + FIELD * 40 + b"\r\n" + OK + FIELD * 40 + b"\r\n",
        CHUNKED + b"5\r\nabcde\r\n0\r\n" + FIELD * 70 + b"\r\n",
        CHUNKED + b"5\r\nabcde\r\n0\r\na: " + b"x" * 3 * MAX_WAITING_BYTES,
        CHUNKED + b"5;a=" + b"x" * 3 * MAX_WAITING_BYTES,
    ],
)
async def test_heads_and_trailers_have_a_limit(reply: bytes) -> None:
    async def play(line: Line) -> None:
        await line.send(reply)
        await line.until_closed()

    with pytest.raises(httpx.RemoteProtocolError):
        await exchanged(Act(play))


async def test_a_head_below_the_limit_is_read() -> None:
    assert await exchanged(said(OK + FIELD * 60 + b"content-length: 5\r\n\r\nabcde")) == (200, b"abcde")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (said(CHUNKED + b"5\r\nabcde\r\nnonsense\r\n"), httpx.RemoteProtocolError),
        (said(OK + b"content-length: 6\r\n\r\nabcde"), httpx.RemoteProtocolError),
        (faulty.reset(b"abcdef", 5), httpx.ReadError),
    ],
)
async def test_what_came_before_the_break_is_given_first(act: Act, error: type[Exception]) -> None:
    """A stream whose last event has come is complete, whatever the connection then does."""
    came: list[bytes] = []
    async with FaultyUpstream() as upstream:
        upstream.play(act)
        async with answered(one_call(), requested(upstream.base_url, method="GET")) as response:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            with pytest.raises(error):
                async for piece in response.stream:
                    came.append(piece)
    assert b"".join(came) == b"abcde"


async def test_a_reset_without_a_reply_is_a_read_error() -> None:
    with pytest.raises(httpx.ReadError):
        await exchanged(faulty.reset())


@pytest.mark.parametrize(
    "reply", [b"", OK, OK + b"content-length: 5\r\n\r\nabcd", CHUNKED + b"3\r\nab", OK + b"\r\nab"]
)
async def test_a_silence_ends_by_the_read_timeout(reply: bytes) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await exchanged(said(reply, stays=True), seconds={"read": 0.05})


async def test_the_read_timeout_is_for_silence_and_not_for_the_whole() -> None:
    async def play(line: Line) -> None:
        for byte in OK + b"\r\nabcde":
            await line.send(bytes([byte]))
            await asyncio.sleep(0.01)

    assert await exchanged(Act(play), seconds={"read": 0.2}) == (200, b"abcde")


async def test_what_nobody_reads_waits_at_the_upstream() -> None:
    sent = 0

    async def play(line: Line) -> None:
        nonlocal sent
        line._writer.transport.set_write_buffer_limits(0)
        line._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        await line.head(200, {"content-length": str(200 << 16)})
        for _ in range(200):
            await line.send(bytes(1 << 16))
            sent += 1 << 16

    async def settled() -> int:
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        return sent

    async with FaultyUpstream() as upstream:
        upstream.play(Act(play))
        call = one_call(None, (socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16))
        async with answered(call, requested(upstream.base_url, method="GET")) as response:
            assert await settled() < 1 << 20
            assert isinstance(response.stream, httpx.AsyncByteStream)
            flow = aiter(response.stream)
            received = len(await anext(flow))
            assert await settled() < MAX_WAITING_BYTES + (1 << 20)
            received += sum([len(piece) async for piece in flow])
            assert received == 200 << 16


# --- the end of a call ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [faulty.silent(), said(OK, stays=True), Act(faulty.silent().play, after_request=False)])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_cancelled_call_leaves_nothing(act: Act, scheme: str) -> None:
    """While it connects (the upstream speaks no TLS), sends, or waits for the head."""
    supply = Supply(40)
    async with FaultyUpstream() as upstream, leaving_nothing(), one_call() as call:
        upstream.always(act)
        url = upstream.base_url.replace("http", scheme)
        request = requested(url, headers=supply.headers, body=supply.flow(), seconds={"connect": 30.0})
        task = asyncio.create_task(call.handle_async_request(request))
        await eventually(lambda: upstream.connections == 1)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_call_that_is_cancelled_in_the_body_leaves_nothing() -> None:
    async with FaultyUpstream() as upstream, leaving_nothing():
        upstream.always(said(OK + b"\r\nabc", stays=True))

        async def read() -> None:
            async with answered(one_call(), requested(upstream.base_url, method="GET")) as response:
                await pieces(response)

        task = asyncio.create_task(read())
        await upstream.heard_calls(1)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_twice_is_closing_once_and_reads_nothing_more() -> None:
    async with FaultyUpstream() as upstream:
        upstream.play(said(OK + b"content-length: 9\r\n\r\nabc", stays=True))
        async with one_call() as call:
            response = await call.handle_async_request(requested(upstream.base_url, method="GET"))
            await response.aclose()
            await response.aclose()
            with pytest.raises(httpx.TransportError):
                await pieces(response)
        await call.aclose()


async def test_a_call_that_never_connected_is_closed_too() -> None:
    await one_call().aclose()


async def test_many_calls_leave_no_socket_open() -> None:
    async with FaultyUpstream() as upstream, leaving_nothing():
        acts = (faulty.replied(BODY), faulty.chunked(BODY), faulty.reset(BODY, 5), faulty.truncated(BODY, 5))
        for act in acts * 5:
            upstream.play(act)
            try:
                async with answered(one_call(), requested(upstream.base_url, method="GET")) as response:
                    await pieces(response)
            except httpx.TransportError:
                pass


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://host.invalid/", "http://" + "a" * 70 + ".example/", "http://127.0.0.1:{closed}/"]
)
async def test_who_cannot_be_reached_is_a_connect_error(url: str) -> None:
    async with one_call() as call:
        with pytest.raises(httpx.ConnectError):
            url = url.replace("{closed}", str(faulty.closed_port()))
            await call.handle_async_request(requested(url, method="GET"))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "//127.0.0.1/", "http:///path"])
async def test_what_is_no_address_of_the_web_is_not_called(url: str) -> None:
    async with one_call() as call:
        with pytest.raises(httpx.UnsupportedProtocol):
            await call.handle_async_request(requested(url, method="GET"))


async def test_an_option_that_the_socket_refuses_is_a_connect_error() -> None:
    async with FaultyUpstream() as upstream, leaving_nothing(), one_call(None, (socket.SOL_SOCKET, 12345, 1)) as call:
        with pytest.raises(httpx.ConnectError):
            await call.handle_async_request(requested(upstream.base_url, method="GET"))


async def test_a_literal_of_ipv6_is_called_without_its_brackets() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"content-length: 0\r\n\r\n")
        writer.close()

    try:
        server = await asyncio.start_server(serve, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with answered(one_call(), requested(f"http://[::1]:{port}/", method="GET")) as response:
            assert response.status_code == 200


@contextmanager
def deaf() -> Iterator[int]:
    """A port that answers no connection: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        queue = [socket.socket() for _ in range(3)]
        for each in queue:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for each in queue:
                each.close()


async def test_the_connect_timeout_bounds_tcp() -> None:
    with deaf() as port:
        async with leaving_nothing(), one_call() as call:
            with pytest.raises(httpx.ConnectTimeout):
                await call.handle_async_request(
                    requested(f"http://127.0.0.1:{port}/", method="GET", seconds={"connect": 0.05})
                )


async def test_the_connect_timeout_bounds_the_handshake() -> None:
    async with FaultyUpstream() as upstream, leaving_nothing():  # speaks no TLS
        upstream.always(faulty.silent())
        url = upstream.base_url.replace("http:", "https:")
        async with one_call() as call:
            with pytest.raises(httpx.ConnectTimeout):
                await call.handle_async_request(requested(url, method="GET", seconds={"connect": 0.05}))


Resolve = Callable[[str, int], Awaitable[list[dial.Address]]]


def resolving_to(*ports: int) -> Resolve:
    async def addresses(host: str, port: int) -> list[dial.Address]:
        kinds = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kinds, ("127.0.0.1", each)) for each in ports]

    return addresses


async def test_a_dead_address_holds_the_others_up_for_a_quarter_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf() as dead, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with FaultyUpstream() as upstream:
            for ports, seconds in (
                ((dead, upstream.port), 0.25),
                ((closed.getsockname()[1], upstream.port), 0.0),
                ((upstream.port, dead), 0.0),
                ((dead, closed.getsockname()[1], upstream.port), 0.25),
            ):
                monkeypatch.setattr(dial, "resolved", resolving_to(*ports))
                began = asyncio.get_running_loop().time()
                request = requested(upstream.base_url, method="GET")
                async with leaving_nothing(), answered(one_call(), request) as response:
                    assert response.status_code == 200
                    assert seconds <= asyncio.get_running_loop().time() - began < seconds + 0.2
            monkeypatch.setattr(dial, "resolved", resolving_to(*[closed.getsockname()[1]] * 3))
            async with one_call() as call:
                with pytest.raises(httpx.ConnectError):
                    await call.handle_async_request(requested(upstream.base_url, method="GET"))


async def test_a_call_that_is_cancelled_between_addresses_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf() as dead:
        monkeypatch.setattr(dial, "resolved", resolving_to(dead, dead, dead))
        async with leaving_nothing(), one_call() as call:
            with pytest.raises(httpx.ConnectTimeout):
                await call.handle_async_request(
                    requested("http://any.example/", method="GET", seconds={"connect": 0.3})
                )


async def test_of_two_that_answer_at_once_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    second_began = asyncio.Event()
    made: list[socket.socket] = []

    async def connected_to(address: dial.Address, options: object) -> socket.socket:
        made.append(socket.socket())
        own = made[-1]
        if len(made) == 1:
            await second_began.wait()
        second_began.set()
        return own

    monkeypatch.setattr(dial, "resolved", resolving_to(1, 2, 3))
    monkeypatch.setattr(dial, "_connected_to", connected_to)
    monkeypatch.setattr(dial, "NEXT_ADDRESS_SECONDS", 0.001)
    async with leaving_nothing():
        with await dial.connected("any.example", 1, ()) as kept:
            assert [each.fileno() == -1 for each in made] == [each is not kept for each in made]
            assert len(made) == 2


async def test_families_take_turns() -> None:
    four, six = (
        [(family, socket.SOCK_STREAM, 0, "", (str(number), 1)) for number in range(2)]
        for family in (socket.AF_INET, socket.AF_INET6)
    )
    assert dial.alternating([*six, *four]) == [six[0], four[0], six[1], four[1]]
    assert dial.alternating([*four, six[0]]) == [four[0], six[0], four[1]]
    assert dial.alternating(four) == four


# --- TLS --------------------------------------------------------------------------------------------------------------


AUTHORITY = trustme.CA()


def server_tls(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@pytest.mark.parametrize(
    "act",
    [
        faulty.replied(BODY * 8),
        faulty.chunked(BODY * 8),
        faulty.unannounced(BODY * 8),
        said(OK + b"content-length: %d\r\n\r\n" % (len(BODY) * 8), BODY * 8, b"noise", stays=True),
    ],
)
async def test_bodies_go_through_tls_both_ways(act: Act) -> None:
    supply = Supply(40)
    async with FaultyUpstream(tls=server_tls("127.0.0.1")) as upstream, leaving_nothing():
        upstream.play(act)
        request = requested(upstream.base_url, headers=supply.headers, body=supply.flow())
        async with answered(one_call(client_tls()), request) as response:
            assert b"".join(await pieces(response)) == BODY * 8
        assert len(upstream.heard[0].body) == 40 << 16


async def test_a_body_that_ends_early_under_tls_is_a_protocol_error() -> None:
    async with FaultyUpstream(tls=server_tls("127.0.0.1")) as upstream:
        for act in (faulty.truncated(BODY, 5), faulty.chunked(BODY, finished=False), faulty.hung_up()):
            upstream.play(act)
            async with one_call(client_tls()) as call:
                with pytest.raises(httpx.RemoteProtocolError):
                    await pieces(await call.handle_async_request(requested(upstream.base_url, method="GET")))


async def test_what_nobody_reads_waits_under_tls_too() -> None:
    async with FaultyUpstream(tls=server_tls("127.0.0.1")) as upstream:
        upstream.play(faulty.replied(BODY * 40))
        async with answered(one_call(client_tls()), requested(upstream.base_url, method="GET")) as response:
            await asyncio.sleep(0.05)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            received = 0
            async for piece in response.stream:
                received += len(piece)
                await asyncio.sleep(0.001)
            assert received == len(BODY) * 40


async def test_the_name_is_proven_and_the_protocol_agreed() -> None:
    agreed: list[tuple[str | None, str | None]] = []
    names: list[str | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agreed.append((names[-1], writer.get_extra_info("ssl_object").selected_alpn_protocol()))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"content-length: 0\r\n\r\n")
        writer.close()

    context = server_tls("pictures.example", "localhost", "xn--bcher-kva.example")
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        for host, name in (("127.0.0.1", "pictures.example"), ("localhost", None)):
            request = requested(f"https://{host}:{port}/", method="GET", server_name=name)
            async with answered(one_call(client_tls()), request) as response:
                assert response.status_code == 200
        for url, name in ((f"https://localhost:{port}/", "other.example"), (f"https://127.0.0.1:{port}/", None)):
            async with one_call(client_tls()) as call:
                with pytest.raises(httpx.ConnectError):
                    await call.handle_async_request(requested(url, method="GET", server_name=name))
    assert agreed == [("pictures.example", "http/1.1"), ("localhost", "http/1.1")]


async def test_a_name_beyond_ascii_is_proven_as_it_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultyUpstream(tls=server_tls("xn--bcher-kva.example")) as upstream:
        asked: list[str] = []

        async def addresses(host: str, port: int) -> list[dial.Address]:
            asked.append(host)
            return await resolving_to(upstream.port)(host, port)

        monkeypatch.setattr(dial, "resolved", addresses)
        async with answered(one_call(client_tls()), requested("https://bücher.example/", method="GET")) as response:
            assert response.status_code == 200
        assert asked == ["xn--bcher-kva.example"]


async def test_what_is_said_before_the_handshake_is_no_reply() -> None:
    async with FaultyUpstream() as upstream, leaving_nothing():  # speaks no TLS
        upstream.play(said(OK + b"content-length: 5\r\n\r\nabcde", stays=True, after_request=False))
        async with one_call() as call:
            with pytest.raises(httpx.ConnectError):
                url = upstream.base_url.replace("http:", "https:")
                await call.handle_async_request(requested(url, method="GET"))


async def test_a_stream_of_httpx_may_be_left_in_the_middle() -> None:
    async with FaultyUpstream() as upstream, leaving_nothing():
        upstream.play(faulty.replied(BODY * 40))
        async with answered(one_call(), requested(upstream.base_url, method="GET")) as response:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            await anext(aiter(response.stream))

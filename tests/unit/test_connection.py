"""proxy/connection.py: whatever a peer does or leaves undone, its connection ends, or an answer is owed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.connection import MAX_HEAD_BYTES, MAX_UNANSWERED, Connection
from proxy.health import Health
from proxy.settings import ServerSection
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 0.1
KEEP_ALIVE_SECONDS = 0.3
LARGEST_BYTES = 2 * 2**20
LIMITS = ServerSection(
    receive_timeout_seconds=PATIENCE_SECONDS,
    send_timeout_seconds=PATIENCE_SECONDS,
    max_multipart_bytes=LARGEST_BYTES,
)


@dataclass
class Echo:
    """Answers with what it was sent, when `may_answer`; under `/early` without reading it first."""

    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    scopes: list[Any] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        self.scopes.append(scope)
        body = b""
        while scope["path"] != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.append(scope["path"])
                return
            body += message["body"]
            if not message["more_body"]:
                break
        waiting, leaving = asyncio.ensure_future(self.may_answer.wait()), asyncio.ensure_future(receive())
        await asyncio.wait(
            (waiting, leaving) if scope["path"] != "/early" else (waiting,), return_when="FIRST_COMPLETED"
        )
        leaving.cancel()
        if not waiting.done():
            self.gone.append(scope["path"])
            waiting.cancel()
            return
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> bytes:
        """A head, without what follows it."""
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Up to the end of the connection."""
        async with asyncio.timeout(5):
            return await self.reader.read()


@dataclass
class Door:
    """A listener whose connections are ours."""

    app: Echo
    health: Health
    state: ServerState
    port: int = 0

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Peer(reader, writer)
        finally:
            writer.close()

    async def is_rid_of_them(self) -> None:
        """Returns when no connection is left on this side, whatever its peers do."""
        async with asyncio.timeout(5):
            while self.state.connections:
                await asyncio.sleep(0.005)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    app, state = Echo(), ServerState()
    app.may_answer.set()
    config = uvicorn.Config(app, ws="none", log_config=None, timeout_keep_alive=KEEP_ALIVE_SECONDS)  # type: ignore[arg-type]
    door = Door(app, Health(store_is_writable=lambda: True, clock=ManualClock()), state)

    def connection() -> asyncio.Protocol:
        return Connection(config=config, server_state=state, app_state={}, limits=LIMITS, health=door.health)

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    door.port = server.sockets[0].getsockname()[1]
    yield door
    server.close()
    for left in list(state.connections):
        left.transport.abort()
    await door.is_rid_of_them()


def request(path: str = "/", *lines: bytes, body: bytes = b"") -> bytes:
    head = (b"Host: x", b"Content-Length: %d" % len(body), *lines)
    return b"POST %s HTTP/1.1\r\n%s\r\n\r\n%s" % (path.encode(), b"\r\n".join(head), body)


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"POST / HT",
        request() + b"POST / HT",
        request("/early", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 9"),
        request("/early").replace(b"Length: 0", b"Length: 9") + b"x",
        request() + request("/early").replace(b"Length: 0", b"Length: 9"),
        request() + b"\0\0\0\r\n\r\n",
        b"\0\0\0\r\n\r\n",
        request("/", b"Connection: close") + request(),
        CHUNKED + b"ZZ\r\n",
        request(),
    ],
)
async def test_no_connection_lives_for_ever(door: Door, sent: bytes) -> None:
    async with door.peer() as peer:
        await peer.send(sent)
        await asyncio.sleep(0.02)
        await door.is_rid_of_them()


async def test_an_answer_may_take_longer_than_anything_else(door: Door) -> None:
    door.app.may_answer.clear()
    async with door.peer() as peer:
        await peer.send(request(body=b"slow") + b"POST /")
        await asyncio.sleep(KEEP_ALIVE_SECONDS + PATIENCE_SECONDS)
        door.app.may_answer.set()
        assert (await peer.answer()).startswith(b"HTTP/1.1 200")
        assert (await peer.rest()).startswith(b"slowHTTP/1.1 408"), "then the head that stopped has its turn"


async def test_between_two_requests_a_peer_may_be_silent_for_longer_than_within_one(door: Door) -> None:
    async with door.peer() as peer:
        for _ in range(2):
            await peer.send(request(body=b"!"))
            assert b"connection: close" not in await peer.answer()
            assert await peer.reader.readexactly(1) == b"!"
            await asyncio.sleep(PATIENCE_SECONDS * 1.5)
        assert await peer.rest() == b"", "until it has been silent for too long"


async def test_trailers_reach_nobody(door: Door) -> None:
    async with door.peer() as peer:
        await peer.send(
            CHUNKED + b"1\r\nx\r\n0\r\nAuthorization: Bearer late\r\nExpect: 100-continue\r\n\r\n" + request()
        )
        assert (await peer.answer()).startswith(b"HTTP/1.1 200")
        assert (await peer.answer()).startswith(b"xHTTP/1.1 200")
    assert [dict(scope["headers"]).keys() for scope in door.app.scopes] == [
        {b"host", b"transfer-encoding"},
        {b"host", b"content-length"},
    ]


@pytest.mark.parametrize(
    "start", [CHUNKED + b"1\r\nx\r\n0\r\nX: ", CHUNKED + b"1;", b"POST / HTTP/1.1\r\nX: ", b"POST /"]
)
async def test_what_is_no_content_has_a_limit(door: Door, start: bytes) -> None:
    async with door.peer() as peer:
        await peer.send(start)
        await asyncio.sleep(0.01)  # what comes in one read with the beginning is not counted
        await peer.send(b"x" * (MAX_HEAD_BYTES + 1))
        assert (await peer.answer()).startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
        await peer.rest()


async def test_content_has_none_here_nor_have_many_small_chunks(door: Door) -> None:
    async with door.peer() as peer:
        await peer.send(CHUNKED)
        for _ in range(200):
            await peer.send(b"1\r\nx\r\n" * 200)
        await peer.send(b"0\r\n\r\n")
        assert (await peer.answer()).startswith(b"HTTP/1.1 200")
        assert await peer.reader.readexactly(40_000) == b"x" * 40_000


async def test_who_is_answered_early_is_told_that_it_is_the_last_and_may_go_on_for_a_while(door: Door) -> None:
    async with door.peer() as peer:
        await peer.send(request("/early", body=b"x" * 100_000)[:-90_000])
        assert b"connection: close" in await peer.answer()
        assert await peer.rest() == b""
        await peer.send(b"x" * 90_000 + request())
        await asyncio.sleep(0.02)
    assert len(door.app.scopes) == 1, "what comes after the end is no request"


async def test_who_goes_on_for_too_long_is_not_listened_to(door: Door) -> None:
    async with door.peer() as peer:
        await peer.send(request("/early").replace(b"Length: 0", b"Length: 999999999"))
        await peer.answer()
        with pytest.raises(ConnectionError):
            for _ in range(100 * LARGEST_BYTES // 65_536):
                await peer.send(b"x" * 65_536)


async def test_a_fault_in_a_body_is_told_at_once_and_the_application_hears_of_it(door: Door) -> None:
    async with door.peer() as peer:
        await peer.send(CHUNKED + b"1\r\nx\r\nZZ\r\n")
        assert (await peer.answer()).startswith(b"HTTP/1.1 400")
        await peer.rest()
    assert door.app.gone == ["/"]


async def test_a_fault_behind_a_request_leaves_its_answer_whole_and_last(door: Door) -> None:
    door.app.may_answer.clear()
    async with door.peer() as peer:
        await peer.send(request("/a", body=b"first") + request("/b", body=b"second") + b"\0\0\r\n\r\n")
        await asyncio.sleep(0.02)
        door.app.may_answer.set()
        assert b"connection: close" not in await peer.answer()
        assert b"connection: close" in await peer.answer()
        assert await peer.rest() == b"second"


async def test_when_a_client_leaves_every_request_of_it_hears_of_it(door: Door) -> None:
    door.app.may_answer.clear()
    async with door.peer() as peer:
        await peer.send(request("/a") + request("/b"))
        while not door.app.scopes:
            await asyncio.sleep(0)
    await door.is_rid_of_them()
    async with asyncio.timeout(5):
        while not door.app.gone:
            await asyncio.sleep(0)
    assert door.app.gone == ["/a"], "and the one that waited for its turn never began"


async def test_a_client_that_leaves_while_a_second_request_waits_is_seen_to_leave(door: Door) -> None:
    door.app.may_answer.clear()
    async with door.peer() as peer:
        await peer.send(request("/a"))
        while not door.app.scopes:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # the first one is listening for its client by now
        await peer.send(request("/b"))
        await asyncio.sleep(0.02)
    await door.is_rid_of_them()


async def test_thousands_of_requests_in_one_read_are_not_taken_in(door: Door) -> None:
    door.app.may_answer.clear()
    async with door.peer() as peer:
        await peer.send(b"".join(request(f"/{number}") for number in range(4000)))
        await asyncio.sleep(0.05)
        door.app.may_answer.set()
        answers = (await peer.rest()).count(b"HTTP/1.1 200")
    assert answers == MAX_UNANSWERED


async def test_many_offers_of_another_protocol_in_one_read_are_read_one_after_the_other(door: Door) -> None:
    offer = request("/", b"Upgrade: x", b"Connection: upgrade")
    async with door.peer() as peer:
        await peer.send(offer * 2000)
        answers = await peer.rest()
    assert answers.count(b"HTTP/1.1 200") == MAX_UNANSWERED
    assert answers.count(b"connection: close") == 1


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_offer_changes_nothing_about_when_the_connection_ends(door: Door, version: bytes) -> None:
    offer = request("/", b"Upgrade: h2c", b"Connection: Upgrade, close").replace(b"HTTP/1.1", b"HTTP/" + version)
    async with door.peer() as peer:
        await peer.send(offer)
        assert b"connection: close" in await peer.rest()


async def test_a_tunnel_is_refused(door: Door) -> None:
    async with door.peer() as peer:
        await peer.send(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert (await peer.rest()).startswith(b"HTTP/1.1 400")


async def test_a_draining_process_answers_and_closes(door: Door) -> None:
    async with door.peer() as peer:
        whole = request(body=b"x")
        await peer.send(whole[:-1])
        while not door.app.scopes:
            await asyncio.sleep(0)
        door.health.drain(10)
        await peer.send(whole[-1:])
        assert b"connection: close" in await peer.answer()
        assert await peer.rest() == b"x"


async def test_who_takes_nothing_is_cut_off(door: Door) -> None:
    async with door.peer() as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(request(body=b"x" * 20_000_000))
        await door.is_rid_of_them()

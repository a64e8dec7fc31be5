"""proxy/replay.py: a request that comes again is answered as if it had been read, or it is read."""

import asyncio
import io
import itertools
import json
import random
import socket
import sqlite3
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvicorn
from anyio import to_thread
from prometheus_client.parser import text_string_to_metric_families
from uvicorn.server import ServerState

from proxy import log
from proxy.app import App
from proxy.clock import SystemClock
from proxy.connection import Connection
from proxy.settings import (
    AuthSection,
    DatabaseSection,
    LogSection,
    RulesSection,
    ServerSection,
    Settings,
)
from proxy.stores.directory import CacheDirectory
from proxy.stores.purges import Purge
from tests.support.application import GENERATIONS, Gate, gate, generation, settings_over, with_cache
from tests.support.counting import CountingUpstream, Said, counting_upstream
from tests.support.edits import EDITS, FOX, Body, in_form, in_json, left_of_uploads
from tests.support.images import picture, reply
from tests.support.keyed import Keyed

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 5.0
KERNELS_BYTES = 1 << 16
"""What lies between a connection and its client, at either end: little, so that a slow reader is soon felt."""
OF_THE_PROCESS = ("process_", "python_", "imagegate_event_loop_lag_seconds", "imagegate_ledger_waiting_rows")
Lines = Mapping[str, str]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop that a process has: how a connection is written to, and when it is full, is the loop's affair."""
    return "asyncio", {"use_uvloop": True}


# --- what is sent -----------------------------------------------------------------------------------------------------


def request(body: bytes | None = None, headers: Lines | None = None, *, path: str = GENERATIONS) -> bytes:
    """A whole request as it stands on the wire; a header of "" is not sent."""
    content = generation() if body is None else body
    given = {
        "Host": "gate.test",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + content


def edit(body: Body, headers: Lines | None = None) -> bytes:
    return request(body.content, {"Content-Type": body.content_type, **(headers or {})}, path=EDITS)


def in_chunks(content: bytes) -> bytes:
    head = request(b"", {"Content-Length": "", "Transfer-Encoding": "chunked"})
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)


# --- what comes back --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def cache(self) -> str:
        return self.headers.get("x-imagegate-cache", "")


@dataclass
class Peer:
    """A client's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.strip().split("\r\n")
            pairs = [line.split(": ", 1) for line in lines]
            headers = {name.lower(): value for name, value in pairs}
            assert len(headers) == len(pairs), f"one header twice: {head}"
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(start.split(" ")[1]), headers, body)

    async def ask(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.reply()

    async def rest(self) -> bytes:
        """Up to the end of the connection."""
        async with asyncio.timeout(1):
            return await self.reader.read()


@dataclass(frozen=True)
class Accounts:
    """What one request left behind."""

    metrics: Counter[tuple[str, tuple[tuple[str, str], ...]]]
    tallies: Counter[tuple[Any, ...]]
    line: dict[str, Any]


@dataclass
class House:
    """One application and its listener; it can be told not to answer on the spot."""

    gate: Gate
    listener: asyncio.Server
    state: ServerState
    parsed: list[Any]
    """For each request that was read, and not answered on the spot, what else than HTTP has told of it."""
    stack: AsyncExitStack
    config: uvicorn.Config
    limits: ServerSection
    is_quick: bool = True
    trust: ssl.SSLContext | None = None
    """A client's, where it is TLS that is spoken."""

    @property
    def app(self) -> App:
        return self.gate.app

    async def peer(self, address: str = "127.0.0.1") -> Peer:
        """Closed with the house."""
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNELS_BYTES)
        caller.setblocking(False)
        caller.bind((address, 0))
        await asyncio.get_running_loop().sock_connect(caller, self.listener.sockets[0].getsockname())
        host = None if self.trust is None else "127.0.0.1"
        opened = await asyncio.open_connection(sock=caller, limit=1 << 26, ssl=self.trust, server_hostname=host)
        peer = Peer(*opened)
        self.stack.callback(peer.writer.close)
        return peer

    async def ask(self, data: bytes) -> Reply:
        """On a connection of its own, which is closed again."""
        peer = await self.peer()
        answer = await peer.ask(data)
        peer.writer.close()
        return answer

    async def slowly(self, data: bytes) -> Reply:
        """The same answer from the ordinary path."""
        self.is_quick = False
        try:
            return await self.ask(data)
        finally:
            self.is_quick = True

    async def hear(self, data: bytes) -> Reply:
        """Bought, read from disk, read from memory: from now on it could be answered on the spot."""
        for _ in range(2):
            await self.slowly(data)
        return await self.ask(data)

    async def is_replayed(self, data: bytes) -> bool:
        """Whether these bytes are answered on the spot."""
        before = len(self.parsed)
        await self.ask(data)
        return len(self.parsed) == before

    async def accounts(self, ask: Callable[[bytes], Any], data: bytes) -> tuple[Reply, Accounts]:
        """An answer, and all that was counted and written for it."""
        tallied = await self._tallied()
        before, stream = self._counted(), io.StringIO()
        stop = log.configure("info", stream)
        try:
            answer = await ask(data)
            await asyncio.sleep(0.02)  # the line of a request is written behind its last byte
        finally:
            stop()
        lines = [line for line in map(json.loads, stream.getvalue().splitlines()) if line["msg"] == "request"]
        assert len(lines) == 1
        metrics = self._counted()
        metrics.subtract(before)
        tallies = await self._tallied()
        tallies.subtract(tallied)
        return answer, Accounts(Counter({k: v for k, v in metrics.items() if v}), +tallies, lines[0])

    def _counted(self) -> Counter[Any]:
        text = self.app.metrics.render(None)[0].decode()
        return Counter(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if not sample.name.startswith(OF_THE_PROCESS)
            }
        )

    async def _tallied(self) -> Counter[tuple[Any, ...]]:
        await self.app.ledger.tend()
        with closing(sqlite3.connect(self.gate.directory.parent / "imagegate.db")) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(tallies)")]
            rows = connection.execute("SELECT * FROM tallies").fetchall()
        counts = ("answers", "images", "tokens", "saved")
        found: Counter[tuple[Any, ...]] = Counter()
        for row in rows:
            named = dict(zip(columns, row, strict=True))
            by = tuple(sorted((name, value) for name, value in named.items() if name not in counts and name != "id"))
            found.update({(by, name): named[name] for name in named if name in counts})
        return found


@asynccontextmanager
async def house(
    settings: Settings, keep_alive_seconds: float = 75, trust: ssl.SSLContext | None = None
) -> AsyncIterator[House]:
    async with gate(settings) as running, AsyncExitStack() as stack:
        app, parsed, state = running.app, list[Any](), ServerState()

        async def reading(scope: Any, receive: Any, send: Any) -> None:
            parsed.append(scope.get("extensions"))  # a scope holds on to its answer
            await app(scope, receive, send)

        config = uvicorn.Config(reading, ws="none", log_config=None, timeout_keep_alive=keep_alive_seconds)  # type: ignore[arg-type]

        def connection() -> asyncio.Protocol:
            return Connection(
                config=config,
                server_state=state,
                app_state={},
                limits=found.limits,
                health=app.health,
                replays=app.replays if found.is_quick else None,
            )

        bound = socket.create_server(("127.0.0.1", 0))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNELS_BYTES)
        listener = await asyncio.get_running_loop().create_server(connection, sock=bound, ssl=trust)
        found = House(running, listener, state, parsed, stack, config, settings.server)
        try:
            yield found
        finally:
            listener.close()
            for left in list(state.connections):
                left.transport.abort()


def settings_in(folder: Path, *upstreams: CountingUpstream, **sections: Any) -> Settings:
    standing = {"log": LogSection(access=True), "database": DatabaseSection(url=f"sqlite:///{folder}/imagegate.db")}
    return settings_over(folder, *upstreams, **{**standing, **sections})


@pytest.fixture
async def upstream() -> AsyncIterator[CountingUpstream]:
    async with counting_upstream() as upstream:
        yield upstream


@pytest.fixture
async def home(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[House]:
    async with house(settings_in(tmp_path, upstream)) as home:
        yield home


# --- a replay cannot be told from the path ----------------------------------------------------------------------------

OF_THE_CALL = ("x-request-id",)
OF_THE_LINE = ("ts", "request_id", "trace_id", "span_id")

ALIKE = {
    "a generation": request(),
    "several pictures": request(generation(n=3, size="1024x1024", quality="high")),
    "another format": request(generation(output_format="jpeg")),
    "a response format in the body": request(generation(response_format="b64_json")),
    "data URLs": request(headers={"X-Imagegate-Response-Format": "data_url"}),
    "a variant": request(headers={"X-Imagegate-Variant": "7"}),
    "a variant in the body": request(generation(imagegate_variant="7")),
    "tags": request(headers={"X-Imagegate-Tags": "a, b"}),
    "an age that will do": request(headers={"Cache-Control": "max-age=60, min-fresh=60"}),
    "only from the cache, once it is there": request(headers={"Cache-Control": "max-stale"}),
    "a time to live": request(headers={"X-Imagegate-Cache-Ttl": "600"}),
    "a user": request(generation(user="u-1", safety_identifier="s-1")),
    "a beta": request(headers={"OpenAI-Beta": "images=v2"}),
    "no dry run": request(headers={"X-Imagegate-Dry-Run": "false"}),
    "an alias": request(generation(model="house-model")),
    "a model that nobody knows": request(generation(model="unheard-of-1")),
    "another path": request(path="/images/generations"),
    "a deployment": request(
        json.dumps({"prompt": "a red fox"}).encode(),
        path="/openai/deployments/gpt-image-2/images/generations?api-version=2025-04-01-preview",
    ),
    "a size that is adjusted": request(generation(size="1000x1000")),
    "strange headers": request(headers={"Cookie": "a=b", "X-Whatever": "caf\u00e9", "ACCEPT": "*/*"}),
    "kept alive in so many words": request(headers={"Connection": "keep-alive"}),
    "an offer of another protocol": request(headers={"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}),
    "in chunks": in_chunks(generation()),
    "an empty line before": b"\r\n" + request(),
    "an empty line behind": request() + b"\r\n",
    "a prompt beyond ASCII": request(generation("\u72d0\u72f8 \U0001f98a")),
}


@pytest.mark.parametrize("name", ALIKE)
async def test_a_replay_cannot_be_told_from_the_path(tmp_path: Path, upstream: CountingUpstream, name: str) -> None:
    rules = RulesSection(on_invalid="adjust", aliases={"house-model": "gpt-image-2"})
    async with house(settings_in(tmp_path, upstream, rules=rules)) as home:
        data = ALIKE[name]
        assert (await home.hear(data)).cache == "HIT"
        home.gate.clock.advance(5)
        slow, slow_accounts = await home.accounts(home.slowly, data)
        assert not home.app.replays or len(home.parsed) == 4
        quick, quick_accounts = await home.accounts(home.ask, data)
        assert len(home.parsed) == 4, "it was not answered on the spot"
    assert quick.status == slow.status == 200
    assert quick.body == slow.body
    assert quick.headers["x-request-id"] != slow.headers["x-request-id"]
    assert _without(quick.headers, OF_THE_CALL) == _without(slow.headers, OF_THE_CALL)
    assert list(quick.headers) == list(slow.headers)
    assert quick_accounts.metrics == slow_accounts.metrics
    assert quick_accounts.tallies == slow_accounts.tallies
    assert quick_accounts.tallies, "a hit is counted in the ledger"
    assert _without(quick_accounts.line, OF_THE_LINE) == _without(slow_accounts.line, OF_THE_LINE)
    for one, other in ((slow, slow_accounts.line), (quick, quick_accounts.line)):
        assert one.headers["x-request-id"] == other["request_id"]
    for name in ("request_id", "trace_id", "span_id"):
        assert len(quick_accounts.line[name]) == len(slow_accounts.line[name])
        assert quick_accounts.line[name] != slow_accounts.line[name]


async def test_each_client_is_told_of_by_its_own_address(home: House) -> None:
    data = request()
    await home.hear(data)
    before = len(home.parsed)
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
        peer = await home.peer(address)
        _, accounts = await home.accounts(peer.ask, data)
        assert accounts.line["client"] == address
    assert len(home.parsed) == before


@pytest.mark.parametrize("spelled", [in_form, in_json])
async def test_an_edit_is_answered_alike_however_often_it_comes(home: House, spelled: Callable[..., Body]) -> None:
    data = edit(spelled(FOX, FOX, mask=FOX))
    await home.hear(data)
    slow, slow_accounts = await home.accounts(home.slowly, data)
    again, accounts = await home.accounts(home.ask, data)
    assert again.body == slow.body
    assert _without(again.headers, OF_THE_CALL) == _without(slow.headers, OF_THE_CALL)
    assert accounts.metrics == slow_accounts.metrics
    assert _without(accounts.line, OF_THE_LINE) == _without(slow_accounts.line, OF_THE_LINE)


def _without(members: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in names}


# --- what is never answered on the spot -------------------------------------------------------------------------------

WIDE_OPEN = RulesSection(on_invalid="pass")
READ = {
    "a stream": request(generation(stream=True)),
    "a dry run": request(headers={"X-Imagegate-Dry-Run": "true"}),
    "the same success for the same key": request(headers={"Idempotency-Key": "k-1"}),
    "links, which expire": request(headers={"X-Imagegate-Response-Format": "url"}),
    "links by the body": request(generation(response_format="url")),
    "a request with a name": request(headers={"X-Request-Id": "mine"}),
    "a request with no good name": request(headers={"x-request-id": "no good"}),
    "a trace": request(headers={"Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}),
    "a web page": request(headers={"Origin": "https://studio.example"}),
    "the last one of its connection": request(headers={"Connection": "close"}),
    "HTTP/1.0": request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0, kept alive": request(headers={"Connection": "keep-alive"}).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "what is not to be stored": request(headers={"Cache-Control": "no-store"}),
    "what is to be fresh": request(headers={"Cache-Control": "no-cache"}),
    "an age that will not do": request(headers={"Cache-Control": "min-fresh=999999999"}),
    "what a rule let through": request(generation(size="1000x1000")),
    "a model with an end": request(generation(model="gpt-image-1")),
    "a long one": request(generation("fox " * 5000)),
    "no request of pictures": b"GET /v1/models HTTP/1.1\r\nHost: gate.test\r\n\r\n",
    "nothing there": request(path="/v1/nothing"),
    "no JSON": request(b"{"),
}


@pytest.mark.parametrize("name", READ)
async def test_what_has_more_to_it_is_read_each_time(tmp_path: Path, upstream: CountingUpstream, name: str) -> None:
    server = ServerSection(cors_origins=("https://studio.example",))
    async with house(settings_in(tmp_path, upstream, server=server, rules=WIDE_OPEN)) as home:
        for number in range(1, 5):
            await (await home.peer()).send(READ[name])
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(home.parsed) < number or home.app.flights.in_flight():
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
        assert len(home.parsed) == 4


async def test_one_byte_more_or_less_is_another_request(home: House) -> None:
    data = request()
    await home.hear(data)
    assert await home.is_replayed(data)
    for other in (
        data.replace(b"gate.test", b"gate.tesT"),
        data.replace(b"Host: ", b"Host:  "),
        request(generation() + b" "),
        b"\r\n" + data,
    ):
        assert not await home.is_replayed(other)


async def test_two_requests_in_one_read_are_two_answers(home: House) -> None:
    data = request()
    await home.hear(data)
    peer = await home.peer()
    await peer.send(data + data)
    first, second = await peer.reply(), await peer.reply()
    assert first.body == second.body
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    await peer.send(data + data)
    await peer.reply()
    await peer.reply()
    assert await home.is_replayed(data), "and what came in one read is not taken for one request"


@pytest.mark.parametrize("at", [1, 20, -1])
async def test_a_request_that_comes_in_two_reads_is_read(home: House, at: int) -> None:
    data = request()
    await home.hear(data)
    before = len(home.parsed)
    peer = await home.peer()
    await peer.send(data[:at])
    await asyncio.sleep(0.02)
    assert (await peer.ask(data[at:])).cache == "HIT"
    assert len(home.parsed) == before + 1
    assert (await peer.ask(data)).cache == "HIT"
    assert len(home.parsed) == before + 1, "and the next one, whole, is answered on the spot"


async def test_bytes_that_look_like_a_request_within_another_ones_body_are_its_body(home: House) -> None:
    data = request()
    await home.hear(data)
    peer = await home.peer()
    await peer.send(request(b"x" * len(data))[: -len(data)])
    await asyncio.sleep(0.02)
    answer = await peer.ask(data)
    assert (answer.status, answer.cache) == (400, "")


async def test_bytes_that_look_like_a_request_within_another_ones_head_are_its_head(home: House) -> None:
    data = request()
    await home.hear(data)
    peer = await home.peer()
    await peer.send(b"POST /v1/nothing HTTP/1.1\r\nX-Quoted: ")
    await asyncio.sleep(0.02)
    assert (await peer.ask(data)).status == 404


async def test_requests_of_both_kinds_take_turns_on_one_connection(home: House) -> None:
    quick, slow = request(), request(headers={"X-Request-Id": "mine"})
    await home.hear(quick)
    peer, before = await home.peer(), len(home.parsed)
    bodies = {(await peer.ask(data)).body for data in (quick, slow, quick, quick, slow, slow, quick)}
    assert len(bodies) == 1
    assert len(home.parsed) - before == 3


@pytest.mark.parametrize("seed", range(4))
async def test_however_the_bytes_are_cut_the_answers_come_in_their_order(home: House, seed: int) -> None:
    chance, prompts = random.Random(seed), ("one", "two")
    plain = {prompt: request(generation(prompt)) for prompt in prompts}
    bodies = {prompt: (await home.hear(data)).body for prompt, data in plain.items()}
    asked = [(chance.choice(prompts), f"n-{number}" if chance.random() < 0.3 else "") for number in range(60)]
    wire = [
        plain[prompt] if not name else request(generation(prompt), {"X-Request-Id": name}) for prompt, name in asked
    ]
    peer, before = await home.peer(), len(home.parsed)
    for start in range(0, 60, 6):
        some = b"".join(wire[start : start + 6])
        edges = [0, *sorted(chance.sample(range(1, len(some)), 3)), len(some)]
        if chance.random() < 0.5:  # between them, as a client would that does not wait
            edges = [sum(map(len, wire[start : start + count])) for count in range(7)]
        for one, other in itertools.pairwise(edges):
            await peer.send(some[one:other])
            await asyncio.sleep(chance.choice((0, 0.002)))
        for prompt, name in asked[start : start + 6]:
            answer = await peer.reply()
            assert (answer.status, answer.body) == (200, bodies[prompt])
            assert not name or answer.headers["x-request-id"] == name
    assert 0 < len(home.parsed) - before < 60, "some were read, some were not"


# --- what may turn out otherwise is asked each time -------------------------------------------------------------------


async def test_what_is_purged_is_bought_again(home: House, upstream: CountingUpstream) -> None:
    data = request()
    first = await home.hear(data)
    assert await home.is_replayed(data)
    await to_thread.run_sync(_purge_everything, home.gate.directory)
    await home.app.store.poll()
    again = await home.ask(data)
    assert (again.cache, len(upstream.calls)) == ("MISS", 2)
    assert again.body != first.body
    await home.hear(data)
    assert await home.is_replayed(data)
    assert (await home.ask(data)).body == again.body


async def test_what_has_left_memory_is_read_from_disk(tmp_path: Path, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Said(reply(picture(str(call.number), size=30_000)))
    settings = with_cache(settings_in(tmp_path, upstream), memory_bytes=100_000)
    async with house(settings) as home:
        one, two, three = (request(generation(prompt)) for prompt in ("one", "two", "three"))
        body = (await home.hear(one)).body
        assert await home.is_replayed(one)
        for other in (two, three):
            await home.hear(other)
        again = await home.ask(one)
        assert (again.cache, again.body) == ("HIT", body)
        assert "detail=disk" in again.headers["cache-status"]
        assert await home.is_replayed(one), "and it is in memory again"
        assert len(upstream.calls) == 3


async def test_an_entry_that_is_stale_is_bought_again(home: House, upstream: CountingUpstream) -> None:
    data = request(headers={"X-Imagegate-Cache-Ttl": "60"})
    first = await home.hear(data)
    home.gate.clock.advance(59)
    last = await home.ask(data)
    assert (last.body, last.headers["age"]) == (first.body, "59")
    assert "ttl=1;" in last.headers["cache-status"]
    home.gate.clock.advance(1)
    again = await home.ask(data)
    assert (again.cache, len(upstream.calls)) == ("MISS", 2)
    assert again.body != first.body
    await home.hear(data)
    assert (await home.ask(data)).body == again.body


async def test_directives_are_judged_each_time(home: House, upstream: CountingUpstream) -> None:
    data = request(headers={"Cache-Control": "max-age=60"})
    await home.hear(data)
    home.gate.clock.advance(60)
    assert await home.is_replayed(data)
    home.gate.clock.advance(1)
    assert (await home.ask(data)).cache == "REFRESH"
    assert len(upstream.calls) == 2


async def test_who_may_do_with_what_is_stale_gets_it(home: House) -> None:
    data = request(headers={"Cache-Control": "max-stale=100", "X-Imagegate-Cache-Ttl": "60"})
    await home.hear(data)
    home.gate.clock.advance(160)
    slow, slow_accounts = await home.accounts(home.slowly, data)
    quick, quick_accounts = await home.accounts(home.ask, data)
    assert "ttl=-100;" in quick.headers["cache-status"]
    assert _without(quick.headers, OF_THE_CALL) == _without(slow.headers, OF_THE_CALL)
    assert quick_accounts.metrics == slow_accounts.metrics


async def test_a_refresh_by_another_changes_what_is_answered(home: House) -> None:
    data = request()
    first = await home.hear(data)
    home.gate.clock.advance(1)
    fresh = await home.ask(request(headers={"Cache-Control": "no-cache"}))
    assert fresh.cache == "REFRESH"
    after = [await home.ask(data) for _ in range(3)]
    assert {each.body for each in after} == {fresh.body} != {first.body}
    assert await home.is_replayed(data)
    for each in after:
        assert len(each.body) == int(each.headers["content-length"])


async def test_a_clock_that_is_put_back_is_no_reason_to_lie(home: House) -> None:
    data = request()
    await home.hear(data)
    home.gate.clock.jump(-100)
    assert (await home.ask(data)).headers["age"] == "0"
    home.gate.clock.jump(-1000)
    assert (await home.ask(data)).cache == "MISS"


async def test_an_hour_later_it_is_counted_in_that_hour(home: House) -> None:
    data = request()
    await home.hear(data)
    hours = set()
    for _ in range(2):
        _, accounts = await home.accounts(home.ask, data)
        [hour] = {dict(by)["hour"] for by, _ in accounts.tallies}
        hours.add(hour)
        home.gate.clock.advance(3600)
    assert len(hours) == 2


# --- rules ------------------------------------------------------------------------------------------------------------


async def test_new_rules_are_asked_at_once(tmp_path: Path, upstream: CountingUpstream) -> None:
    lax = settings_in(tmp_path, upstream, rules=RulesSection(on_invalid="adjust"))
    async with house(lax) as home:
        data = request(generation(size="1000x1000"))
        assert "x-imagegate-adjusted" in (await home.hear(data)).headers
        assert await home.is_replayed(data)
        home.app.reload(replace(lax, rules=RulesSection()))
        assert (await home.ask(data)).status == 400
        home.app.reload(lax)
        assert (await home.ask(data)).status == 200
        assert await home.is_replayed(data)


async def test_rules_that_change_while_it_is_answered_are_the_rules_for_the_next_one(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    """Its caller reads slowly: what it was judged by is over when the last byte is out."""
    upstream.script = lambda call: Said(reply(picture("a", size=3_000_000)))
    lax = settings_in(tmp_path, upstream, rules=RulesSection(on_invalid="adjust"))
    async with house(lax) as home:
        data = request(generation(size="1000x1000"))
        for _ in range(2):
            await home.ask(data)
        peer = await home.peer()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(data)
        await _until(lambda: len(home.parsed) == 3)
        await asyncio.sleep(0.05)
        home.app.reload(replace(lax, rules=RulesSection()))
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await peer.reply()).status == 200
        await asyncio.sleep(0.02)
        assert (await home.ask(data)).status == 400


# --- what is kept in mind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", [in_form, in_json])
async def test_no_picture_is_held_open_for_the_sake_of_a_request_that_may_never_come(
    tmp_path: Path, upstream: CountingUpstream, spelled: Callable[..., Body]
) -> None:
    async with house(settings_in(tmp_path, upstream)) as home:
        for number in range(5):
            await home.hear(edit(spelled(FOX, prompt=f"at night {number}")))
        assert left_of_uploads(home.gate.directory) == []


async def test_where_nothing_is_answered_on_the_spot_nobody_is_told_of_whole_requests(home: House) -> None:
    for _ in range(3):
        await home.slowly(request())
    assert home.parsed == [None] * 3


# --- who is let in ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def keyed(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[tuple[House, Keyed]]:
    settings = settings_in(tmp_path, upstream, auth=AuthSection(mode="keys"))
    async with house(settings) as home:
        yield home, Keyed(home.gate, tmp_path / "imagegate.db")


async def test_a_key_is_told_of_the_same_things(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    await desk.team("design", max_budget=5)
    fields: dict[str, Any] = {"max_budget": 10, "soft_budget": 0.00001, "budget_duration": "1d"}
    data = request(headers=await desk.key(team="design", **fields))
    await home.hear(data)
    home.gate.clock.advance(5)
    slow, slow_accounts = await home.accounts(home.slowly, data)
    before = len(home.parsed)
    quick, quick_accounts = await home.accounts(home.ask, data)
    assert len(home.parsed) == before
    assert quick.headers["x-imagegate-soft-budget"] == "exceeded"
    assert _without(quick.headers, OF_THE_CALL) == _without(slow.headers, OF_THE_CALL)
    assert quick_accounts.metrics == slow_accounts.metrics
    assert quick_accounts.tallies == slow_accounts.tallies
    assert _without(quick_accounts.line, OF_THE_LINE) == _without(slow_accounts.line, OF_THE_LINE)
    assert (quick_accounts.line["team"], quick_accounts.line["key_id"][:4]) == ("design", "key_")


async def test_what_a_key_has_spent_meanwhile_is_told(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    headers = await desk.key(budget_duration="1d")
    data = request(headers=headers)
    first = await home.hear(data)
    await home.ask(request(generation("another fox"), headers))
    then = await home.ask(data)
    assert float(then.headers["x-imagegate-key-spend"]) == 2 * float(first.headers["x-imagegate-key-spend"]) > 0
    home.gate.clock.advance(86_400)
    assert (await home.ask(data)).headers["x-imagegate-key-spend"] == "0"


async def test_a_replay_counts_for_the_requests_of_a_minute_and_is_refused_in_the_same_words(
    keyed: tuple[House, Keyed],
) -> None:
    home, desk = keyed
    data = request(headers=await desk.key(rpm_limit=6))
    await home.hear(data)
    left = [(await home.ask(data)).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    before = len(home.parsed)
    refused, accounts = await home.accounts(home.ask, data)
    assert (refused.status, len(home.parsed) - before) == (429, 1)
    again, slow_accounts = await home.accounts(home.slowly, data)
    assert (again.body, _without(again.headers, OF_THE_CALL)) == (
        refused.body,
        _without(refused.headers, OF_THE_CALL),
    )
    assert accounts.metrics == slow_accounts.metrics
    home.gate.clock.advance(60)
    assert (await home.ask(data)).headers["x-ratelimit-remaining-requests"] == "5"


async def test_what_could_not_be_replayed_is_counted_once(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    data = request(headers={**await desk.key(rpm_limit=10), "X-Imagegate-Cache-Ttl": "60"})
    await home.hear(data)
    home.gate.clock.advance(59)
    assert (await home.ask(data)).headers["x-ratelimit-remaining-requests"] == "6"
    home.gate.clock.advance(0.999)
    assert (await home.ask(data)).headers["x-ratelimit-remaining-requests"] == "5"


DOORS: dict[str, tuple[dict[str, Any], int]] = {
    "blocked": ({"blocked": True}, 401),
    "another model": ({"models": ["dall-e-3"]}, 403),
    "another size": ({"allowed_sizes": ["1024x1024"]}, 403),
}


@pytest.mark.parametrize("name", DOORS)
async def test_a_key_that_is_changed_is_judged_anew(keyed: tuple[House, Keyed], name: str) -> None:
    home, desk = keyed
    changes, status = DOORS[name]
    headers = await desk.key()
    data = request(headers=headers)
    await home.hear(data)
    assert await home.is_replayed(data)
    await desk.update("alice", **changes)
    slow, slow_accounts = await home.accounts(home.slowly, data)
    quick, quick_accounts = await home.accounts(home.ask, data)
    assert quick.status == slow.status == status
    assert quick.body == slow.body
    assert quick_accounts.metrics == slow_accounts.metrics


async def test_a_key_that_is_revoked_opens_nothing(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    data = request(headers=await desk.key())
    await home.hear(data)
    await to_thread.run_sync(lambda: desk.store.revoke_key("alice", "tests"))
    await desk.poll()
    assert (await home.ask(data)).status == 401


async def test_a_key_opens_nothing_from_the_moment_on_at_which_it_expires(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    data = request(headers=await desk.key(expires="1h"))
    await home.hear(data)
    home.gate.clock.advance(3599)
    assert await home.is_replayed(data)
    home.gate.clock.advance(1)
    assert (await home.ask(data)).status == 401


async def test_the_old_text_of_a_rotated_key_works_as_long_as_it_may(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    data = request(headers=await desk.key())
    await home.hear(data)
    _, text = await to_thread.run_sync(lambda: desk.store.rotate_key("alice", 60, "tests"))
    await desk.poll()
    fresh = request(headers={"Authorization": f"Bearer {text}"})
    for each in (data, fresh):
        assert (await home.hear(each)).cache == "HIT"
        assert await home.is_replayed(each)
    home.gate.clock.advance(60)
    assert (await home.ask(data)).status == 401
    assert await home.is_replayed(fresh)


async def test_a_team_that_is_blocked_locks_its_keys_out(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    await desk.team("design")
    data = request(headers=await desk.key(team="design"))
    await home.hear(data)
    await to_thread.run_sync(lambda: desk.store.update_team("design", {"blocked": True}, "tests"))
    await desk.poll()
    assert (await home.ask(data)).status == 401


async def test_a_key_that_changes_its_team_is_counted_for_the_new_one(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    for team in ("design", "research"):
        await desk.team(team)
    headers = await desk.key(team="design", cache_scope="org")
    data = request(headers=headers)
    await home.hear(data)
    await to_thread.run_sync(lambda: desk.store.update_key("alice", {}, "tests", team="research"))
    await desk.poll()
    await home.hear(data)
    _, accounts = await home.accounts(home.ask, data)
    assert accounts.line["team"] == "research"
    [team_id] = {dict(by)["team_id"] for by, _ in accounts.tallies}
    assert [(team_id,)] == desk.rows("SELECT id FROM teams WHERE team_alias = 'research'")


async def test_a_team_is_told_from_none_even_if_that_is_its_name(keyed: tuple[House, Keyed]) -> None:
    home, desk = keyed
    await desk.team("none")
    data = request(headers=await desk.key(cache_scope="org"))
    await home.hear(data)
    await to_thread.run_sync(lambda: desk.store.update_key("alice", {}, "tests", team="none"))
    await desk.poll()
    _, accounts = await home.accounts(home.ask, data)
    [team_id] = {dict(by)["team_id"] for by, _ in accounts.tallies}
    assert [(team_id,)] == desk.rows("SELECT id FROM teams WHERE team_alias = 'none'")


async def test_in_passing_on_credentials_each_has_its_own(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with house(settings_in(tmp_path, upstream, auth=AuthSection(mode="passthrough"))) as home:
        one, two = (request(headers={"Authorization": f"Bearer sk-{name}"}) for name in ("one", "two"))
        bodies = [(await home.hear(each)).body for each in (one, two)]
        assert bodies[0] != bodies[1]
        assert [(await home.ask(each)).body for each in (one, two)] == bodies
        assert await home.is_replayed(one)
        assert (await home.ask(request())).status == 401


async def test_a_web_page_is_asked_for_its_name_each_time(tmp_path: Path, upstream: CountingUpstream) -> None:
    server = ServerSection(cors_origins=("https://studio.example",))
    async with house(settings_in(tmp_path, upstream, server=server)) as home:
        await home.hear(request())
        good, bad = (request(headers={"Origin": f"https://{name}.example"}) for name in ("studio", "evil"))
        for _ in range(3):
            assert (await home.ask(bad)).status == 403
            answer = await home.ask(good)
            assert answer.headers["access-control-allow-origin"] == "https://studio.example"


# --- who reads slowly, and who leaves ---------------------------------------------------------------------------------

LARGE_BYTES = 3_000_000


@pytest.fixture
async def large(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[House]:
    """Its pictures fill more than one window, and more than the kernel takes at once."""
    upstream.script = lambda call: Said(reply(picture(str(call.number), size=LARGE_BYTES)))
    async with house(with_cache(settings_in(tmp_path, upstream), memory_bytes=10_000_000)) as home:
        yield home


async def slow_reader(home: House, data: bytes) -> Peer:
    """Who has asked, and takes nothing yet."""
    peer = await home.peer()
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await peer.send(data)
    await asyncio.sleep(0.05)
    return peer


def take(peer: Peer) -> None:
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]


async def test_a_slow_reader_gets_every_byte_and_its_next_request_waits_its_turn(large: House) -> None:
    data = request()
    body = (await large.hear(data)).body
    before = len(large.parsed)
    peer = await slow_reader(large, data)
    await peer.send(data)
    await peer.send(data + request(headers={"X-Request-Id": "last"}))
    take(peer)
    replies = [await peer.reply() for _ in range(4)]
    assert [each.body == body for each in replies] == [True] * 4
    assert replies[-1].headers["x-request-id"] == "last"
    assert len({each.headers["x-request-id"] for each in replies}) == 4
    assert len(large.parsed) > before


async def test_who_is_being_answered_is_in_flight(large: House) -> None:
    data = request()
    await large.hear(data)
    peer = await slow_reader(large, data)
    assert large.gate.total("imagegate_requests_in_flight") == 1
    take(peer)
    await peer.reply()
    await asyncio.sleep(0.02)
    assert large.gate.total("imagegate_requests_in_flight") == 0


async def test_who_leaves_in_the_middle_is_told_of_as_gone(large: House) -> None:
    data = request()
    await large.hear(data)
    before = len(large.parsed)

    async def leave(data: bytes) -> None:
        peer = await slow_reader(large, data)
        peer.writer.transport.abort()
        await _until(lambda: not large.state.connections)

    _, accounts = await large.accounts(leave, data)
    assert len(large.parsed) == before
    assert (accounts.line["status"], accounts.line["cache"]) == (499, "hit")
    assert 0 < accounts.line["bytes_out"] < LARGE_BYTES
    counted = {name: value for (name, labels), value in accounts.metrics.items() if ("stage", "body") in labels}
    assert counted == {"imagegate_client_disconnects_total": 1}
    assert large.gate.total("imagegate_requests_in_flight") == 0
    assert accounts.tallies, "a hit it was all the same"


async def test_who_takes_nothing_is_cut_off(large: House) -> None:
    data = request()
    await large.hear(data)
    large.limits = ServerSection(send_timeout_seconds=0.2)
    _, accounts = await large.accounts(partial(_wait_for_nothing, large), data)
    assert accounts.line["status"] == 499
    assert len(large.parsed) == 3


async def _wait_for_nothing(home: House, data: bytes) -> None:
    await slow_reader(home, data)
    assert home.state.connections
    await _until(lambda: not home.state.connections)


async def test_memory_that_is_being_sent_is_not_given_to_others(large: House) -> None:
    data = request()
    body = (await large.hear(data)).body
    peer = await slow_reader(large, data)
    for prompt in ("two", "three", "four"):
        await large.hear(request(generation(prompt)))
        assert large.app.store.bytes_in_memory() <= 10_000_000
    take(peer)
    assert (await peer.reply()).body == body
    assert await large.is_replayed(data), "and whoever is read is not evicted"


async def test_once_it_is_out_its_memory_can_be_had_again(large: House) -> None:
    data = request()
    await large.hear(data)
    for left in (False, True):
        peer = await slow_reader(large, data)
        if left:
            peer.writer.transport.abort()
            await _until(lambda: len(large.state.connections) <= 1)
        else:
            take(peer)
            await peer.reply()
    peer.writer.close()
    del peer
    await large.hear(request(generation("two")))
    await large.hear(request(generation("three")))
    assert not await large.is_replayed(data)
    assert large.app.store.bytes_in_memory() <= 10_000_000


async def test_what_is_purged_while_it_is_sent_arrives_whole_and_is_then_gone(
    large: House, upstream: CountingUpstream
) -> None:
    data = request()
    body = (await large.hear(data)).body
    peer = await slow_reader(large, data)
    await to_thread.run_sync(_purge_everything, large.gate.directory)
    await large.app.store.poll()
    take(peer)
    assert (await peer.reply()).body == body
    del peer
    assert (await large.ask(data)).cache == "MISS"


async def test_a_process_that_leaves_ends_what_it_began(large: House) -> None:
    data = request()
    body = (await large.hear(data)).body
    peer, idle = await slow_reader(large, data), await large.peer()
    await idle.ask(data)
    large.app.health.drain(10)
    for connection in list(large.state.connections):
        connection.shutdown()
    await asyncio.sleep(0.02)
    assert len(large.state.connections) == 1, "who waits for nothing is let go"
    take(peer)
    assert (await peer.reply()).body == body
    assert await peer.rest() == b""
    last = await large.ask(data)
    assert (last.body == body, last.headers["connection"]) == (True, "close")


async def test_who_was_gone_before_the_first_byte_was_not_answered(large: House) -> None:
    """Reset, while its request waited in the kernel: whatever is written then goes nowhere."""
    data = request()
    await large.hear(data)
    port = large.listener.sockets[0].getsockname()[1]

    async def reset(data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await _until(lambda: len(large.state.connections) == 1)
            gone.sendall(data)
        await _until(lambda: not large.state.connections)

    _, accounts = await large.accounts(reset, data)
    assert accounts.line["status"] == 499


async def test_who_sends_no_more_still_gets_its_answer(large: House) -> None:
    data = request()
    body = (await large.hear(data)).body
    peer = await large.peer()
    await peer.send(data)
    peer.writer.write_eof()
    assert (await peer.reply()).body == body
    assert await peer.rest() == b""


@pytest.mark.parametrize("size", [300, LARGE_BYTES])
async def test_behind_tls_it_is_the_same(tmp_path: Path, upstream: CountingUpstream, size: int) -> None:
    upstream.script = lambda call: Said(reply(picture("a", size=size)))
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with house(settings_in(tmp_path, upstream), trust=server) as home:
        home.trust = client
        data = request()
        body = (await home.hear(data)).body
        peer = await slow_reader(home, data)
        await peer.send(data)
        await peer.send(data + request(headers={"X-Request-Id": "last"}))
        take(peer)
        replies = [await peer.reply() for _ in range(4)]
        assert [each.body == body for each in replies] == [True] * 4
        assert replies[-1].headers["x-request-id"] == "last"
        assert await home.is_replayed(data)
        gone = await slow_reader(home, data)
        gone.writer.transport.abort()
        await _until(lambda: len(home.state.connections) <= 1)
        peer.writer.close()
        await _until(lambda: not home.state.connections)


# --- how long a connection lasts --------------------------------------------------------------------------------------

KEEP_ALIVE_SECONDS = 0.4


async def test_a_connection_lasts_as_long_after_a_replay_as_after_any_answer(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    """Longer than a request may take to arrive, though no request of this connection was ever read."""
    server = ServerSection(receive_timeout_seconds=0.1)
    async with house(settings_in(tmp_path, upstream, server=server), KEEP_ALIVE_SECONDS) as home:
        data = request()
        await home.hear(data)
        peer = await home.peer()
        for _ in range(3):
            await peer.ask(data)
            await asyncio.sleep(KEEP_ALIVE_SECONDS / 2)
        assert not peer.reader.at_eof()
        assert len(home.parsed) == 3
        await asyncio.sleep(KEEP_ALIVE_SECONDS)
        assert peer.reader.at_eof()


async def test_that_is_counted_from_the_end_of_an_answer(large: House) -> None:
    data = request()
    await large.hear(data)
    large.limits = ServerSection(receive_timeout_seconds=0.1)
    large.config.timeout_keep_alive = KEEP_ALIVE_SECONDS  # type: ignore[assignment]
    peer = await slow_reader(large, data)
    await asyncio.sleep(KEEP_ALIVE_SECONDS)
    take(peer)
    await peer.reply()
    await asyncio.sleep(KEEP_ALIVE_SECONDS / 2)
    assert not peer.reader.at_eof()
    assert (await peer.ask(data)).status == 200


async def test_and_no_longer(tmp_path: Path, upstream: CountingUpstream) -> None:
    server = ServerSection(receive_timeout_seconds=60)
    async with house(settings_in(tmp_path, upstream, server=server), 0.2) as home:
        data = request()
        await home.hear(data)
        peer = await home.peer()
        await peer.ask(data)
        assert await peer.rest() == b""


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.005)


def _purge_everything(cache: Path) -> None:
    """As an operator does beside the process."""
    CacheDirectory(cache).purge(Purge("all", at=SystemClock().wall()))

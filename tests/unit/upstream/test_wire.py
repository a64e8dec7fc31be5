"""The wire: nothing is sent that was not named, and every way to end badly has its own error, over real sockets."""

import asyncio
import gzip
import ssl
import tracemalloc
from pathlib import Path

import pytest
import trustme

from proxy.errors import (
    ImagegateError,
    InvalidRequest,
    UpstreamConnectionLost,
    UpstreamInvalidResponse,
    UpstreamUnreachable,
)
from proxy.upstream.outgoing import Outgoing
from proxy.upstream.wire import Post, Wire
from tests.support import faulty
from tests.support.faulty import Act, FaultyUpstream

pytestmark = pytest.mark.anyio

BODY = b'{"data": "' + bytes(range(32, 127)).replace(b'"', b"") * 2000 + b'"}'


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire(tcp_keepalive_seconds=30)


async def fetched(
    wire: Wire, url: str, *, limit: int = 10_000_000, connect_seconds: float = 5.0, **headers: str
) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with wire.exchange(
        Post("POST", url, named, Outgoing("application/json", (b"{}",))),
        connect_seconds=connect_seconds,
        io_seconds=5.0,
    ) as reply:
        return b"".join([chunk async for chunk in reply.chunks(limit)])


async def outcome(wire: Wire, act: Act, *, limit: int = 10_000_000) -> bytes | type[ImagegateError]:
    async with FaultyUpstream() as upstream:
        upstream.play(act)
        try:
            return await fetched(wire, upstream.base_url, limit=limit)
        except ImagegateError as error:
            return type(error)


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_only_the_headers_that_were_named_are_sent(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:
        await fetched(
            wire, upstream.base_url + "/images/generations", authorization="Bearer k", accept_encoding="identity"
        )
        (heard,) = upstream.heard
    assert (heard.method, heard.target, heard.body) == ("POST", "/v1/images/generations", b"{}")
    assert dict(sorted(heard.header_list)) == {
        "accept-encoding": "identity",
        "authorization": "Bearer k",
        "content-length": "2",
        "host": f"127.0.0.1:{upstream.port}",
    }


async def test_any_byte_that_a_header_may_hold_is_sent_as_it_is(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:
        await fetched(wire, upstream.base_url, authorization="Bearer schlüssel-ÿ")
        assert upstream.heard[0].headers["authorization"] == "Bearer schlüssel-ÿ"


@pytest.mark.parametrize("value", ["a ", " a", "a\r\nb: c", "a\x00b", "☃"])
async def test_a_header_that_cannot_be_sent_is_the_callers_fault(wire: Wire, value: str) -> None:
    async with FaultyUpstream() as upstream:
        with pytest.raises(InvalidRequest) as caught:
            await fetched(wire, upstream.base_url, openai_beta=value)
        assert (caught.value.status, caught.value.code, caught.value.billed) == (400, "invalid_header", False)
        assert upstream.calls == 0


async def test_a_cookie_is_never_sent_back_and_every_call_has_a_connection_of_its_own(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:
        upstream.always(faulty.replied(b"{}", headers={"set-cookie": "tenant=1; Path=/", "connection": "keep-alive"}))
        await fetched(wire, upstream.base_url)
        await fetched(wire, upstream.base_url)
        assert [heard.headers.get("cookie") for heard in upstream.heard] == [None, None]
        assert upstream.connections == 2


async def test_no_redirect_is_followed(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:
        upstream.play(faulty.replied(b"", status=302, headers={"location": upstream.base_url + "/elsewhere"}))
        async with wire.exchange(Post("GET", upstream.base_url, {}), connect_seconds=5, io_seconds=5) as reply:
            assert reply.status == 302
        assert upstream.calls == 1


async def test_a_proxy_of_the_environment_is_not_used(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{faulty.closed_port()}")
    async with FaultyUpstream() as upstream:
        await fetched(wire, upstream.base_url)
        assert upstream.calls == 1


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        faulty.replied(BODY),
        faulty.chunked(BODY),
        faulty.unannounced(BODY),
        faulty.compressed(BODY),
        faulty.compressed(BODY, "deflate"),
        faulty.replied(gzip.compress(BODY), headers={"content-encoding": " X-GZIP "}),
        faulty.replied(BODY, headers={"content-encoding": "identity"}),
        faulty.dripped(BODY, size=40_000, every_seconds=0),
    ],
)
async def test_a_whole_body_arrives_however_it_is_framed(wire: Wire, act: Act) -> None:
    assert await outcome(wire, act) == BODY


@pytest.mark.parametrize(
    "act",
    [
        faulty.slammed(),
        faulty.hung_up(),
        faulty.reset(),
        faulty.reset(BODY, 1000),
        faulty.truncated(BODY, 0),
        faulty.truncated(BODY, 1),
        faulty.truncated(BODY, len(BODY) - 1),
        faulty.replied(BODY, announce=10**15),
        faulty.chunked(BODY, finished=False),
        faulty.replied(gzip.compress(BODY)[:-1], headers={"content-encoding": "gzip"}),
        faulty.replied(b"", headers={"content-encoding": "gzip"}),
        faulty.replied(BODY, headers={"broken header": "x"}),
    ],
)
async def test_an_end_before_the_end_is_a_lost_connection(wire: Wire, act: Act) -> None:
    assert await outcome(wire, act) is UpstreamConnectionLost


@pytest.mark.parametrize(
    "act",
    [
        faulty.replied(BODY, headers={"content-encoding": "gzip"}),
        faulty.replied(BODY, headers={"content-encoding": "br"}),
        faulty.replied(BODY, headers={"content-encoding": "gzip, gzip"}),
        faulty.replied(gzip.compress(BODY)[:60] + b"\xff" * 500, headers={"content-encoding": "gzip"}),
    ],
)
async def test_what_cannot_be_decompressed_is_invalid(wire: Wire, act: Act) -> None:
    assert await outcome(wire, act) is UpstreamInvalidResponse


async def test_a_body_may_be_as_long_as_the_limit_and_not_a_byte_longer(wire: Wire) -> None:
    for act in (faulty.replied(BODY), faulty.chunked(BODY), faulty.compressed(BODY)):
        assert await outcome(wire, act, limit=len(BODY)) == BODY
        assert await outcome(wire, act, limit=len(BODY) - 1) is UpstreamInvalidResponse


async def test_a_bomb_is_refused_as_it_grows(wire: Wire) -> None:
    act = faulty.bomb(200)
    tracemalloc.start()
    try:
        assert await outcome(wire, act, limit=2_000_000) is UpstreamInvalidResponse
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()


async def test_the_announced_length_is_a_number_or_nothing(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:
        upstream.play(faulty.replied(b"12345"), faulty.unannounced(b"12345"))
        for expected in (5, None):
            async with wire.exchange(Post("GET", upstream.base_url, {}), connect_seconds=5, io_seconds=5) as reply:
                assert reply.announced_bytes == expected


# --- connections that are not made -----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://host.invalid/v1", "ftp://127.0.0.1/", "http://127.0.0.1/" + "x" * 70_000])
async def test_what_cannot_be_called_is_unreachable(wire: Wire, url: str) -> None:
    with pytest.raises(UpstreamUnreachable):
        await fetched(wire, url)


async def test_a_port_where_nobody_listens_is_unreachable(wire: Wire) -> None:
    with pytest.raises(UpstreamUnreachable):
        await fetched(wire, f"http://127.0.0.1:{faulty.closed_port()}/")


async def test_a_handshake_that_never_ends_is_unreachable(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:  # speaks no TLS
        upstream.always(faulty.silent())
        with pytest.raises(UpstreamUnreachable):
            await fetched(wire, upstream.base_url.replace("http:", "https:"), connect_seconds=0.05)


# --- TLS -------------------------------------------------------------------------------------------------------------


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trusting(authority: trustme.CA, tmp_path: Path) -> Wire:
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(pem))
    wire = Wire(tcp_keepalive_seconds=30)
    wire.trust(str(pem))
    return wire


async def test_a_certificate_that_nobody_vouches_for_is_unreachable(wire: Wire) -> None:
    async with FaultyUpstream(tls=server_tls(trustme.CA(), "127.0.0.1")) as upstream:
        with pytest.raises(UpstreamUnreachable):
            await fetched(wire, upstream.base_url)
        assert upstream.calls == 0


async def test_the_name_that_must_be_proven_is_the_one_that_was_meant(tmp_path: Path) -> None:
    authority = trustme.CA()
    wire = trusting(authority, tmp_path)
    names: list[str | None] = []
    context = server_tls(authority, "pictures.example")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with FaultyUpstream(tls=context) as upstream:
        for meant, proven in (("pictures.example", True), ("other.example", False), (None, False)):
            post = Post("GET", upstream.base_url, {"host": "pictures.example"}, server_name=meant)
            try:
                async with wire.exchange(post, connect_seconds=5, io_seconds=5) as reply:
                    assert reply.status == 200
                    assert proven
            except UpstreamUnreachable:
                assert not proven
        assert [heard.headers["host"] for heard in upstream.heard] == ["pictures.example"]
    assert names[0] == "pictures.example"


async def test_a_connection_that_turns_to_noise_is_lost(tmp_path: Path) -> None:
    """TLS records that are damaged on the way: the error of the TLS library does not leak either."""
    authority = trustme.CA()
    async with FaultyUpstream(tls=server_tls(authority, "localhost")) as upstream:
        upstream.always(faulty.replied(BODY))

        async def damage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, here = await asyncio.open_connection("127.0.0.1", upstream.port)

            async def forth() -> None:
                while data := await reader.read(65536):
                    here.write(data)

            pump = asyncio.create_task(forth())
            passed = 0
            try:
                while data := await there.read(65536):
                    passed += len(data)
                    writer.write(data if passed < 20_000 else b"\x55" * len(data))
            finally:
                pump.cancel()
                here.close()
                writer.close()

        server = await asyncio.start_server(damage, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(UpstreamConnectionLost):
                await fetched(trusting(authority, tmp_path), f"https://localhost:{port}/")
        finally:
            server.close()
            await asyncio.sleep(0.01)

"""Addresses in replies: only public ones over https or the upstream's own host, and the checked one is the one called."""

import base64
import ssl
from pathlib import Path

import pytest
import trustme

from proxy.upstream.links import NotFetchable, _is_public, fetch_base64
from proxy.upstream.wire import Wire
from tests.support import faulty
from tests.support.faulty import Act, FaultyUpstream
from tests.support.images import picture

pytestmark = pytest.mark.anyio

ELSEWHERE = "https://api.example/v1"


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire(tcp_keepalive_seconds=30)


def image(content: bytes = picture("fetched")) -> Act:
    return faulty.replied(content, headers={"content-type": "image/png"})


# --- what is not called ----------------------------------------------------------------------------------------------

HOSTS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "0",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "localhost",
    "LOCALHOST.",
    "[::]",
    "[::1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "[fd12::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2001:0:7f00:1::]",
    "[2001:db8::1]",
    "[100::1]",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_no_address_inside_is_called(wire: Wire, host: str) -> None:
    async with FaultyUpstream() as upstream:
        for url in (f"https://{host}:{upstream.port}/a.png", f"https://{host}/a.png"):
            with pytest.raises(NotFetchable, match=r"not public|unknown"):
                await fetch_base64(wire, url, upstream_base_url=ELSEWHERE)
        assert upstream.connections == 0


@pytest.mark.parametrize(
    "address",
    [
        "93.184.215.14",
        "8.8.8.8",
        "172.32.0.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
        "64:ff9b::808:808",
    ],
)
def test_public_addresses_are_told_from_those_inside(address: str) -> None:
    assert _is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://{own}/a.png",
        "http://93.184.215.14/a.png",
        "ftp://{own}/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "gopher://{own}/",
        "//{own}/a.png",
        "{own}/a.png",
        "/a.png",
        "",
        "https://",
        "https:///a.png",
        "https://{own}:99999/",
        "https://{own}:x/",
        "https://[::1/",
        "https://host.invalid/a.png",
        "https://..../a.png",
        "https://" + "a" * 300 + ".example/a.png",
    ],
)
async def test_no_other_kind_of_address_is_called(wire: Wire, url: str) -> None:
    async with FaultyUpstream() as upstream:
        with pytest.raises(NotFetchable):
            await fetch_base64(wire, url.format(own=f"127.0.0.1:{upstream.port}"), upstream_base_url=ELSEWHERE)
        assert upstream.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://user@{own}/a.png",
        "http://user:password@{own}/a.png",
        "http://@{own}/a.png",
        "http://{own}@127.0.0.1:1/a.png",
        "http://{own}\\@api.example/a.png",
        "http://{own}/a b.png",
        "http://{own}/a\r\nhost: other/",
        "http://{own}/ä.png",
        "http://{own}/\x00",
        "https://{own}/a.png",
        "http://127.0.0.1:1/a.png",
        "http://localhost:{port}/a.png",
        "http://127.1:{port}/a.png",
    ],
)
async def test_what_only_looks_like_the_upstreams_own_host_is_not_called(wire: Wire, url: str) -> None:
    async with FaultyUpstream() as upstream:
        address = url.format(own=f"127.0.0.1:{upstream.port}", port=upstream.port)
        with pytest.raises(NotFetchable):
            await fetch_base64(wire, address, upstream_base_url=upstream.base_url)
        assert upstream.calls == 0


# --- what is called --------------------------------------------------------------------------------------------------


async def test_the_upstreams_own_host_is_called_without_a_credential(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:
        upstream.play(image())
        url = f"http://127.0.0.1:{upstream.port}/files/a.png?signature=x%2Fy#fragment"
        assert await fetch_base64(wire, url, upstream_base_url=upstream.base_url) == base64.b64encode(
            picture("fetched")
        )
        (heard,) = upstream.heard
    assert (heard.method, heard.target, heard.body) == ("GET", "/files/a.png?signature=x%2Fy", b"")
    assert heard.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept": "image/*",
        "accept-encoding": "identity",
    }


async def test_the_address_that_was_checked_is_called_by_the_name_that_was_given(tmp_path: Path) -> None:
    authority = trustme.CA()
    context, names = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), list[str | None]()
    authority.issue_cert("localhost").configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    wire = Wire(tcp_keepalive_seconds=30)
    wire.trust(str(tmp_path / "authority.pem"))
    async with FaultyUpstream(tls=context) as upstream:
        upstream.play(image())
        own = f"https://localhost:{upstream.port}"
        assert await fetch_base64(wire, own + "/a.png", upstream_base_url=own + "/v1")
        assert upstream.heard[0].headers["host"] == f"localhost:{upstream.port}"
        assert names == ["localhost"]
        with pytest.raises(NotFetchable):  # the same server by its address: a name it cannot prove
            own = f"https://127.0.0.1:{upstream.port}"
            await fetch_base64(wire, own + "/a.png", upstream_base_url=own + "/v1")
        assert upstream.calls == 1


@pytest.mark.parametrize(
    "act",
    [
        faulty.replied(b"", status=302, headers={"location": "/b.png"}),
        faulty.refused(404),
        faulty.refused(500),
        faulty.replied(picture("a"), status=206),
        faulty.replied(b"", headers={}),
        faulty.html(),
        faulty.truncated(picture("a"), 100),
        faulty.reset(picture("a"), 100),
        faulty.hung_up(),
        faulty.bomb(60),
        faulty.replied(picture("a"), headers={"content-encoding": "br"}),
    ],
)
async def test_an_address_that_gives_no_whole_picture_gives_none(wire: Wire, act: Act) -> None:
    async with FaultyUpstream() as upstream:
        upstream.play(act)
        with pytest.raises(NotFetchable):
            await fetch_base64(wire, upstream.base_url + "/a.png", upstream_base_url=upstream.base_url)
        assert upstream.connections == 1


async def test_an_address_too_long_to_be_called_is_not(wire: Wire) -> None:
    async with FaultyUpstream() as upstream:
        with pytest.raises(NotFetchable):
            url = upstream.base_url + "/" + "x" * 70_000
            await fetch_base64(wire, url, upstream_base_url=upstream.base_url)
        assert upstream.connections == 0

"""Addresses in replies: only public ones over https or the upstream's own host, and the checked one is the one called."""

import base64
import ssl
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from proxy.spool import Spools
from proxy.upstream.links import WINDOW_BYTES, Fetcher, NotFetchable, Room, _is_public
from proxy.upstream.wire import Wire
from tests.support import faulty
from tests.support.door import content
from tests.support.faulty import Act, FaultyUpstream
from tests.support.images import picture

pytestmark = pytest.mark.anyio

ELSEWHERE = "https://api.example/v1"


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire(tcp_keepalive_seconds=30)


@pytest.fixture
def spools(tmp_path: Path) -> Iterator[Spools]:
    with ThreadPoolExecutor(1) as executor:
        yield Spools(tmp_path, executor, "instance")
    assert list(tmp_path.glob("tmp/*")) == [], "nothing is left behind"


@pytest.fixture
def fetcher(wire: Wire, spools: Spools) -> Fetcher:
    return Fetcher(wire, spools)


async def fetched(fetcher: Fetcher, url: str, *, upstream_base_url: str, room_bytes: int = 100_000_000) -> bytes:
    spool = await fetcher.fetch(url, Room(room_bytes), upstream_base_url=upstream_base_url)
    text = content(spool)
    spool.discard()
    return text


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
async def test_no_address_inside_is_called(fetcher: Fetcher, host: str) -> None:
    async with FaultyUpstream() as upstream:
        for url in (f"https://{host}:{upstream.port}/a.png", f"https://{host}/a.png"):
            with pytest.raises(NotFetchable, match=r"not public|unknown"):
                await fetched(fetcher, url, upstream_base_url=ELSEWHERE)
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
async def test_no_other_kind_of_address_is_called(fetcher: Fetcher, url: str) -> None:
    async with FaultyUpstream() as upstream:
        with pytest.raises(NotFetchable):
            await fetched(fetcher, url.format(own=f"127.0.0.1:{upstream.port}"), upstream_base_url=ELSEWHERE)
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
async def test_what_only_looks_like_the_upstreams_own_host_is_not_called(fetcher: Fetcher, url: str) -> None:
    async with FaultyUpstream() as upstream:
        address = url.format(own=f"127.0.0.1:{upstream.port}", port=upstream.port)
        with pytest.raises(NotFetchable):
            await fetched(fetcher, address, upstream_base_url=upstream.base_url)
        assert upstream.calls == 0


# --- what is called --------------------------------------------------------------------------------------------------


async def test_the_upstreams_own_host_is_called_without_a_credential(fetcher: Fetcher) -> None:
    async with FaultyUpstream() as upstream:
        upstream.play(image())
        url = f"http://127.0.0.1:{upstream.port}/files/a.png?signature=x%2Fy#fragment"
        assert await fetched(fetcher, url, upstream_base_url=upstream.base_url) == base64.b64encode(picture("fetched"))
        (heard,) = upstream.heard
    assert (heard.method, heard.target, heard.body) == ("GET", "/files/a.png?signature=x%2Fy", b"")
    assert heard.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept": "image/*",
        "accept-encoding": "identity",
    }


async def test_the_address_that_was_checked_is_called_by_the_name_that_was_given(
    tmp_path: Path, spools: Spools
) -> None:
    authority = trustme.CA()
    context, names = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), list[str | None]()
    authority.issue_cert("localhost").configure_cert(context)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    wire = Wire(tcp_keepalive_seconds=30)
    wire.trust(str(tmp_path / "authority.pem"))
    fetcher = Fetcher(wire, spools)
    async with FaultyUpstream(tls=context) as upstream:
        upstream.play(image())
        own = f"https://localhost:{upstream.port}"
        assert await fetched(fetcher, own + "/a.png", upstream_base_url=own + "/v1")
        assert upstream.heard[0].headers["host"] == f"localhost:{upstream.port}"
        assert names == ["localhost"]
        with pytest.raises(NotFetchable):  # the same server by its address: a name it cannot prove
            own = f"https://127.0.0.1:{upstream.port}"
            await fetched(fetcher, own + "/a.png", upstream_base_url=own + "/v1")
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
async def test_an_address_that_gives_no_whole_picture_gives_none(fetcher: Fetcher, act: Act) -> None:
    async with FaultyUpstream() as upstream:
        upstream.play(act)
        with pytest.raises(NotFetchable):
            await fetched(fetcher, upstream.base_url + "/a.png", upstream_base_url=upstream.base_url)
        assert upstream.connections == 1


async def test_an_address_too_long_to_be_called_is_not(fetcher: Fetcher) -> None:
    async with FaultyUpstream() as upstream:
        with pytest.raises(NotFetchable):
            url = upstream.base_url + "/" + "x" * 70_000
            await fetched(fetcher, url, upstream_base_url=upstream.base_url)
        assert upstream.connections == 0


# --- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, WINDOW_BYTES - 1, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES + 2])
async def test_the_text_of_the_windows_is_the_text_of_the_whole(fetcher: Fetcher, size: int) -> None:
    whole = picture("a", size=size)
    async with FaultyUpstream() as upstream:
        upstream.play(faulty.chunked(whole, size=10_007))
        text = await fetched(fetcher, upstream.base_url + "/a.png", upstream_base_url=upstream.base_url)
    assert text == base64.b64encode(whole)


async def test_a_large_picture_takes_little_memory(fetcher: Fetcher) -> None:
    large = picture("a", size=20_000_000)
    async with FaultyUpstream() as upstream:
        upstream.play(faulty.chunked(large, size=65_536))
        tracemalloc.start()
        try:
            url = upstream.base_url + "/a.png"
            spool = await fetcher.fetch(url, Room(30_000_000), upstream_base_url=upstream.base_url)
            assert tracemalloc.get_traced_memory()[1] < 3_000_000
        finally:
            tracemalloc.stop()
    assert content(spool) == base64.b64encode(large)
    spool.discard()


async def test_pictures_take_no_more_room_than_there_is(fetcher: Fetcher) -> None:
    async with FaultyUpstream() as upstream:
        upstream.always(image(picture("a", size=300)))
        url, room = upstream.base_url + "/a.png", Room(500)
        (await fetcher.fetch(url, room, upstream_base_url=upstream.base_url)).discard()
        assert room.left_bytes == 100
        with pytest.raises(NotFetchable, match="too large"):
            await fetcher.fetch(url, room, upstream_base_url=upstream.base_url)


async def test_a_disk_without_room_leaves_the_address_as_it_is(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("in the way")
    with ThreadPoolExecutor(1) as executor:
        fetcher = Fetcher(wire, Spools(tmp_path, executor, "instance"))
        async with FaultyUpstream() as upstream:
            upstream.always(image(picture("a", size=3 * WINDOW_BYTES)))
            with pytest.raises(NotFetchable, match="room"):
                await fetcher.fetch(upstream.base_url + "/a.png", Room(10_000_000), upstream_base_url=upstream.base_url)

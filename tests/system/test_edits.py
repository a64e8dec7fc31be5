"""Edits through a real process: flat memory, nothing left behind, and peers who write no honest form."""

import base64
import hashlib
import io
import json
import os
import random
import resource
import select
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from PIL import Image

from tests.support.caller import CREDENTIAL, Reply
from tests.support.edits import EDITS, FOX, HAT, MASK, in_form, left_of_uploads, painted
from tests.support.multipart import BOUNDARY
from tests.support.polling import eventually
from tests.support.process import Proxy, serving
from tests.support.raw import Peer, RawReply
from tests.support.upstream_process import UpstreamProcess, body_of

Start = Callable[..., Proxy]

PATIENCE_SECONDS = 1.0
BLOCK = random.Random(16).randbytes(999_936)
"""About a megabyte that no two windows have in common; a multiple of 3, so that its base64 can be repeated."""
BLOCK_IN_BASE64 = base64.b64encode(BLOCK)
HEAD = painted(size=(1024, 1024))[:33]
"""The signature and the header of a PNG of 1024 x 1024 pixels with an alpha channel: 33 bytes."""
SMALL_MASK = HEAD + BLOCK
MOST_GROWTH_MEGABYTES = 18
"""Less than one picture of those that are sent; what was asked for is 60."""


# --- bodies that are larger than what a test should hold --------------------------------------------------------------


@dataclass(frozen=True)
class Large:
    """A body in pieces that share their memory."""

    content_type: str
    pieces: Sequence[bytes] = field(repr=False)

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


def noise(megabytes: int, mark: bytes = b"") -> list[bytes]:
    """A picture of this size, in pieces."""
    return [HEAD, *[BLOCK] * megabytes, mark]


def large_form(
    prompt: str,
    *pictures: list[bytes],
    mask: bytes | None = None,
    boundary: str = BOUNDARY,
    filename: str = "upload.png",
) -> Large:
    opening = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    pieces: list[bytes] = []
    for name, value in (("model", "gpt-image-2"), ("prompt", prompt)):
        pieces.append(f'{opening}{name}"\r\n\r\n{value}\r\n'.encode())
    for name, picture in [*(("image[]", each) for each in pictures), *([("mask", [mask])] if mask else [])]:
        pieces.append(f'{opening}{name}"; filename="{filename}"\r\nContent-Type: image/png\r\n\r\n'.encode())
        pieces += [*picture, b"\r\n"]
    return Large(f"multipart/form-data; boundary={boundary}", [*pieces, f"--{boundary}--\r\n".encode()])


def large_json(prompt: str, *megabytes: int) -> Large:
    url = b'{"image_url":"data:image/png;base64,' + base64.b64encode(HEAD)
    pieces = [json.dumps({"model": "gpt-image-2", "prompt": prompt})[:-1].encode() + b',"images":[']
    for number, each in enumerate(megabytes):
        pieces += [b"," if number else b"", url, *[BLOCK_IN_BASE64] * each, b'"}']
    return Large("application/json", [*pieces, b"]}"])


def digest_of(pieces: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def post(proxy: Proxy, body: Large, more: Mapping[str, str] | None = None) -> Reply:
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    headers = {
        "content-type": body.content_type,
        "content-length": str(len(body)),
        "authorization": CREDENTIAL,
        **(more or {}),
    }
    try:
        try:
            connection.request("POST", EDITS, iter(body.pieces), headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before it had arrived
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def seen(upstream: UpstreamProcess, prompt: str, call: int = 0) -> list[str]:
    """The digests of what the upstream was sent: of the pictures in their order, and then of the mask."""
    body = upstream.bodies(prompt)[call]
    return [each["sha256"] for each in [*body["images"], *([body["mask"]] if "mask" in body else [])]]


@dataclass
class Watched:
    """A process whose memory, files and descriptors are measured from a moment on."""

    proxy: Proxy
    cache: Path
    resident: int = 0
    descriptors: int = 0

    def begin(self) -> None:
        """After a first small edit, which imports what edits need, and its row of the ledger, which imports SQLAlchemy."""
        assert post(self.proxy, large_form("the first and small one", [HEAD, b"x" * 1000])).status == 200
        eventually(self._has_written, what="the row of the ledger")
        self.forget_peak()
        self.resident, self.descriptors = self.proxy.resident_bytes(), self.proxy.descriptors()

    def _has_written(self) -> bool:
        ledger = self.cache.parent / "var" / "imagegate.db"
        if not ledger.is_file():
            return False
        with closing(sqlite3.connect(ledger)) as connection:
            try:
                return bool(connection.execute("SELECT count(*) FROM purchases").fetchone()[0])
            except sqlite3.OperationalError:
                return False  # it is being made

    def forget_peak(self) -> None:
        """The peak is what is resident now (proc_pid_clear_refs(5))."""
        Path(f"/proc/{self.proxy.pid}/clear_refs").write_text("5")

    def growth_megabytes(self) -> float:
        """At its peak."""
        return (self.proxy.peak_bytes() - self.resident) / 1e6

    def has_let_go(self) -> None:
        """Returns when no upload has a file, a descriptor or a connection any more."""
        eventually(lambda: left_of_uploads(self.cache, self.proxy.pid) == [], what="the end of the uploads' files")
        eventually(lambda: self.proxy.descriptors() <= self.descriptors + 1, what="closed descriptors")


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("standing")
    with serving(folder, upstream.url) as proxy:
        yield Watched(proxy, folder / "cache")


@pytest.fixture
def watched(standing: Watched) -> Watched:
    standing.begin()
    return standing


def tell(record_property: Callable[[str, object], None], name: str, value: float) -> None:
    record_property(name, round(value, 1))
    print(f"{name}: {value:.1f}")  # noqa: T201 - shown with -rP


# --- flat -------------------------------------------------------------------------------------------------------------


def test_two_pictures_of_20_mb_and_a_mask_are_bought_once_and_held_by_nobody(
    watched: Watched, upstream: UpstreamProcess, record_property: Callable[[str, object], None]
) -> None:
    proxy, prompt = watched.proxy, "two pictures of 20 MB"
    first, second = noise(20, b"first"), noise(20, b"second")
    bought = post(proxy, large_form(prompt, first, second, mask=SMALL_MASK))
    tell(record_property, "growth_megabytes", watched.growth_megabytes())
    assert watched.growth_megabytes() < MOST_GROWTH_MEGABYTES
    assert (bought.status, bought.cache, bought.body) == (200, "MISS", body_of(prompt))
    assert seen(upstream, prompt) == [digest_of(first), digest_of(second), digest_of([SMALL_MASK])]
    again = post(proxy, large_form(prompt, first, second, mask=SMALL_MASK, boundary="other", filename="b.png"))
    assert (again.cache, again.body, upstream.calls(prompt)) == ("HIT", bought.body, 1)
    other = post(proxy, large_form(prompt, first, second, mask=SMALL_MASK[:-1] + b"!"))
    assert (other.cache, upstream.calls(prompt)) == ("MISS", 2)
    watched.has_let_go()
    assert watched.growth_megabytes() < MOST_GROWTH_MEGABYTES


def test_ten_in_a_row_and_eight_at_once_take_no_more_memory_than_one(
    watched: Watched, upstream: UpstreamProcess, record_property: Callable[[str, object], None]
) -> None:
    bodies = [large_form(f"in a row {number}", noise(20), noise(20), mask=SMALL_MASK) for number in range(10)]
    assert post(watched.proxy, bodies[0]).status == 200
    one = watched.growth_megabytes()
    assert {post(watched.proxy, body).cache for body in bodies[1:]} == {"MISS"}
    tell(record_property, "after_one_megabytes", one)
    tell(record_property, "after_ten_megabytes", watched.growth_megabytes())
    assert watched.growth_megabytes() < one + 10
    with ThreadPoolExecutor(8) as pool:
        at_once = [large_form(f"at once {number}", noise(12)) for number in range(8)]
        assert [reply.status for reply in pool.map(lambda body: post(watched.proxy, body), at_once)] == [200] * 8
    tell(record_property, "after_eight_at_once_megabytes", watched.growth_megabytes())
    assert watched.growth_megabytes() < one + 30
    assert upstream.calls("in a row 9") == upstream.calls("at once 7") == 1
    watched.has_let_go()


@pytest.mark.slow  # moves 800 MB over loopback and disk, in and out
def test_sixteen_pictures_of_50_mb_take_no_more_memory_either(
    watched: Watched, upstream: UpstreamProcess, record_property: Callable[[str, object], None]
) -> None:
    prompt, pictures = "sixteen of 50 MB", [noise(50, bytes([number])) for number in range(16)]
    began = time.monotonic()
    reply = post(watched.proxy, large_form(prompt, *pictures))
    tell(record_property, "seconds", time.monotonic() - began)
    tell(record_property, "growth_megabytes", watched.growth_megabytes())
    assert (reply.status, reply.body) == (200, body_of(prompt))
    assert watched.growth_megabytes() < MOST_GROWTH_MEGABYTES
    assert len(set(seen(upstream, prompt))) == 16
    watched.has_let_go()


def test_json_with_pictures_of_15_mb_is_held_by_nobody(
    watched: Watched, upstream: UpstreamProcess, record_property: Callable[[str, object], None]
) -> None:
    prompt = "two pictures in JSON"
    reply = post(watched.proxy, large_json(prompt, 15, 14))
    tell(record_property, "growth_megabytes", watched.growth_megabytes())
    assert (reply.status, reply.cache) == (200, "MISS")
    assert seen(upstream, prompt) == [digest_of([HEAD, *[BLOCK] * count]) for count in (15, 14)]
    assert post(watched.proxy, large_form(prompt, noise(15), noise(14))).cache == "HIT"
    assert watched.growth_megabytes() < MOST_GROWTH_MEGABYTES
    watched.has_let_go()


# --- faults of the machine --------------------------------------------------------------------------------------------


def test_what_kill_9_leaves_of_an_upload_is_swept_when_it_is_old(start: Start, tmp_path: Path) -> None:
    cache, body = tmp_path / "cache", large_form("killed during its upload", noise(3), noise(3))
    proxy = start()
    with Peer(proxy) as peer:
        peer.send(head_of(len(body), body.content_type) + b"".join(body.pieces)[:5_000_000])
        eventually(lambda: list((cache / "tmp").glob("*.spool")), what="a spool on disk")
        proxy.kill()
    left = list((cache / "tmp").iterdir())
    assert left, "what has a name stays until it is old"
    for path in left:
        os.utime(path, (time.time() - 7200,) * 2)
    successor = start()
    eventually(lambda: not list((cache / "tmp").iterdir()), what="the sweep")
    assert post(successor, body).cache == "MISS"
    eventually(lambda: left_of_uploads(cache, successor.pid) == [])


def test_while_the_disk_is_full_small_edits_are_served_and_large_ones_told_to_come_again(
    watched: Watched, upstream: UpstreamProcess
) -> None:
    proxy = watched.proxy
    process = psutil.Process(proxy.pid)
    # A file of more than 2 MB has no room: replies and the index have.
    unlimited = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (2_000_000, unlimited[1]))
    small, large = large_form("small, disk full", noise(4)), large_form("large, disk full", noise(20))
    by_json = large_json("large in JSON, disk full", 15)
    served = post(proxy, small)
    assert (served.status, served.body) == (200, body_of("small, disk full"))
    for body in (large, by_json):
        refused = post(proxy, body)
        assert (refused.status, refused.error["code"]) == (503, "no_room_for_upload")
        assert int(refused.headers["retry-after"]) > 0
    assert post(proxy, large_form("small again, disk full", noise(4))).status == 200, "memory was given back"
    assert upstream.calls("large, disk full") == upstream.calls("large in JSON, disk full") == 0
    process.rlimit(resource.RLIMIT_FSIZE, unlimited)
    assert [post(proxy, body).status for body in (large, by_json)] == [200, 200]
    watched.has_let_go()


@pytest.mark.parametrize("by", ["us", "the upstream", "the cache"])
def test_a_refused_edit_is_held_by_nobody(watched: Watched, upstream: UpstreamProcess, by: str) -> None:
    """An error and the frames it passed through know each other: without care, only the garbage collector parts them."""
    prompt = upstream.plan(f"refused by {by}", {"status": 400, "body": '{"error":{"message":"no"}}'})
    for _ in range(3):
        form = large_form(prompt, noise(5), mask=b"no mask" if by == "us" else None)
        reply = post(watched.proxy, form, {"cache-control": "only-if-cached"} if by == "the cache" else {})
        assert reply.status == (504 if by == "the cache" else 400)
    assert upstream.calls(prompt) == (3 if by == "the upstream" else 0)
    watched.has_let_go()


# --- hostile forms ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("guarded")
    section = {"receive_timeout_seconds": PATIENCE_SECONDS, "send_timeout_seconds": PATIENCE_SECONDS}
    with serving(folder, upstream.url, {"server": section}) as process:
        yield process
        eventually(lambda: process.metric("imagegate_requests_in_flight") == 0)
        eventually(lambda: left_of_uploads(folder / "cache", process.pid) == [], what="the end of all uploads")
        assert process.peak_bytes() < 250_000_000
    errors = [line for line in process.log_lines() if line["level"] in ("error", "critical")]
    assert errors == []


def head_of(length: int | None, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> bytes:
    """The head of a post; without a length it comes in chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {EDITS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {CREDENTIAL}\r\n"
        f"Content-Type: {content_type}\r\n{framing}\r\n\r\n"
    ).encode()


def honest(proxy: Proxy, prompt: str) -> RawReply:
    body = in_form(FOX, mask=MASK, prompt=prompt).content
    return told(proxy, head_of(len(body)) + body)


def told(proxy: Proxy, data: bytes) -> RawReply:
    with Peer(proxy) as peer:
        peer.send(data)
        return peer.reply()


@pytest.fixture
def unharmed(guarded: Proxy, upstream: UpstreamProcess) -> Iterator[None]:
    """After whatever a peer did, nothing was sent upstream, and the next one is served."""
    yield
    assert upstream.calls("hostile") == 0
    assert honest(guarded, "an honest edit").status == 200


HOSTILE = in_form(FOX, HAT, prompt="hostile").content
OPENING = HOSTILE[: HOSTILE.rindex(b"\r\n--")]
DELIMITER = b"\r\n--" + BOUNDARY.encode()
PART = DELIMITER + b'\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx'
NESTED = (
    DELIMITER
    + b'\r\nContent-Disposition: form-data; name="image"; filename="x"\r\nContent-Type: multipart/mixed\r\n\r\n'
)
CLOSING = DELIMITER + b"--\r\n"
WRONG = {
    "no final boundary": OPENING,
    "ten thousand parts": OPENING + b"".join(PART % b"p%d" % number for number in range(10_000)) + CLOSING,
    "ten thousand parts of one name": OPENING + (PART % b"image[]") * 10_000 + CLOSING,
    "ten thousand names in one another": OPENING + PART % (b"svg" + b"[a]" * 10_000) + CLOSING,
    "a thousand headers": OPENING + DELIMITER + b"\r\n" + b"X-Header: x\r\n" * 1000 + b"\r\nx" + CLOSING,
    "a header of a megabyte": OPENING + DELIMITER + b"\r\nX-Header: " + b"x" * 1_000_000 + b"\r\n\r\nx" + CLOSING,
    "a header without an end": OPENING + DELIMITER + b"\r\nX-Header: " + b"x" * 1_000_000,
    "a parameter without an end": OPENING
    + DELIMITER
    + b'\r\nContent-Disposition: form-data; name="'
    + b'\\"' * 1900
    + b"\r\n\r\nx"
    + CLOSING,
    "a form in a form": OPENING + (NESTED + b"\r\n--x") * 1000 + CLOSING,
    "a thousand boundaries": (DELIMITER * 1000)[2:] + CLOSING,
    "almost boundaries": OPENING + (DELIMITER[:-1] + b"x") * 50_000,
    "only a boundary": CLOSING[2:],
    "a picture that is a zip": in_form(FOX, prompt="hostile").content.replace(b"\x89PNG", b"PK\x03\x04"),
}


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_what_is_no_form_is_a_400(guarded: Proxy, name: str, framing: str) -> None:
    body = WRONG[name]
    data = head_of(len(body)) + body if framing == "length" else head_of(None) + in_chunks(body)
    began = time.monotonic()
    reply = told(guarded, data)
    assert reply.status == 400
    assert json.loads(reply.body)["error"].keys() == {"message", "type", "param", "code"}
    assert time.monotonic() - began < 5


def in_chunks(body: bytes, size: int = 40_001) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def test_an_honest_form_in_chunks_is_served(guarded: Proxy, upstream: UpstreamProcess) -> None:
    body = in_form(FOX, mask=MASK, prompt="in chunks").content
    for size in (7, 40_001):
        assert told(guarded, head_of(None) + in_chunks(body, size)).status == 200
    assert upstream.calls("in chunks") == 1


def test_who_asks_first_is_told_to_go_on_and_who_would_send_too_much_is_not(guarded: Proxy) -> None:
    """`Expect: 100-continue` (RFC 9110 section 10.1.1), as curl sends it with every large form."""
    body = in_form(FOX, mask=MASK, prompt="with your permission").content
    with Peer(guarded) as peer:
        peer.send(head_of(len(body)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        peer.socket.settimeout(5)
        assert peer.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(body)
        assert peer.reply().status == 200
    with Peer(guarded) as peer:
        peer.send(head_of(900_000_000).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert peer.reply().status == 413


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("body", [OPENING, HOSTILE], ids=["no final boundary", "a whole form"])
def test_who_announces_more_than_comes_and_hangs_up_is_nobody(guarded: Proxy, body: bytes) -> None:
    before = guarded.metric("imagegate_client_disconnects_total", operation="image_edit", stage="body")
    with Peer(guarded) as peer:
        peer.send(head_of(len(body) + 1000) + body)
    eventually(
        lambda: guarded.metric("imagegate_client_disconnects_total", operation="image_edit", stage="body") == before + 1
    )


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_who_falls_silent_is_cut_off(guarded: Proxy, framing: str) -> None:
    data = head_of(len(HOSTILE)) if framing == "length" else head_of(None) + b"%x\r\n" % len(HOSTILE)
    with Peer(guarded) as peer:
        peer.send(data + OPENING)
        reply = peer.reply(PATIENCE_SECONDS * 5)
        assert (reply.status, reply.code, reply.headers["connection"]) == (408, "request_timeout", "close")
        peer.receive(PATIENCE_SECONDS * 3)
        assert peer.is_closed


@pytest.mark.usefixtures("unharmed")
def test_who_sends_without_an_end_is_stopped(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.send(head_of(None) + in_chunks(OPENING)[: -len(b"0\r\n\r\n")])
        chunk = b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK)
        sent = next((number for number in range(70) if not peer.send(chunk)), 70)
        assert sent == 70, "it is let, so that it reads why"
        assert peer.reply().code == "file_too_large"
        assert peer.reply().status in (0, 400)


def test_a_large_form_may_take_longer_than_a_small_one(guarded: Proxy, upstream: UpstreamProcess) -> None:
    """Each megabyte that has come buys four more seconds: what counts is the pace."""
    body = large_form("a large form, slowly", noise(3))
    content = b"".join(body.pieces)
    with Peer(guarded) as peer:
        peer.send(head_of(len(content), body.content_type) + content[:2_000_000])
        select.select([peer.socket], [], [], PATIENCE_SECONDS * 1.5)
        peer.send(content[2_000_000:])
        assert peer.reply().status == 200
    assert upstream.calls("a large form, slowly") == 1


# --- with everything real ---------------------------------------------------------------------------------------------


def picture(color: str, kind: str, **more: Any) -> io.BytesIO:
    file = io.BytesIO(painted(color, kind=kind, size=(600, 400), **more))
    file.name = f"picture.{kind.lower()}"
    return file


def test_the_official_sdk_edits_two_pictures_and_gets_one_that_opens(tmp_path: Path) -> None:
    config = tmp_path / "imagegate.toml"
    config.write_text('[cache]\ndirectory = "cache"\nmin_free_bytes = "1MB"\n')
    proxy = Proxy("--with-sandbox", "--port", "0", "--config", str(config), log=tmp_path / "imagegate.log")
    children = proxy.children()
    try:
        with openai.OpenAI(base_url=proxy.url, api_key="sk-any", max_retries=0, timeout=60) as client:
            replies = [
                client.images.with_raw_response.edit(
                    model="gpt-image-2",
                    image=[picture("orange", "PNG"), picture("green", "JPEG", mode="RGB")],
                    mask=picture("#00000000", "PNG"),
                    prompt="a lighthouse at night",
                    size="1024x640",
                )
                for _ in range(2)
            ]
        assert [reply.headers["x-imagegate-cache"] for reply in replies] == ["MISS", "HIT"]
        first, second = (reply.parse().data for reply in replies)
        assert first and second and first[0].b64_json and first[0].b64_json == second[0].b64_json
        image = Image.open(io.BytesIO(base64.b64decode(first[0].b64_json)))
        image.load()
        assert (image.format, image.size) == ("PNG", (1024, 640))
        eventually(lambda: left_of_uploads(tmp_path / "cache", proxy.pid) == [])
        assert proxy.stop() == 0
    finally:
        proxy.kill()
        for child in children:
            if child.is_running():
                child.kill()


def test_who_sends_all_before_reading_learns_why_an_upload_was_refused(proxy: Proxy) -> None:
    """It got a reset, and sent everything again: the asynchronous clients of Python are such."""
    body = b"x" * 30_000_000
    head = (
        "POST /v1/images/edits HTTP/1.1\r\nhost: proxy.test\r\ncontent-type: text/plain\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port)) as peer:
        peer.settimeout(20)
        peer.sendall(head.encode() + body)
        answer = b""
        while part := peer.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"invalid_api_key" in answer

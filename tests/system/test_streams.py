"""Streams over real sockets: many readers of one purchase, slow ones, ones who leave; and every way in which one breaks."""

import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.caller import CREDENTIAL, Reply, ask, ask_on, asking, request_of
from tests.support.events import Told, events_in
from tests.support.polling import eventually
from tests.support.process import Proxy, serving
from tests.support.raw import Peer, message
from tests.support.upstream_process import BLOCKS_OF_12_MB, UpstreamProcess, body_of, event_of, event_parts

Start = Callable[..., Proxy]

PATIENCE_SECONDS = 1.0
"""Of the impatient proxy: with readers that take nothing, and with its upstream."""
IMPATIENT = {"connect_timeout_seconds": PATIENCE_SECONDS / 2, "total_timeout_seconds": PATIENCE_SECONDS}
BLOCKS_OF_3_MB = 3_000_000 // 65_536 + 1
STREAMED = {"stream": True, "partial_images": 1}
TWO = {"stream": True, "partial_images": 2}
HELD = {"stream": {"partials": 1, "hold_after": 1}}
"""One partial image, and then nothing until it is released."""
HOURS_SECONDS = 7200
LIMIT_BYTES = 300_000_000


class Reader:
    """A client of one stream on a connection of its own, who reads when told to."""

    def __init__(
        self,
        proxy: Proxy,
        prompt: str,
        *,
        members: dict[str, Any] | None = None,
        receive_buffer: int | None = None,
        version: str = "1.1",
    ) -> None:
        self._peer = Peer(proxy, receive_buffer=receive_buffer)
        content = json.dumps(request_of(prompt, STREAMED if members is None else members)).encode()
        request = message(body=content)
        self._peer.send(request.replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._peer.socket.close()

    @property
    def head(self) -> bytes:
        return self._peer.received.partition(b"\r\n\r\n")[0].lower()

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def body(self) -> bytes:
        """What has come of it so far, without its framing."""
        return self._unframed()[0]

    @property
    def is_ended(self) -> bool:
        """It came to its end, and the connection to its own."""
        return self._peer.is_closed and self._unframed()[1]

    @property
    def events(self) -> list[Told]:
        return events_in(self.body)

    def told(self, count: int) -> None:
        """Returns when so many events have come whole."""
        deadline = time.monotonic() + 20
        while len(self.events) < count:
            assert not self._peer.is_closed, "the stream is over"
            assert time.monotonic() < deadline, f"{len(self.events)} events of {count}"
            self._peer.receive(0.005)

    def finish(self, seconds: float = 20.0) -> "Reader":
        """Takes everything, up to the end of the connection."""
        self._peer.socket.settimeout(seconds)
        parts = [self._peer.received]
        try:
            while part := self._peer.socket.recv(1 << 20):
                parts.append(part)
        except ConnectionError:
            pass
        self._peer.received, self._peer.is_closed = b"".join(parts), True
        return self

    def sip(self, size: int, *, pause: float, seconds: float) -> None:
        self._peer.sip(size, pause=pause, seconds=seconds)

    def digest(self) -> str:
        """Takes everything, and keeps nothing but this; of a body that has no end, a digest of nothing."""
        self.finish(60)
        body, is_ended = self._unframed()
        self._peer.received = b""
        return hashlib.sha256(body if is_ended else b"").hexdigest()

    def leave(self, *, rudely: bool = False) -> None:
        """Closes; rudely: with a reset."""
        if rudely:
            self._peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._peer.socket.close()

    def _unframed(self) -> tuple[bytes, bool]:
        rest = self._peer.received.partition(b"\r\n\r\n")[2]
        if b"content-length" in self.head:
            return rest, True
        parts: list[bytes] = []
        at = 0
        while (end := rest.find(b"\r\n", at)) >= 0:
            size = int(rest[at:end], 16)
            if size == 0:
                return b"".join(parts), True
            parts.append(rest[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
        return b"".join(parts), False


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    sections = {
        "server": {"send_timeout_seconds": PATIENCE_SECONDS},
        "upstream": IMPATIENT,
    }
    with serving(tmp_path_factory.mktemp("impatient"), upstream.url, sections) as process:
        yield process


def whole_stream(prompt: str, partials: int, blocks: int = 0) -> bytes:
    """Every byte of a stream."""
    return b"".join(event_of(prompt, index, blocks) for index in (*range(partials), None))


def digest_of_stream(prompt: str, partials: int, blocks: int) -> str:
    digest = hashlib.sha256()
    for index in (*range(partials), None):
        for part in event_parts(prompt, index, blocks):
            digest.update(part)
    return digest.hexdigest()


def is_stored(proxy: Proxy, prompt: str) -> bool:
    return ask(proxy, prompt, headers={"cache-control": "only-if-cached"}).status == 200


def in_flight(proxy: Proxy) -> float:
    return proxy.metric("imagegate_requests_in_flight", operation="image_generation")


def landed(proxy: Proxy) -> None:
    eventually(lambda: proxy.metric("imagegate_flights_in_flight") == 0, what="the landing of all flights")


def is_draining(proxy: Proxy) -> bool:
    return any(line["msg"] == "draining" for line in proxy.log_lines())


def report(record_property: Callable[[str, object], None], proxy: Proxy) -> None:
    megabytes = proxy.peak_bytes() / 1e6
    record_property("peak_resident_megabytes", round(megabytes, 1))
    print(f"peak resident memory: {megabytes:.1f} MB")  # noqa: T201 - shown with -rP


# --- Many readers -----------------------------------------------------------------------------------------------------


def test_fifty_readers_of_one_stream_are_one_call_and_each_gets_every_byte(
    proxy: Proxy, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("fifty readers", {"stream": {"partials": 2, "hold_after": 1, "blocks": 1}})
    with ExitStack() as stack:
        early = [stack.enter_context(Reader(proxy, prompt, members=TWO)) for _ in range(25)]
        for reader in early:
            reader.told(1)
        late = [stack.enter_context(Reader(proxy, prompt, members=TWO)) for _ in range(25)]
        for reader in late:  # who comes late has what has passed, at once
            reader.told(1)
        assert upstream.held(prompt) == 1
        upstream.release(prompt)
        for reader in (*early, *late):
            assert reader.finish().body == whole_stream(prompt, 2, 1)
            assert reader.is_ended
        words = [
            line.partition(b": ")[2]
            for reader in (*early, *late)
            for line in reader.head.split(b"\r\n")
            if line.startswith(b"x-imagegate-cache:")
        ]
    assert sorted(words) == [*[b"coalesced"] * 49, b"miss"]
    assert upstream.calls(prompt) == 1
    assert ask(proxy, prompt).cache == "HIT"


def test_plain_requests_that_join_a_stream_get_a_reply_and_streams_that_join_them_get_an_event(
    proxy: Proxy, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("both shapes at once", HELD)
    with Reader(proxy, prompt) as reader:
        reader.told(1)
        before = in_flight(proxy)
        with asking(proxy, [prompt] * 5) as answers:
            eventually(lambda: in_flight(proxy) == before + 5)
            upstream.release(prompt)
            event = json.loads(event_of(prompt, None).partition(b"data: ")[2])
            for answer in answers:
                reply = answer.result()
                assert (reply.status, reply.cache) == (200, "COALESCED")
                assert json.loads(reply.body)["data"] == [{"b64_json": event["b64_json"]}]
        assert reader.finish().is_ended
    assert upstream.calls(prompt) == 1


# --- Slow readers -----------------------------------------------------------------------------------------------------


def test_who_takes_nothing_is_closed_and_delays_nobody(impatient: Proxy, upstream: UpstreamProcess) -> None:
    plan = {"stream": {"partials": 1, "hold_after": 1, "blocks": BLOCKS_OF_12_MB}}
    prompt = upstream.plan("nobody takes it", plan)
    before = impatient.metric("imagegate_client_disconnects_total", stage="body")
    with Reader(impatient, prompt, receive_buffer=8192), Reader(impatient, prompt) as quick:
        eventually(lambda: upstream.held(prompt) == 1)
        upstream.release(prompt)
        began = time.monotonic()
        assert quick.digest() == digest_of_stream(prompt, 1, BLOCKS_OF_12_MB)
        assert time.monotonic() - began < 3, "24 MB over loopback"
        eventually(
            lambda: impatient.metric("imagegate_client_disconnects_total", stage="body") == before + 1,
            seconds=PATIENCE_SECONDS * 5,
            what="the end of patience",
        )
    eventually(lambda: in_flight(impatient) == 0)
    assert upstream.calls(prompt) == 1


def test_who_takes_little_is_not_closed_and_gets_every_byte(impatient: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("taken in sips", {"stream": {"partials": 1, "blocks": BLOCKS_OF_3_MB}})
    with Reader(impatient, prompt, receive_buffer=65_536) as reader:
        reader.sip(1 << 16, pause=PATIENCE_SECONDS / 4, seconds=PATIENCE_SECONDS * 2.5)
        assert reader.digest() == digest_of_stream(prompt, 1, BLOCKS_OF_3_MB)


def test_64_slow_readers_of_a_stream_of_12_mb_events_cost_little_memory(
    start: Start, upstream: UpstreamProcess, record_property: Callable[[str, object], None]
) -> None:
    proxy = start()
    plan = {"stream": {"partials": 1, "hold_after": 1, "blocks": BLOCKS_OF_12_MB}}
    prompt = upstream.plan("64 slow readers", plan)
    with ExitStack() as stack:
        readers = [stack.enter_context(Reader(proxy, prompt, receive_buffer=16_384)) for _ in range(64)]
        for reader in readers:
            reader.sip(1024, pause=0, seconds=0.001)
        upstream.release(prompt)
        with Reader(proxy, prompt) as quick:
            assert quick.digest() == digest_of_stream(prompt, 1, BLOCKS_OF_12_MB)
        for _ in range(3):
            for reader in readers:
                reader.sip(1024, pause=0, seconds=0.001)
        assert in_flight(proxy) == 64
    report(record_property, proxy)
    assert proxy.peak_bytes() < LIMIT_BYTES
    eventually(lambda: in_flight(proxy) == 0)
    assert upstream.calls(prompt) == 1


def test_32_different_streams_of_3_mb_events_at_once_cost_little_memory(
    start: Start, upstream: UpstreamProcess, record_property: Callable[[str, object], None]
) -> None:
    proxy = start()
    prompts = [f"three megabytes {number}" for number in range(32)]
    upstream.plan_each(
        {prompt: {"hold": True, "stream": {"partials": 2, "blocks": BLOCKS_OF_3_MB}} for prompt in prompts}
    )
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        readers = [stack.enter_context(Reader(proxy, prompt, members=TWO)) for prompt in prompts]
        eventually(lambda: upstream.held_in_all() >= len(prompts))
        upstream.release_all()
        for prompt, digest in zip(prompts, pool.map(Reader.digest, readers), strict=True):
            assert digest == digest_of_stream(prompt, 2, BLOCKS_OF_3_MB)
    report(record_property, proxy)
    assert proxy.peak_bytes() < LIMIT_BYTES
    assert proxy.metric("imagegate_cache_entries", tier="disk") == len(prompts)


# --- Readers who leave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rudely", [False, True], ids=["in good order", "with a reset"])
def test_who_leaves_a_stream_finds_it_finished_and_stored(
    proxy: Proxy, upstream: UpstreamProcess, rudely: bool
) -> None:
    prompt = upstream.plan(f"left {rudely}", HELD)
    before = proxy.metric("imagegate_client_disconnects_total", stage="body")
    with Reader(proxy, prompt) as reader:
        reader.told(1)
        reader.leave(rudely=rudely)
        eventually(lambda: proxy.metric("imagegate_client_disconnects_total", stage="body") == before + 1)
        assert proxy.metric("imagegate_flights_in_flight") == 1
        upstream.release(prompt)
        landed(proxy)
    again = ask(proxy, prompt, members=STREAMED)
    assert (again.cache, again.body, upstream.calls(prompt)) == ("HIT", event_of(prompt, None), 1)


def test_who_comes_back_to_a_stream_joins_it_from_its_start(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("left and come back", HELD)
    with Reader(proxy, prompt) as first:
        first.told(1)
        first.leave(rudely=True)
    with Reader(proxy, prompt) as second:
        second.told(1)
        upstream.release(prompt)
        assert second.finish().body == whole_stream(prompt, 1)
    assert upstream.calls(prompt) == 1


# --- The process leaves -----------------------------------------------------------------------------------------------


def test_sigterm_in_a_stream_finishes_stores_and_leaves_with_0(start: Start, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("streamed at SIGTERM", HELD)
    proxy = start()
    with Reader(proxy, prompt) as reader, Reader(proxy, prompt) as other:
        reader.told(1)
        other.told(1)
        proxy.terminate()
        eventually(lambda: is_draining(proxy))
        assert proxy.exit_code is None, "it must wait for its flight, and its readers"
        upstream.release(prompt)
        for each in (reader, other):
            assert each.finish().body == whole_stream(prompt, 1)
            assert each.is_ended
    assert proxy.wait() == 0
    hit = ask(start(), prompt, members=STREAMED)
    assert (hit.cache, hit.body, upstream.calls(prompt)) == ("HIT", event_of(prompt, None), 1)


def test_the_second_signal_ends_a_stream_visibly_broken(start: Start, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("streamed at two signals", HELD)
    proxy = start()
    with Reader(proxy, prompt) as reader:
        reader.told(1)
        proxy.terminate()
        eventually(lambda: is_draining(proxy))
        proxy.terminate()
        assert proxy.wait(3) != 0, "0 would say that nothing was lost"
        reader.finish()
        assert not reader.is_ended
        assert [each.name for each in reader.events] == ["image_generation.partial_image"]


def test_kill_9_in_a_stream_stores_nothing_and_leaves_nothing(
    start: Start, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    plan = {"stream": {"partials": 3, "blocks": 2 * BLOCKS_OF_12_MB}}
    prompt = upstream.plan("streamed at kill -9", plan, {})
    spools = tmp_path / "cache" / "tmp"
    proxy = start()
    with Reader(proxy, prompt, members={"stream": True, "partial_images": 3}) as reader:
        eventually(lambda: list(spools.glob("*.spool")), what="an event on its way to the disk")
        proxy.kill()
        assert not reader.finish().is_ended
    long_ago = time.time() - HOURS_SECONDS
    for path in spools.glob("*.spool"):
        os.utime(path, (long_ago, long_ago))
    successor = start()
    eventually(lambda: not list(spools.glob("*.spool")), what="the sweep")
    assert not is_stored(successor, prompt)
    again = ask(successor, prompt, members=STREAMED)
    assert (again.cache, again.body, upstream.calls(prompt)) == ("MISS", whole_stream(prompt, 1), 2)


# --- The upstream breaks ----------------------------------------------------------------------------------------------


def _bought_again(proxy: Proxy, upstream: UpstreamProcess, prompt: str) -> None:
    """Nothing of what broke is served: it is bought anew."""
    assert not is_stored(proxy, prompt)
    again = ask(proxy, prompt, members=STREAMED)
    assert (again.status, again.cache, upstream.calls(prompt)) == (200, "MISS", 2)
    assert again.body == whole_stream(prompt, 1)


def _followed(proxy: Proxy, upstream: UpstreamProcess, prompt: str) -> tuple[Reader, Reply]:
    """What a reader and a plain request got that were in one flight; the second joined after the first event."""
    with Reader(proxy, prompt) as reader:
        reader.told(1)
        before = in_flight(proxy)
        with asking(proxy, [prompt]) as (answer,):
            eventually(lambda: in_flight(proxy) == before + 1 or answer.done())
            upstream.release(prompt)
            reply = answer.result()
        reader.finish()
    return reader, reply


@pytest.mark.parametrize("fault", ["cut_stream", "cut_event", "no_completed"])
def test_a_stream_that_is_cut_ends_visibly_broken_and_is_a_502_for_plain_requests(
    proxy: Proxy, upstream: UpstreamProcess, fault: str
) -> None:
    prompt = upstream.plan(f"broken stream: {fault}", {"fault": fault, **HELD}, {})
    reader, reply = _followed(proxy, upstream, prompt)
    assert reader.body.startswith(event_of(prompt, 0))
    assert [each.name for each in reader.events] == ["image_generation.partial_image", "error"]
    error = reader.events[1].json
    assert (error["type"], error["error"]["code"]) == ("error", "upstream_connection_lost")
    assert not reader.is_ended
    assert (reply.status, reply.error["code"]) == (502, "upstream_connection_lost")
    assert reply.headers["x-should-retry"] == "false"
    _bought_again(proxy, upstream, prompt)


@pytest.mark.parametrize("fault", ["stall_stream", "drip_stream"])
def test_a_stream_that_takes_too_long_ends_visibly_broken_and_is_a_504_for_plain_requests(
    impatient: Proxy, upstream: UpstreamProcess, fault: str
) -> None:
    prompt = upstream.plan(f"slow stream: {fault}", {"fault": fault, "stream": {"partials": 1}}, {})
    reader, reply = _followed(impatient, upstream, prompt)
    assert [each.name for each in reader.events] == ["image_generation.partial_image", "error"]
    assert reader.events[1].json["error"]["code"] == "upstream_timeout"
    assert not reader.is_ended
    assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
    assert reply.headers["x-should-retry"] == "false"
    _bought_again(impatient, upstream, prompt)


def test_an_error_among_the_events_is_told_in_its_own_words_and_ends_the_stream_in_good_order(
    proxy: Proxy, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("an error event", {"fault": "error_event", **HELD}, {})
    reader, reply = _followed(proxy, upstream, prompt)
    assert [each.name for each in reader.events] == ["image_generation.partial_image", "error"]
    error = reader.events[1].json["error"]
    assert (error["code"], error["type"]) == ("image_generation_failed", "image_generation_server_error")
    assert reader.is_ended
    assert (reply.status, reply.error) == (502, error)
    assert reply.headers["x-should-retry"] == "false"
    _bought_again(proxy, upstream, prompt)


@pytest.mark.parametrize(
    ("ending", "code"), [("reset", "upstream_connection_lost"), ("silence", "upstream_timeout")], ids=str
)
def test_an_upstream_that_ends_within_an_event(start: Start, ending: str, code: str) -> None:
    """By a reset, or by nothing: what came of the event is never shown."""
    prompt = "ends within an event"
    with HalfUpstream(event_of(prompt, 0) + event_of(prompt, None, 8)[:400_000], ending) as half:
        proxy = start({"upstream": {"base_url": half.url, **IMPATIENT}})
        with Reader(proxy, prompt) as reader:
            reader.told(1)
            half.go.set()
            reader.finish()
            assert [each.name for each in reader.events] == ["image_generation.partial_image", "error"]
            assert reader.events[1].json["error"]["code"] == code
            assert not reader.is_ended
        assert not is_stored(proxy, prompt)
        eventually(lambda: proxy.metric("imagegate_flights_in_flight") == 0)


class HalfUpstream:
    """Answers one call with the beginning of a stream; when told to `go`, resets the connection, or stays silent."""

    def __init__(self, beginning: bytes, ending: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._chunk = b"%x\r\n%s\r\n" % (len(beginning), beginning)
        self._ending = ending
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.go = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "HalfUpstream":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.go.set()
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        self._listener.settimeout(20)
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(10)
            connection.recv(1 << 16)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            connection.sendall(head + self._chunk)
            self.go.wait(10)
            if self._ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                while connection.recv(1 << 16):
                    pass  # until the proxy hangs up


@pytest.mark.parametrize(
    ("status", "headers"),
    [(401, {}), (429, {"retry-after": "7"}), (500, {"x-should-retry": "false"})],
    ids=["401", "429", "500"],
)
def test_a_refusal_before_the_stream_keeps_its_status_and_its_words(
    proxy: Proxy, upstream: UpstreamProcess, status: int, headers: dict[str, str]
) -> None:
    body = '{"error":{"message":"no","type":"its own","param":null,"code":"its_own"}}'
    prompt = upstream.plan(f"refused with {status}", {"status": status, "body": body, "headers": headers}, {})
    refused = ask(proxy, prompt, members=STREAMED)
    assert (refused.status, refused.body, refused.headers["content-type"]) == (
        status,
        body.encode(),
        "application/json",
    )
    assert headers.items() <= refused.headers.items()
    assert upstream.calls(prompt) == 1
    _bought_again(proxy, upstream, prompt)


# --- The connection ---------------------------------------------------------------------------------------------------


def test_a_connection_serves_on_after_a_stream(proxy: Proxy, upstream: UpstreamProcess) -> None:
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    try:
        for turn in range(3):
            prompt = f"kept open {turn}"
            bought = ask_on(connection, prompt, members=STREAMED)
            near = connection.sock.getsockname()
            assert (bought.cache, bought.body) == ("MISS", whole_stream(prompt, 1))
            assert ask_on(connection, prompt, members=STREAMED).body == event_of(prompt, None)
            assert json.loads(ask_on(connection, prompt).body)["data"]
            connection.request("HEAD", "/healthz")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"")
            assert ask_on(connection, f"plain {turn}").body == body_of(f"plain {turn}")
            assert connection.sock.getsockname() == near, "it was one connection all the time"
    finally:
        connection.close()


def test_what_is_pipelined_behind_a_stream_is_answered_after_it(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("before a pipeline", HELD)
    content = json.dumps(request_of(prompt, STREAMED)).encode()
    with Peer(proxy) as peer:
        peer.send(message(body=content, close=False) + message("behind a stream"))
        eventually(lambda: upstream.held(prompt) == 1)
        peer.receive(0.2)
        assert b"behind" not in peer.received and peer.received.count(b"HTTP/1.1") == 1
        upstream.release(prompt)
        peer.receive(20)
    stream, end, rest = peer.received.partition(b"\r\n0\r\n\r\n")
    assert end and stream.endswith(b"\n\n")
    assert rest.startswith(b"HTTP/1.1 200") and rest.endswith(body_of("behind a stream"))


def test_a_client_of_http_1_0_gets_events_without_chunks(proxy: Proxy, upstream: UpstreamProcess) -> None:
    """RFC 9112 section 6.1: what it never said it understands must not be sent to it."""
    prompt = "asked in HTTP/1.0"
    with Peer(proxy) as peer:
        content = json.dumps(request_of(prompt, STREAMED)).encode()
        head = f"POST /v1/images/generations HTTP/1.0\r\nAuthorization: {CREDENTIAL}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        peer.send(head.encode() + content)
        peer.receive(20)
        assert peer.is_closed
    got, _, body = peer.received.partition(b"\r\n\r\n")
    assert got.split()[1] == b"200"
    assert b"transfer-encoding" not in got.lower()
    assert body == whole_stream(prompt, 1)

"""bench/upstream.c, bench/load.c and bench/build.py: what is measured with must itself be right."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pybase64
import pytest

from bench import build as building
from bench.build import NO_COMPILER, Programs, build
from bench.process import free_port
from bench.system import Skipped
from tests.support.polling import eventually

PATIENCE_SECONDS = 10
PNG = b"\x89PNG\r\n\x1a\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@pytest.fixture(scope="session")
def programs() -> Programs:
    try:
        return build()
    except Skipped as reason:
        pytest.skip(str(reason))


def ended(process: subprocess.Popen[str]) -> str:
    """What it printed since. It was asked to end, and did so without a complaint."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, err) == (0, "")
    return out


def read_head(reader: BinaryIO) -> bytes:
    """Without its empty line; empty at the end of the connection."""
    lines = []
    while (line := reader.readline()) not in (b"", b"\r\n"):
        lines.append(line)
    return b"".join(lines)


# ---- the load, against servers that do as they are told ----


@dataclass
class Scripted:
    """A server whose replies are written down, one for each request in the order of their arrival, and then OK.

    A reply is what is sent, in the pieces it is sent in; None closes the connection.
    """

    script: list[Sequence[bytes | None]] = field(default_factory=list)
    otherwise: Sequence[bytes | None] = (OK,)
    requests: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """The number of the connection, the head, the body."""
    connections: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bodies(self) -> list[str]:
        return [body.decode() for _, _, body in self.requests]

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.converse, args=(connection, self.connections), daemon=True).start()

    def converse(self, connection: socket.socket, number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as reader:
            while head := read_head(reader):
                length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
                body = reader.read(int(length[1])) if length else b""
                with self.lock:
                    reply = self.script.pop(0) if self.script else self.otherwise
                    self.requests.append((number, head, body))
                for piece in reply:
                    if piece is None:
                        return
                    connection.sendall(piece)


@contextlib.contextmanager
def scripted(*script: Sequence[bytes | None], otherwise: Sequence[bytes | None] = (OK,)) -> Iterator[Scripted]:
    server = Scripted(list(script), otherwise)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        server.port = listener.getsockname()[1]
        accepting = threading.Thread(target=server.accept, args=(listener,))
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


@dataclass(frozen=True)
class Client:
    program: Path

    def start(self, port: int, *options: str, body: str = "{}", connections: int = 1) -> subprocess.Popen[str]:
        command = [str(self.program), "--port", str(port), "--connections", str(connections), "--body", body]
        return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, port: int, *options: str, body: str = "{}", connections: int = 1) -> Any:
        return json.loads(ended(self.start(port, *options, body=body, connections=connections)))


@pytest.fixture
def load(programs: Programs) -> Client:
    return Client(programs.load)


def test_the_connections_are_kept(load: Client) -> None:
    with scripted() as server:
        result = load.run(server.port, "--count", "30", connections=3)
    assert (result["replies"], result["errors"], result["bytes"]) == (30, 0, 150)
    assert (result["statuses"], result["labels"]) == ({"200": 30}, {})
    assert len(server.requests) == 30
    assert server.connections <= 3


def test_the_result_has_every_figure(load: Client) -> None:
    with scripted() as server:
        result = load.run(server.port, "--count", "20")
    assert 0 < result["min_ms"] <= result["p50_ms"] <= result["p90_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["rate"] == pytest.approx(20 / result["seconds"], rel=0.01)
    assert 0 < result["cpu_seconds"] < 1


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--start", "98"), [98, 99, 100, 101, 102]),
        (("--keys", "2"), [0, 1, 0, 1, 0]),
        (("--keys", "3", "--start", "9"), [9, 10, 11, 9, 10]),
    ],
)
def test_each_request_has_its_number(load: Client, options: Sequence[str], numbers: list[int]) -> None:
    with scripted() as server:
        load.run(server.port, "--count", "5", *options, body='{"prompt":"{n}, again {n}"}')
    assert server.bodies == [f'{{"prompt":"{number}, again {number}"}}' for number in numbers]


def test_the_numbers_go_over_all_connections(load: Client) -> None:
    with scripted() as server:
        load.run(server.port, "--count", "40", body="{n}", connections=4)
    assert sorted(map(int, server.bodies)) == list(range(40))


def test_a_request_says_what_it_was_told_to(load: Client) -> None:
    with scripted() as server:
        load.run(
            server.port,
            "--count",
            "1",
            "--path",
            "/v1/other",
            "--header",
            "authorization: Bearer x",
            "--header",
            "x-a: b",
        )
        load.run(server.port, "--count", "1", "--header", "Content-Type: text/plain", "--header", "Host: example")
    first, second = (head.decode() for _, head, _ in server.requests)
    assert first == (
        f"POST /v1/other HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-type: application/json\r\n"
        "authorization: Bearer x\r\nx-a: b\r\ncontent-length: 2\r\n"
    )
    assert second == (
        "POST /v1/images/generations HTTP/1.1\r\nContent-Type: text/plain\r\nHost: example\r\ncontent-length: 2\r\n"
    )


def single_bytes(text: bytes) -> list[bytes]:
    return [text[at : at + 1] for at in range(len(text))]


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n00A; name=value\r\n0123\r\n\r\n89\r\n0\r\nx-trailer: 1\r\n\r\n"
)


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        ((OK,), 5),
        (single_bytes(OK), 5),
        ((b"HTTP/1.1 200 OK\r\ncontent-length:  300000 \r\n\r\n", bytes(1000), bytes(299_000)), 300_000),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000),), 300_000),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",), 0),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), 0),
        ((CHUNKED,), 15),
        (single_bytes(CHUNKED), 15),
        (
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n61A80\r\n", bytes(400_000), b"\r\n0\r\n\r\n"),
            400_000,
        ),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" + OK,), 5),
        ((*single_bytes(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"), OK), 5),
    ],
)
def test_a_reply_is_taken_whole_and_its_connection_kept(load: Client, reply: Sequence[bytes], size: int) -> None:
    with scripted(reply, (OK,), reply) as server:
        result = load.run(server.port, "--count", "4")
    assert (result["replies"], result["errors"], result["bytes"]) == (4, 0, 2 * size + 10)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        ((b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", None), 5),
        ((b"HTTP/1.1 200 OK\r\nConnection: Close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",), 2),
        ((b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", None), 5),
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"to the", b" end", None), 10),
    ],
)
def test_a_connection_that_closes_is_opened_again(load: Client, reply: Sequence[bytes | None], size: int) -> None:
    with scripted(otherwise=reply) as server:
        result = load.run(server.port, "--count", "3")
    assert (result["replies"], result["errors"], result["bytes"]) == (3, 0, 3 * size)
    assert [number for number, _, _ in server.requests] == [1, 2, 3]


@pytest.mark.parametrize(
    "reply",
    [
        (None,),
        (b"HTTP/1.1 200 OK\r\ncontent-le", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + bytes(99_999), None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnone\r\n",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhello",),
        (b"hello\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,),
    ],
)
def test_a_reply_cut_short_is_an_error_and_the_rest_go_on(load: Client, reply: Sequence[bytes | None]) -> None:
    with scripted((OK,), reply) as server:
        result = load.run(server.port, "--count", "4", body="{n}")
    assert (result["replies"], result["errors"], result["bytes"], result["statuses"]) == (3, 1, 15, {"200": 3})
    assert server.bodies == ["0", "1", "2", "3"]
    assert server.connections == 2


def test_statuses_and_labels_are_counted(load: Client) -> None:
    def reply(status: str, *headers: str) -> Sequence[bytes]:
        return ["\r\n".join([f"HTTP/1.1 {status}", *headers, "content-length: 0", "", ""]).encode()]

    with scripted(
        reply("200 OK", "X-Cache: HIT"),
        reply("200 OK", "X-Imagegate-Cache: miss", "X-Cache: other"),
        reply("200 OK", "X-Cache: other", "X-Imagegate-Cache: hit"),
        reply("429 Too Many Requests", 'X-Cache: "a\\b"'),
        reply("503"),
    ) as server:
        result = load.run(server.port, "--count", "5")
    assert result["statuses"] == {"200": 3, "429": 1, "503": 1}
    assert result["labels"] == {"hit": 2, "miss": 1, "_a_b_": 1}


def test_without_a_server_each_turn_is_an_error(load: Client) -> None:
    result = load.run(free_port(), "--count", "6", connections=2)
    assert (result["replies"], result["errors"], result["statuses"], result["p50_ms"]) == (0, 6, {}, 0)


def test_it_ends_in_its_time(load: Client) -> None:
    with scripted(otherwise=()) as silent:
        result = load.run(silent.port, "--count", "4", "--timeout", "0.1", connections=2)
    assert (result["replies"], result["errors"], len(silent.requests)) == (0, 0, 2)
    assert 0.1 <= result["seconds"] < 1
    with scripted() as server:
        result = load.run(server.port, "--seconds", "0.1", connections=2)
    assert result["replies"] > 1
    assert 0.1 <= result["seconds"] < 1


def test_it_may_be_told_to_end(load: Client) -> None:
    with scripted((OK,), otherwise=()) as server:
        process = load.start(server.port, "--count", "5")
        eventually(lambda: len(server.requests) == 2)
        process.send_signal(signal.SIGTERM)
        assert json.loads(ended(process))["replies"] == 1


def test_it_holds_its_connections_after_the_result(load: Client) -> None:
    with scripted() as server:
        process = load.start(server.port, "--count", "2", "--hold")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["replies"] == 2
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert ended(process) == ""


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--port", "1", "--connections", "1", "--body", "x"),
        ("--port", "1", "--connections", "1", "--count", "1"),
        ("--port", "1", "--connections", "0", "--count", "1", "--body", "x"),
        ("--port", "1", "--connections", "1", "--count", "1", "--body", "x", "more"),
    ],
)
def test_it_says_how_it_is_used(programs: Programs, options: Sequence[str]) -> None:
    for program in (programs.load, programs.upstream):
        done = subprocess.run([program, *options], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.startswith("usage: ")) == (2, True)


# ---- the upstream, asked on raw sockets ----


@dataclass
class Answer:
    head: str
    body: bytes

    @property
    def picture(self) -> bytes:
        return pybase64.b64decode(json.loads(self.body)["data"][0]["b64_json"], validate=True)


class Peer:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.reader.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, prompt: str, *, version: str = "1.1", header: str = "") -> None:
        body = json.dumps({"model": "gpt-image-2", "prompt": prompt})
        self.send(f"POST /v1/x HTTP/{version}\r\n{header}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def answer(self) -> Answer:
        head = read_head(self.reader).decode()
        length = re.search(r"content-length: (\d+)", head)
        return Answer(head, self.reader.read(int(length[1])) if length else b"")

    def is_closed(self) -> bool:
        return self.reader.read(1) == b""


@dataclass(frozen=True)
class Upstream:
    port: int
    process: subprocess.Popen[str]

    def peer(self) -> Peer:
        return Peer(self.port)

    def picture(self, prompt: str) -> Answer:
        with self.peer() as peer:
            peer.ask(prompt)
            return peer.answer()

    def told(self, request: str) -> Any:
        with self.peer() as peer:
            peer.send(f"{request} HTTP/1.1\r\n\r\n".encode())
            return json.loads(peer.answer().body)

    def calls(self) -> tuple[int, int]:
        found = self.told("GET /calls")
        return found["calls"], found["aborted"]


@pytest.fixture
def upstream(programs: Programs) -> Iterator[Upstream]:
    port = free_port()
    command = [str(programs.upstream), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    try:
        yield Upstream(port, process)
    finally:
        process.terminate()
        assert ended(process) == ""


@pytest.mark.parametrize("size", [400, 401, 402, 403, 2_000, 300_001, 3_000_002, 12_000_003])
def test_a_reply_is_as_large_as_asked(upstream: Upstream, size: int) -> None:
    answer = upstream.picture(f"a cat, bytes={size} of it")
    assert len(answer.body) == size
    assert answer.picture.startswith(PNG + b"\x00\x00\x00\rIHDR")
    assert json.loads(answer.body)["usage"]["total_tokens"] == 1766
    assert "content-type: application/json\r\n" in answer.head


def test_a_size_that_is_missing_or_odd(upstream: Upstream) -> None:
    assert len(upstream.picture("a cat").body) == 2_000
    assert len(upstream.picture("bytes= many, bytes=3000").body) == 3_000
    smallest = upstream.picture("bytes=0")
    assert smallest.picture.startswith(PNG)
    assert len(smallest.body) < 400


def test_a_size_gives_the_same_bytes_again_whatever_was_asked_meanwhile(upstream: Upstream) -> None:
    sizes = range(1_000, 1_040)
    first = [upstream.picture(f"bytes={size}").body for size in sizes]
    assert [len(body) for body in first] == list(sizes)
    assert [upstream.picture(f"bytes={size}").body for size in sizes] == first


def test_answers_wait_as_long_as_asked_and_side_by_side(upstream: Upstream) -> None:
    waits = {wait: upstream.peer() for wait in (60, 20, 40, 0, 50, 10, 30)}
    began = time.monotonic()
    with contextlib.ExitStack() as open_peers:
        for wait, peer in waits.items():
            open_peers.enter_context(peer).ask(f"wait={wait} bytes={1_000 + wait}")
        for wait, peer in sorted(waits.items()):
            assert len(peer.answer().body) == 1_000 + wait
            assert time.monotonic() - began >= wait / 1000
        open_peers.enter_context(upstream.peer()).ask("wait=60000")
        assert len(upstream.picture("at once").body) == 2_000


def test_calls_are_counted_and_other_requests_not(upstream: Upstream) -> None:
    assert upstream.calls() == (0, 0)
    upstream.picture("one")
    upstream.picture("two")
    assert upstream.calls() == (2, 0)
    assert upstream.told("POST /reset") == {"calls": 0, "aborted": 0}
    assert upstream.calls() == (0, 0)
    with upstream.peer() as peer:
        peer.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert peer.answer().body == b"ok"
    assert upstream.calls() == (0, 0)


def test_a_client_that_leaves_is_counted_as_aborted(upstream: Upstream) -> None:
    with upstream.peer() as waiting, upstream.peer() as reading:
        waiting.ask("wait=60000")
        reading.ask("bytes=100000000")
        assert reading.reader.read(1) == b"H"
        eventually(lambda: upstream.calls() == (2, 0))
    eventually(lambda: upstream.calls() == (2, 2))
    with upstream.peer() as peer:
        peer.send(b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\nnot all of it")
    upstream.picture("whole")
    assert upstream.calls() == (3, 2)


def test_a_slow_reader_gets_all_of_it(upstream: Upstream) -> None:
    with upstream.peer() as slow:
        slow.ask("bytes=12000000")
        upstream.picture("bytes=300000")  # meanwhile
        assert len(slow.answer().picture) > 8_900_000
        slow.ask("once more")
        assert len(slow.answer().body) == 2_000
    assert upstream.calls() == (3, 0)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_chunked_requests_are_read(upstream: Upstream, cut: int) -> None:
    text = (
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0B;x=y\r\n{ bytes=250\r\n4\r\n0 wa\r\nA\r\nit=1 after\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    with upstream.peer() as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for at in range(0, len(text), cut):
                peer.send(text[at : at + cut])
            assert len(peer.answer().body) == 2_500
    assert upstream.calls() == (2, 0)


def test_a_large_request_is_read(upstream: Upstream) -> None:
    with upstream.peer() as peer:
        peer.ask("x" * 5_000_000 + " bytes=2500", header="Expect: 100-continue\r\n")
        assert peer.answer().head == "HTTP/1.1 100 Continue\r\n"
        assert len(peer.answer().body) == 2_500


def test_requests_sent_in_one_go_are_answered_in_turn(upstream: Upstream) -> None:
    one = b"POST / HTTP/1.1\r\ncontent-length: 17\r\n\r\nbytes=1000 wait=5"
    with upstream.peer() as peer:
        peer.send(one + one.replace(b"1000", b"1001") + b"GET /calls HTTP/1.1\r\n\r\n")
        assert [len(peer.answer().body) for _ in range(2)] == [1_000, 1_001]
        assert json.loads(peer.answer().body)["calls"] == 2


def test_a_connection_is_closed_when_asked(upstream: Upstream) -> None:
    for version, header in (("1.0", ""), ("1.1", "Connection: close\r\n")):
        with upstream.peer() as peer:
            peer.ask("bytes=1000", version=version, header=header)
            answer = peer.answer()
            assert (len(answer.body), "connection: close" in answer.head, peer.is_closed()) == (1_000, True, True)
    with upstream.peer() as peer:
        peer.ask("first", version="1.0", header="connection: keep-alive\r\n")
        assert "connection: keep-alive" in peer.answer().head
        peer.ask("second")
        peer.answer()
    assert upstream.calls() == (4, 0)


@pytest.mark.parametrize(
    "text",
    [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n",
        b"x" * 100_000,
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nnone\r\n",
    ],
)
def test_what_is_no_request_ends_its_connection_alone(upstream: Upstream, text: bytes) -> None:
    with upstream.peer() as peer, contextlib.suppress(ConnectionError):
        peer.send(text)
        assert peer.is_closed()
    assert len(upstream.picture("a cat").body) == 2_000


# ---- both ----


def test_two_hundred_connections_at_once(upstream: Upstream, load: Client) -> None:
    result = load.run(upstream.port, "--count", "400", body="bytes=5000 wait=50 {n}", connections=200)
    assert (result["replies"], result["errors"], result["bytes"]) == (400, 0, 2_000_000)
    assert 50 <= result["min_ms"] <= result["max_ms"] < 2_000
    assert result["seconds"] < 3
    assert upstream.calls() == (400, 0)


def test_as_many_waits_as_there_are_milliseconds(upstream: Upstream, load: Client) -> None:
    result = load.run(upstream.port, "--count", "300", "--keys", "60", body="wait={n}", connections=50)
    assert (result["replies"], result["errors"]) == (300, 0)
    assert result["max_ms"] >= 59


def test_large_replies_over_several_connections(upstream: Upstream, load: Client) -> None:
    result = load.run(upstream.port, "--count", "24", body="bytes=12000001", connections=8)
    assert (result["replies"], result["errors"], result["bytes"]) == (24, 0, 24 * 12_000_001)
    assert upstream.calls() == (24, 0)


def test_what_is_under_way_at_the_end_was_billed_and_aborted(upstream: Upstream, load: Client) -> None:
    result = load.run(upstream.port, "--seconds", "0.1", body="wait=60000", connections=20)
    assert (result["replies"], result["errors"]) == (0, 0)
    eventually(lambda: upstream.calls() == (20, 20))


# ---- the compiler ----


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small programs in place of the real ones."""
    monkeypatch.setattr(building, "SOURCES", tmp_path)
    for name in ("upstream", "load"):
        (tmp_path / f"{name}.c").write_text("int main(void) { return 0; }\n")
    return tmp_path


@pytest.mark.usefixtures("programs")
def test_only_what_is_newer_than_its_program_is_compiled(sources: Path) -> None:
    def times() -> list[int]:
        found = build(sources / "build")
        return [found.upstream.stat().st_mtime_ns, found.load.stat().st_mtime_ns]

    upstream, load = times()
    assert times() == [upstream, load]
    os.utime(sources / "load.c", ns=(load + 1, load + 1))
    after_upstream, after_load = times()
    assert (after_upstream, after_load > load) == (upstream, True)
    assert sorted(path.name for path in (sources / "build").iterdir()) == ["load", "upstream"]


@pytest.mark.usefixtures("programs")
def test_a_newer_header_has_both_compiled(sources: Path) -> None:
    first = build(sources / "build")
    before = [each.stat().st_mtime_ns for each in (first.upstream, first.load)]
    (sources / "program.h").touch()
    os.utime(sources / "program.h", ns=(max(before) + 1, max(before) + 1))
    second = build(sources / "build")
    after = [each.stat().st_mtime_ns for each in (second.upstream, second.load)]
    assert all(now > then for now, then in zip(after, before, strict=True))


@pytest.mark.usefixtures("programs")
def test_a_source_that_does_not_compile_is_said_so(sources: Path) -> None:
    (sources / "load.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(RuntimeError, match="nothing"):
        build(sources / "build")
    assert [path.name for path in (sources / "build").iterdir()] == ["upstream"]


@pytest.mark.usefixtures("programs")
def test_without_the_headers_there_is_no_compiler(sources: Path) -> None:
    (sources / "upstream.c").write_text("#include <there-is-no-such-header.h>\n")
    with pytest.raises(Skipped, match=re.escape(NO_COMPILER)):
        build(sources / "build")


def test_without_a_compiler_it_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skipped, match="apt-get install gcc"):
        build(tmp_path / "build")


@pytest.mark.usefixtures("programs")
def test_the_programs_compile_without_a_warning(tmp_path: Path) -> None:
    build(tmp_path, ("-O0", "-Werror"))

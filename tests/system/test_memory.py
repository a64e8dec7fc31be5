"""Flat: memory does not follow the size, the number or the slowness of what is in the air."""

import hashlib
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.caller import ask, asking, request_of
from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.upstream_process import BLOCKS_OF_12_MB, UpstreamProcess, body_parts

Start = Callable[..., Proxy]

REPLIES = 64
LIMIT_BYTES = 300_000_000
FIRST_BYTES = 65_536

# Each of these moves three times 64 x 12 MB over loopback and disk: about 2.3 GB.
pytestmark = pytest.mark.slow


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class SlowReader:
    """A client with a small receive buffer that reads only when it is told to."""

    def __init__(self, proxy: Proxy, prompt: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self._socket.settimeout(120)
        self._socket.connect(("127.0.0.1", proxy.port))
        body = json.dumps(request_of(prompt)).encode()
        head = (
            "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-test-of-the-system\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        self._received = b""

    def begin(self) -> None:
        """Reads the head and the first 64 KB, and no more."""
        while len(self._received) < FIRST_BYTES:
            part = self._socket.recv(8192)
            assert part, "the connection was closed early"
            self._received += part

    def finish(self) -> tuple[int, str]:
        """Reads all the rest: status and digest of the body."""
        head, _, start = self._received.partition(b"\r\n\r\n")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        digest = hashlib.sha256(start)
        while part := self._socket.recv(1 << 20):
            digest.update(part)
        return int(head.split()[1]), digest.hexdigest()

    def close(self) -> None:
        self._socket.close()


def _prepare(upstream: UpstreamProcess, name: str) -> list[str]:
    prompts = [f"{name} {number}" for number in range(REPLIES)]
    upstream.plan_each({prompt: {"hold": True, "blocks": BLOCKS_OF_12_MB} for prompt in prompts})
    return prompts


def _report(record_property: Callable[[str, object], None], proxy: Proxy) -> None:
    megabytes = proxy.peak_bytes() / 1e6
    record_property("peak_resident_megabytes", round(megabytes, 1))
    print(f"peak resident memory: {megabytes:.1f} MB")  # noqa: T201 - shown with -rP


def test_64_replies_of_12_mb_in_flight_at_once_stay_under_300_mb(
    start: Start, upstream: UpstreamProcess, record_property: Callable[[str, object], None]
) -> None:
    proxy = start()
    prompts = _prepare(upstream, "twelve megabytes")
    with asking(proxy, prompts, seconds=120) as answers:
        eventually(lambda: sum(upstream.held(prompt) for prompt in prompts[-1:]) == 1)
        eventually(lambda: proxy.metric("imagegate_flights_in_flight") == REPLIES)
        eventually(lambda: upstream.held_in_all() >= REPLIES)
        upstream.release_all()
        for prompt, answer in zip(prompts, answers, strict=True):
            reply = answer.result()
            assert (reply.status, reply.cache, reply.is_stored) == (200, "MISS", True)
            assert hashlib.sha256(reply.body).hexdigest() == _digest(body_parts(prompt, BLOCKS_OF_12_MB))
    _report(record_property, proxy)
    assert proxy.peak_bytes() < LIMIT_BYTES


def test_64_slow_readers_of_12_mb_stay_under_300_mb_and_disturb_nobody(
    start: Start, upstream: UpstreamProcess, record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    proxy = start()
    prompts = _prepare(upstream, "slowly read")
    ask(proxy, "a small one")
    with ExitStack() as stack:
        readers = [SlowReader(proxy, prompt) for prompt in prompts]
        for reader in readers:
            stack.callback(reader.close)
        eventually(lambda: proxy.metric("imagegate_flights_in_flight") == REPLIES)
        eventually(lambda: upstream.held_in_all() >= REPLIES)
        upstream.release_all()
        with ThreadPoolExecutor(REPLIES) as pool:
            list(pool.map(SlowReader.begin, readers))
        assert proxy.metric("imagegate_requests_in_flight", operation="image_generation") == REPLIES
        began = time.monotonic()
        assert ask(proxy, "a small one").cache == "HIT"
        assert ask(proxy, "another small one").cache == "MISS"
        took = time.monotonic() - began
        assert proxy.peak_bytes() < LIMIT_BYTES
        assert took < 2, "a fast client waited for slow ones"
        with ThreadPoolExecutor(8) as pool:
            for prompt, (status, digest) in zip(prompts, pool.map(SlowReader.finish, readers), strict=True):
                assert (status, digest) == (200, _digest(body_parts(prompt, BLOCKS_OF_12_MB)))
    _report(record_property, proxy)
    assert proxy.peak_bytes() < LIMIT_BYTES

"""The same request again and again on one connection, against a running process: every answer is due, whole and counted."""

import json
import re
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.caller import CREDENTIAL
from tests.support.keydatabase import KeyDatabase, keys_mode
from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.raw import Peer, RawReply, message
from tests.support.upstream_process import UpstreamProcess, body_of

Start = Callable[..., Proxy]

BLOCKS = 120
"""Of 64 KB: several windows, and more than the kernel takes at once."""
MEMORY = {"cache": {"memory_bytes": "64MB"}}


def asked(peer: Peer, data: bytes) -> RawReply:
    peer.send(data)
    return peer.reply()


def known(proxy: Proxy, data: bytes) -> RawReply:
    """The answer, once it lies in memory and has been given from there."""
    with Peer(proxy) as peer:
        replies = [asked(peer, data) for _ in range(3)]
    assert replies[-1].headers["cache-status"].endswith("detail=memory")
    return replies[-1]


def taken(peer: Peer, data: bytes, body: bytes, count: int) -> None:
    """Sends what is one request or more, and waits until so many answers have come in all."""
    peer.send(data)
    while peer.received.count(body) < count:
        part = peer.socket.recv(1 << 16)
        assert part, "the connection was closed"
        peer.received += part


def large(upstream: UpstreamProcess, prompt: str) -> tuple[bytes, bytes]:
    """A request, and the body of its answer, which is large."""
    planned = upstream.plan(prompt, {"blocks": BLOCKS})
    return message(planned, close=False), body_of(planned, BLOCKS)


def test_each_is_counted_and_told_of_once_under_a_name_of_its_own(start: Start, upstream: UpstreamProcess) -> None:
    proxy, data = start(), message("counted one by one", close=False)
    expected = known(proxy, data)
    before = proxy.metrics()
    with Peer(proxy) as peer:
        for number in range(1, 201):
            taken(peer, data, expected.body, number)
        for number in range(210, 251, 10):
            taken(peer, data * 10, expected.body, number)
        names = {name.decode() for name in re.findall(rb"\r\nx-request-id: (\S+)", peer.received)}
    assert len(names) == 250
    after = proxy.metrics()
    for family in ("imagegate_requests_total", "imagegate_images_total"):
        assert after.sum(family, cache="hit") - before.sum(family, cache="hit") == 250
    for family in ("imagegate_request_duration_seconds_count", "imagegate_request_body_bytes_count"):
        assert after.sum(family) - before.sum(family) == 250
    assert after.sum("imagegate_requests_in_flight") == 0

    def told() -> set[str] | None:
        found = {line["request_id"] for line in proxy.log_lines() if line["msg"] == "request"}
        return found if names <= found else None

    eventually(told)
    lines = [line for line in proxy.log_lines() if line.get("request_id") in names]
    assert len(lines) == 250
    assert len({line["trace_id"] for line in lines}) == 250
    assert {(line["cache"], line["status"], line["bytes_out"]) for line in lines} == {("hit", 200, len(expected.body))}
    assert CREDENTIAL.removeprefix("Bearer ") not in proxy.log_text()
    assert upstream.calls("counted one by one") == 1


def test_who_reads_slowly_gets_every_byte_and_nobody_waits_for_it(start: Start, upstream: UpstreamProcess) -> None:
    proxy = start(MEMORY)
    data, body = large(upstream, "read slowly")
    assert known(proxy, data).body == body
    small = message("read at once", close=False)
    known(proxy, small)
    with Peer(proxy, receive_buffer=16_384) as slow, Peer(proxy) as other:
        slow.send(data)
        slow.send(small)
        for _ in range(20):
            began = time.monotonic()
            assert asked(other, small).status == 200
            assert time.monotonic() - began < 1
        assert slow.reply().body == body
        assert slow.reply().body == body_of("read at once")


def test_who_takes_nothing_is_cut_off_and_told_of_as_gone(start: Start, upstream: UpstreamProcess) -> None:
    proxy = start({**MEMORY, "server": {"port": 0, "send_timeout_seconds": 0.3}})
    data, _ = large(upstream, "taken by nobody")
    known(proxy, data)
    with Peer(proxy, receive_buffer=16_384) as peer:
        peer.send(data)
        eventually(lambda: proxy.metric("imagegate_client_disconnects_total", stage="body") == 1)
        peer.receive(5)
    line = eventually(lambda: next((each for each in proxy.log_lines() if each.get("status") == 499), None))
    assert 0 < line["bytes_out"] < BLOCKS << 16


def test_a_process_that_is_told_to_leave_ends_what_it_began(start: Start, upstream: UpstreamProcess) -> None:
    proxy = start(MEMORY)
    data, body = large(upstream, "begun before SIGTERM")
    known(proxy, data)
    with Peer(proxy, receive_buffer=16_384) as slow, Peer(proxy) as idle:
        assert asked(idle, data).body == body
        slow.send(data)
        eventually(lambda: select.select([slow.socket], [], [], 0)[0])
        proxy.terminate()
        idle.receive(5)
        assert idle.is_closed
        time.sleep(0.2)
        assert proxy.exit_code is None, "it must wait for who is still reading"
        assert slow.reply().body == body
        slow.receive(5)
        assert slow.is_closed
    assert proxy.wait() == 0


def test_new_rules_hold_on_connections_that_are_open(start: Start, tmp_path: Path) -> None:
    proxy = start({"rules": {"on_invalid": "adjust"}})
    body = json.dumps(
        {"model": "gpt-image-2", "prompt": "by the rules", "size": "1000x1000", "quality": "low"}
    ).encode()
    data = message(body=body, close=False)
    known(proxy, data)
    file = tmp_path / "imagegate-1.toml"
    with Peer(proxy) as peer:
        assert asked(peer, data).status == 200
        file.write_text(file.read_text().replace('"adjust"', '"reject"'))
        proxy._process.send_signal(signal.SIGHUP)
        assert eventually(lambda: asked(peer, data).status == 400)


def test_a_key_that_is_blocked_opens_nothing_on_a_connection_that_is_open(start: Start, tmp_path: Path) -> None:
    database = KeyDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    key = str(database.key()["authorization"]).encode()
    proxy = start(keys_mode())
    data = message("behind a door", close=False).replace(CREDENTIAL.encode(), key)
    known(proxy, data)
    with Peer(proxy) as peer:
        for blocked, status in ((True, 401), (False, 200), (True, 401)):
            database.store.update_key("alice", {"blocked": blocked}, "tests")
            eventually(lambda status=status: asked(peer, data).status == status)  # type: ignore[misc]
    database.close()

"""What a running process is told to do: read its configuration again; serve its metrics on an address of their own."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.polling import eventually
from tests.support.process import Proxy, Scrape, write_config
from tests.support.raw import Peer, message
from tests.support.upstream_process import UpstreamProcess

Start = Callable[..., Proxy]
FAILURES = "imagegate_config_reload_failures_total"
SUCCESS = "imagegate_config_last_reload_success_timestamp_seconds"


@pytest.mark.parametrize(
    "damage",
    ["this is no TOML", "[server]\nprot = 80\n", '[rules]\ncatalogue = ["missing.toml"]\n'],
    ids=["no TOML", "an unknown setting", "a catalogue that is not there"],
)
def test_a_configuration_that_is_refused_is_counted(
    start: Start, tmp_path: Path, upstream: UpstreamProcess, damage: str
) -> None:
    proxy = start()
    file, loaded_at = tmp_path / "imagegate-1.toml", proxy.metric(SUCCESS)
    file.write_text(damage)
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: any("was refused" in line["msg"] for line in proxy.log_lines()))
    assert (proxy.metric(FAILURES), proxy.metric(SUCCESS)) == (1, loaded_at)
    write_config(file, upstream.url)
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: any("was read again" in line["msg"] for line in proxy.log_lines()))
    assert proxy.metric(FAILURES) == 1
    assert proxy.metric(SUCCESS) > loaded_at
    assert proxy.stop() == 0


def test_what_only_a_restart_applies_is_told(start: Start, tmp_path: Path, upstream: UpstreamProcess) -> None:
    proxy = start()
    write_config(tmp_path / "imagegate-1.toml", upstream.url, {"server": {"cors_origins": ["https://app.example"]}})
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: any("only a restart applies it" in line["msg"] for line in proxy.log_lines()))
    (line,) = [line for line in proxy.log_lines() if "only a restart" in line["msg"]]
    assert line["setting"] == "server"
    assert proxy.stop() == 0


def test_the_metrics_listener_is_as_hard_as_the_other(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxy = start({"metrics": {"listen": f"127.0.0.1:{port}"}, "server": {"receive_timeout_seconds": 1}})
    assert proxy.get("/metrics")[0] == 404
    with Peer(proxy, port=port) as peer:
        peer.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        page = peer.reply()
        assert page.status == 200
        assert Scrape(page.body.decode()).sum("imagegate_requests_in_flight") == 0
    with Peer(proxy, port=port) as peer:
        peer.send(b"GET /metr")
        assert peer.reply(5).status == 408
    with Peer(proxy, port=port) as peer:
        peer.send(b"GET /metrics HTTP/1.1\r\nX-Large: ")
        assert next((number for number in range(40_000) if not peer.send(b"x" * 1000)), 40_000) < 20_000
    assert proxy.stop() == 0


def test_reading_again_means_the_same_file_under_the_same_flags(tmp_path: Path, upstream: UpstreamProcess) -> None:
    """With the flag forgotten, this file's upstream would be the proxy's own address, and the file refused."""
    file = write_config(tmp_path / "flags.toml", upstream.url, {"server": {"port": urlsplit(upstream.url).port}})
    proxy = Proxy("--config", str(file), "--port", "0", log=tmp_path / "flags.log")
    try:
        os.kill(proxy.pid, signal.SIGHUP)
        eventually(lambda: any("read again" in line["msg"] for line in proxy.log_lines()))
        assert proxy.metric(FAILURES) == 0
    finally:
        assert proxy.stop() == 0


@pytest.mark.parametrize("pieces", [1, 7])
def test_an_offer_of_another_protocol_is_ignored(start: Start, upstream: UpstreamProcess, pieces: int) -> None:
    """As Java's client makes it with every request that is not over TLS."""
    proxy = start()
    offer = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    request = message(f"offered h2c in {pieces}", extra=offer, close=False)
    size = -(-len(request) // pieces)
    with Peer(proxy) as peer:
        for number in range(pieces):
            peer.send(request[number * size : (number + 1) * size])
        assert peer.reply().status == 200
    assert upstream.calls(f"offered h2c in {pieces}") == 1

"""Peers who do not keep to HTTP, or keep to it as slowly as they can: refused or closed, and nobody else notices."""

import json
import random
import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.caller import ask
from tests.support.polling import eventually
from tests.support.process import Proxy, serving
from tests.support.raw import Peer, message, tell
from tests.support.upstream_process import BLOCKS_OF_12_MB, UpstreamProcess, body_of

PATIENCE_SECONDS = 1.0
"""The proxy's, with peers that are slow to send or to read."""
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    section = {"receive_timeout_seconds": PATIENCE_SECONDS, "send_timeout_seconds": PATIENCE_SECONDS}
    with serving(tmp_path_factory.mktemp("guarded"), upstream.url, {"server": section}) as process:
        yield process
    errors = [line for line in process.log_lines() if line["level"] in ("error", "critical")]
    assert errors == []


@pytest.fixture(autouse=True)
def serves_afterwards(guarded: Proxy) -> Iterator[None]:
    """After whatever a peer did, the next one is served, and nothing of the first one is left."""
    yield
    assert ask(guarded, "asked by an honest client").body == body_of("asked by an honest client")
    eventually(lambda: guarded.metric("imagegate_requests_in_flight") == 0)


# --- Messages that are none -------------------------------------------------------------------------------------------

MALFORMED = {
    "both lengths": message(framing=b"Content-Length: 5\r\n" + CHUNKED),
    "both lengths, the other way round": message(framing=CHUNKED + b"Content-Length: 5\r\n"),
    "two lengths": message(extra=b"Content-Length: 7\r\n"),
    "two equal lengths": message(framing=b"Content-Length: 3\r\nContent-Length: 3\r\n", body=b"{} "),
    "a negative length": message(framing=b"Content-Length: -1\r\n"),
    "a length in words": message(framing=b"Content-Length: many\r\n"),
    "a signed length": message(framing=b"Content-Length: +5\r\n"),
    "two encodings": message(framing=b"Transfer-Encoding: chunked, identity\r\n"),
    "an unknown encoding": message(framing=b"Transfer-Encoding: rot13\r\n"),
    "two Hosts": message(extra=b"Host: elsewhere\r\n"),
    "no Host": message().replace(b"Host: 127.0.0.1\r\n", b""),
    "two credentials": message(extra=b"Authorization: Bearer sk-other\r\n"),
    "two content types": message(extra=b"Content-Type: text/plain\r\n"),
    "NUL in a value": message(extra=b"X-Imagegate-Variant: a\0b\r\n"),
    "NUL in the credential": message().replace(b"Bearer sk", b"Bearer \0sk"),
    "CR in a value": message(extra=b"X-Imagegate-Variant: a\rb\r\n"),
    "a space in a name": message(extra=b"X Imagegate: a\r\n"),
    "a line without a colon": message(extra=b"nothing\r\n"),
    "a bad chunk": message(framing=CHUNKED, body=b"ZZ\r\n{}\r\n0\r\n\r\n"),
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "no protocol at all": b"\r\n\r\nhello\r\n\r\n",
    "a method nobody knows": message(method="BREW"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_is_a_400_and_never_sent_upstream(
    guarded: Proxy, upstream: UpstreamProcess, name: str
) -> None:
    reply = tell(guarded, MALFORMED[name])
    assert reply.status == 400
    assert json.loads(reply.body)["error"].keys() == {"message", "type", "param", "code"}
    assert upstream.calls("a raw peer") == 0


def test_bytes_at_random_are_refused_or_dropped(guarded: Proxy) -> None:
    chance = random.Random(7)
    for _ in range(60):
        noise = chance.randbytes(chance.randrange(1, 400)) + b"\r\n\r\n"
        assert tell(guarded, noise).status in (0, 400)


def test_random_damage_to_a_sound_request_never_breaks_anything(guarded: Proxy) -> None:
    chance = random.Random(8)
    sound = message("asked by an honest client")
    for _ in range(120):
        damaged = bytearray(sound)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with Peer(guarded) as peer:
            peer.send(bytes(damaged))
            reply = peer.reply(PATIENCE_SECONDS * 4)
        assert reply.status < 500 or reply.status == 502, bytes(damaged)


@pytest.mark.parametrize(
    "extra",
    [
        b"OpenAI-Organization: caf\xe9\r\n",
        b"OpenAI-Beta: \xff\xfe\r\n",
        b"X-Imagegate-Variant: \xff\r\n",
        b"X-Imagegate-Response-Format: \xff\r\n",
        b"X-Imagegate-Cache-Ttl: \xb2\r\n",
        b"Cache-Control: \xff=\xff, max-age=\xb2\r\n",
        b"X-Request-Id: \xff\r\n",
        b"Accept: \xff\r\n",
    ],
)
def test_bytes_beyond_ascii_in_a_header_are_no_defect_of_ours(guarded: Proxy, extra: bytes) -> None:
    reply = tell(guarded, message(f"beyond ascii {extra!r}", extra=extra))
    assert reply.status in (200, 400)


def test_a_credential_beyond_ascii_is_no_defect_of_ours(guarded: Proxy) -> None:
    reply = tell(guarded, message("a strange key").replace(b"Bearer sk-", b"Bearer \xe9\xff-"))
    assert reply.status in (200, 400, 401)


def test_nothing_a_client_writes_becomes_a_header_line(guarded: Proxy) -> None:
    for data in (
        message(extra=b"X-Request-Id: <script>\x01\r\n", method="GET"),
        message(extra=b"X-Request-Id: " + b"x" * 5000 + b"\r\n", method="GET"),
        message(target="/v1/%0d%0aset-cookie:%20a=b", method="GET"),
        message(target="/v1/images/generations?%0d%0aset-cookie:%20a=b", method="GET"),
    ):
        reply = tell(guarded, data)
        assert reply.status in (400, 404, 405)
        assert "set-cookie" not in reply.headers
        assert len(reply.headers.get("x-request-id", "")) <= 128
        assert "<" not in reply.headers.get("x-request-id", "")


# --- Too much ---------------------------------------------------------------------------------------------------------


def test_too_many_or_too_large_headers_are_431(guarded: Proxy) -> None:
    many = b"".join(b"X-Header-%d: 1\r\n" % number for number in range(200))
    assert (reply := tell(guarded, message(extra=many))).status == 431
    assert reply.code == "headers_too_large"
    assert tell(guarded, message(extra=b"X-Large: " + b"x" * 40_000 + b"\r\n")).status == 431


def test_a_megabyte_of_headers_is_not_taken_in(guarded: Proxy) -> None:
    for name in (b"X-Large: ", b"x"):  # a long value; a name that never ends
        with Peer(guarded) as peer:
            peer.send(message(extra=name + b"x" * 1_000_000 + b"\r\n"))
            # The answer may be lost: who closes with bytes unread resets the connection (RFC 9112 section 9.6).
            assert peer.reply().status in (0, 400, 431)


def test_a_head_without_an_end_is_not_taken_in(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.send(b"POST /v1/images/generations HTTP/1.1\r\n")
        line = b"X-Header: " + b"x" * 990 + b"\r\n"
        sent = next((number for number in range(40_000) if not peer.send(line)), 40_000)
        assert sent < 20_000, "it took twenty megabytes: more than the sockets' buffers hold"


@pytest.mark.parametrize("line", [b"X-Trailer: " + b"x" * 990 + b"\r\n", b"x" * 1000])
def test_trailers_without_an_end_are_not_taken_in(guarded: Proxy, line: bytes) -> None:
    with Peer(guarded) as peer:
        peer.send(message(framing=CHUNKED, body=b"1\r\n{\r\n0\r\n" + line[:10]))
        sent = next((number for number in range(40_000) if not peer.send(line)), 40_000)
        assert sent < 20_000, "it took twenty megabytes: more than the sockets' buffers hold"
        assert peer.reply().status in (0, 431)


def test_a_chunk_whose_extension_never_ends_is_not_taken_in(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.send(message(framing=CHUNKED, body=b"1;note="))
        sent = next((number for number in range(40_000) if not peer.send(b"x" * 1000)), 40_000)
        assert sent < 20_000, "it took twenty megabytes: more than the sockets' buffers hold"


def test_who_reads_while_sending_too_much_gets_the_answer_and_no_reset(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.send(message(framing=b"Content-Length: 90000000\r\n", body=b""))
        assert peer.reply().status == 413
        for _ in range(10):
            assert peer.send(b"x" * 100_000)
        assert peer.socket.recv(1) == b"", "an end, not a reset"


def test_a_body_past_the_limit_is_413_however_it_is_framed(guarded: Proxy, upstream: UpstreamProcess) -> None:
    large = json.dumps({"model": "gpt-image-2", "prompt": "x" * 2_000_000}).encode()
    assert (announced := tell(guarded, message(body=large))).status == 413
    assert announced.code == "request_too_large"
    chunk = b"%x\r\n" % 65_536 + b"x" * 65_536 + b"\r\n"
    assert tell(guarded, message(framing=CHUNKED, body=chunk * 32 + b"0\r\n\r\n")).status == 413


def test_a_body_announced_as_enormous_is_refused_before_it_is_sent(guarded: Proxy) -> None:
    reply = tell(guarded, message(framing=b"Content-Length: 99999999999999\r\n", body=b""))
    assert reply.status == 413


def test_a_compressed_or_foreign_body_is_415(guarded: Proxy) -> None:
    assert tell(guarded, message(extra=b"Content-Encoding: gzip\r\n")).status == 415
    foreign = message().replace(b"application/json", b"text/plain")
    assert tell(guarded, foreign).status == 415


def test_json_that_is_too_deep_or_not_utf_8_is_400(guarded: Proxy) -> None:
    for body in (
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b"\xff\xfe{}",
        b'{"prompt":"\\ud800","model":"gpt-image-2"}',
        b"",
        b"null",
    ):
        assert tell(guarded, message(body=body)).status == 400


# --- Trailers ---------------------------------------------------------------------------------------------------------


def _with_trailer(prompt: str, trailer: bytes) -> bytes:
    content = message(prompt).partition(b"\r\n\r\n")[2]
    chunked = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(content), content, trailer)
    return message(framing=CHUNKED, body=chunked)


def test_a_trailer_is_no_header_of_the_request(guarded: Proxy, upstream: UpstreamProcess) -> None:
    dry = tell(guarded, _with_trailer("a trailing wish", b"X-Imagegate-Dry-Run: true"))
    assert (dry.status, dry.body) == (200, body_of("a trailing wish"))
    credential = next(line for line in message().split(b"\r\n") if line.startswith(b"Authorization"))
    late = _with_trailer("a trailing credential", credential).replace(credential + b"\r\n", b"", 1)
    assert tell(guarded, late).status == 401
    assert upstream.calls("a trailing credential") == 0


# --- Methods and targets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_another_method_is_405_with_what_is_allowed(guarded: Proxy, method: str) -> None:
    with Peer(guarded) as peer:
        peer.send(message(method=method, body=b"", framing=b""))
        peer.receive(20)
    head = peer.received.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 405")
    assert b"\r\nallow: post" in head


def test_connect_opens_no_tunnel(guarded: Proxy) -> None:
    reply = tell(guarded, b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\nConnection: close\r\n\r\n")
    assert reply.status in (400, 404, 405)


def test_an_absolute_target_leads_nowhere_else(guarded: Proxy, upstream: UpstreamProcess) -> None:
    """RFC 9112 section 3.2.2: a server takes the absolute form too; it is still this server that answers."""
    reply = tell(guarded, message("absolute", target="http://169.254.169.254/v1/images/generations"))
    assert (reply.status, reply.body) == (200, body_of("absolute"))
    elsewhere = tell(guarded, message(target="http://169.254.169.254/latest/meta-data", method="GET"))
    assert elsewhere.status == 404


def test_paths_that_climb_are_not_found(guarded: Proxy) -> None:
    for target in (
        "/v1/images/files/../../../etc/passwd",
        "/v1/images/files/%2e%2e%2fsecret",
        "//v1/images",
        "*",
        "/" * 9000,
    ):
        assert tell(guarded, message(target=target, method="GET", body=b"")).status in (400, 404, 410)


# --- Keeping connections ----------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_their_order(guarded: Proxy, upstream: UpstreamProcess) -> None:
    prompts = [upstream.plan(f"pipelined {number}", {"seconds": 0.3 - number * 0.1}) for number in range(3)]
    with Peer(guarded) as peer:
        peer.send(b"".join(message(prompt, close=False) for prompt in prompts))
        for prompt in prompts:
            reply = peer.reply()
            assert (reply.status, reply.body) == (200, body_of(prompt))


def test_a_body_is_never_read_as_the_next_request(guarded: Proxy, upstream: UpstreamProcess) -> None:
    """A refused body that holds a request: it must not be answered as one."""
    smuggled = message("smuggled")
    with Peer(guarded) as peer:
        peer.send(message(body=smuggled, close=False).replace(b"application/json", b"text/plain", 1))
        assert peer.reply().status == 415
        peer.receive(0.3)
        assert peer.received == b""
    assert upstream.calls("smuggled") == 0


def test_a_request_that_is_answered_before_it_was_read_is_the_last_and_keeps_no_connection(guarded: Proxy) -> None:
    before = guarded.descriptors()
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(guarded)) for _ in range(50)]
        for peer in peers:
            peer.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
            reply = peer.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            peer.send(b"x")
        eventually(
            lambda: guarded.descriptors() <= before + 5, seconds=PATIENCE_SECONDS * 5, what="the end of the connections"
        )


def test_the_rest_of_an_answered_request_may_not_drip_for_ever(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\n")
        assert peer.reply().status == 200

        def is_refused() -> bool:
            select.select([], [], [], 0.02)
            return not peer.send(b"x")

        eventually(is_refused, seconds=PATIENCE_SECONDS * 5)


@pytest.mark.parametrize(
    "next_bytes",
    [b"GET /he", b"\0\0 no HTTP at all \r\n\r\n", b"GET /healthz HTTP/1.1\r\nX-Large: " + b"x" * 400_000],
    ids=["a head that stops", "garbage", "a head that is too large"],
)
@pytest.mark.parametrize("blocks", [1, BLOCKS_OF_12_MB])
def test_what_follows_a_request_never_damages_its_answer(
    guarded: Proxy, upstream: UpstreamProcess, next_bytes: bytes, blocks: int
) -> None:
    """The answer takes longer than a head may: waited for in one case, read slowly in the other."""
    prompt = upstream.plan(
        f"before {next_bytes[:12]!r} {blocks}", {"seconds": PATIENCE_SECONDS * 1.5, "blocks": blocks}
    )
    with Peer(guarded, receive_buffer=65_536) as peer:
        peer.send(message(prompt, close=False))
        if blocks > 1:
            eventually(lambda: upstream.calls(prompt) == 1)
            peer.sip(1 << 16, pause=PATIENCE_SECONDS / 4, seconds=PATIENCE_SECONDS)
        peer.send(next_bytes)
        if blocks > 1:
            peer.sip(1 << 16, pause=PATIENCE_SECONDS / 4, seconds=PATIENCE_SECONDS * 1.5)
        reply = peer.reply()
        assert (reply.status, reply.body) == (200, body_of(prompt, blocks))
        assert peer.reply().status in (0, 400, 408, 431), "after the answer, it may be told"
        assert peer.is_closed or peer.received == b""


def test_silent_connections_are_probed_on_both_sides(guarded: Proxy, upstream: UpstreamProcess) -> None:
    """Some NATs forget a connection after a minute or two of silence; an image may take five."""
    prompt = upstream.plan("silent for long", {"hold": True})
    with Peer(guarded) as peer:
        peer.send(message(prompt))
        eventually(lambda: upstream.held(prompt) == 1)
        probed = _probed_ports(guarded.port, upstream.port)
        assert peer.socket.getsockname()[1] in probed, "the client's connection"
        assert upstream.port in probed, "the upstream's connection"
        upstream.release(prompt)
        assert peer.reply().status == 200


def _probed_ports(listening: int, upstream: int) -> set[int]:
    """The far ports of connections from `listening` or to `upstream` whose keepalive timer runs (proc_net_tcp(5))."""
    found = set()
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _, timer, *_ = row.split()
        near, far = int(local.split(":")[1], 16), int(remote.split(":")[1], 16)
        if state == "01" and timer.startswith("02:") and (near == listening or far == upstream):
            found.add(far)
    return found


# --- Slowness ---------------------------------------------------------------------------------------------------------


def test_a_head_that_drips_is_cut_off(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        took = peer.drip(message(), every=0.05, seconds=PATIENCE_SECONDS * 5)
        assert took >= PATIENCE_SECONDS * 0.9
        assert peer.reply().status in (0, 408)


def test_a_head_that_stops_is_cut_off(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.send(b"POST /v1/images/gen")
        assert peer.reply(PATIENCE_SECONDS * 5).status == 408
        peer.receive(2)
        assert peer.is_closed


def test_a_connection_that_says_nothing_is_closed(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.receive(PATIENCE_SECONDS * 5)
        assert peer.is_closed and peer.received == b""


def test_the_second_head_on_a_connection_is_cut_off_too(guarded: Proxy) -> None:
    with Peer(guarded) as peer:
        peer.send(message("asked by an honest client", close=False))
        assert peer.reply().status == 200
        took = peer.drip(message(), every=0.05, seconds=PATIENCE_SECONDS * 5)
        assert took >= PATIENCE_SECONDS * 0.9


def test_a_body_that_drips_or_stops_is_cut_off(guarded: Proxy) -> None:
    whole = message("a slow body")
    at = whole.index(b"\r\n\r\n") + 4
    with Peer(guarded) as peer:
        peer.send(whole[: at + 10])
        reply = peer.reply(PATIENCE_SECONDS * 5)
        assert (reply.status, reply.code, reply.headers["connection"]) == (408, "request_timeout", "close")
        peer.receive(2)
        assert peer.is_closed
    with Peer(guarded) as peer:
        peer.send(whole[:at])
        took = peer.drip(whole[at:], every=0.05, seconds=PATIENCE_SECONDS * 5)
        assert took >= PATIENCE_SECONDS * 0.9


def test_many_slow_peers_keep_nobody_waiting(guarded: Proxy) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(guarded)) for _ in range(200)]
        for peer in peers:
            peer.send(b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert ask(guarded, "asked by an honest client", seconds=5).status == 200
        for peer in peers:
            peer.receive(PATIENCE_SECONDS * 5)
        assert all(peer.is_closed for peer in peers)


@pytest.mark.slow  # two rounds of 6 x 12 MB, each with the proxy's patience
def test_clients_that_never_read_are_closed_and_their_memory_given_back(
    guarded: Proxy, upstream: UpstreamProcess
) -> None:
    after = []
    for turn in range(2):
        prompts = [f"never read {turn}-{number}" for number in range(6)]
        upstream.plan_each({prompt: {"blocks": BLOCKS_OF_12_MB} for prompt in prompts})
        _never_read(guarded, prompts)
        after.append(guarded.resident_bytes())
    assert guarded.metric("imagegate_client_disconnects_total", stage="body") >= 12
    assert after[1] < after[0] + 24_000_000, "72 MB were on their way: what a round leaves, the next one must use"


def _never_read(proxy: Proxy, prompts: list[str]) -> None:
    """Asks for all of them, takes nothing, and waits until the proxy is rid of its peers."""
    ask(proxy, "asked by an honest client")
    entries, descriptors = proxy.metric("imagegate_cache_entries", tier="disk"), proxy.descriptors()
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(proxy, receive_buffer=8192)) for _ in prompts]
        for peer, prompt in zip(peers, prompts, strict=True):
            peer.send(message(prompt))
        eventually(lambda: proxy.metric("imagegate_cache_entries", tier="disk") == entries + len(prompts))
        eventually(lambda: proxy.metric("imagegate_requests_in_flight") == 0, what="the end of patience")
        eventually(lambda: proxy.descriptors() <= descriptors + 3, what="closed connections and files")
        for peer in peers:
            peer.receive(20)
            assert peer.is_closed
            assert len(peer.received) < 6_000_000


def test_a_client_that_reads_slowly_but_reads_is_not_cut_off(guarded: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("slowly but surely", {"blocks": 80})
    with Peer(guarded, receive_buffer=65_536) as peer:
        peer.send(message(prompt))
        eventually(lambda: upstream.calls(prompt) == 1)
        peer.sip(1 << 18, pause=PATIENCE_SECONDS / 4, seconds=PATIENCE_SECONDS * 3)
        reply = peer.reply()
    assert (reply.status, reply.body) == (200, body_of(prompt, 80))

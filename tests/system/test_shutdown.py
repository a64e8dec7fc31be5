"""Leaving: not ready, then deaf, then done; nothing that was paid for is lost."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest

from tests.support.caller import ask, ask_on
from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, body_of

Start = Callable[..., Proxy]


def _is_draining(proxy: Proxy) -> bool:
    return any(line["msg"] == "draining" for line in proxy.log_lines())


def _refuses_connections(proxy: Proxy) -> bool:
    try:
        proxy.get("/healthz")
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # accepted by the kernel a moment before the listener closed
    return False


def test_sigterm_in_flight_answers_stores_and_leaves_with_0(start: Start, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("in flight at SIGTERM", {"hold": True, "blocks": 3})
    proxy = start()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, proxy, prompt)
        eventually(lambda: upstream.held(prompt) == 1)
        proxy.terminate()
        eventually(lambda: _refuses_connections(proxy), what="the end of listening")
        assert proxy.exit_code is None, "it must wait for its flight"
        upstream.release(prompt)
        reply = answer.result()
    assert (reply.status, reply.body) == (200, body_of(prompt, 3))
    assert reply.is_stored
    assert reply.headers["connection"] == "close"
    assert proxy.wait() == 0
    successor = start()
    hit = ask(successor, prompt)
    assert (hit.cache, hit.body, upstream.calls(prompt)) == ("HIT", body_of(prompt, 3), 1)


def test_a_flight_that_nobody_waits_for_is_stored_before_the_process_leaves(
    start: Start, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("abandoned at SIGTERM", {"hold": True})
    proxy = start()
    with pytest.raises(TimeoutError):
        ask(proxy, prompt, seconds=0.3)
    eventually(lambda: upstream.held(prompt) == 1)
    proxy.terminate()
    eventually(lambda: _is_draining(proxy))
    upstream.release(prompt)
    assert proxy.wait() == 0
    assert ask(start(), prompt).cache == "HIT"
    assert upstream.calls(prompt) == 1


def test_the_second_signal_ends_it_at_once(start: Start, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("never answered", {"hold": True})
    proxy = start()
    with pytest.raises(TimeoutError):
        ask(proxy, prompt, seconds=0.3)
    proxy.terminate()
    eventually(lambda: _is_draining(proxy))
    assert proxy.exit_code is None
    proxy.terminate()
    assert proxy.wait(2) != 0, "0 would say that nothing was lost"


def test_drain_seconds_bound_the_wait_and_a_lost_flight_is_no_clean_exit(
    start: Start, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("too slow for the drain", {"hold": True})
    proxy = start({"server": {"drain_seconds": 1}})
    with pytest.raises(TimeoutError):
        ask(proxy, prompt, seconds=0.3)
    assert proxy.stop(8) == 1
    assert any("still in the air" in line["msg"] for line in proxy.log_lines())


def test_waiting_requests_and_abandoned_flights_share_one_drain(start: Start, upstream: UpstreamProcess) -> None:
    waited_for, abandoned = (upstream.plan(name, {"hold": True}) for name in ("waited for", "abandoned"))
    proxy = start({"server": {"drain_seconds": 5}})
    with pytest.raises(TimeoutError):
        ask(proxy, abandoned, seconds=0.3)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, proxy, waited_for)
        eventually(lambda: upstream.held(waited_for) == 1)
        began = time.monotonic()
        assert proxy.stop(20) == 1
        # One drain, not two after each other, with room for a machine that runs other tests beside this one.
        assert 4.9 < time.monotonic() - began < 9.5
        with pytest.raises((ConnectionError, HTTPException)):
            answer.result()
    text = proxy.log_text()
    assert "Traceback" not in text and "Exception in ASGI" not in text
    assert [line["count"] for line in proxy.log_lines() if "still in the air" in line["msg"]] == [2]


def test_while_draining_an_open_connection_gets_hits_but_no_purchases(start: Start, upstream: UpstreamProcess) -> None:
    held = upstream.plan("keeps it draining", {"hold": True})
    stored, new = "stored before the drain", "asked for while draining"
    proxy = start()
    ask(proxy, stored)
    open_connections = [HTTPConnection("127.0.0.1", proxy.port, timeout=20) for _ in range(2)]
    gates = [threading.Event(), threading.Event()]
    prompts = [stored, new]

    def converse(number: int) -> Any:
        """A request whose head is sent before the drain begins, and whose body is sent after."""
        connection = open_connections[number]
        body = b'{"model":"gpt-image-2","prompt":"%s","size":"1024x1024","quality":"low"}' % prompts[number].encode()
        connection.putrequest("POST", "/v1/images/generations")
        for name, value in (
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("authorization", "Bearer sk-test-of-the-system"),
        ):
            connection.putheader(name, value)
        connection.endheaders()
        gates[number].wait(20)
        connection.send(body)
        response = connection.getresponse()
        return response.status, response.getheader("connection"), response.getheader("retry-after"), response.read()

    try:
        with ThreadPoolExecutor(3) as pool:
            waiting = pool.submit(ask, proxy, held)
            conversations = [pool.submit(converse, number) for number in range(2)]
            eventually(lambda: upstream.held(held) == 1)
            eventually(lambda: proxy.metric("imagegate_requests_in_flight", operation="image_generation") == 3)
            proxy.terminate()
            eventually(lambda: _refuses_connections(proxy))
            for gate in gates:
                gate.set()
            hit, refused = (conversation.result() for conversation in conversations)
            upstream.release(held)
            assert waiting.result().status == 200
    finally:
        for gate in gates:
            gate.set()
        for connection in open_connections:
            connection.close()
    assert (hit[0], hit[1], hit[3]) == (200, "close", body_of(stored))
    assert refused[:3] == (503, "close", "1")
    assert b'"draining"' in refused[3]
    assert upstream.calls(new) == 0
    assert proxy.wait() == 0


def test_an_idle_connection_does_not_hold_the_process_up(start: Start) -> None:
    proxy = start()
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    try:
        ask_on(connection, "before the end")
        assert proxy.stop(5) == 0
    finally:
        connection.close()


def test_drain_delay_keeps_accepting_while_readyz_says_503(start: Start, upstream: UpstreamProcess) -> None:
    proxy = start({"server": {"drain_delay_seconds": 2}})
    proxy.terminate()
    eventually(lambda: proxy.get("/readyz")[0] == 503, seconds=1.5)
    status, _, body = proxy.get("/readyz")
    assert (status, b"shutting down" in body) == (503, True)
    assert proxy.get("/healthz")[0] == 200
    reply = ask(proxy, "bought during the delay")
    assert (reply.status, reply.cache) == (200, "MISS")
    assert proxy.exit_code is None
    assert proxy.wait(8) == 0
    assert upstream.calls("bought during the delay") == 1


def test_readyz_is_503_between_sigterm_and_the_end_of_listening(start: Start, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("readiness while leaving", {"hold": True})
    proxy = start({"server": {"drain_delay_seconds": 0.5}})
    with pytest.raises(TimeoutError):
        ask(proxy, prompt, seconds=0.3)
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    try:
        connection.request("GET", "/readyz")
        assert connection.getresponse().read() == b'{"status":"ok","problems":[]}'
        proxy.terminate()

        def is_unready() -> bool:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            response.read()
            return response.status == 503

        eventually(is_unready, seconds=0.45)
    finally:
        connection.close()
    upstream.release(prompt)
    assert proxy.wait(8) == 0

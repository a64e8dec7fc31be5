"""One purchase, whoever asks at the same time, and whoever leaves before it is there."""

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.caller import ask, asking
from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.upstream_process import USAGE, UpstreamProcess, body_of

OPERATION = {"operation": "image_generation"}


def test_of_100_identical_requests_one_is_bought_and_all_get_its_bytes(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("a hundred at once", {"seconds": 2, "blocks": 4})
    with asking(proxy, [prompt] * 100) as answers:
        replies = [answer.result() for answer in answers]
    assert upstream.calls(prompt) == 1
    assert {reply.body for reply in replies} == {body_of(prompt, 4)}
    words = [reply.cache for reply in replies]
    assert words.count("MISS") == 1
    assert set(words) <= {"MISS", "COALESCED", "HIT"}
    assert words.count("COALESCED") >= 90, "the upstream took 2 s: nearly all must have joined the flight"
    costs = [reply.headers["x-imagegate-cost-usd"] for reply in replies if reply.cache != "MISS"]
    assert set(costs) == {"0"}, "followers share the reply, not the bill"


def test_a_failure_reaches_all_who_wait_and_is_remembered_by_nobody(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = "a failure for twenty"
    upstream.plan(prompt, {"hold": True, "status": 500, "body": '{"error":{"message":"no"}}'}, {})
    before = proxy.metric("imagegate_requests_in_flight", **OPERATION)
    with asking(proxy, [prompt] * 20) as answers:
        eventually(lambda: proxy.metric("imagegate_requests_in_flight", **OPERATION) == before + 20)
        upstream.release(prompt)
        assert {(answer.result().status, answer.result().body) for answer in answers} == {
            (500, b'{"error":{"message":"no"}}')
        }
    assert upstream.calls(prompt) == 1
    again = ask(proxy, prompt)
    assert (again.status, again.cache, upstream.calls(prompt)) == (200, "MISS", 2)


def test_a_client_that_hangs_up_and_asks_again_pays_once(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("hung up at 0.7 s of 3 s", {"seconds": 3})
    with pytest.raises(TimeoutError):
        ask(proxy, prompt, seconds=0.7)
    assert upstream.calls(prompt) == 1
    again = ask(proxy, prompt)
    assert (again.status, again.body, upstream.calls(prompt)) == (200, body_of(prompt), 1)
    assert again.cache == "COALESCED"


def test_a_reply_that_nobody_waits_for_is_stored_and_counted(start: Any, upstream: UpstreamProcess) -> None:
    proxy: Proxy = start()
    prompt = upstream.plan("nobody waits", {"hold": True})
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        body = b'{"model":"gpt-image-2","prompt":"nobody waits","size":"1024x1024","quality":"low"}'
        head = (
            f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-test-of-the-system\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        eventually(lambda: upstream.held(prompt) == 1)
    eventually(lambda: proxy.metric("imagegate_client_disconnects_total", stage="upstream") == 1)
    assert proxy.metric("imagegate_requests_in_flight") == 0
    assert proxy.metric("imagegate_flights_in_flight") == 1, "the flight belongs to nobody's request"
    upstream.release(prompt)
    eventually(lambda: proxy.metric("imagegate_flights_in_flight") == 0)
    scrape = proxy.metrics()
    assert scrape.sum("imagegate_purchases_total", outcome="bought", model="gpt-image-2") == 1
    assert scrape.sum("imagegate_upstream_tokens_total", direction="input") == USAGE["input_tokens"]
    assert scrape.sum("imagegate_upstream_tokens_total", direction="output") == USAGE["output_tokens"]
    assert scrape.sum("imagegate_upstream_images_total") == 1
    cost = scrape.sum("imagegate_upstream_cost_usd_total")
    assert cost > 0
    assert scrape.sum("imagegate_requests_total", code="499") == 1
    assert scrape.sum("imagegate_cache_entries", tier="disk") == 1
    hit = ask(proxy, prompt)
    assert (hit.cache, hit.body, upstream.calls(prompt)) == ("HIT", body_of(prompt), 1)
    assert float(hit.headers["x-imagegate-saved-usd"]) == pytest.approx(cost)


def test_a_hundred_different_requests_at_once_each_get_their_own_bytes(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompts = [upstream.plan(f"different {number}", {"seconds": 0.2, "blocks": number % 5}) for number in range(50)]
    with ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda prompt: ask(proxy, prompt), prompts * 2))
    for number, reply in enumerate(replies):
        assert reply.body == body_of(prompts[number % 50], number % 50 % 5)
    assert sum(upstream.calls(prompt) for prompt in prompts) == 50

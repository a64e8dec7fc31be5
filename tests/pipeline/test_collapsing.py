"""Identical requests at the same time: one purchase, one bill, equal bytes."""

import asyncio

import pytest

from tests.support.application import Gate
from tests.support.counting import Call, CountingUpstream, Said, paints
from tests.support.inbound import Stop, ask, stopping

pytestmark = pytest.mark.anyio

OF_ONE_CALL = {
    "openai-processing-ms": "1234",
    "openai-version": "2020-10-01",
    "x-ratelimit-remaining-images": "7",
    "x-request-id": "req_of_the_upstream",
}


def paints_with_headers(call: Call) -> Said:
    return Said(paints(call).body, headers=OF_ONE_CALL)


async def test_identical_requests_at_once_are_one_purchase_and_equal_bodies(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    key = await proxy.key_of()
    upstream.hold()
    tasks = [proxy.asking() for _ in range(20)]
    await proxy.waiting(key, 20)
    await upstream.reached(1)
    upstream.release()
    answers = await asyncio.gather(*tasks)
    assert len(upstream.calls) == 1
    assert {answer.content for answer in answers} == {upstream.replies[0]}
    assert sorted(answer.headers["x-imagegate-cache"] for answer in answers) == ["COALESCED"] * 19 + ["MISS"]


async def test_followers_share_the_reply_but_neither_the_bill_nor_the_call(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = paints_with_headers
    key = await proxy.key_of()
    upstream.hold()
    leader = proxy.asking()
    await proxy.waiting(key, 1)
    follower = proxy.asking()
    await proxy.waiting(key, 2)
    upstream.release()
    led, followed = await leader, await follower
    assert led.headers["x-imagegate-cost-usd"] == followed.headers["x-imagegate-saved-usd"] == "0.031735"
    assert led.headers["x-imagegate-saved-usd"] == followed.headers["x-imagegate-cost-usd"] == "0"
    assert led.headers["cache-status"] == "imagegate; fwd=uri-miss; stored"
    assert followed.headers["cache-status"] == "imagegate; fwd=uri-miss; stored; collapsed"
    assert led.headers["openai-processing-ms"] == "1234"
    assert led.headers["x-imagegate-upstream-request-id"] == "req_of_the_upstream"
    for name in ("openai-processing-ms", "openai-version", "x-ratelimit-remaining-images"):
        assert name not in followed.headers
    assert "x-imagegate-upstream-request-id" not in followed.headers
    assert "age" not in followed.headers


async def test_a_request_that_missed_before_the_flight_landed_does_not_pay_again(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    between = Stop()
    late = asyncio.create_task(
        stopping(proxy.app.pipeline, between).generate(await ask(proxy.app.pipeline, proxy.clock))
    )
    await between.reached.wait()  # it has looked up, and missed
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "MISS"
    await proxy.landed()
    between.go.set()
    outcome = (await late).outcome
    assert outcome.label == "hit"
    assert len(upstream.calls) == 1
    assert proxy.total("imagegate_purchases_total", outcome="bought") == 1


async def test_who_joins_a_flight_that_only_found_an_entry_is_a_hit_too(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    key, first, second = await proxy.key_of(), Stop(), Stop()
    late = asyncio.create_task(
        stopping(proxy.app.pipeline, first, second).generate(await ask(proxy.app.pipeline, proxy.clock))
    )
    await first.reached.wait()
    also = Stop()
    later = asyncio.create_task(stopping(proxy.app.pipeline, also).generate(await ask(proxy.app.pipeline, proxy.clock)))
    await also.reached.wait()
    await proxy.ask()
    first.go.set()
    await second.reached.wait()  # its flight has found the entry, and has not landed
    also.go.set()
    await proxy.waiting(key, 2)
    second.go.set()
    outcomes = [(await task).outcome for task in (late, later)]
    assert [outcome.label for outcome in outcomes] == ["hit", "hit"]
    assert len(upstream.calls) == 1


async def test_requests_that_differ_do_not_wait_for_each_other(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    tasks = [proxy.asking(prompt) for prompt in ("one", "two", "three")]
    await upstream.reached(3)
    assert proxy.app.flights.in_flight() == 3
    upstream.release()
    assert {answer.headers["x-imagegate-cache"] for answer in await asyncio.gather(*tasks)} == {"MISS"}

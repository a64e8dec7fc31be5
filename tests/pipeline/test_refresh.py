"""What a request may ask of the cache (RFC 9111 §5.2.1), and what joins what."""

import asyncio

import httpx
import pytest

from tests.support.application import Gate
from tests.support.counting import CountingUpstream
from tests.support.inbound import Stop, ask, stopping

pytestmark = pytest.mark.anyio


def control(directives: str) -> dict[str, str]:
    return {"cache-control": directives}


def status_of(answer: httpx.Response) -> tuple[str, str]:
    return answer.headers["x-imagegate-cache"], answer.headers["cache-status"]


async def test_no_cache_buys_although_there_is_a_fresh_entry_and_replaces_it(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    old = await proxy.ask()
    await proxy.ask()  # into memory, where the older entry must not survive either
    proxy.clock.advance(1)
    new = await proxy.ask(headers=control("no-cache"))
    assert status_of(new) == ("REFRESH", "imagegate; fwd=request; stored")
    assert new.content == upstream.replies[1] != old.content
    assert (await proxy.ask()).content == new.content
    assert len(upstream.calls) == 2


async def test_no_cache_without_an_entry_is_a_miss(proxy: Gate) -> None:
    assert status_of(await proxy.ask(headers=control("no-cache"))) == ("MISS", "imagegate; fwd=uri-miss; stored")


async def test_no_cache_joins_a_purchase_in_the_air_and_is_joined(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask()
    proxy.clock.advance(1)
    key = await proxy.key_of()
    upstream.hold()
    tasks = [proxy.asking(headers=control("no-cache"))]
    await proxy.waiting(key, 1)
    await upstream.reached(2)
    proxy.clock.advance(1)
    tasks.append(proxy.asking(headers=control("no-cache")))
    await proxy.waiting(key, 2)
    tasks.append(proxy.asking(headers=control("max-age=0")))
    await proxy.waiting(key, 3)
    upstream.release()
    answers = await asyncio.gather(*tasks)
    assert [answer.headers["x-imagegate-cache"] for answer in answers] == ["REFRESH", "COALESCED", "COALESCED"]
    assert {answer.content for answer in answers} == {upstream.replies[1]}
    assert len(upstream.calls) == 2


async def test_a_fresh_entry_is_served_while_a_refresh_is_in_the_air(proxy: Gate, upstream: CountingUpstream) -> None:
    old = await proxy.ask()
    proxy.clock.advance(1)
    upstream.hold()
    refresh = proxy.asking(headers=control("no-cache"))
    await upstream.reached(2)
    plain = await proxy.ask()
    assert (plain.headers["x-imagegate-cache"], plain.content) == ("HIT", old.content)
    upstream.release()
    await refresh


async def test_no_cache_is_not_satisfied_by_a_flight_that_merely_found_an_older_entry(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    key, first, second = await proxy.key_of(), Stop(), Stop()
    plain = asyncio.create_task(
        stopping(proxy.app.pipeline, first, second).generate(await ask(proxy.app.pipeline, proxy.clock))
    )
    await first.reached.wait()
    await proxy.ask()
    first.go.set()
    await second.reached.wait()  # its flight has found what was just bought
    proxy.clock.advance(1)
    refresh = proxy.asking(headers=control("no-cache"))
    await proxy.waiting(key, 2)
    second.go.set()
    assert (await plain).outcome.label == "hit"
    answer = await refresh
    assert answer.headers["x-imagegate-cache"] == "REFRESH"
    assert answer.content == upstream.replies[1]


async def test_a_refresh_takes_what_somebody_bought_after_it_arrived(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask()
    proxy.clock.advance(1)
    between = Stop()
    asked = await ask(proxy.app.pipeline, proxy.clock, headers=control("no-cache"))
    refresh = asyncio.create_task(stopping(proxy.app.pipeline, between).generate(asked))
    await between.reached.wait()
    proxy.clock.advance(1)
    await proxy.ask(headers=control("no-cache"))
    between.go.set()
    outcome = (await refresh).outcome
    assert outcome.label == "hit"
    assert len(upstream.calls) == 2


@pytest.mark.parametrize(
    ("directives", "label"),
    [
        ("max-age=9", "REFRESH"),
        ("max-age=10", "HIT"),
        ("max-age=11", "HIT"),
        ("min-fresh=50", "HIT"),
        ("min-fresh=51", "REFRESH"),
        ('max-age="9"', "REFRESH"),
        ("MAX-AGE=9", "REFRESH"),
        ("foo, no-cache", "REFRESH"),
        ('foo="no-cache, no-store"', "HIT"),
        ("max-age=never", "HIT"),
        ("max-age=-1", "HIT"),
        ("only-if-cached", "HIT"),
        ("max-stale", "HIT"),
        ("", "HIT"),
    ],
)
async def test_directives_against_an_entry_of_ten_seconds_that_has_fifty_left(
    proxy: Gate, directives: str, label: str
) -> None:
    await proxy.ask(headers={"x-imagegate-cache-ttl": "60"})
    proxy.clock.advance(10)
    assert (await proxy.ask(headers=control(directives))).headers["x-imagegate-cache"] == label


@pytest.mark.parametrize(
    ("directives", "label"),
    [
        ("", "MISS"),
        ("no-cache", "MISS"),
        ("max-stale", "HIT"),
        ("max-stale=11", "HIT"),
        ("max-stale=9", "MISS"),
        ("max-stale=60, min-fresh=1", "REFRESH"),
        ("max-stale=60, max-age=69", "REFRESH"),
        ("max-stale=60, max-age=70", "HIT"),
    ],
)
async def test_directives_against_an_entry_that_expired_ten_seconds_ago(
    proxy: Gate, directives: str, label: str
) -> None:
    await proxy.ask(headers={"x-imagegate-cache-ttl": "60"})
    proxy.clock.advance(70)
    answer = await proxy.ask(headers=control(directives))
    assert answer.headers["x-imagegate-cache"] == label
    if label == "MISS":
        assert answer.headers["cache-status"] == "imagegate; fwd=stale; stored"
    if label == "HIT":
        assert "ttl=-10;" in answer.headers["cache-status"]


@pytest.mark.parametrize("directives", ["only-if-cached", "only-if-cached, no-cache", "only-if-cached, no-store"])
async def test_only_if_cached_never_buys(proxy: Gate, upstream: CountingUpstream, directives: str) -> None:
    answer = await proxy.ask(headers=control(directives))
    assert answer.status_code == 504
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "not_cached"
    assert "cache-status" not in answer.headers
    assert upstream.calls == []


async def test_only_if_cached_refuses_an_entry_that_has_expired(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask(headers={"x-imagegate-cache-ttl": "5"})
    proxy.clock.advance(6)
    assert (await proxy.ask(headers=control("only-if-cached"))).status_code == 504
    assert (await proxy.ask(headers=control("only-if-cached, max-stale=5"))).status_code == 200
    assert len(upstream.calls) == 1


async def test_two_lines_of_cache_control_are_one_list(proxy: Gate) -> None:
    await proxy.ask()
    proxy.clock.advance(1)
    pairs = [("cache-control", "max-age=100"), ("cache-control", "no-cache")]
    body = {"model": "gpt-image-2", "prompt": "a red fox"}
    answer = await proxy.client.post("/v1/images/generations", json=body, headers=pairs)
    assert answer.headers["x-imagegate-cache"] == "REFRESH"

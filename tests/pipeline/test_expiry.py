"""How long an entry lives, and what a clock that jumps may and may not do."""

import pytest

from tests.support.application import Gate
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

DAY = 86_400


async def test_an_entry_lives_for_the_configured_time_and_then_is_stale(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.ask()
    proxy.clock.advance(30 * DAY - 1)
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"
    proxy.clock.advance(1)
    stale = await proxy.ask()
    assert stale.headers["cache-status"] == "imagegate; fwd=stale; stored"
    assert stale.headers["x-imagegate-cache"] == "MISS"
    assert stale.content == upstream.replies[1]
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"


async def test_the_ttl_header_decides_how_long_what_it_buys_may_be_used(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.ask(headers={"x-imagegate-cache-ttl": "60"})
    await proxy.ask()
    proxy.clock.advance(59)
    hit = await proxy.ask(headers={"x-imagegate-cache-ttl": "86400"})  # of no effect on what is there already
    assert hit.headers["cache-status"] == "imagegate; hit; ttl=1; detail=memory"
    proxy.clock.advance(1)
    assert (await proxy.ask()).headers["cache-status"] == "imagegate; fwd=stale; stored"
    assert len(upstream.calls) == 2


async def test_a_ttl_of_zero_is_stored_and_stale_at_once(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask(headers={"x-imagegate-cache-ttl": "0"})
    assert (await proxy.ask()).headers["cache-status"] == "imagegate; fwd=stale; stored"


@pytest.mark.parametrize("ttl", ["-1", "1.5", "a day", "", "1e3", "\u0663".encode().decode("latin-1")])
async def test_a_ttl_that_is_no_number_of_seconds_is_refused(proxy: Gate, upstream: CountingUpstream, ttl: str) -> None:
    headers = [(b"x-imagegate-cache-ttl", ttl.encode("latin-1"))]
    body = {"model": "gpt-image-2", "prompt": "a red fox"}
    answer = await proxy.client.post("/v1/images/generations", json=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_header"
    assert upstream.calls == []


async def test_a_clock_that_jumps_back_a_little_makes_no_negative_age(proxy: Gate) -> None:
    await proxy.ask()
    proxy.clock.jump(-100)
    hit = await proxy.ask()
    assert hit.headers["x-imagegate-cache"] == "HIT"
    assert hit.headers["age"] == "0"
    assert f"ttl={30 * DAY};" in hit.headers["cache-status"]  # never more than it was given


async def test_an_entry_from_the_far_future_is_not_immortal(proxy: Gate, upstream: CountingUpstream) -> None:
    proxy.clock.jump(10 * 365 * DAY)
    await proxy.ask()
    proxy.clock.jump(-10 * 365 * DAY)
    answer = await proxy.ask()
    assert answer.headers["cache-status"] == "imagegate; fwd=stale; stored"
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"


async def test_a_clock_that_jumps_ahead_and_back_costs_no_entry(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask("kept")
    proxy.clock.jump(40 * DAY)
    assert (await proxy.ask("another")).headers["x-imagegate-cache"] == "MISS"
    proxy.clock.jump(-40 * DAY)
    assert (await proxy.ask("kept")).headers["x-imagegate-cache"] == "HIT"


async def test_a_refresh_refreshes_although_the_clock_was_put_back(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask()
    proxy.clock.jump(-100)
    answer = await proxy.ask(headers={"cache-control": "no-cache"})
    assert answer.headers["x-imagegate-cache"] == "REFRESH"
    assert len(upstream.calls) == 2

"""On the way out: what flies lands and is stored, and nothing new is bought."""

import asyncio
from pathlib import Path

import pytest

from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio


async def test_a_draining_process_buys_nothing_but_serves_what_it_has(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask("stored")
    proxy.app.health.drain(10)
    refused, hit = await proxy.ask("new"), await proxy.ask("stored")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    assert refused.headers["retry-after"] == "1"
    assert hit.headers["x-imagegate-cache"] == "HIT"
    no_store = await proxy.ask("stored", headers={"cache-control": "no-store"})
    assert no_store.status_code == 503
    assert len(upstream.calls) == 1
    assert proxy.total("imagegate_purchases_total", outcome="failed") == 0


async def test_readiness_tells_of_the_way_out_before_purchases_end(proxy: Gate, upstream: CountingUpstream) -> None:
    proxy.app.health.leave(10)
    ready = await proxy.client.get("/readyz")
    assert (ready.status_code, ready.json()["problems"]) == (503, ["shutting down"])
    assert (await proxy.client.get("/healthz")).status_code == 200
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "MISS"


async def test_a_request_can_join_a_flight_of_a_draining_process(proxy: Gate, upstream: CountingUpstream) -> None:
    key = await proxy.key_of()
    upstream.hold()
    leader = proxy.asking()
    await upstream.reached(1)
    proxy.app.health.drain(10)
    follower = proxy.asking()
    await proxy.waiting(key, 2)
    upstream.release()
    assert [(await task).headers["x-imagegate-cache"] for task in (leader, follower)] == ["MISS", "COALESCED"]


async def test_closing_lets_flights_land_and_stores_them(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    async with gate(settings) as proxy:
        upstream.hold()
        asked = proxy.asking()
        await upstream.reached(1)
        closing = asyncio.create_task(proxy.app.close(10))
        while not proxy.app.health.is_draining:
            await asyncio.sleep(0)
        assert not closing.done()
        upstream.release()
        assert await closing == 0
        answer = await asked
        assert answer.content == upstream.replies[0]
    async with gate(settings) as successor:
        assert (await successor.ask()).content == answer.content
    assert len(upstream.calls) == 1


async def test_a_flight_that_does_not_land_in_time_is_told(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        upstream.hold()
        asked = proxy.asking()
        await upstream.reached(1)
        assert await proxy.app.flights.drain(0) == 1
        upstream.release()
        await asked


async def test_two_processes_share_one_directory(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    async with gate(settings) as old, gate(settings) as new:
        first = await old.ask()
        assert (await new.ask()).content == first.content
    assert len(upstream.calls) == 1

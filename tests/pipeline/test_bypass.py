"""`no-store`: not looked up, not stored, shared with nobody; finished and paid for all the same."""

import asyncio

import pytest

from tests.support.application import Gate, RawCall, generation
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

NO_STORE = {"cache-control": "no-store"}


async def test_no_store_neither_reads_nor_writes_the_cache(proxy: Gate, upstream: CountingUpstream) -> None:
    first = await proxy.ask(headers=NO_STORE)
    assert first.headers["cache-status"] == "imagegate; fwd=bypass"
    assert first.headers["x-imagegate-cache"] == "BYPASS"
    assert first.content == upstream.replies[0]
    stored = await proxy.ask()
    assert stored.headers["x-imagegate-cache"] == "MISS"
    again = await proxy.ask(headers=NO_STORE)
    assert again.content == upstream.replies[2]
    assert (await proxy.ask()).content == stored.content
    assert proxy.total("imagegate_cache_entries", tier="disk") == 1


async def test_no_store_asks_no_tier(proxy: Gate) -> None:
    await proxy.ask(headers=NO_STORE)
    assert proxy.total("imagegate_cache_lookups_total") == 0


async def test_no_store_leaves_no_file_behind(proxy: Gate) -> None:
    await proxy.ask(headers=NO_STORE)
    assert list(proxy.directory.rglob("*.val")) == []
    assert list(proxy.directory.rglob("*.spool")) == []


async def test_no_store_neither_joins_nor_is_joined(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    tasks = [proxy.asking(headers=NO_STORE) for _ in range(2)]
    await upstream.reached(2)
    tasks.append(proxy.asking())
    await upstream.reached(3)
    tasks.append(proxy.asking(headers=NO_STORE))
    await upstream.reached(4)
    upstream.release()
    answers = await asyncio.gather(*tasks)
    assert [answer.headers["x-imagegate-cache"] for answer in answers] == ["BYPASS", "BYPASS", "MISS", "BYPASS"]
    assert len({answer.content for answer in answers}) == 4


async def test_no_store_is_finished_and_counted_when_its_client_leaves(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    call = RawCall(proxy.app)
    call.start(generation(), headers=[(b"cache-control", b"no-store")])
    await upstream.reached(1)
    call.leave()
    await call.over()
    assert proxy.app.flights.in_flight() == 1
    upstream.release()
    await proxy.landed()
    assert proxy.total("imagegate_purchases_total", outcome="bought") == 1
    assert proxy.total("imagegate_upstream_cost_usd_total") == pytest.approx(0.031735)
    assert proxy.total("imagegate_requests_total", code="499", cache="bypass") == 1
    assert list(proxy.directory.rglob("*.spool")) == []

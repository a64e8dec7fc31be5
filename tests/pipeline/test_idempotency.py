"""`Idempotency-Key`: the same key with the same body is the same purchase."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream, Said

pytestmark = pytest.mark.anyio

KEYED = {"idempotency-key": "one"}
FRESH = {**KEYED, "cache-control": "no-cache"}
PRIVATE = {**KEYED, "cache-control": "no-store"}


def refusing(call: Any) -> Said:
    return Said(b'{"error":{"message":"no","type":"t","param":null,"code":null}}', status=400)


async def test_a_retry_gets_the_same_success_even_where_it_asks_for_a_new_one(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    first, again = await proxy.ask(headers=FRESH), await proxy.ask(headers=FRESH)
    assert first.content == again.content
    assert (first.headers["x-imagegate-cache"], again.headers["x-imagegate-cache"]) == ("MISS", "HIT")
    assert len(upstream.calls) == 1


async def test_the_same_key_with_another_body_is_refused(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask("one", headers=KEYED)
    answer = await proxy.ask("another", headers=KEYED)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "idempotency_key_in_use"
    assert answer.headers["x-should-retry"] == "false"
    assert len(upstream.calls) == 1


async def test_another_shape_of_the_same_request_is_the_same_request(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask(headers=FRESH, size="auto")
    call = proxy.stream(headers=FRESH)
    await call.over()
    assert [event.name for event in call.events] == ["image_generation.completed"]
    assert len(upstream.calls) == 1


async def test_a_day_later_the_key_is_free(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask("one", headers=KEYED)
    proxy.clock.advance(86_401)
    assert (await proxy.ask("another", headers=KEYED)).status_code == 200


async def test_a_success_is_replayed_after_it_has_expired(proxy: Gate, upstream: CountingUpstream) -> None:
    headers = {**KEYED, "x-imagegate-cache-ttl": "60"}
    first = await proxy.ask(headers=headers)
    proxy.clock.advance(3600)
    assert (await proxy.ask(headers=headers)).content == first.content
    assert len(upstream.calls) == 1


async def test_a_key_survives_a_restart(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    async with gate(settings) as proxy:
        first = await proxy.ask(headers=FRESH)
    async with gate(settings, proxy.clock) as proxy:
        assert (await proxy.ask(headers=FRESH)).content == first.content
        assert (await proxy.ask("another", headers=KEYED)).status_code == 422
    assert len(upstream.calls) == 1


async def test_duplicates_in_flight_join_even_with_no_store(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    both = [proxy.asking(headers=PRIVATE) for _ in range(2)]
    await upstream.reached(1)
    for _ in range(100):
        await asyncio.sleep(0)
    upstream.release()
    answers = await asyncio.gather(*both)
    assert answers[0].content == answers[1].content
    assert len(upstream.calls) == 1


async def test_with_no_store_nothing_is_replayed(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask(headers=PRIVATE)
    await proxy.ask(headers=PRIVATE)
    assert len(upstream.calls) == 2
    assert (await proxy.ask("another", headers=KEYED)).status_code == 200


async def test_a_failure_frees_the_key(proxy: Gate, upstream: CountingUpstream) -> None:
    paints, upstream.script = upstream.script, refusing
    assert (await proxy.ask("one", headers=KEYED)).status_code == 400
    upstream.script = paints
    assert (await proxy.ask("another", headers=KEYED)).status_code == 200


async def test_a_failure_frees_the_key_of_who_has_left(proxy: Gate, upstream: CountingUpstream) -> None:
    paints, upstream.script = upstream.script, refusing
    upstream.hold()
    call = proxy.stream("one", headers=KEYED)
    await upstream.reached(1)
    call.leave()
    await call.over()
    upstream.release()
    await proxy.landed()
    upstream.script = paints
    assert (await proxy.ask("another", headers=KEYED)).status_code == 200


async def test_who_left_finds_the_success(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    call = proxy.stream("one", headers=FRESH)
    await upstream.reached(1)
    call.leave()
    await call.over()
    upstream.release()
    await proxy.landed()
    assert (await proxy.ask("one", headers=FRESH)).headers["x-imagegate-cache"] == "HIT"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("key", ["", "é", "a\tb", "x" * 256])
async def test_what_is_no_key_is_refused(proxy: Gate, upstream: CountingUpstream, key: str) -> None:
    call = proxy.stream(headers={"idempotency-key": key})
    await call.over()
    assert call.status == 400
    assert upstream.calls == []


async def test_a_dry_run_claims_nothing(proxy: Gate) -> None:
    await proxy.ask("one", headers={**KEYED, "x-imagegate-dry-run": "true"})
    assert (await proxy.ask("another", headers=KEYED)).status_code == 200

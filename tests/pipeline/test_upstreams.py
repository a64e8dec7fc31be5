"""Several upstreams: who is asked, under whose name the answer is stored, and what is tried elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.settings import Settings
from tests.support.application import Gate, eventually, gate, settings_over
from tests.support.counting import Call, CountingUpstream, Said, counting_upstream

pytestmark = pytest.mark.anyio

LIMITED = b'{"error":{"message":"Slow down.","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}'


def busy(call: Call) -> Said:
    return Said(LIMITED, 429, {"retry-after": "60"})


def broken(call: Call) -> Said:
    return Said(b'{"error":{"message":"Oops.","type":"server_error","param":null,"code":null}}', 500)


def grouped(settings: Settings, groups: Sequence[str]) -> Settings:
    pairs = zip(settings.upstreams, groups, strict=True)
    return replace(settings, upstreams=tuple(replace(section, cache_group=group) for section, group in pairs))


@pytest.fixture
async def other() -> AsyncIterator[CountingUpstream]:
    async with counting_upstream() as upstream:
        yield upstream


@pytest.fixture
async def two(tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream) -> AsyncIterator[Gate]:
    async with gate(settings_over(tmp_path, upstream, other)) as proxy:
        yield proxy


async def test_the_first_by_priority_is_asked(two: Gate, upstream: CountingUpstream, other: CountingUpstream) -> None:
    await two.ask()
    assert (len(upstream.calls), len(other.calls)) == (1, 0)


async def test_a_reply_is_stored_under_the_group_that_answered(
    two: Gate, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    upstream.script = busy
    first = await two.ask()
    assert first.status_code == 200
    assert first.content == other.replies[0]
    # The look-up tries both groups, in the order of priority.
    second = await two.ask()
    assert second.headers["x-imagegate-cache"] == "HIT"
    assert second.headers["x-imagegate-cache-key"] == first.headers["x-imagegate-cache-key"]
    assert (len(upstream.calls), len(other.calls)) == (1, 1)
    assert first.headers["x-imagegate-cache-key"] != (await two.key_of())[:12]
    assert other.calls[0].headers["authorization"] == "Bearer sk-of-upstream-2"
    assert two.total("imagegate_upstream_retries_total", upstream="upstream-2", reason="failover") == 1


async def test_the_preferred_groups_entry_goes_before_the_others(
    two: Gate, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    plain = upstream.script
    upstream.script = busy
    await two.ask()
    upstream.script = plain
    two.clock.advance(1)
    refreshed = await two.ask(headers={"cache-control": "no-cache"})
    assert refreshed.content == upstream.replies[1]
    assert (await two.ask()).content == refreshed.content


async def test_upstreams_of_one_group_share_their_entries(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    upstream.script = busy
    async with gate(grouped(settings_over(tmp_path, upstream, other), ("same", "same"))) as proxy:
        first = await proxy.ask()
        assert first.headers["x-imagegate-cache-key"] == (await proxy.key_of())[:12]
        assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"


async def test_an_entry_of_one_upstream_is_no_answer_of_another_group(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    settings = settings_over(tmp_path, upstream)
    async with gate(settings) as proxy:
        await proxy.ask()
    async with gate(grouped(settings, ["elsewhere"])) as proxy:
        assert (await proxy.ask()).headers["x-imagegate-cache"] == "MISS"


async def test_what_may_have_been_billed_is_not_tried_elsewhere(
    two: Gate, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    upstream.script = broken
    answer = await two.ask()
    assert answer.status_code == 500
    assert answer.content == broken(Call(1, "", "", {}, b"")).body
    assert (len(upstream.calls), len(other.calls)) == (1, 0)


async def test_when_all_refuse_the_last_refusal_is_passed_on_and_one_purchase_has_failed(
    two: Gate, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    upstream.script = other.script = busy
    answer = await two.ask()
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (429, LIMITED, "60")
    assert two.total("imagegate_purchases_total", outcome="failed") == 1
    assert two.total("imagegate_upstream_attempts_total", code="429") == 2


async def test_an_upstream_that_cannot_be_reached_is_passed_over(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    settings = settings_over(tmp_path, upstream, other)
    gone = replace(settings.upstreams[0], base_url="http://127.0.0.1:1/v1", max_retries=0)
    async with gate(replace(settings, upstreams=(gone, settings.upstreams[1]))) as proxy:
        assert (await proxy.ask()).content == other.replies[0]
        assert proxy.total("imagegate_upstream_attempts_total", upstream="upstream-1", error="connect") == 1


async def test_a_wait_that_the_deadline_does_not_leave_time_for_is_passed_over(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(LIMITED, 429, {"retry-after": "2"})
    settings = settings_over(tmp_path, upstream, other)
    impatient = replace(settings.upstreams[0], total_timeout_seconds=1.5)
    async with gate(replace(settings, upstreams=(impatient, settings.upstreams[1]))) as proxy:
        assert (await proxy.ask()).content == other.replies[0]
    assert len(upstream.calls) == 1


async def test_a_model_goes_to_the_upstream_that_serves_it(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    settings = settings_over(tmp_path, upstream, other)
    first, second = settings.upstreams
    narrowed = (replace(first, models=("gpt-image-2.*",)), replace(second, models=("gpt-image-2",)))
    async with gate(replace(settings, upstreams=narrowed)) as proxy:
        await proxy.ask()
        await proxy.ask(model="gpt-image-2.5-flare")
        nobodys = await proxy.ask(model="chatgpt-image-latest")
    assert (len(upstream.calls), len(other.calls)) == (1, 1)
    assert nobodys.status_code == 400
    assert nobodys.json()["error"]["message"] == "The model 'chatgpt-image-latest' does not exist."


async def test_a_request_that_only_one_vendor_takes_goes_to_that_vendor_alone(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    settings = settings_over(tmp_path, upstream, other)
    mixed = (settings.upstreams[0], replace(settings.upstreams[1], vendor="apiyi"))
    upstream.script = busy
    async with gate(replace(settings, upstreams=mixed)) as proxy:
        answer = await proxy.ask(n=2)  # apiyi takes n = 1 only
    assert answer.status_code == 429
    assert other.calls == []


async def test_waiting_for_a_place_at_the_upstream_is_no_time_of_our_own(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    """What is told as the upstream's in `Server-Timing` holds the wait, and `imagegate_overhead_seconds` does not."""
    [section] = settings_over(tmp_path, upstream).upstreams
    async with gate(settings_over(tmp_path, upstream, upstreams=(replace(section, max_connections=1),))) as proxy:
        upstream.hold()
        first, second = proxy.asking("first"), proxy.asking("second")
        await upstream.reached(1)
        await eventually(lambda: proxy.total("imagegate_requests_queued") == 1)
        proxy.clock.advance(20)
        upstream.release()
        await asyncio.gather(first, second)
        assert proxy.total("imagegate_overhead_seconds_sum", cache="miss") < 1
        assert "upstream;dur=20000" in second.result().headers["server-timing"]

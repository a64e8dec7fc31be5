"""Limits in time on the request path: what counts against which, and what the caller is told."""

import asyncio

import pytest

from tests.support.counting import CountingUpstream, Said
from tests.support.keyed import Keyed

pytestmark = pytest.mark.anyio


async def test_requests_of_a_minute_count_hits_and_refusals_too(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key(rpm_limit=3)
    answers = [
        await keyed.gate.ask(headers=headers),
        await keyed.gate.ask(headers=headers),
        await keyed.gate.ask(headers=headers, size="1x1"),
        await keyed.gate.ask(headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 429]
    assert [answer.headers.get("x-ratelimit-remaining-requests") for answer in answers[:2]] == ["2", "1"]
    refused = answers[3]
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert "Limit 3, Used 3, Requested 1" in error["message"]
    assert refused.headers["retry-after"] == "60"
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert keyed.gate.total("imagegate_rate_limited_total", scope="key", limit="rpm") == 1
    keyed.gate.clock.advance(60)
    assert (await keyed.gate.ask(headers=headers)).status_code == 200
    assert len(upstream.calls) == 1


async def test_hits_and_followers_do_not_use_up_images(keyed: Keyed, upstream: CountingUpstream) -> None:
    leader, follower = await keyed.key("a", team="red", ipm_limit=1), await keyed.key("b", team="red", ipm_limit=1)
    upstream.hold()
    tasks = [keyed.gate.asking(headers=headers) for headers in (leader, follower, follower, leader)]
    await upstream.reached(1)
    upstream.release()
    assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 4
    assert (await keyed.gate.ask(headers=leader)).headers["x-imagegate-cache"] == "HIT"
    assert (await keyed.gate.ask("new", headers=follower)).status_code == 200
    refused = await keyed.gate.ask("newer", headers=leader)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "images")
    assert keyed.gate.total("imagegate_rate_limited_total", scope="key", limit="ipm") == 1


async def test_images_that_were_not_billed_do_not_count(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key(ipm_limit=1)
    painting = upstream.script
    upstream.script = lambda call: Said(b"{}", 500)
    assert (await keyed.gate.ask(headers=headers)).status_code == 500
    upstream.script = painting
    assert (await keyed.gate.ask(headers=headers)).status_code == 200
    assert (await keyed.gate.ask("another", headers=headers)).status_code == 429


async def test_more_images_than_a_minute_allows_can_never_pass(keyed: Keyed) -> None:
    answer = await keyed.gate.ask(headers=await keyed.key(ipm_limit=2), n=3)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in answer.headers


async def test_a_key_pays_for_so_many_flights_at_once(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key(max_parallel_requests=2)
    upstream.hold()
    tasks = [keyed.gate.asking(f"fox {number}", headers=headers) for number in range(2)]
    await upstream.reached(2)
    refused = await keyed.gate.ask("third", headers=headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    joining = keyed.gate.asking("fox 0", headers=headers)  # a follower pays for nothing
    await asyncio.sleep(0)
    upstream.release()
    assert [answer.status_code for answer in await asyncio.gather(*tasks, joining)] == [200] * 3
    assert (await keyed.gate.ask("third", headers=headers)).status_code == 200


async def test_a_limit_that_is_changed_counts_at_once(keyed: Keyed) -> None:
    headers = await keyed.key(rpm_limit=1)
    assert (await keyed.gate.ask(headers=headers)).status_code == 200
    assert (await keyed.gate.ask(headers=headers)).status_code == 429
    await keyed.update("alice", rpm_limit=2)
    assert (await keyed.gate.ask(headers=headers)).status_code == 200
    await keyed.update("alice", rpm_limit=None)
    answer = await keyed.gate.ask(headers=headers)
    assert (answer.status_code, "x-ratelimit-limit-requests" in answer.headers) == (200, False)


@pytest.mark.parametrize(("upstreams", "told"), [("1", "1"), ("70", "4"), ("4", "4")])
async def test_of_two_limits_the_tighter_one_is_told(
    keyed: Keyed, upstream: CountingUpstream, upstreams: str, told: str
) -> None:
    painting = upstream.script
    limits = {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": upstreams}

    def paints_with_limits(call: object) -> Said:
        said = painting(call)  # type: ignore[arg-type]
        assert isinstance(said, Said)
        return Said(said.body, headers=limits)

    upstream.script = paints_with_limits
    answer = await keyed.gate.ask(headers=await keyed.key(rpm_limit=5))
    assert answer.headers["x-ratelimit-remaining-requests"] == told
    assert answer.headers["x-ratelimit-limit-requests"] == ("100" if told != "4" else "5")

"""A failed flight is shared by those waiting and remembered by nobody; a leader that leaves takes nothing with it."""

import asyncio
import logging
import threading
from pathlib import Path

import pytest

from tests.support.application import Gate, RawCall, gate, generation, settings_over
from tests.support.clock import ManualClock
from tests.support.counting import Call, CountingUpstream, Said, paints

pytestmark = pytest.mark.anyio

REFUSED = (
    b'{"error":{"message":"Blocked.","type":"image_generation_user_error","param":null,"code":"moderation_blocked"}}'
)


class BreakingClock(ManualClock):
    """Stands for any defect of ours: the next look at it fails, on the event loop. In threads the store looks at it, too."""

    breaks_next = False

    def wall(self) -> float:
        if self.breaks_next and threading.current_thread() is threading.main_thread():
            self.breaks_next = False
            raise ZeroDivisionError("a defect")
        return super().wall()


def refuses(call: Call) -> Said:
    return Said(REFUSED, 400)


async def test_a_failure_is_shared_by_those_waiting_and_remembered_by_nobody(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = refuses
    key = await proxy.key_of()
    upstream.hold()
    tasks = [proxy.asking() for _ in range(5)]
    await proxy.waiting(key, 5)
    upstream.release()
    answers = await asyncio.gather(*tasks)
    assert {(answer.status_code, answer.content) for answer in answers} == {(400, REFUSED)}
    assert len(upstream.calls) == 1
    assert proxy.total("imagegate_purchases_total", outcome="failed") == 1
    assert proxy.total("imagegate_requests_total", code="400", cache="miss") == 1
    assert proxy.total("imagegate_requests_total", code="400", cache="coalesced") == 4
    upstream.script = paints
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "MISS"


async def test_a_failed_refresh_leaves_the_older_entry(proxy: Gate, upstream: CountingUpstream) -> None:
    old = await proxy.ask()
    proxy.clock.advance(1)
    upstream.script = refuses
    assert (await proxy.ask(headers={"cache-control": "no-cache"})).status_code == 400
    assert (await proxy.ask()).content == old.content


async def test_a_leader_that_leaves_alone_is_not_needed_to_land_store_and_count(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.hold()
    call = RawCall(proxy.app)
    call.start(generation())
    await upstream.reached(1)
    call.leave()
    await call.over()
    assert call.messages == []
    assert proxy.app.flights.in_flight() == 1
    upstream.release()
    await proxy.landed()
    retry = await proxy.ask()
    assert (retry.headers["x-imagegate-cache"], retry.content) == ("HIT", upstream.replies[0])
    assert len(upstream.calls) == 1
    assert proxy.total("imagegate_purchases_total", outcome="bought") == 1
    assert proxy.total("imagegate_upstream_images_total") == 1
    assert proxy.total("imagegate_upstream_cost_usd_total") == pytest.approx(0.031735)
    assert proxy.total("imagegate_requests_total", code="499", cache="miss") == 1
    assert proxy.total("imagegate_client_disconnects_total", stage="upstream") == 1
    assert proxy.total("imagegate_images_total") == 1  # the hit's: the leader took none


async def test_a_late_retry_joins_the_flight_its_first_try_began(proxy: Gate, upstream: CountingUpstream) -> None:
    key = await proxy.key_of()
    upstream.hold()
    first = RawCall(proxy.app)
    first.start(generation())
    await upstream.reached(1)
    first.leave()
    await first.over()
    retry = proxy.asking()
    await proxy.waiting(key, 1)
    upstream.release()
    answer = await retry
    assert answer.headers["x-imagegate-cache"] == "COALESCED"
    assert answer.headers["x-imagegate-cost-usd"] == "0"
    assert len(upstream.calls) == 1


async def test_a_follower_that_leaves_disturbs_nobody(proxy: Gate, upstream: CountingUpstream) -> None:
    key = await proxy.key_of()
    upstream.hold()
    leader = proxy.asking()
    await proxy.waiting(key, 1)
    follower = RawCall(proxy.app)
    follower.start(generation())
    await proxy.waiting(key, 2)
    follower.leave()
    await follower.over()
    assert proxy.app.flights.waiting(key) == 1
    upstream.release()
    assert (await leader).headers["x-imagegate-cache"] == "MISS"


async def test_a_flight_that_fails_with_nobody_waiting_is_counted_and_harms_nobody(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = refuses
    upstream.hold()
    call = RawCall(proxy.app)
    call.start(generation())
    await upstream.reached(1)
    call.leave()
    await call.over()
    upstream.release()
    await proxy.landed()
    assert proxy.total("imagegate_purchases_total", outcome="failed") == 1


async def test_a_client_that_leaves_while_it_still_sends_is_a_client_that_left(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    call = RawCall(proxy.app)
    call.start(b'{"model":', more_body=True)
    call.leave()
    await call.over()
    assert upstream.calls == []
    assert proxy.total("imagegate_requests_total", code="499", model="none") == 1
    assert proxy.total("imagegate_client_disconnects_total", stage="body") == 1


async def test_a_defect_inside_a_flight_is_an_internal_error_that_is_logged_once_a_request(
    tmp_path: Path, upstream: CountingUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    clock = BreakingClock()

    def breaks(call: Call) -> Said:
        clock.breaks_next = True
        return paints(call)

    upstream.script = breaks
    async with gate(settings_over(tmp_path, upstream), clock) as proxy:
        with caplog.at_level(logging.ERROR, logger="imagegate"):
            answer = await proxy.ask()
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["x-should-retry"] == "false"
    assert "ZeroDivisionError" not in answer.text
    (told,) = caplog.records
    assert told.exc_info is not None
    assert told.exc_info[1] is not None
    assert isinstance(told.exc_info[1].__cause__, ZeroDivisionError)


async def test_a_retry_that_joins_what_everybody_left_is_coalesced_even_when_it_fails(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.hold()
    upstream.script = lambda call: Said(b'{"error":{"message":"no"}}', status=400)
    key = await proxy.key_of()
    first = RawCall(proxy.app)
    first.start(generation())
    await upstream.reached(1)
    first.leave()
    await first.over()
    assert proxy.app.flights.waiting(key) == 0
    assert proxy.app.flights.is_in_flight(key)
    retry = proxy.asking()
    await proxy.waiting(key, 1)
    upstream.release()
    assert (await retry).headers["x-imagegate-cache"] == "COALESCED"
    assert len(upstream.calls) == 1

"""The router: who is asked, what may be asked again, and when to stop waiting; over real sockets, calls counted."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import (
    ImagegateError,
    InternalError,
    InvalidRequest,
    QueueFull,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.model import Credential
from proxy.upstream import Caller
from proxy.upstream.breaker import FAILURES_TO_REST, REST_SECONDS
from proxy.upstream.slots import QUEUE_SECONDS
from tests.support import faulty
from tests.support.clock import ManualClock
from tests.support.door import OUR_KEY, Door, opened, section
from tests.support.faulty import Act, FaultyUpstream
from tests.support.images import picture, reply

pytestmark = pytest.mark.anyio


def nobody(name: str, **changes: Any) -> Any:
    return section(name, f"http://127.0.0.1:{faulty.closed_port()}/v1", **changes)


async def bought_from(door: Door, *names: str) -> str:
    generation = await door.buy(*names)
    generation.spool.discard()
    return generation.candidate.upstream


async def failed(door: Door, *names: str) -> ImagegateError:
    with pytest.raises(ImagegateError) as caught:
        await door.buy(*names)
    return caught.value


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_the_canonical_body_goes_out_with_our_key_and_no_other_header(tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url + "/")) as door:
        generation = await door.buy(unkeyed={"user": "u"}, wants_b64_json=True)
        generation.spool.discard()
        (heard,) = upstream.heard
    assert (heard.method, heard.target) == ("POST", "/v1/images/generations")
    assert heard.json() == {
        "model": "gpt-image-2",
        "prompt": "a lighthouse",
        "user": "u",
        "response_format": "b64_json",
    }
    assert heard.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "content-type": "application/json",
        "content-length": str(len(heard.body)),
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "imagegate",
        "authorization": f"Bearer {OUR_KEY}",
    }


@pytest.mark.parametrize("header", ["authorization", "api-key"])
async def test_a_callers_own_credential_goes_out_instead_of_ours(tmp_path: Path, header: Any) -> None:
    caller = Caller(Credential(header, "Bearer théirs", "org-1", "proj-1"), openai_beta="images=v2")
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        (await door.buy(caller=caller)).spool.discard()
        headers = upstream.heard[0].headers
    assert headers[header] == "Bearer théirs"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")
    assert headers["openai-beta"] == "images=v2"
    assert len(headers.keys() & {"authorization", "api-key"}) == 1
    assert OUR_KEY not in str(headers)


# --- trying again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wait", [{"retry_after": "0"}, {"retry_after_ms": "1"}, {"retry_after": "0.001"}])
async def test_a_busy_upstream_that_names_a_short_wait_is_asked_again(
    tmp_path: Path, status: int, wait: dict[str, str]
) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.play(faulty.refused(status, **wait))
        assert await bought_from(door) == "a"
        assert upstream.calls == 2
        assert door.record.retries == [("a", "busy")]
        assert door.record.attempts == [("a", status, ""), ("a", 200, "")]


@pytest.mark.parametrize(
    "act",
    [
        faulty.refused(429),
        faulty.refused(429, retry_after="3"),
        faulty.refused(429, retry_after="0", x_should_retry="false"),
        faulty.refused(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
        faulty.refused(429, retry_after="-1"),
        faulty.refused(429, retry_after="1.2.3"),
        faulty.refused(429, retry_after="."),
        faulty.refused(429, retry_after="nan"),
        faulty.refused(429, retry_after_ms="60000", retry_after="1"),
        faulty.refused(500, retry_after="0"),
        faulty.refused(502, retry_after="0"),
        faulty.refused(504, retry_after="0"),
        faulty.refused(400, retry_after="0"),
        faulty.refused(401),
        faulty.refused(408, retry_after="0"),
        faulty.refused(409, retry_after="0"),
    ],
)
async def test_any_other_refusal_is_told_after_one_call(tmp_path: Path, act: Act) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.play(act)
        assert isinstance(await failed(door), UpstreamRefusal)
        assert upstream.calls == 1
        assert door.record.retries == []


async def test_it_is_asked_again_only_so_often(tmp_path: Path) -> None:
    for retries in (0, 2):
        async with (
            FaultyUpstream() as upstream,
            opened(tmp_path, section("a", upstream.base_url, max_retries=retries)) as door,
        ):
            upstream.always(faulty.refused(429, retry_after="0"))
            assert isinstance(await failed(door), UpstreamRefusal)
            assert upstream.calls == 1 + retries


async def test_a_connection_that_was_not_made_is_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path, nobody("a")) as door:
        failure = await failed(door)
        assert isinstance(failure, UpstreamUnreachable)
        assert not failure.billed
        assert door.record.attempts == [("a", None, "connect")] * 2
        assert door.record.retries == [("a", "connect")]


# --- the next upstream -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [faulty.refused(429, retry_after="60"), faulty.refused(503), None])
async def test_what_was_certainly_not_billed_is_asked_of_the_next(tmp_path: Path, act: Act | None) -> None:
    async with FaultyUpstream() as first, FaultyUpstream() as second:
        one = nobody("a", max_retries=0) if act is None else section("a", first.base_url)
        async with opened(tmp_path, one, section("b", second.base_url)) as door:
            if act is not None:
                first.play(act)
            assert await bought_from(door) == "b"
            assert (first.calls, second.calls) == (0 if act is None else 1, 1)
            assert door.record.retries == [("b", "failover")]


@pytest.mark.parametrize("act", [faulty.refused(400), faulty.refused(401), faulty.refused(500), faulty.hung_up()])
async def test_everything_else_is_told_to_the_caller(tmp_path: Path, act: Act) -> None:
    async with (
        FaultyUpstream() as first,
        FaultyUpstream() as second,
        opened(tmp_path, section("a", first.base_url), section("b", second.base_url)) as door,
    ):
        first.play(act)
        assert isinstance(await failed(door), UpstreamError)
        assert (first.calls, second.calls) == (1, 0)


async def test_they_are_asked_in_order_and_the_last_failure_is_told(tmp_path: Path) -> None:
    async with (
        FaultyUpstream() as first,
        FaultyUpstream() as second,
        opened(tmp_path, section("a", first.base_url), section("b", second.base_url)) as door,
    ):
        first.always(faulty.refused(429, code="first"))
        second.always(faulty.refused(503, code="second"))
        for names, told in ((("a", "b"), b"second"), (("b", "a"), b"first")):
            failure = await failed(door, *names)
            assert isinstance(failure, UpstreamRefusal)
            assert told in failure.content
        assert (first.calls, second.calls) == (2, 2)


async def test_a_backup_out_of_reach_does_not_hide_when_to_come_back(tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url), nobody("b")) as door:
        upstream.always(faulty.refused(429, retry_after="30"))
        failure = await failed(door)
        assert isinstance(failure, UpstreamRefusal)
        assert (failure.status, failure.headers["retry-after"]) == (429, "30")


async def test_each_upstream_gets_the_request_as_its_vendor_takes_it_and_its_own_key(tmp_path: Path) -> None:
    async with FaultyUpstream() as first, FaultyUpstream() as second:
        sections = (section("a", first.base_url), section("b", second.base_url, api_key=None))
        async with opened(tmp_path, *sections) as door:
            first.play(faulty.refused(429))
            assert await bought_from(door) == "b"
            assert "authorization" not in second.heard[0].headers


# --- resting ---------------------------------------------------------------------------------------------------------


async def test_a_failing_upstream_rests_while_another_can_take_its_requests(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        FaultyUpstream() as first,
        FaultyUpstream() as second,
        opened(tmp_path, section("a", first.base_url), section("b", second.base_url), clock=clock) as door,
    ):
        first.always(faulty.refused(500))
        for _ in range(FAILURES_TO_REST):
            await failed(door)
        assert not door.upstreams.is_available("a")
        assert await bought_from(door) == "b"
        assert first.calls == FAILURES_TO_REST, "it was left alone"
        await failed(door, "a")
        assert first.calls == FAILURES_TO_REST + 1, "the last one never rests"
        clock.advance(REST_SECONDS)
        first.always(faulty.replied(b'{"data":[]}'))
        assert isinstance(await failed(door), UpstreamInvalidResponse)
        assert not door.upstreams.is_available("a"), "one more failure lets it rest again"


@pytest.mark.parametrize("act", [faulty.refused(400), faulty.refused(429), faulty.refused(401), faulty.refused(404)])
async def test_refusals_of_the_request_are_no_failures_of_the_upstream(tmp_path: Path, act: Act) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.always(act)
        for _ in range(FAILURES_TO_REST + 1):
            await failed(door)
        assert door.upstreams.is_available("a")


@pytest.mark.parametrize(
    "act", [faulty.hung_up(), faulty.html(), faulty.refused(503), faulty.silent(), faulty.truncated(b"{}", 1)]
)
async def test_every_failure_of_the_upstream_counts(tmp_path: Path, act: Act) -> None:
    async with (
        FaultyUpstream() as upstream,
        opened(tmp_path, section("a", upstream.base_url, total_timeout_seconds=0.05)) as door,
    ):
        upstream.always(act)
        for _ in range(FAILURES_TO_REST):
            await failed(door)
        assert not door.upstreams.is_available("a")


# --- the total deadline ----------------------------------------------------------------------------------------------


async def test_the_total_deadline_beats_a_drip_that_never_pauses(tmp_path: Path) -> None:
    async with (
        FaultyUpstream() as upstream,
        opened(tmp_path, section("a", upstream.base_url, total_timeout_seconds=0.2)) as door,
    ):
        upstream.play(faulty.dripped(b" " * 10_000))
        began = time.perf_counter()
        failure = await failed(door)
        assert isinstance(failure, UpstreamTimeout)
        assert time.perf_counter() - began < 5
        assert (failure.status, failure.code) == (504, "upstream_timeout")
        assert door.record.attempts == [("a", None, "timeout")]


async def test_a_reply_that_was_received_whole_is_kept_however_long_its_check_takes(tmp_path: Path) -> None:
    """Its picture stands behind an address, and comes long after the deadline."""
    async with (
        FaultyUpstream() as upstream,
        opened(tmp_path, section("a", upstream.base_url, total_timeout_seconds=0.4)) as door,
    ):
        document = {"data": [{"url": f"{upstream.base_url}/a.png"}]}
        upstream.play(
            faulty.replied(json.dumps(document).encode()), faulty.dripped(picture("a"), size=50, every_seconds=0.1)
        )
        generation = await door.buy()
        assert len(generation.inspection.images) == 1
        assert generation.seconds < 0.4, "until the last byte of the reply"
        assert door.record.attempts == [("a", 200, "")]
        generation.spool.discard()


async def test_waiting_for_a_place_takes_nothing_from_the_deadline(tmp_path: Path) -> None:
    clock, gate = ManualClock(), asyncio.Event()
    async with FaultyUpstream() as upstream:
        upstream.play(faulty.held(gate, faulty.refused(400)))
        only = section("a", upstream.base_url, total_timeout_seconds=20, max_connections=1)
        async with opened(tmp_path, only, clock=clock) as door:
            first = asyncio.create_task(failed(door))
            await upstream.heard_calls(1)
            second = asyncio.create_task(bought_from(door))
            while not door.upstreams.queued():
                await asyncio.sleep(0)
            clock.advance(29)
            gate.set()
            await first
            assert await second == "a"
            assert (upstream.calls, door.record.waits) == (2, 1)


async def test_a_wait_that_outlasts_the_deadline_is_not_waited_for(tmp_path: Path) -> None:
    """A 429 was not billed: told as a timeout it would be neither tried elsewhere nor tried again."""
    async with FaultyUpstream() as first, FaultyUpstream() as second:
        sections = (section("a", first.base_url, total_timeout_seconds=0.5), section("b", second.base_url))
        async with opened(tmp_path, *sections) as door:
            first.always(faulty.refused(429, retry_after="1"))
            for _ in range(FAILURES_TO_REST):
                assert isinstance(await failed(door, "a"), UpstreamRefusal)
            assert door.upstreams.is_available("a")
            assert await bought_from(door) == "b"
            assert first.calls == FAILURES_TO_REST + 1


async def test_a_deadline_that_passes_before_a_byte_was_sent_is_asked_of_the_next(tmp_path: Path) -> None:
    async with FaultyUpstream() as first, FaultyUpstream() as second:
        first.always(faulty.silent())  # to a TLS handshake
        url = first.base_url.replace("http:", "https:")
        sections = (section("a", url, total_timeout_seconds=0.1), section("b", second.base_url))
        async with opened(tmp_path, *sections) as door:
            assert await bought_from(door) == "b"
            assert door.record.attempts == [("a", None, "connect"), ("b", 200, "")]
            failure = await failed(door, "a")
            assert isinstance(failure, UpstreamUnreachable)
            assert not failure.billed


async def test_one_caller_waits_for_all_upstreams_no_longer_than_for_the_first_and_its_queue(tmp_path: Path) -> None:
    clock, gate = ManualClock(), asyncio.Event()
    async with FaultyUpstream() as first, FaultyUpstream() as second:
        first.play(faulty.held(gate, faulty.refused(429)))
        second.always(faulty.silent())
        sections = (section("a", first.base_url, total_timeout_seconds=100), section("b", second.base_url))
        async with opened(tmp_path, *sections, clock=clock) as door:
            call = asyncio.create_task(failed(door))
            await first.heard_calls(1)
            clock.advance(100 + QUEUE_SECONDS)
            gate.set()
            assert isinstance(await call, UpstreamRefusal)
            assert second.calls == 0


# --- what is no fault of the upstream --------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", ["a ", "a\nb", "☃"])
async def test_a_header_that_cannot_be_sent_is_the_callers_fault_and_no_call(tmp_path: Path, beta: str) -> None:
    async with (
        FaultyUpstream() as upstream,
        opened(tmp_path, section("a", upstream.base_url), section("b", upstream.base_url)) as door,
    ):
        for _ in range(FAILURES_TO_REST):
            with pytest.raises(InvalidRequest) as caught:
                await door.buy(caller=Caller(openai_beta=beta))
            assert (caught.value.code, caught.value.billed) == ("invalid_header", False)
        assert door.upstreams.is_available("a")
        assert (upstream.calls, door.record.attempts, door.record.retries) == (0, [], [])
        assert door.spooled_files() == []


async def test_a_reply_that_the_disk_lost_is_counted_and_no_failure_of_the_upstream(tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        body = reply(picture("a", size=800_000))
        for number in range(1, FAILURES_TO_REST + 1):
            gate = asyncio.Event()
            upstream.play(faulty.split(body[:700_000], gate, body[700_000:]))
            call = asyncio.create_task(failed(door))
            while not door.spooled_files():
                await asyncio.sleep(0)
            (file,) = door.spooled_files()
            replace_by_null(file)
            gate.set()
            assert isinstance(await call, InternalError)
            assert door.record.attempts == [("a", 200, "")] * number
            assert door.spooled_files() == []
        assert door.upstreams.is_available("a")


def replace_by_null(file: Path) -> None:
    """From now on what is written to this open file is lost, and it cannot be mapped."""
    open_files = ((int(name), f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
    fd = next(fd for fd, link in open_files if os.path.lexists(link) and os.readlink(link) == str(file))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)


async def test_a_call_that_is_given_up_is_counted_as_that(tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.always(faulty.silent())
        for number in range(1, FAILURES_TO_REST + 1):
            call = asyncio.create_task(door.buy())
            await upstream.heard_calls(number)
            call.cancel()
            await asyncio.wait([call])
        assert door.record.attempts == [("a", None, "cancelled")] * FAILURES_TO_REST
        assert door.upstreams.is_available("a")


# --- the queue -------------------------------------------------------------------------------------------------------


async def test_calls_beyond_the_limit_wait_and_are_counted(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with FaultyUpstream() as upstream:
        upstream.play(faulty.held(gate, faulty.refused(400)))
        async with opened(tmp_path, section("a", upstream.base_url, max_connections=1)) as door:
            first = asyncio.create_task(failed(door))
            await upstream.heard_calls(1)
            second = asyncio.create_task(bought_from(door))
            while not door.upstreams.queued():
                await asyncio.sleep(0)
            assert (upstream.calls, door.upstreams.queued()) == (1, 1)
            gate.set()
            await first
            assert await second == "a"
            assert (upstream.calls, door.upstreams.queued()) == (2, 0)


async def test_a_full_queue_is_asked_of_the_next_upstream_or_told(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with FaultyUpstream() as first, FaultyUpstream() as second:
        first.always(faulty.held(gate, faulty.refused(400)))
        sections = (section("a", first.base_url, max_connections=1), section("b", second.base_url))
        async with opened(tmp_path, *sections) as door:
            calls = [asyncio.create_task(failed(door, "a")) for _ in range(1001)]
            while door.upstreams.queued() < 1000:
                await asyncio.sleep(0)
            failure = await failed(door, "a")
            assert isinstance(failure, QueueFull)
            assert (failure.status, failure.billed) == (429, False)
            assert await bought_from(door) == "b"
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert door.upstreams.queued() == 0

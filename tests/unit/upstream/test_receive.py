"""Receiving: a reply is believed only whole and checked, and what is one call's own is parted from what is stored."""

import asyncio
import base64
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from proxy.errors import (
    ImagegateError,
    UpstreamConnectionLost,
    UpstreamInvalidResponse,
    UpstreamRefusal,
    UpstreamTimeout,
)
from proxy.upstream.receive import REPLY_BYTES_PER_IMAGE, content_type_of, relayed, relayed_with_id, request_id_of
from tests.support import faulty
from tests.support.door import OUR_KEY, content, opened, section
from tests.support.faulty import Act, FaultyUpstream, Line
from tests.support.images import picture, reply

pytestmark = pytest.mark.anyio

BODY = reply(picture("a", size=400_000))
PNG = base64.b64encode(picture("fetched")).decode()


# --- good replies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        faulty.replied(BODY),
        faulty.replied(BODY, headers={"content-type": "Application/JSON; charset=utf-8"}),
        faulty.replied(BODY, headers={"content-type": "application/vnd.images+json"}),
        faulty.chunked(BODY),
        faulty.unannounced(BODY),
        faulty.compressed(BODY),
        faulty.dripped(BODY, size=100_000, every_seconds=0),
    ],
)
async def test_a_whole_reply_is_spooled_as_it_came(tmp_path: Path, act: Act) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.play(act)
        generation = await door.buy()
        assert content(generation.spool) == BODY
        assert [image.size for image in generation.inspection.images] == [400_000]
        assert generation.relay.echo is None
        assert generation.seconds > 0
        assert len(door.spooled_files()) == 1
        generation.spool.discard()
        assert door.spooled_files() == []


async def test_what_is_one_callers_own_is_cut_and_handed_over_beside_the_body(tmp_path: Path) -> None:
    own = {"safety_identifier": "me", "created": 2}
    data = {"data": [{"b64_json": f"data:image/png;base64,{PNG}"}]}
    for document in ({**own, **data}, {**data, **own}, {"created": 2, **data, "safety_identifier": "me"}):
        sent = json.dumps(document).encode()
        async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
            upstream.play(faulty.replied(sent))
            generation = await door.buy()
            stored = content(generation.spool)
            assert generation.relay.echo is not None
            at, echo = generation.relay.echo
            assert stored[:at] + echo + stored[at:] == sent.replace(b"data:image/png;base64,", b"")
            (image,) = generation.inspection.images
            assert stored[slice(*image.value)].decode() == PNG
            assert generation.inspection.cuts() == ()
            generation.spool.discard()


async def test_a_picture_behind_an_address_is_fetched_into_the_reply(tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        items = [{"url": f"{upstream.base_url}/a.png", "b64_json": None}, {"b64_json": PNG}]
        document = {"safety_identifier": "me", "data": items}
        upstream.play(faulty.replied(json.dumps(document).encode()), faulty.replied(picture("fetched"), headers={}))
        generation = await door.buy(n=2)
        assert json.loads(content(generation.spool)) == {"data": [{"b64_json": PNG}, {"b64_json": PNG}]}
        assert (len(generation.inspection.images), generation.inspection.links) == (2, ())
        assert generation.relay.echo is not None
        assert [heard.method for heard in upstream.heard] == ["POST", "GET"]
        assert "authorization" not in upstream.heard[1].headers
        assert len(door.spooled_files()) == 1
        generation.spool.discard()
        assert door.spooled_files() == []


@pytest.mark.parametrize("behind", [faulty.refused(404), faulty.html(), faulty.hung_up()])
async def test_an_address_that_gives_no_picture_passes_through(tmp_path: Path, behind: Act) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        sent = json.dumps({"data": [{"url": f"{upstream.base_url}/a.png"}, {"b64_json": PNG}]}).encode()
        upstream.play(faulty.replied(sent), behind)
        generation = await door.buy(n=2)
        assert content(generation.spool) == sent
        assert (len(generation.inspection.images), len(generation.inspection.links)) == (1, 1)
        generation.spool.discard()


def addressed(upstream: FaultyUpstream) -> Act:
    return faulty.replied(json.dumps({"data": [{"url": f"{upstream.base_url}/a.png"}]}).encode())


async def test_a_slow_host_of_pictures_stops_no_other_reply(tmp_path: Path) -> None:
    async with (
        FaultyUpstream() as slow,
        FaultyUpstream() as quick,
        opened(tmp_path, section("slow", slow.base_url), section("quick", quick.base_url)) as door,
    ):
        waiting = []
        for calls in (2, 4):
            slow.play(addressed(slow), faulty.silent())
            waiting.append(asyncio.create_task(door.buy("slow")))
            await slow.heard_calls(calls)
        quick.play(addressed(quick), faulty.replied(picture("fetched")))
        async with asyncio.timeout(5):
            generation = await door.buy("quick")
        assert len(generation.inspection.images) == 1
        generation.spool.discard()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert door.spooled_files() == []


async def test_a_large_picture_behind_an_address_takes_little_memory(tmp_path: Path) -> None:
    large = picture("a", size=8_000_000)
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.play(addressed(upstream), faulty.chunked(large, size=65_536))
        tracemalloc.start()
        try:
            generation = await door.buy()
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
        finally:
            tracemalloc.stop()
        assert [image.size for image in generation.inspection.images] == [8_000_000]
        generation.spool.discard()


# --- bad replies -----------------------------------------------------------------------------------------------------


def invalid(body: bytes) -> Act:
    return faulty.replied(body)


BAD: list[tuple[Act, type[ImagegateError]]] = [
    (faulty.slammed(), UpstreamConnectionLost),
    (faulty.hung_up(), UpstreamConnectionLost),
    (faulty.reset(), UpstreamConnectionLost),
    (faulty.reset(BODY, 300_000), UpstreamConnectionLost),
    (faulty.truncated(BODY, 300_000), UpstreamConnectionLost),
    (faulty.truncated(BODY, 0), UpstreamConnectionLost),
    (faulty.chunked(BODY, finished=False), UpstreamConnectionLost),
    (faulty.silent(), UpstreamTimeout),
    (faulty.dripped(BODY, size=1000, every_seconds=0.02), UpstreamTimeout),
    (faulty.html(), UpstreamInvalidResponse),
    (faulty.replied(BODY, headers={}), UpstreamInvalidResponse),
    (faulty.replied(BODY, headers={"content-type": "text/json-not"}), UpstreamInvalidResponse),
    (faulty.replied(b"", status=204, headers={}), UpstreamInvalidResponse),
    (faulty.replied(BODY, status=201), UpstreamInvalidResponse),
    (faulty.replied(BODY, status=600), UpstreamInvalidResponse),
    (faulty.replied(b'{"error":{}}', status=999), UpstreamInvalidResponse),
    (faulty.replied(b"", status=302, headers={"location": "/v1/elsewhere"}), UpstreamInvalidResponse),
    (faulty.replied(b"", announce=REPLY_BYTES_PER_IMAGE + 1), UpstreamInvalidResponse),
    (faulty.bomb(80), UpstreamInvalidResponse),
    (invalid(b""), UpstreamInvalidResponse),
    (invalid(b'{"data":[]}'), UpstreamInvalidResponse),
    (invalid(b'{"data":[{"b64_json":"no base64 at all, but long enough to be looked at"}]}'), UpstreamInvalidResponse),
    (invalid(BODY[:-10]), UpstreamInvalidResponse),
    (faulty.unannounced(BODY[:300_000]), UpstreamInvalidResponse),
    (invalid(b'{"error":{"message":"overloaded"},' + BODY[1:]), UpstreamInvalidResponse),
    (faulty.replied(BODY, headers={**faulty.JSON, "content-encoding": "br"}), UpstreamInvalidResponse),
    (faulty.replied(BODY, headers={**faulty.JSON, "content-encoding": "gzip"}), UpstreamInvalidResponse),
]


@pytest.mark.parametrize(("act", "expected"), BAD)
async def test_whatever_is_not_whole_is_told_apart_never_tried_again_and_leaves_no_file(
    tmp_path: Path, act: Act, expected: type[ImagegateError]
) -> None:
    async with FaultyUpstream() as upstream, FaultyUpstream() as other:
        one = section("a", upstream.base_url, total_timeout_seconds=0.2 if expected is UpstreamTimeout else 20)
        async with opened(tmp_path, one, section("b", other.base_url)) as door:
            upstream.always(act)
            with pytest.raises(expected) as caught:
                await door.buy()
            assert type(caught.value) is expected
            assert (caught.value.billed, caught.value.should_retry) == (True, False)
            assert (upstream.connections, other.connections) == (1, 0)
            assert len(door.record.attempts) == 1
        assert door.spooled_files() == []


async def test_a_flight_that_is_cancelled_anywhere_leaves_no_file(tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.always(faulty.dripped(BODY, size=150_000, every_seconds=0))
        for steps in range(0, 120, 3):
            task = asyncio.create_task(door.buy())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result().spool.discard()
    assert door.spooled_files() == []


async def test_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.play(faulty.bomb(80))
        tracemalloc.start()
        try:
            with pytest.raises(UpstreamInvalidResponse):
                await door.buy()
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
        finally:
            tracemalloc.stop()


# --- refusals --------------------------------------------------------------------------------------------------------


async def refusal_of(tmp_path: Path, act: Act) -> UpstreamRefusal:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.play(act)
        with pytest.raises(UpstreamRefusal) as caught:
            await door.buy()
        assert door.spooled_files() == []
        return caught.value


async def test_a_refusal_is_passed_on_as_it_came(tmp_path: Path) -> None:
    found = await refusal_of(
        tmp_path,
        faulty.refused(
            429,
            code="rate_limit_exceeded",
            retry_after="60",
            x_ratelimit_remaining_requests="0",
            x_should_retry="true",
            openai_organization="org-secret",
            set_cookie="a=b",
            cf_ray="1",
            x_request_id="req_upstream",
        ),
    )
    assert found.status == 429
    assert json.loads(found.content)["error"]["code"] == "rate_limit_exceeded"
    assert found.media_type == "application/json"
    assert found.headers == {
        "retry-after": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-should-retry": "true",
        "x-imagegate-upstream-request-id": "req_upstream",
    }


async def test_a_refusal_that_is_no_json_is_passed_on_too(tmp_path: Path) -> None:
    found = await refusal_of(tmp_path, faulty.html(500))
    assert (found.status, found.media_type) == (500, "text/html")
    assert found.content.startswith(b"<html>")


async def test_a_refusal_that_never_ends_is_a_refusal_all_the_same(tmp_path: Path) -> None:
    """Its status is known: nothing was billed, and the next may be asked."""

    async def play(line: Line) -> None:
        await line.head(429, {**faulty.JSON, "content-length": "100"})
        await line.until_closed()

    async with FaultyUpstream() as upstream, FaultyUpstream() as other:
        one = section("a", upstream.base_url, total_timeout_seconds=0.1)
        async with opened(tmp_path, one, section("b", other.base_url)) as door:
            upstream.always(Act(play))
            with pytest.raises(UpstreamRefusal) as caught:
                await door.buy("a")
            assert (caught.value.status, json.loads(caught.value.content)["error"]["code"]) == (429, None)
            generation = await door.buy("a", "b")
            assert generation.candidate.upstream == "b"
            generation.spool.discard()
            assert door.record.attempts == [("a", 429, ""), ("a", 429, ""), ("b", 200, "")]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_our_key_is_never_in_a_refusal(tmp_path: Path, encoding: str) -> None:
    quoting = json.dumps({"error": {"message": f"Incorrect API key provided: {OUR_KEY}. {OUR_KEY}"}}).encode()
    body = gzip.compress(quoting) if encoding == "gzip" else quoting
    found = await refusal_of(
        tmp_path, faulty.replied(body, status=401, headers={**faulty.JSON, "content-encoding": encoding})
    )
    assert found.content == quoting.replace(OUR_KEY.encode(), b"[our key]")
    assert OUR_KEY not in repr(found) + str(found.headers)


@pytest.mark.parametrize(
    "act",
    [
        faulty.replied(b'{"error":', status=500, announce=5000),
        faulty.replied(b"x" * 2_000_000, status=500),
        faulty.replied(b"x", status=500, headers={"content-encoding": "br"}),
    ],
)
async def test_a_refusal_that_cannot_be_read_keeps_its_status(tmp_path: Path, act: Act) -> None:
    found = await refusal_of(tmp_path, act)
    assert found.status == 500
    assert json.loads(found.content)["error"]["type"] == "server_error"


# --- headers ---------------------------------------------------------------------------------------------------------


def test_only_headers_on_the_list_are_relayed() -> None:
    headers = {
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-images": "5",
        "x-ratelimit-reset-tokens": "6m0s",
        "content-type": "application/json",
        "retry-after": "1",
        "x-should-retry": "false",
        "openai-organization": "org",
        "openai-project": "proj",
        "x-request-id": "req_1",
        "set-cookie": "a=b",
        "cf-ray": "1",
        "server": "s",
        "content-encoding": "gzip",
        "x-ratelimit-huge": "x" * 300,
        "x-ratelimit-split": "1\r\nset-cookie: a=b",
        "x-ratelimit-foreign": "é",
    }
    good = {name: headers[name] for name in list(headers)[:4]}
    assert relayed(headers) == good
    refused = {**good, "retry-after": "1", "x-should-retry": "false"}
    assert relayed(headers, refused=True) == refused
    own = {"x-imagegate-upstream-request-id": "req_1"}
    assert relayed_with_id(headers) == {**good, **own}
    assert relayed_with_id(headers, refused=True) == {**refused, **own}
    assert relayed_with_id({}) == {}


def test_a_reply_keeps_what_it_is_called_if_that_is_fit_for_a_header() -> None:
    assert content_type_of({"content-type": "Application/JSON; charset=utf-8"}) == "Application/JSON; charset=utf-8"
    for unfit in ("application/json; " + "x" * 300, "application/json\n", "application/json; é"):
        assert content_type_of({"content-type": unfit}) == "application/json"
    assert content_type_of({}) == "application/json"


def test_a_request_id_is_taken_over_only_if_it_is_fit_for_a_log() -> None:
    assert request_id_of({"x-request-id": "req_1"}) == "req_1"
    for unfit in ("", "x" * 129, "a\nb", "é"):
        assert request_id_of({"x-request-id": unfit}) is None
    assert request_id_of({}) is None


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"error":{"code":"rate_limit_exceeded"}}', "rate_limit_exceeded"),
        (b'{"error":{"code":"two words"}}', None),
        (b'{"error":{"code":7}}', None),
        (b'{"error":"text"}', None),
        (b"[]", None),
        (b"<html>", None),
    ],
)
async def test_a_refusal_is_known_by_the_upstreams_own_code(tmp_path: Path, content: bytes, code: str | None) -> None:
    async with FaultyUpstream() as upstream, opened(tmp_path, section("a", upstream.base_url)) as door:
        upstream.always(faulty.replied(content, status=400))
        with pytest.raises(UpstreamRefusal) as caught:
            await door.buy()
    assert caught.value.code == code

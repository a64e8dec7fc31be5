"""Streams: events as they come, one flight for all, and one entry for both shapes of an answer."""

import asyncio
import base64
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.application import Gate, eventually, gate, settings_over
from tests.support.counting import (
    CR,
    CRLF,
    DONE,
    UNENDED,
    UNNAMED,
    Call,
    CountingUpstream,
    Framing,
    Said,
    Streamed,
    completed,
    counting_upstream,
    event,
    failed,
    partial,
)
from tests.support.images import picture, reply

pytestmark = pytest.mark.anyio

FIRST, SECOND, WHOLE = picture("first"), picture("second"), picture("whole")
EVENTS = [partial(0, FIRST), partial(1, SECOND), completed(WHOLE)]


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def data_of(event: bytes) -> str:
    """The data of an event in plain framing."""
    return event.decode().split("data: ", 1)[1].removesuffix("\n\n")


async def test_each_event_is_forwarded_when_it_arrives_and_the_last_when_it_is_stored(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    gates = {number: asyncio.Event() for number in range(3)}
    upstream.script = lambda call: Streamed(EVENTS, gates=gates)
    call = proxy.stream(partial_images=2)
    await eventually(lambda: call.status == 200)
    assert call.events == []
    gates[0].set()
    await call.told(1)
    gates[1].set()
    await call.told(2)
    assert proxy.total("imagegate_cache_entries", tier="disk") == 0
    gates[2].set()
    await call.over()
    assert [each.name for each in call.events] == [
        *["image_generation.partial_image"] * 2,
        "image_generation.completed",
    ]
    assert [each.data for each in call.events] == [data_of(event) for event in EVENTS]
    assert call.is_ended
    assert proxy.total("imagegate_cache_entries", tier="disk") == 1
    headers = dict(call.headers)
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"x-imagegate-cache"] == b"MISS"
    assert headers[b"cache-status"] == b"imagegate; fwd=uri-miss"
    sent = upstream.calls[0].json
    assert (sent["stream"], sent["partial_images"]) == (True, 2)


async def test_a_stream_is_accounted_by_the_usage_of_its_last_event(proxy: Gate) -> None:
    await proxy.stream().over()
    assert proxy.total("imagegate_upstream_tokens_total") == 1070
    assert proxy.total("imagegate_upstream_images_total") == 1


async def test_what_a_stream_bought_is_a_hit_for_streams_byte_for_byte(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Streamed(EVENTS)
    await proxy.stream(partial_images=2).over()
    call = proxy.stream()
    await call.over()
    (only,) = call.events
    assert (only.name, only.data) == ("image_generation.completed", data_of(EVENTS[2]))
    headers = dict(call.headers)
    assert headers[b"x-imagegate-cache"] == b"HIT"
    assert int(headers[b"content-length"]) == len(call.body)
    assert len(upstream.calls) == 1


async def test_what_a_stream_bought_is_a_hit_for_plain_requests_as_a_reply(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.stream(partial_images=1).over()
    answer = await proxy.ask()
    assert answer.headers["x-imagegate-cache"] == "HIT"
    document = answer.json()
    event = json.loads(data_of(upstream.replies[0].split(b"event: ")[-1]))
    assert document["data"] == [{"b64_json": event["b64_json"]}]
    assert document["created"] == event["created_at"]
    rest = {"size", "quality", "background", "output_format", "usage"}
    assert {name: document[name] for name in rest} == {name: event[name] for name in rest}
    assert document.keys() == rest | {"data", "created"}
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("rendering", ["data_url", "url"])
async def test_what_a_stream_bought_has_every_face(proxy: Gate, rendering: str) -> None:
    await proxy.stream().over()
    answer = await proxy.ask(headers={"x-imagegate-response-format": rendering})
    (item,) = answer.json()["data"]
    assert item["url"].startswith(
        "data:image/png;base64," if rendering == "data_url" else "http://gate.test/v1/images/"
    )
    assert int(answer.headers["content-length"]) == len(answer.content)
    if rendering == "url":
        image = (await proxy.client.get(item["url"])).content
        assert image.startswith(b"\x89PNG")


async def test_what_a_plain_request_bought_is_a_hit_for_streams_as_one_event(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    bought = (await proxy.ask()).json()
    call = proxy.stream(partial_images=3)
    await call.over()
    (only,) = call.events
    assert only.name == "image_generation.completed"
    assert only.json == {
        "type": "image_generation.completed",
        "created_at": bought["created"],
        "b64_json": bought["data"][0]["b64_json"],
        "usage": bought["usage"],
    }
    assert dict(call.headers)[b"x-imagegate-cache"] == b"HIT"
    assert int(dict(call.headers)[b"content-length"]) == len(call.body)
    assert len(upstream.calls) == 1


async def test_fifty_followers_have_every_event_of_one_call(proxy: Gate, upstream: CountingUpstream) -> None:
    gates = {number: asyncio.Event() for number in range(3)}
    upstream.script = lambda call: Streamed(EVENTS, gates=gates)
    key = await proxy.key_of()
    calls = [proxy.stream(partial_images=2) for _ in range(25)]
    await proxy.waiting(key, 25)
    gates[0].set()
    await calls[0].told(1)
    calls += [proxy.stream(partial_images=2) for _ in range(25)]  # they come when one event has passed
    await proxy.waiting(key, 50)
    gates[1].set()
    gates[2].set()
    for call in calls:
        await call.over()
        assert [each.data for each in call.events] == [data_of(event) for event in EVENTS]
    assert len(upstream.calls) == 1
    assert sorted(dict(call.headers)[b"x-imagegate-cache"] for call in calls) == [*[b"COALESCED"] * 49, b"MISS"]


async def test_a_plain_request_that_joins_a_stream_gets_a_reply(proxy: Gate, upstream: CountingUpstream) -> None:
    gates = {2: asyncio.Event()}
    upstream.script = lambda call: Streamed(EVENTS, gates=gates)
    call = proxy.stream(partial_images=2)
    await call.told(2)
    plain = proxy.asking()
    await proxy.waiting(await proxy.key_of(), 2)
    gates[2].set()
    answer = await plain
    assert answer.json()["data"] == [{"b64_json": text(WHOLE)}]
    assert answer.headers["x-imagegate-cache"] == "COALESCED"
    await call.over()
    assert len(upstream.calls) == 1


async def test_a_stream_that_joins_a_plain_flight_gets_signs_of_life_and_one_event(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(reply(WHOLE))
    async with gate(settings_over(tmp_path, upstream), silence_seconds=0.2) as proxy:
        upstream.hold()
        plain = proxy.asking()
        await upstream.reached(1)
        call = proxy.stream()
        await eventually(lambda: call.body.count(b": keepalive\n\n") >= 2)
        assert call.status == 200
        upstream.release()
        await call.over()
        assert [each.json["b64_json"] for each in call.events] == [text(WHOLE)]
        assert dict(call.headers)[b"x-imagegate-cache"] == b"COALESCED"
        assert (await plain).json()["data"] == [{"b64_json": text(WHOLE)}]
    assert len(upstream.calls) == 1


async def test_an_upstream_that_answers_a_stream_with_a_reply_is_understood(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(reply(WHOLE))
    call = proxy.stream()
    await call.over()
    assert [each.json["b64_json"] for each in call.events] == [text(WHOLE)]
    assert dict(call.headers)[b"x-imagegate-cache"] == b"MISS"


@pytest.mark.parametrize("framing", [CRLF, CR, UNNAMED, UNENDED, Framing("\r\n", named=False)])
@pytest.mark.parametrize("piece_bytes", [None, 7])
async def test_odd_framing_comes_out_exact(
    proxy: Gate, upstream: CountingUpstream, framing: Framing, piece_bytes: int | None
) -> None:
    ended = Framing(framing.newline, framing.named)
    events = [partial(0, FIRST, framing=ended), completed(WHOLE, framing=framing)]
    upstream.script = lambda call: Streamed(events, piece_bytes=piece_bytes)
    call = proxy.stream(partial_images=1)
    await call.over()
    assert [each.name for each in call.events] == ["image_generation.partial_image", "image_generation.completed"]
    assert [each.json["b64_json"] for each in call.events] == [text(FIRST), text(WHOLE)]
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"


async def test_a_stream_that_says_done_is_done(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Streamed([completed(WHOLE), DONE])
    call = proxy.stream()
    await call.over()
    assert len(call.events) == 1


async def test_a_refusal_keeps_its_status(proxy: Gate, upstream: CountingUpstream) -> None:
    body = b'{"error":{"message":"no","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}'
    upstream.script = lambda call: Said(body, status=429)
    call = proxy.stream()
    await call.over()
    assert (call.status, call.body) == (429, body)


async def test_a_refusal_after_the_head_is_an_event_in_its_own_words(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    error = {"message": "no", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}
    upstream.script = lambda call: Said(json.dumps({"error": error}).encode(), status=429)
    async with gate(settings_over(tmp_path, upstream), silence_seconds=0.01) as proxy:
        upstream.hold()
        call = proxy.stream()
        await eventually(lambda: call.status == 200)
        upstream.release()
        await call.over()
    assert [(each.name, each.json) for each in call.events] == [("error", {"type": "error", "error": error})]
    assert call.is_ended


async def test_an_error_among_the_events_is_told_as_it_came_and_nothing_is_stored(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    gates = {1: asyncio.Event()}
    upstream.script = lambda call: Streamed([partial(0, FIRST), failed("It failed.")], gates=gates)
    call = proxy.stream(partial_images=1)
    await call.told(1)
    plain = proxy.asking()
    await proxy.waiting(await proxy.key_of(), 2)
    gates[1].set()
    await call.over()
    assert [each.name for each in call.events] == ["image_generation.partial_image", "error"]
    error = call.events[1].json["error"]
    assert (error["message"], error["code"]) == ("It failed.", "image_generation_failed")
    assert call.is_ended
    answer = await plain
    assert (answer.status_code, answer.json()["error"]) == (502, error)
    assert answer.headers["x-should-retry"] == "false"
    assert proxy.total("imagegate_cache_entries", tier="disk") == 0
    assert proxy.total("imagegate_upstream_attempts_total", code="200", error="stream") == 1


@pytest.mark.parametrize("coding", ["chunked", "length", "close"])
async def test_a_stream_that_is_cut_stores_nothing_and_ends_visibly_broken(
    proxy: Gate, upstream: CountingUpstream, coding: str
) -> None:
    upstream.script = lambda call: Streamed(EVENTS, cut_after=1, coding=coding)  # type: ignore[arg-type]
    call = proxy.stream(partial_images=2)
    with pytest.raises(Exception, match=r"stream|connection"):
        await call.over()
    assert [each.name for each in call.events] == ["image_generation.partial_image", "error"]
    assert call.events[1].json["error"]["code"] == "upstream_connection_lost"
    assert not call.is_ended
    await proxy.landed()
    assert proxy.total("imagegate_cache_entries", tier="disk") == 0
    assert (await proxy.ask()).status_code == 502  # it is asked again, and not told from memory
    assert len(upstream.calls) == 2


@pytest.mark.parametrize(
    "last",
    [
        completed(b"no image at all, but long enough to be one"),
        completed(WHOLE).replace(b'"b64_json": "', b'"b64_json": "***'),
        completed(WHOLE, b64_json="", url="https://127.0.0.1/x.png"),
        b"event: image_generation.completed\ndata: {\n\n",
    ],
    ids=["no image", "no base64", "an address", "no JSON"],
)
async def test_a_last_event_that_is_no_image_is_never_sent(
    proxy: Gate, upstream: CountingUpstream, last: bytes
) -> None:
    upstream.script = lambda call: Streamed([partial(0, FIRST), last])
    call = proxy.stream(partial_images=1)
    with pytest.raises(Exception, match=r"upstream|reply|image"):
        await call.over()
    assert [each.name for each in call.events] == ["image_generation.partial_image", "error"]
    assert call.events[1].json["error"]["code"] == "upstream_invalid_response"
    assert proxy.total("imagegate_cache_entries", tier="disk") == 0


async def test_who_leaves_a_stream_finds_it_finished_and_stored(proxy: Gate, upstream: CountingUpstream) -> None:
    gates = {1: asyncio.Event()}
    upstream.script = lambda call: Streamed(EVENTS, gates=gates)
    call = proxy.stream(partial_images=2)
    await call.told(1)
    call.leave()
    await call.over()
    gates[1].set()
    await proxy.landed()
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"
    assert proxy.total("imagegate_client_disconnects_total", stage="body") == 1
    assert len(upstream.calls) == 1


async def test_a_slow_reader_holds_up_nobody(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Streamed(EVENTS)
    upstream.hold()
    slow, taken = proxy.stream(partial_images=2), asyncio.Event()
    send = slow._send

    async def slowly(message: object) -> None:
        await send(message)
        await taken.wait()

    slow._send = slowly  # type: ignore[method-assign]
    slow_task = slow.task
    await proxy.waiting(await proxy.key_of(), 1)
    quick = proxy.stream(partial_images=2)
    await proxy.waiting(await proxy.key_of(), 2)
    upstream.release()
    await quick.over()
    assert len(quick.events) == 3
    assert slow_task is not None
    taken.set()
    await slow.over()
    assert [each.data for each in slow.events] == [data_of(event) for event in EVENTS]


async def test_a_safety_identifier_is_told_to_its_own_caller_only(proxy: Gate, upstream: CountingUpstream) -> None:
    gates = {1: asyncio.Event()}
    events = [partial(0, FIRST), completed(WHOLE, safety_identifier="user-7")]
    upstream.script = lambda call: Streamed(events, gates=gates)
    own = proxy.stream(partial_images=1, safety_identifier="user-7")
    await own.told(1)
    other = proxy.stream(partial_images=1)
    await proxy.waiting(await proxy.key_of(), 2)
    gates[1].set()
    await own.over()
    await other.over()
    assert own.events[1].data == data_of(events[1])
    assert b"user-7" not in other.body
    assert "user-7" not in (await proxy.ask()).text


async def test_a_plain_reply_that_names_its_caller_tells_them_in_a_stream_too(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(reply(WHOLE, safety_identifier="user-7"))
    call = proxy.stream(safety_identifier="user-7")
    await call.over()
    assert call.events[0].json["safety_identifier"] == "user-7"
    assert b"user-7" not in (await proxy.ask()).content


async def test_a_stream_with_no_store_is_shared_with_nobody(proxy: Gate, upstream: CountingUpstream) -> None:
    for _ in range(2):
        call = proxy.stream(headers={"cache-control": "no-store"}, partial_images=1)
        await call.over()
        assert len(call.events) == 2
        assert dict(call.headers)[b"x-imagegate-cache"] == b"BYPASS"
    assert len(upstream.calls) == 2


async def test_only_one_image_can_be_streamed(proxy: Gate, upstream: CountingUpstream) -> None:
    call = proxy.stream(n=2)
    await call.over()
    assert call.status == 400
    assert json.loads(call.body)["error"]["message"] == "Streaming is only supported with n=1."
    assert upstream.calls == []


async def test_a_flight_leaves_no_file_behind(tmp_path: Path) -> None:
    async with counting_upstream() as upstream, gate(settings_over(tmp_path, upstream)) as proxy:
        await proxy.stream(partial_images=3).over()
        assert list((proxy.directory / "tmp").iterdir()) == []


async def test_the_wait_for_a_streams_upstream_is_no_overhead_of_ours(proxy: Gate) -> None:
    await proxy.stream("one").over()
    assert proxy.total("imagegate_overhead_seconds_count") == 0
    await proxy.stream("one").over()
    assert proxy.total("imagegate_overhead_seconds_count", cache="hit") == 1


async def test_an_event_without_data_is_none(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Streamed([b"event: nothing\ndata:\n\n", completed(WHOLE)])
    call = proxy.stream()
    await call.over()
    assert [each.name for each in call.events] == ["image_generation.completed"]


async def test_a_stream_that_fails_after_its_head_is_counted_as_the_failure_that_it_is(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Streamed([failed()])
    await proxy.stream().over()
    assert proxy.total("imagegate_requests_total", code="502", cache="miss") == 1
    assert proxy.total("imagegate_requests_total", code="200") == 0


# --- found by review, each failed before it was mended ----------------------------------------------------------------


async def test_streams_that_say_nothing_yet_hold_up_nobody(proxy: Gate, upstream: CountingUpstream) -> None:
    said = {0: asyncio.Event()}

    def script(call: Call) -> Said:
        return Streamed(EVENTS, gates=said) if call.json.get("stream") else Said(reply(WHOLE))

    upstream.script = script
    silent = [proxy.stream(f"silent {number}") for number in range(12)]
    for call in silent:
        await eventually(lambda call=call: call.status == 200)  # type: ignore[misc]
    async with asyncio.timeout(0.9):  # each of them had a place among eight for a second
        assert (await proxy.ask("plain")).status_code == 200
    said[0].set()
    for call in silent:
        await call.over()
        assert len(call.events) == 3


async def test_what_a_stream_brought_in_time_may_wait_to_be_checked(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    (section,) = settings.upstreams
    settings = replace(settings, upstreams=(replace(section, total_timeout_seconds=0.3, connect_timeout_seconds=0.1),))
    upstream.script = lambda call: Streamed(EVENTS)
    async with gate(settings) as proxy:
        busy = threading.Event()
        for _ in range(2):
            proxy.app.checkers.submit(busy.wait)
        asyncio.get_running_loop().call_later(0.6, busy.set)
        call = proxy.stream(partial_images=2)
        await call.over()
    assert len(call.events) == 3


async def test_a_safety_identifier_on_the_way_is_told_to_nobody(proxy: Gate, upstream: CountingUpstream) -> None:
    first = partial(0, FIRST, safety_identifier="user-7")
    upstream.script = lambda call: Streamed([first, completed(WHOLE)])
    call = proxy.stream(partial_images=1)
    await call.over()
    assert b"user-7" not in call.body
    assert call.events[0].json["b64_json"] == text(FIRST)


async def test_who_leaves_in_the_middle_of_a_hit_is_counted_as_a_hit(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.stream().over()
    call = proxy.stream()
    send = call._send

    async def leaving(message: Any) -> None:
        await send(message)
        if message["type"] == "http.response.body":
            call.leave()
            await asyncio.Event().wait()

    call._send = leaving  # type: ignore[method-assign]
    await call.over()
    assert proxy.total("imagegate_requests_total", cache="hit", code="499") == 1
    assert proxy.total("imagegate_requests_total", cache="none") == 0


@pytest.mark.parametrize("name", ["foo\n\ndata: evil", "a\ud800b", "a b", "x" * 300])
async def test_a_name_that_is_none_does_not_reach_a_client(proxy: Gate, upstream: CountingUpstream, name: str) -> None:
    odd = b"data: " + json.dumps({"type": name}).encode() + b"\n\n"
    upstream.script = lambda call: Streamed([odd, completed(WHOLE)])
    call = proxy.stream()
    await call.over()
    assert [each.name for each in call.events] == ["image_generation.completed"]


async def test_an_address_and_a_picture_in_one_reply_are_delivered_as_an_address(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    data = [{"url": "https://127.0.0.1/a.png"}, {"b64_json": text(WHOLE)}]
    body = {"created": 1, "data": data, "safety_identifier": "user-7"}
    upstream.script = lambda call: Said(json.dumps(body).encode())
    call = proxy.stream(safety_identifier="user-7")
    await call.over()
    told = call.events[0].json
    assert (told["url"], told["safety_identifier"]) == ("https://127.0.0.1/a.png", "user-7")


async def test_many_small_events_cost_nobody_their_image(proxy: Gate, upstream: CountingUpstream) -> None:
    progress = [event("image_generation.progress", {"type": "image_generation.progress"})] * 100
    upstream.script = lambda call: Streamed([*progress, completed(WHOLE)])
    call = proxy.stream()
    await call.over()
    assert call.events[-1].name == "image_generation.completed"


async def test_the_payer_of_a_stream_sees_the_upstreams_headers_and_followers_do_not(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    gates = {0: asyncio.Event()}
    headers = {"x-request-id": "req-up", "x-ratelimit-remaining-requests": "7", "openai-processing-ms": "3"}
    upstream.script = lambda call: Streamed(EVENTS, gates=gates, headers=headers)
    own = proxy.stream()
    await eventually(lambda: own.status == 200)
    other = proxy.stream()
    await eventually(lambda: other.status == 200)
    gates[0].set()
    await own.over()
    await other.over()
    assert dict(own.headers)[b"x-imagegate-upstream-request-id"] == b"req-up"
    assert dict(own.headers)[b"x-ratelimit-remaining-requests"] == b"7"
    assert dict(own.headers)[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"x-ratelimit-remaining-requests" not in dict(other.headers)
    assert b"x-imagegate-upstream-request-id" not in dict(other.headers)

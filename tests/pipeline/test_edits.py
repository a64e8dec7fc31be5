"""Edits: one purchase for one edit, however it is wrapped, and what came is what goes out."""

import asyncio
import base64
import gc
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.settings import Settings
from tests.support.application import Gate, RawCall, eventually, gate, settings_over, with_cache
from tests.support.counting import Call, CountingUpstream, Said, Streamed, completed, counting_upstream, partial
from tests.support.edits import (
    EDITS,
    FOX,
    HAT,
    MASK,
    OTHER_MASK,
    OWL,
    PHOTOGRAPH,
    Body,
    Photo,
    in_form,
    in_json,
    in_parts,
    left_of_uploads,
    painted,
)
from tests.support.images import picture, reply
from tests.support.multipart import file, text

pytestmark = pytest.mark.anyio

LARGE = Photo(painted("purple", more=bytes(range(256)) * 12_000))  # 3 MB: over several windows, and not a multiple of 3
HUGE = Photo(painted("teal", more=bytes(12 << 20)))  # more than the sockets hold
FIRST, WHOLE = picture("first"), picture("whole")
EVENTS = [partial(0, FIRST, operation="image_edit"), completed(WHOLE, operation="image_edit")]


async def post(proxy: Gate, body: Body, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await proxy.client.post(EDITS, content=body.content, headers={**body.headers, **named})


def posting(proxy: Gate, body: Body, **headers: str) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(post(proxy, body, **headers))


def raw(proxy: Gate, body: Body, *, sent: int | None = None) -> RawCall:
    """A post that can be watched and left, of which the first `sent` bytes have arrived; or all."""
    call = RawCall(proxy.app)
    headers = [(b"content-type", body.content_type.encode()), (b"content-length", b"%d" % len(body.content))]
    call.start(body.content[:sent], path=EDITS, headers=headers, more_body=sent is not None)
    return call


async def key_of(proxy: Gate, body: Body) -> str:
    key: str = (await post(proxy, body, x_imagegate_dry_run="true")).json()["cache_key"]
    return key


def caches(answers: Sequence[httpx.Response]) -> list[str]:
    return [answer.headers["x-imagegate-cache"] for answer in answers]


def pictures_of(call: Call) -> list[tuple[str, str | None, bytes]]:
    """Where each picture of a form stands, what it is said to be, and its bytes."""
    return [(part.name, part.content_type, part.content) for part in call.form if part.filename is not None]


@pytest.fixture
async def other() -> AsyncIterator[CountingUpstream]:
    async with counting_upstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
async def leaves_nothing(proxy: Gate) -> AsyncIterator[None]:
    """Whatever became of an edit, its pictures are gone when it is over."""
    yield
    await proxy.landed()
    await eventually(lambda: left_of_uploads(proxy.directory) == [])


# --- one edit, one purchase -------------------------------------------------------------------------------------------


async def test_boundaries_and_file_names_are_nobodys_business(proxy: Gate, upstream: CountingUpstream) -> None:
    renamed = [replace(photo, filename=name) for photo, name in ((FOX, "fox.png"), (PHOTOGRAPH, "../../etc/passwd"))]
    first = await post(proxy, in_form(FOX, PHOTOGRAPH, mask=MASK))
    second = await post(proxy, in_form(*renamed, mask=replace(MASK, filename="m"), boundary="another"))
    assert first.status_code == 200
    assert caches([first, second]) == ["MISS", "HIT"]
    assert first.content == second.content == upstream.replies[0]
    assert len(upstream.calls) == 1


async def test_one_picture_is_the_same_edit_as_a_list_of_one(proxy: Gate, upstream: CountingUpstream) -> None:
    answers = [await post(proxy, in_form(FOX, name=name)) for name in ("image", "image[]")]
    assert caches(answers) == ["MISS", "HIT"]


DIFFERENT = {
    "no mask": in_form(FOX, PHOTOGRAPH),
    "another mask": in_form(FOX, PHOTOGRAPH, mask=OTHER_MASK),
    "another order": in_form(PHOTOGRAPH, FOX, mask=MASK),
    "fewer pictures": in_form(FOX, mask=MASK),
    "more pictures": in_form(FOX, PHOTOGRAPH, FOX, mask=MASK),
    "another content type": in_form(FOX, replace(PHOTOGRAPH, media_type="image/png"), mask=MASK),
    "another byte": in_form(FOX, replace(PHOTOGRAPH, content=PHOTOGRAPH.content + b"\0"), mask=MASK),
    "another prompt": in_form(FOX, PHOTOGRAPH, mask=MASK, prompt="at noon"),
    "another size": in_form(FOX, PHOTOGRAPH, mask=MASK, size="1024x1024"),
    "the mask among the pictures": in_form(FOX, PHOTOGRAPH, MASK),
}


async def test_each_difference_is_another_edit(proxy: Gate, upstream: CountingUpstream) -> None:
    keys = {name: await key_of(proxy, body) for name, body in DIFFERENT.items()}
    keys["the edit itself"] = await key_of(proxy, in_form(FOX, PHOTOGRAPH, mask=MASK))
    assert len(set(keys.values())) == len(keys)
    assert upstream.calls == []


@pytest.mark.parametrize("name", ["another mask", "another order", "another content type", "another byte"])
async def test_another_edit_is_bought(proxy: Gate, upstream: CountingUpstream, name: str) -> None:
    both = [await post(proxy, in_form(FOX, PHOTOGRAPH, mask=MASK)), await post(proxy, DIFFERENT[name])]
    assert [answer.status_code for answer in both] == [200, 200]
    assert caches(both) == ["MISS", "MISS"]
    assert len(upstream.calls) == 2


async def test_an_edit_and_a_generation_with_the_same_words_are_two_requests(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.ask("at night")
    assert (await post(proxy, in_form(FOX))).headers["x-imagegate-cache"] == "MISS"
    assert [call.path for call in upstream.calls] == ["/v1/images/generations", "/v1/images/edits"]


BY_FORM = in_form(FOX, PHOTOGRAPH, mask=MASK, n=2, output_format="webp", output_compression=40)
BY_JSON = in_json(FOX, PHOTOGRAPH, mask=MASK, n=2, output_format="webp", output_compression=40)


@pytest.mark.parametrize("bodies", [(BY_FORM, BY_JSON), (BY_JSON, BY_FORM)], ids=["form first", "JSON first"])
async def test_a_form_and_json_are_the_same_edit(
    proxy: Gate, upstream: CountingUpstream, bodies: tuple[Body, Body]
) -> None:
    first, second = [await post(proxy, body) for body in bodies]
    assert (first.status_code, first.content) == (200, upstream.replies[0])
    assert caches([first, second]) == ["MISS", "HIT"]
    assert first.content == second.content
    assert len(upstream.calls) == 1


async def test_another_spelling_of_a_data_url_is_the_same_picture(proxy: Gate) -> None:
    body = in_json(FOX)
    escaped = replace(body, content=body.content.replace(b"/", rb"\/"))
    assert escaped.content != body.content
    assert caches([await post(proxy, body), await post(proxy, escaped)]) == ["MISS", "HIT"]


async def test_what_is_the_default_need_not_be_said(proxy: Gate) -> None:
    said = in_form(FOX, n=1, size="auto", quality="auto", background="auto", output_format="png", moderation="auto")
    assert caches([await post(proxy, in_form(FOX)), await post(proxy, said)]) == ["MISS", "HIT"]


async def test_fifty_at_once_are_one_call(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    shapes = (in_form(LARGE, mask=None), in_form(LARGE, boundary="another"), in_json(LARGE))
    edits = [posting(proxy, shapes[number % 3]) for number in range(50)]
    await proxy.waiting(await key_of(proxy, shapes[0]), 50)
    upstream.release()
    answers = await asyncio.gather(*edits)
    assert {answer.content for answer in answers} == {upstream.replies[0]}
    assert sorted(caches(answers)) == [*["COALESCED"] * 49, "MISS"]
    assert len(upstream.calls) == 1


# --- what goes out ----------------------------------------------------------------------------------------------------


async def test_a_form_goes_out_as_a_form_with_the_pictures_as_they_came(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    body = in_form(
        LARGE,
        PHOTOGRAPH,
        mask=MASK,
        n=2,
        output_format="jpeg",
        output_compression=40,
        user="someone",
        prompt="café ☃\r\n",
    )
    answer = await post(proxy, body)
    assert answer.status_code == 200
    (call,) = upstream.calls
    assert (call.path, int(call.headers["content-length"])) == ("/v1/images/edits", len(call.body))
    assert pictures_of(call) == [
        ("image[]", "image/png", LARGE.content),
        ("image[]", "image/jpeg", PHOTOGRAPH.content),
        ("mask", "image/png", MASK.content),
    ]
    assert call.fields == {
        "model": "gpt-image-2",
        "prompt": "café ☃\r\n",
        "n": "2",
        "output_format": "jpeg",
        "output_compression": "40",
        "user": "someone",
    }


async def test_one_picture_goes_out_as_one(proxy: Gate, upstream: CountingUpstream) -> None:
    await post(proxy, in_form(FOX))
    assert pictures_of(upstream.calls[0]) == [("image", "image/png", FOX.content)]


async def test_sixteen_pictures_go_out_in_their_order(proxy: Gate, upstream: CountingUpstream) -> None:
    photos = [Photo(painted("red", size=(16 + number, 16))) for number in range(16)]
    assert (await post(proxy, in_form(*photos))).status_code == 200
    assert [content for _, _, content in pictures_of(upstream.calls[0])] == [photo.content for photo in photos]


async def test_json_goes_out_as_json_with_the_data_urls_as_they_came(proxy: Gate, upstream: CountingUpstream) -> None:
    answer = await post(proxy, in_json(LARGE, PHOTOGRAPH, mask=MASK, n=2, prompt="café ☃", safety_identifier="someone"))
    assert answer.status_code == 200
    (call,) = upstream.calls
    assert call.headers["content-type"] == "application/json"
    assert call.json == {
        "model": "gpt-image-2",
        "prompt": "café ☃",
        "n": 2,
        "images": [{"image_url": LARGE.url}, {"image_url": PHOTOGRAPH.url}],
        "mask": {"image_url": MASK.url},
        "safety_identifier": "someone",
    }
    assert base64.b64decode(call.json["images"][0]["image_url"].partition(",")[2]) == LARGE.content


@pytest.mark.parametrize("body", [in_form(FOX, response_format="data_url"), in_json(FOX, response_format="data_url")])
async def test_the_response_format_is_for_us(proxy: Gate, upstream: CountingUpstream, body: Body) -> None:
    answer = await post(proxy, body)
    (item,) = answer.json()["data"]
    assert item["url"].startswith("data:image/png;base64,")
    assert "response_format" not in upstream.calls[0].fields
    assert (await post(proxy, in_form(FOX))).headers["x-imagegate-cache"] == "HIT"


async def test_edits_have_a_link_for_a_face_too(proxy: Gate) -> None:
    answer = await post(proxy, in_form(FOX), x_imagegate_response_format="url")
    (item,) = answer.json()["data"]
    assert (await proxy.client.get(item["url"])).content.startswith(b"\x89PNG")


async def test_an_edit_is_accounted_as_one(proxy: Gate) -> None:
    for _ in range(2):
        await post(proxy, in_form(FOX))
    page = proxy.scrape()
    assert page.total("imagegate_requests_total", operation="image_edit", code="200") == 2
    assert page.total("imagegate_purchases_total", outcome="bought") == 1
    assert page.total("imagegate_upstream_tokens_total") == 1070


# --- what nobody can name ---------------------------------------------------------------------------------------------

LINKED = {"image_url": "https://pictures.example/fox.png"}
FILED = {"file_id": "file-abc"}
BY_REFERENCE = {
    "a link": in_json(LINKED),
    "a plain link": in_json({"image_url": "http://pictures.example/fox.png"}),
    "a file": in_json(FILED),
    "a link among pictures": in_json(FOX, LINKED),
    "a mask by its id": in_json(FOX, mask=FILED),
}


@pytest.mark.parametrize("body", BY_REFERENCE.values(), ids=BY_REFERENCE)
async def test_what_is_referred_to_is_bought_each_time(proxy: Gate, upstream: CountingUpstream, body: Body) -> None:
    answers = [await post(proxy, body) for _ in range(2)]
    assert [answer.content for answer in answers] == upstream.replies
    assert caches(answers) == ["BYPASS"] * 2
    assert {answer.headers["cache-status"] for answer in answers} == {"imagegate; fwd=bypass"}
    assert len(upstream.calls) == 2
    sent, asked = upstream.calls[0].json, json.loads(body.content)
    assert (sent["images"], sent.get("mask")) == (asked["images"], asked.get("mask"))
    assert proxy.total("imagegate_cache_entries", tier="disk") == 0
    assert proxy.total("imagegate_cache_lookups_total") == 0


async def test_what_is_referred_to_is_not_shared_while_it_is_bought(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    edits = [posting(proxy, in_json(LINKED)) for _ in range(3)]
    await upstream.reached(3)
    upstream.release()
    assert caches(await asyncio.gather(*edits)) == ["BYPASS"] * 3


async def test_what_is_referred_to_is_not_in_the_cache(proxy: Gate, upstream: CountingUpstream) -> None:
    await post(proxy, in_json(LINKED))
    answer = await post(proxy, in_json(LINKED), cache_control="only-if-cached")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "not_cached")
    assert answer.headers["x-should-retry"] == "false"
    assert len(upstream.calls) == 1


async def test_an_edit_that_is_only_wanted_from_the_cache(proxy: Gate, upstream: CountingUpstream) -> None:
    assert (await post(proxy, in_form(FOX), cache_control="only-if-cached")).status_code == 504
    await post(proxy, in_form(FOX))
    assert (await post(proxy, in_json(FOX), cache_control="only-if-cached")).headers["x-imagegate-cache"] == "HIT"
    assert len(upstream.calls) == 1


# --- clients that leave -----------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_after_its_upload_has_paid_for_the_next_one(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.hold()
    call = raw(proxy, in_form(LARGE, mask=None))
    await upstream.reached(1)
    call.leave()
    await call.over()
    assert call.status is None
    upstream.release()
    await proxy.landed()
    assert proxy.total("imagegate_requests_total", operation="image_edit", code="499") == 1
    assert (await post(proxy, in_json(LARGE))).headers["x-imagegate-cache"] == "HIT"
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("body", [in_form(LARGE, FOX), in_json(LARGE, FOX)], ids=["form", "JSON"])
async def test_a_client_that_leaves_during_its_upload_leaves_nothing(
    proxy: Gate, upstream: CountingUpstream, body: Body
) -> None:
    call = raw(proxy, body, sent=2_000_000)
    await eventually(lambda: left_of_uploads(proxy.directory) != [])
    call.leave()
    await call.over()
    assert (call.status, upstream.calls) == (None, [])
    assert left_of_uploads(proxy.directory) == []
    page = proxy.scrape()
    assert page.total("imagegate_requests_total", operation="image_edit", code="499") == 1
    assert page.total("imagegate_client_disconnects_total", stage="body") == 1
    assert page.total("imagegate_requests_in_flight") == 0
    assert page.total("imagegate_cache_entries", tier="disk") == 0


async def test_followers_do_not_notice_that_the_first_one_left(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    leader = raw(proxy, in_form(LARGE))
    await upstream.reached(1)
    follower = posting(proxy, in_json(LARGE))
    await proxy.waiting(await key_of(proxy, in_form(LARGE)), 2)
    leader.leave()
    await leader.over()
    upstream.release()
    assert (await follower).headers["x-imagegate-cache"] == "COALESCED"
    assert pictures_of(upstream.calls[0]) == [("image", "image/png", LARGE.content)]


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [in_form, in_json])
async def test_an_edit_streams_its_events_and_serves_both_shapes_afterwards(
    proxy: Gate, upstream: CountingUpstream, shape: Any
) -> None:
    upstream.script = lambda call: Streamed(EVENTS)
    call = raw(proxy, shape(FOX, mask=MASK, stream=True, partial_images=1))
    await call.over()
    assert call.body == b"".join(EVENTS)
    sent = upstream.calls[0].fields
    assert [sent["stream"], sent["partial_images"]] == (["true", "1"] if shape is in_form else [True, 1])
    again = raw(proxy, in_json(FOX, mask=MASK, stream=True))
    await again.over()
    assert [event.name for event in again.events] == ["image_edit.completed"]
    assert again.body == EVENTS[-1]
    whole = await post(proxy, in_form(FOX, mask=MASK))
    assert whole.headers["x-imagegate-cache"] == "HIT"
    assert whole.json()["data"] == [{"b64_json": base64.b64encode(WHOLE).decode()}]
    assert len(upstream.calls) == 1


async def test_an_edit_that_was_bought_whole_is_a_stream_of_one_event(proxy: Gate, upstream: CountingUpstream) -> None:
    bought = (await post(proxy, in_form(FOX))).json()
    call = raw(proxy, in_form(FOX, stream=True, partial_images=2))
    await call.over()
    (only,) = call.events
    assert (only.name, only.json["type"]) == ("image_edit.completed", "image_edit.completed")
    assert only.json["b64_json"] == bought["data"][0]["b64_json"]
    assert dict(call.headers)[b"x-imagegate-cache"] == b"HIT"
    assert len(upstream.calls) == 1


# --- Idempotency-Key --------------------------------------------------------------------------------------------------


async def test_a_retry_with_a_key_is_the_same_purchase_even_where_a_new_one_is_asked_for(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    fresh = {"idempotency_key": "one", "cache_control": "no-cache"}
    first = await post(proxy, in_form(FOX), **fresh)
    again = await post(proxy, in_form(FOX, boundary="another"), **fresh)
    by_json = await post(proxy, in_json(FOX), **fresh)
    assert first.content == again.content == by_json.content
    assert caches([first, again, by_json]) == ["MISS", "HIT", "HIT"]
    assert len(upstream.calls) == 1


async def test_a_key_stands_for_one_set_of_pictures(proxy: Gate, upstream: CountingUpstream) -> None:
    await post(proxy, in_form(FOX, mask=MASK), idempotency_key="one")
    for body in (in_form(OWL, mask=MASK), in_form(FOX, mask=OTHER_MASK)):
        answer = await post(proxy, body, idempotency_key="one")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_in_use")
    assert len(upstream.calls) == 1


async def test_duplicates_of_a_reference_with_a_key_join(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    both = [posting(proxy, in_json(LINKED), idempotency_key="one") for _ in range(2)]
    await upstream.reached(1)
    for _ in range(100):
        await asyncio.sleep(0)
    upstream.release()
    answers = await asyncio.gather(*both)
    assert answers[0].content == answers[1].content == upstream.replies[0]
    assert len(upstream.calls) == 1


# --- a second try sends everything again ------------------------------------------------------------------------------

LIMITED = b'{"error":{"message":"Slow down.","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}'
HEAVY = [in_form(LARGE, PHOTOGRAPH, mask=MASK), in_json(LARGE, PHOTOGRAPH, mask=MASK)]


def sent_of(call: Call) -> Any:
    return pictures_of(call) if call.is_multipart else call.json


async def once(settings: Settings, body: Body) -> httpx.Response:
    """The answer to one edit, by an application of its own."""
    async with gate(settings) as proxy:
        answer = await post(proxy, body)
        await eventually(lambda: left_of_uploads(proxy.directory) == [])
    return answer


@pytest.mark.parametrize("body", HEAVY, ids=["form", "JSON"])
async def test_an_upstream_that_is_busy_for_a_moment_gets_the_whole_edit_twice(
    tmp_path: Path, upstream: CountingUpstream, body: Body
) -> None:
    usual = upstream.script
    upstream.script = lambda call: Said(LIMITED, 429, {"retry-after": "0"}) if call.number == 1 else usual(call)
    answer = await once(settings_over(tmp_path / "own", upstream), body)
    assert answer.status_code == 200
    first, second = upstream.calls
    assert sent_of(first) == sent_of(second)
    assert len(first.body) == len(second.body)


@pytest.mark.parametrize("body", HEAVY, ids=["form", "JSON"])
async def test_the_next_upstream_gets_the_whole_edit(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream, body: Body
) -> None:
    upstream.script = lambda call: Said(LIMITED, 429, {"retry-after": "60"})
    answer = await once(settings_over(tmp_path / "own", upstream, other), body)
    assert answer.content == other.replies[0]
    assert sent_of(upstream.calls[0]) == sent_of(other.calls[0])


@pytest.mark.parametrize("body", HEAVY, ids=["form", "JSON"])
async def test_where_the_first_upstream_cannot_be_reached_the_second_gets_the_whole_edit(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream, body: Body
) -> None:
    settings = settings_over(tmp_path / "own", upstream, other)
    gone = replace(settings.upstreams[0], base_url="http://127.0.0.1:1/v1", max_retries=0)
    answer = await once(replace(settings, upstreams=(gone, settings.upstreams[1])), body)
    assert answer.content == other.replies[0]
    expected = [
        *[("image[]", photo.media_type, photo.content) for photo in (LARGE, PHOTOGRAPH)],
        ("mask", MASK.media_type, MASK.content),
    ]
    assert sent_of(other.calls[0]) == (expected if other.calls[0].is_multipart else json.loads(body.content))


async def test_an_upstream_that_hangs_up_on_an_edit_is_not_asked_again(proxy: Gate, upstream: CountingUpstream) -> None:
    def hangs_up(call: Call) -> Said:
        raise ConnectionResetError

    upstream.script = hangs_up
    answer = await post(proxy, in_form(LARGE))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_connection_lost")
    assert len(upstream.calls) == 1


async def test_a_refusal_is_passed_on_and_not_remembered(proxy: Gate, upstream: CountingUpstream) -> None:
    refusal = LIMITED.replace(b"Slow down.", b"Blocked.")
    upstream.script = lambda call: Said(refusal, 400)
    answer = await post(proxy, in_form(LARGE, HAT))
    assert (answer.status_code, answer.content) == (400, refusal)
    upstream.script = lambda call: Said(reply(WHOLE))
    assert (await post(proxy, in_form(LARGE, HAT))).headers["x-imagegate-cache"] == "MISS"


async def test_an_upstream_may_refuse_before_it_has_read_everything(tmp_path: Path, upstream: CountingUpstream) -> None:
    """As a gateway in front of an API does with what is too large for it: it answers, and reads on for a while."""
    heads: list[bytes] = []

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        head = b"HTTP/1.1 413 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(LIMITED)
        writer.write(head + LIMITED)
        writer.write_eof()
        while await reader.read(1 << 18):
            pass
        writer.close()

    server = await asyncio.start_server(refuses, "127.0.0.1", 0)
    settings = settings_over(tmp_path / "own", upstream)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    answer = await once(replace(settings, upstreams=(replace(settings.upstreams[0], base_url=url),)), in_form(HUGE))
    server.close()
    assert (answer.status_code, answer.content) == (413, LIMITED)
    assert len(heads) == 1


# --- found by review, each failed before it was mended ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["image[1]", "image[x]", "mask[feather]", "images[0]"])
async def test_a_part_that_would_be_paid_for_and_not_be_seen_is_refused(
    proxy: Gate, upstream: CountingUpstream, name: str
) -> None:
    parts = [text("model", "gpt-image-2"), text("prompt", "a fox"), file("image", FOX.content), file(name, OWL.content)]
    answer = await post(proxy, in_parts(*parts))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_parameter", name)
    assert ("'image[]'" in error["message"]) is not name.startswith("mask")
    assert upstream.calls == []


async def test_an_upstream_that_will_not_take_an_edit_holds_none_of_its_pictures(
    tmp_path: Path, upstream: CountingUpstream, other: CountingUpstream
) -> None:
    settings = settings_over(tmp_path, upstream, other)
    first, second = settings.upstreams
    gc.disable()
    try:
        async with gate(replace(settings, upstreams=(first, replace(second, vendor="azure")))) as proxy:
            for number in range(3):
                answer = await post(proxy, in_form(FOX, prompt=f"fox {number}", output_format="webp"))
                assert answer.status_code == 200
            await proxy.landed()
            assert left_of_uploads(proxy.directory) == []
    finally:
        gc.enable()


async def test_members_that_only_look_like_pictures_are_sent(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    (section,) = settings.upstreams
    async with gate(replace(settings, upstreams=(replace(section, vendor="together"),))) as proxy:
        await proxy.ask(model="black-forest-labs/FLUX.1-dev", images=["https://example.com/a.png"], mask="m")
    sent = upstream.calls[0].json
    assert (sent["images"], sent["mask"]) == (["https://example.com/a.png"], "m")


async def test_an_upload_of_unknown_length_looks_how_much_of_the_disk_is_left(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    settings = with_cache(settings_over(tmp_path, upstream), min_free_bytes=10**15)
    async with gate(settings) as proxy:
        body = in_form(Photo(painted("teal", more=bytes(20_000_000))))
        call = RawCall(proxy.app)
        call.start(b"", path=EDITS, headers=[(b"content-type", body.content_type.encode())], more_body=True)
        for at in range(0, len(body.content), 1 << 20):
            part = body.content[at : at + (1 << 20)]
            more = at + len(part) < len(body.content)
            call.incoming.put_nowait({"type": "http.request", "body": part, "more_body": more})
        await call.over()
    assert (call.status, upstream.calls) == (503, [])


async def test_an_upstream_that_does_not_take_the_whole_edit_cannot_have_billed_it(tmp_path: Path) -> None:
    connections = 0

    async def hears_the_head_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    server = await asyncio.start_server(hears_the_head_only, "127.0.0.1", 0)
    upstream = CountingUpstream()
    upstream.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        async with gate(settings_over(tmp_path, upstream)) as proxy:
            answer = await post(proxy, in_form(HUGE))
            assert proxy.total("imagegate_upstream_attempts_total", error="connect") == 2
    finally:
        server.close()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert "x-should-retry" not in answer.headers
    assert connections == 2

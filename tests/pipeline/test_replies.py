"""What of an upstream's reply is delivered, what is stored, and what is nobody else's business."""

import asyncio
import base64
import json
from pathlib import Path

import httpx
import pytest

from tests.support.application import Gate, gate, settings_over, with_cache
from tests.support.counting import Call, CountingUpstream, Said
from tests.support.images import picture, reply

pytestmark = pytest.mark.anyio

DEAD_ADDRESSES = (
    "http://127.0.0.1:1/picture.png",
    "https://127.0.0.1/picture.png",
    "https://10.0.0.1/picture.png",
    "https://[::1]/picture.png",
    "https://169.254.169.254/latest/meta-data",
    "ftp://example.com/picture.png",
    "file:///etc/passwd",
    "https://user:secret@example.com/picture.png",
    "not an address at all, and longer than thirty-two characters",
)


async def test_fewer_images_than_asked_for_are_delivered_and_not_stored(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(reply(picture("only one"), picture("and two")))
    answer = await proxy.ask(n=3)
    assert answer.content == upstream.replies[0]
    assert answer.headers["cache-status"] == "imagegate; fwd=uri-miss"
    assert (await proxy.ask(n=3)).headers["x-imagegate-cache"] == "MISS"
    assert list(proxy.directory.rglob("*.val")) == []


async def test_followers_of_a_reply_that_is_not_stored_share_it_all_the_same(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(reply(picture(f"of call {call.number}")))
    key = await proxy.key_of(n=2)
    upstream.hold()
    tasks = [proxy.asking(n=2) for _ in range(3)]
    await proxy.waiting(key, 3)
    upstream.release()
    answers = await asyncio.gather(*tasks)
    assert {answer.content for answer in answers} == {upstream.replies[0]}
    assert {answer.headers["cache-status"] for answer in answers} == {
        "imagegate; fwd=uri-miss",
        "imagegate; fwd=uri-miss; collapsed",
    }


async def test_an_address_becomes_the_picture_behind_it(proxy: Gate, upstream: CountingUpstream) -> None:
    seen = picture("behind the address")

    def script(call: Call) -> Said:
        if call.method == "GET":
            return Said(seen, content_type="image/png")
        data = [{"url": f"{upstream.base_url}/pictures/1.png?sig=x"}]
        return Said(json.dumps({"created": 1, "data": data}).encode())

    upstream.script = script
    first = await proxy.ask()
    assert first.json() == {"created": 1, "data": [{"b64_json": base64.b64encode(seen).decode()}]}
    assert first.headers["cache-status"] == "imagegate; fwd=uri-miss; stored"
    _, get = upstream.calls
    assert get.path == "/v1/pictures/1.png?sig=x"
    assert "authorization" not in get.headers
    upstream.script = lambda call: Said(b"gone", 404)
    assert (await proxy.ask()).content == first.content


@pytest.mark.parametrize("address", DEAD_ADDRESSES)
async def test_an_address_that_may_not_be_fetched_passes_through_and_is_not_stored(
    proxy: Gate, upstream: CountingUpstream, address: str
) -> None:
    body = json.dumps({"created": 1, "data": [{"url": address}]}).encode()
    upstream.script = lambda call: Said(body)
    answer = await proxy.ask()
    assert answer.content == body
    assert answer.headers["cache-status"] == "imagegate; fwd=uri-miss"
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "MISS"
    assert len(upstream.calls) == 2


async def test_a_picture_that_cannot_be_had_passes_the_address_through(proxy: Gate, upstream: CountingUpstream) -> None:
    body = json.dumps({"data": [{"url": f"{upstream.base_url}/gone.png"}]}).encode()
    upstream.script = lambda call: Said(body) if call.method == "POST" else Said(b"gone", 404)
    answer = await proxy.ask()
    assert answer.content == body
    assert answer.headers["cache-status"] == "imagegate; fwd=uri-miss"


async def test_of_many_addresses_each_becomes_its_own_picture(proxy: Gate, upstream: CountingUpstream) -> None:
    seen = [picture(f"number {number}", size=200_000) for number in range(6)]

    def script(call: Call) -> Said:
        if call.method == "GET":
            return Said(seen[int(call.path[-1])], content_type="image/png")
        return Said(json.dumps({"data": [{"url": f"{upstream.base_url}/{number}"} for number in range(6)]}).encode())

    upstream.script = script
    first = await proxy.ask(n=6)
    assert first.json() == {"data": [{"b64_json": base64.b64encode(each).decode()} for each in seen]}
    assert first.headers["cache-status"] == "imagegate; fwd=uri-miss; stored"
    hit = await proxy.ask(n=6)
    assert (hit.content, hit.headers["x-imagegate-cache"]) == (first.content, "HIT")
    assert len(upstream.calls) == 7


async def test_a_safety_identifier_is_echoed_to_its_own_caller_and_never_stored(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(reply(picture("x"), safety_identifier=call.json["safety_identifier"]))
    key = await proxy.key_of()
    upstream.hold()
    leader = proxy.asking(safety_identifier="mark-of-the-leader")
    await proxy.waiting(key, 1)
    follower = proxy.asking(safety_identifier="mark-of-the-follower")
    await proxy.waiting(key, 2)
    upstream.release()
    led, followed = await leader, await follower
    hit = await proxy.ask(safety_identifier="mark-of-another")
    assert led.content == upstream.replies[0]
    for answer in (followed, hit):
        assert b"safety_identifier" not in answer.content
        assert answer.json() == {name: value for name, value in led.json().items() if name != "safety_identifier"}
    assert not _is_written_anywhere(proxy.directory, b"mark-of-the-leader")


@pytest.mark.parametrize("rendering", ["b64_json", "data_url", "url"])
async def test_an_echo_keeps_the_length_exact_in_every_face(
    proxy: Gate, upstream: CountingUpstream, rendering: str
) -> None:
    upstream.script = lambda call: Said(reply(picture("x"), picture("y"), safety_identifier="mark"))
    answer = await proxy.ask(n=2, headers={"x-imagegate-response-format": rendering})
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.json()["safety_identifier"] == "mark"
    assert len(answer.json()["data"]) == 2


async def test_a_data_prefix_is_removed_on_the_way_in(proxy: Gate, upstream: CountingUpstream) -> None:
    bare = base64.b64encode(picture("prefixed")).decode()
    body = reply(picture("prefixed")).replace(bare.encode(), b"data:image/png;base64," + bare.encode())
    upstream.script = lambda call: Said(body)
    first, second = await proxy.ask(), await proxy.ask()
    assert first.content == second.content == reply(picture("prefixed"))
    as_url = await proxy.ask(headers={"x-imagegate-response-format": "data_url"})
    assert as_url.json()["data"][0] == {"url": f"data:image/png;base64,{bare}"}


async def test_a_data_url_in_the_member_url_is_an_image_like_any_other(proxy: Gate, upstream: CountingUpstream) -> None:
    bare = base64.b64encode(picture("inside its own address")).decode()
    upstream.script = lambda call: Said(json.dumps({"data": [{"url": f"data:image/png;base64,{bare}"}]}).encode())
    answer = await proxy.ask()
    assert answer.status_code == 200
    assert answer.json() == {"data": [{"b64_json": bare}]}


@pytest.mark.parametrize("keep", [True, False])
async def test_without_keep_prompts_no_byte_of_a_prompt_is_on_the_disk(
    tmp_path: Path, upstream: CountingUpstream, keep: bool
) -> None:
    upstream.script = lambda call: Said(reply(picture("x")))
    async with gate(with_cache(settings_over(tmp_path, upstream), keep_prompts=keep)) as proxy:
        await proxy.ask("zebra-marked prompt")
        assert (await proxy.ask("zebra-marked prompt")).headers["x-imagegate-cache"] == "HIT"
        assert _is_written_anywhere(proxy.directory, b"zebra-marked") is keep
    assert _is_written_anywhere(proxy.directory, b"zebra-marked") is keep


async def test_a_reply_without_usage_is_billed_at_the_estimate_and_counted(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(reply(picture("x"), usage=None))
    answer = await proxy.ask(size="1024x1024", quality="high")
    assert float(answer.headers["x-imagegate-cost-usd"]) > 0
    assert proxy.total("imagegate_usage_missing_total") == 1
    assert proxy.total("imagegate_upstream_tokens_total") == 0


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Said(b"<html>busy</html>", content_type="text/html"), "upstream_invalid_response"),
        (Said(b""), "upstream_invalid_response"),
        (Said(b'{"data":[]}'), "upstream_invalid_response"),
        (Said(b'{"data":[{"b64_json":"' + b"!" * 64 + b'"}]}'), "upstream_invalid_response"),
        (Said(reply(b"MZ" + b"x" * 300)), "upstream_invalid_response"),
        (Said(reply(picture("x"), error={"message": "no"})), "upstream_invalid_response"),
        (Said(reply(picture("x")), headers={"content-length": "100000"}), "upstream_connection_lost"),
        (Said(reply(picture("x")), status=204), "upstream_invalid_response"),
        (Said(reply(picture("x")), status=600), "upstream_invalid_response"),
        (Said(b'{"error":{"message":"no"}}', status=999), "upstream_invalid_response"),
        (Said(b"", 302, {"location": "https://example.com/"}), "upstream_invalid_response"),
    ],
    ids=[
        "html",
        "empty",
        "no-data",
        "no-base64",
        "no-image",
        "error-inside",
        "truncated",
        "204",
        "600",
        "999",
        "redirect",
    ],
)
async def test_a_doubtful_reply_is_an_error_that_is_not_tried_again_and_leaves_nothing(
    proxy: Gate, upstream: CountingUpstream, said: Said, code: str
) -> None:
    upstream.script = lambda call: said
    answer = await proxy.ask()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == code
    assert answer.headers["x-should-retry"] == "false"
    assert len(upstream.calls) == 1
    assert _stored(proxy) == []
    assert proxy.total("imagegate_purchases_total", outcome="failed") == 1


async def test_a_refusal_reaches_the_caller_as_it_came(proxy: Gate, upstream: CountingUpstream) -> None:
    body = b'{ "error": {"message":"Blocked.", "type":"image_generation_user_error", "x": 1} }\n'
    upstream.script = lambda call: Said(
        body,
        400,
        {
            "x-should-retry": "false",
            "retry-after-ms": "15",
            "x-ratelimit-remaining-images": "0",
            "set-cookie": "a=b",
            "openai-organization": "org-secret",
            "cf-ray": "1",
        },
        "application/problem+json",
    )
    answer: httpx.Response = await proxy.ask()
    assert (answer.status_code, answer.content) == (400, body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["retry-after-ms"] == "15"
    assert answer.headers["x-ratelimit-remaining-images"] == "0"
    assert not {"set-cookie", "openai-organization", "cf-ray"} & set(answer.headers)
    assert _stored(proxy) == []


def _stored(proxy: Gate) -> list[Path]:
    return [path for pattern in ("*.val", "*.spool") for path in proxy.directory.rglob(pattern)]


def _is_written_anywhere(directory: Path, marked: bytes) -> bool:
    return any(marked in path.read_bytes() for path in directory.rglob("*") if path.is_file())

"""proxy/sandbox/app.py: the wire of OpenAI's Images API, without OpenAI.

Takes a few seconds, because each reply holds a real picture of at least 655,360 pixels.
"""

import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from PIL import Image
from starlette.types import ASGIApp

from proxy.catalogue import Catalogue, load
from proxy.rule import estimate
from proxy.sandbox import SandboxOptions, build
from proxy.sandbox.options import Wishes, wishes

pytestmark = pytest.mark.anyio

SMALL = "1024x640"
QUICK = SandboxOptions(latency_seconds=0.0)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sandbox.test") as client:
        yield client


@pytest.fixture
async def client(catalogue: Catalogue) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(build(QUICK, catalogue)) as client:
        yield client


def body(**more: object) -> dict[str, object]:
    return {"model": "gpt-image-2", "prompt": "a red fox", "size": SMALL, "output_format": "jpeg", **more}


async def generate(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **more: object) -> httpx.Response:
    return await client.post("/v1/images/generations", json=body(**more), headers=headers)


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def events_of(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Parses the exact framing: an `event:` line, a `data:` line, an empty line."""
    assert stream.endswith(b"\n\n")
    events = []
    for block in stream[:-2].split(b"\n\n"):
        name, data = block.split(b"\n")
        assert name.startswith(b"event: ")
        assert data.startswith(b"data: ")
        events.append((name[7:].decode(), json.loads(data[6:])))
    return events


# --- the reply --------------------------------------------------------------------------------------------------------


async def test_a_reply_has_the_fields_of_the_api_and_nothing_else(client: httpx.AsyncClient) -> None:
    reply = await generate(client, output_format="png")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    answer = reply.json()
    assert set(answer) == {"created", "data", "background", "output_format", "quality", "size", "usage"}
    assert [set(item) for item in answer["data"]] == [{"b64_json"}]
    assert (answer["background"], answer["output_format"], answer["quality"]) == ("opaque", "png", "low")
    assert image_of(answer["data"][0]["b64_json"]).size == (1024, 640)


async def test_an_automatic_size_is_a_square(client: httpx.AsyncClient) -> None:
    answer = (await generate(client, size="auto")).json()
    assert answer["size"] == "1024x1024"
    assert image_of(answer["data"][0]["b64_json"]).size == (1024, 1024)


async def test_both_paths_are_served(client: httpx.AsyncClient) -> None:
    reply = await client.post("/images/generations", json=body())
    assert reply.status_code == 200


async def test_n_images_are_n_different_pictures(client: httpx.AsyncClient) -> None:
    answer = (await generate(client, n=3)).json()
    assert len({item["b64_json"] for item in answer["data"]}) == 3


async def test_the_same_call_gets_the_same_picture_again(client: httpx.AsyncClient) -> None:
    first, second = [(await generate(client)).json()["data"] for _ in range(2)]
    assert first == second


@pytest.mark.parametrize(
    "asked", [{"safety_identifier": "me"}, {"user": "me"}, {"safety_identifier": "me", "user": "x"}]
)
async def test_the_caller_s_identifier_is_echoed(client: httpx.AsyncClient, asked: dict[str, Any]) -> None:
    assert (await generate(client, **asked)).json()["safety_identifier"] == "me"


async def test_a_transparent_background_is_honoured_where_the_model_has_one(client: httpx.AsyncClient) -> None:
    answer = (
        await generate(client, model="gpt-image-1.5", size="1024x1024", background="transparent", output_format="webp")
    ).json()
    assert answer["background"] == "transparent"
    assert image_of(answer["data"][0]["b64_json"]).convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("model", "size", "quality", "n"),
    [
        ("gpt-image-2", "1024x640", "low", 1),
        ("gpt-image-2", "1024x1024", "high", 2),
        ("gpt-image-2.5-flare", "816x816", "max", 1),
        ("gpt-image-1.5", "1024x1536", "medium", 1),
    ],
)
async def test_tokens_follow_the_published_formula(
    client: httpx.AsyncClient, catalogue: Catalogue, model: str, size: str, quality: str, n: int
) -> None:
    usage = (await generate(client, model=model, size=size, quality=quality, n=n)).json()["usage"]
    rule = catalogue.rule("openai", model)
    assert rule is not None
    expected = estimate(rule, size=size, quality=quality, n=n, prompt="a red fox")
    assert expected is not None
    assert usage["output_tokens"] == expected.image_out
    assert usage["output_tokens_details"] == {"image_tokens": expected.image_out, "text_tokens": 0}
    assert usage["input_tokens_details"] == {"image_tokens": 0, "text_tokens": usage["input_tokens"]}
    assert 0 < usage["input_tokens"] <= expected.text_in
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_a_known_number_of_tokens(client: httpx.AsyncClient) -> None:
    usage = (await generate(client, size="1024x1024", quality="low")).json()["usage"]
    assert usage["output_tokens"] == 196


async def test_the_headers_are_those_of_the_api_with_a_cookie_to_be_kept_back(client: httpx.AsyncClient) -> None:
    headers = (await generate(client)).headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["openai-version"] == "2020-10-01"
    assert int(headers["openai-processing-ms"]) >= 0
    assert headers["openai-organization"] == "org-sandbox"
    assert int(headers["x-ratelimit-remaining-requests"]) <= int(headers["x-ratelimit-limit-requests"])
    assert headers["set-cookie"].startswith("__cf_bm=")
    assert "cf-ray" in headers


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "param", "code", "message"),
    [
        ({"size": "1000x1000"}, "image_generation_user_error", "size", "invalid_value",
         "Invalid size '1000x1000'. Width and height must both be divisible by 16."),
        ({"model": "dall-e-3"}, "image_generation_user_error", "model", "invalid_value",
         "The model 'dall-e-3' does not exist."),
        ({"model": "nobody-knows"}, "image_generation_user_error", "model", "invalid_value",
         "The model 'nobody-knows' does not exist."),
        ({"response_format": "b64_json"}, "invalid_request_error", "response_format", "unknown_parameter",
         "Unknown parameter: 'response_format'."),
        ({"imagegate_variant": "a"}, "invalid_request_error", "imagegate_variant", "unknown_parameter",
         "Unknown parameter: 'imagegate_variant'."),
        ({"style": "vivid"}, "invalid_request_error", "style", "unknown_parameter", "Unknown parameter: 'style'."),
        ({"n": 11}, "invalid_request_error", "n", "integer_above_max_value",
         "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead."),
        ({"background": "transparent", "output_format": "png"}, "image_generation_user_error", "background",
         "invalid_value",         "Transparent background is not supported for this model."),
        ({"stream": True, "n": 2}, "invalid_request_error", "n", "invalid_value",
         "Streaming is only supported with n=1."),
        ({"stream": True, "partial_images": 4}, "invalid_request_error", "partial_images", "integer_above_max_value",
         "Invalid 'partial_images': integer above maximum value. Expected a value <= 3, but got 4 instead."),
        ({"stream": "yes"}, "invalid_request_error", "stream", "invalid_type",
         "Invalid type for 'stream': expected a boolean, but got a string instead."),
        ({"model": "gpt-image-2.6-flare", "size": "100000x100000"}, "image_generation_user_error", "size",
         "invalid_value", "Invalid size '100000x100000'. Requested resolution exceeds the current pixel budget."),
    ],
)  # fmt: skip
async def test_what_the_api_refuses_is_refused_in_its_words(
    client: httpx.AsyncClient, change: dict[str, Any], kind: str, param: str, code: str, message: str
) -> None:
    reply = await generate(client, **change)
    assert reply.status_code == 400
    assert reply.json() == {"error": {"message": message, "type": kind, "param": param, "code": code}}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a":1,"a":2}', b"\xff"])
async def test_a_malformed_body_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = await client.post("/v1/images/generations", content=content, headers=headers)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_another_content_type_is_refused(client: httpx.AsyncClient) -> None:
    reply = await client.post("/v1/images/generations", data={"prompt": "a"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported_content_type")


async def test_a_body_without_end_is_refused(client: httpx.AsyncClient) -> None:
    reply = await generate(client, prompt="a" * (5 << 20))
    assert reply.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/images/generations", 405)]
)
async def test_what_is_not_served_is_said_in_the_api_s_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    reply = await client.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_wrong_key_is_refused_and_not_repeated(client: httpx.AsyncClient) -> None:
    reply = await generate(client, {"authorization": "Bearer sk-wrong-0123456789abcdef"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (401, "invalid_api_key")
    assert error["message"].startswith("Incorrect API key provided: sk-wrong*")
    assert "0123456789" not in error["message"]


async def test_any_key_will_do_but_one_may_be_required(catalogue: Catalogue) -> None:
    async with client_of(build(SandboxOptions(latency_seconds=0, require_key=True), catalogue)) as client:
        refused = await generate(client)
        served = await generate(client, {"authorization": "Bearer sk-anything"})
        azure = await generate(client, {"api-key": "anything"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (served.status_code, azure.status_code) == (200, 200)


# --- behaviour on demand ----------------------------------------------------------------------------------------------


async def test_a_prompt_can_ask_to_be_blocked_by_moderation(client: httpx.AsyncClient) -> None:
    reply = await generate(client, prompt="something [moderation]")
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (
        400,
        "image_generation_user_error",
        "moderation_blocked",
    )
    assert error["param"] is None
    assert error["moderation_details"] == {"moderation_stage": "input", "categories": ["violence"]}
    assert reply.headers["x-request-id"] in error["message"]


@pytest.mark.parametrize(
    ("words", "status"), [("error", 500), ("rate-limit", 429), ("moderation-output", 400), ("wrong-key", 401)]
)
async def test_a_header_can_ask_for_trouble(client: httpx.AsyncClient, words: str, status: int) -> None:
    assert (await generate(client, {"x-sandbox": words})).status_code == status


@pytest.mark.parametrize(("rate", "status"), [("failure_rate", 500), ("rate_limit_rate", 429)])
async def test_trouble_can_be_made_a_habit(catalogue: Catalogue, rate: str, status: int) -> None:
    options = SandboxOptions(**{"latency_seconds": 0.0, rate: 1.0})  # type: ignore[arg-type]
    async with client_of(build(options, catalogue)) as client:
        assert (await generate(client)).status_code == status


async def test_the_same_seed_brings_the_same_weather(catalogue: Catalogue) -> None:
    async def weather() -> list[int]:
        options = SandboxOptions(latency_seconds=0, failure_rate=0.5, seed=3)
        async with client_of(build(options, catalogue)) as client:
            return [(await generate(client, {"x-sandbox": "latency=0"})).status_code for _ in range(6)]

    assert await weather() == await weather()


async def test_a_rate_limit_says_when_to_come_back(client: httpx.AsyncClient) -> None:
    reply = await generate(client, prompt="fox [rate-limit]")
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("1", "240")
    assert (reply.json()["error"]["type"], reply.json()["error"]["code"]) == ("input-images", "rate_limit_exceeded")


async def test_usage_can_be_left_out(client: httpx.AsyncClient) -> None:
    assert "usage" not in (await generate(client, prompt="fox [no-usage]")).json()


async def test_an_image_can_be_answered_as_a_url_and_fetched(client: httpx.AsyncClient) -> None:
    item = (await generate(client, prompt="fox [url]")).json()["data"][0]
    assert set(item) == {"url"}
    assert item["url"].startswith("http://sandbox.test/v1/images/sandbox/")
    fetched = await client.get(item["url"])
    assert fetched.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(fetched.content)).size == (1024, 640)
    assert (await client.get("/v1/images/sandbox/other.png")).status_code == 404


async def test_calls_are_counted_and_only_pictures_are_billed(client: httpx.AsyncClient) -> None:
    await generate(client)
    await generate(client, n=2)
    await generate(client, size="1000x1000")
    counted = (await client.get("/sandbox/calls")).json()
    assert (counted["calls"], counted["billed"], counted["images"], counted["in_flight"]) == (3, 2, 3, 0)
    assert list(counted["by_prompt_digest"].values()) == [2]


@pytest.mark.parametrize("latency_seconds", [0.0, 0.3])
async def test_a_call_takes_at_least_its_latency(catalogue: Catalogue, latency_seconds: float) -> None:
    async with client_of(build(SandboxOptions(latency_seconds=latency_seconds), catalogue)) as client:
        reply = await generate(client)
    assert int(reply.headers["openai-processing-ms"]) >= latency_seconds * 1000


def test_wishes_are_known_words_in_brackets_or_in_the_header() -> None:
    found = wishes("a [fox] with [url] and error [latency=2.5]", "no-usage, nonsense")
    assert found == Wishes(frozenset({"url", "no-usage"}), 2.5)
    assert wishes(17, "latency=0") == Wishes(frozenset(), 0.0)
    assert wishes("[latency=1.2.3] [latency=]", "") == Wishes()


async def test_painting_does_not_hold_up_the_event_loop(catalogue: Catalogue) -> None:
    app, finished = build(QUICK, catalogue), []

    async def big() -> None:
        async with client_of(app) as client:
            await generate(client, size="3840x2160")
            finished.append("picture")

    async def health() -> None:
        async with client_of(app) as client:
            while (await client.get("/sandbox/calls")).json()["in_flight"] == 0:
                await anyio.lowlevel.checkpoint()
            for _ in range(20):
                assert (await client.get("/healthz")).status_code == 200
            finished.append("health")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(big)
        tasks.start_soon(health)
    assert finished == ["health", "picture"]


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partials", [None, 0, 1, 3])
async def test_a_stream_is_partial_pictures_and_then_the_whole_one(
    client: httpx.AsyncClient, partials: int | None
) -> None:
    plain = (await generate(client)).json()
    reply = await generate(client, stream=True, partial_images=partials, user="me")
    assert reply.headers["content-type"].startswith("text/event-stream")
    events, count = events_of(reply.content), partials or 0
    assert [name for name, _ in events] == ["image_generation.partial_image"] * count + ["image_generation.completed"]
    assert all(name == data["type"] for name, data in events)
    assert [data["partial_image_index"] for _, data in events[:-1]] == list(range(count))
    common = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format"}
    assert all(set(data) == common | {"partial_image_index"} for _, data in events[:-1])
    last = events[-1][1]
    assert set(last) == common | {"usage", "safety_identifier"}
    assert last["b64_json"] == plain["data"][0]["b64_json"]
    assert last["usage"]["output_tokens"] == plain["usage"]["output_tokens"] + 100 * count
    assert len({data["b64_json"] for _, data in events}) == count + 1
    assert all(image_of(data["b64_json"]).size == (1024, 640) for _, data in events)


async def test_partial_images_without_a_stream_change_nothing(client: httpx.AsyncClient) -> None:
    assert (await generate(client, partial_images=2)).json()["usage"]["output_tokens"] == 107


async def test_a_stream_can_fail_on_the_way(client: httpx.AsyncClient) -> None:
    reply = await generate(client, stream=True, partial_images=1, prompt="fox [stream-error]")
    events = events_of(reply.content)
    assert [name for name, _ in events] == ["image_generation.partial_image", "error"]
    assert events[-1][1]["error"]["code"] == "image_generation_failed"

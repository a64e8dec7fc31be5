"""Edits and models at the sandbox: proxy/sandbox/app.py with intake.py, believe.py and tally.py behind it.

Takes a few seconds, because each reply holds a real picture of at least 655,360 pixels.
"""

import base64
import io
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from PIL import Image

from proxy.catalogue import Catalogue, load
from proxy.rule import estimate
from proxy.sandbox import SandboxOptions, build
from tests.unit.sandbox.pictures import RED, drawn, mask

pytestmark = pytest.mark.anyio

SMALL = "1024x640"
PNG = "image/png"
File = tuple[str, tuple[str, bytes, str]]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


@pytest.fixture
async def client(catalogue: Catalogue) -> AsyncIterator[httpx.AsyncClient]:
    app = build(SandboxOptions(latency_seconds=0.0), catalogue)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sandbox.test") as client:
        yield client


def picture(data: bytes | None = None, name: str = "image", kind: str = PNG) -> File:
    return name, ("photo", drawn(128, 80) if data is None else data, kind)


async def edit(client: httpx.AsyncClient, files: Sequence[File] | None = None, **more: str) -> httpx.Response:
    fields = {"model": "gpt-image-2", "prompt": "a red fox", "size": SMALL, "output_format": "jpeg", **more}
    return await client.post("/v1/images/edits", data=fields, files=[picture()] if files is None else files)


async def edit_json(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    fields = {"model": "gpt-image-2", "prompt": "a red fox", "size": SMALL, "output_format": "jpeg"}
    return await client.post("/v1/images/edits", json=fields | more)


def data_url(data: bytes, kind: str = PNG) -> dict[str, str]:
    return {"image_url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}


def image_of(answer: dict[str, Any]) -> Image.Image:
    text = answer["b64_json"] if "b64_json" in answer else answer["data"][0]["b64_json"]
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def events_of(stream: bytes) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split(b"\n") for block in stream.removesuffix(b"\n\n").split(b"\n\n")]
    return [(name.removeprefix(b"event: ").decode(), json.loads(data.removeprefix(b"data: "))) for name, data in blocks]


# --- the reply --------------------------------------------------------------------------------------------------------


async def test_an_edit_is_answered_as_by_the_api_and_shows_the_picture(client: httpx.AsyncClient) -> None:
    reply = await edit(client, [picture(), picture(mask(128, 80), "mask")], output_format="png")
    assert reply.status_code == 200
    answer = reply.json()
    assert set(answer) == {"created", "data", "background", "output_format", "quality", "size", "usage"}
    shown = image_of(answer)
    assert shown.size == (1024, 640)
    assert shown.getpixel((100, 300)) == RED
    assert shown.getpixel((900, 100)) != RED


async def test_json_gets_the_same_answer_as_a_form(client: httpx.AsyncClient) -> None:
    form = await edit(client, [picture(), picture(mask(128, 80), "mask")])
    answer = await edit_json(client, images=[data_url(drawn(128, 80))], mask=data_url(mask(128, 80)))
    assert answer.status_code == 200
    assert answer.json()["data"] == form.json()["data"]


async def test_both_paths_are_served(client: httpx.AsyncClient) -> None:
    fields = {"model": "gpt-image-2", "prompt": "a", "size": SMALL}
    assert (await client.post("/images/edits", data=fields, files=[picture()])).status_code == 200


@pytest.mark.parametrize(
    ("model", "came", "size"),
    [
        ("gpt-image-2", (300, 200), "1248x832"),
        ("gpt-image-2", (200, 300), "832x1248"),
        ("gpt-image-2", (900, 100), "1776x592"),
        ("gpt-image-1.5", (300, 200), "1536x1024"),
        ("gpt-image-1.5", (90, 100), "1024x1024"),
    ],
)
async def test_an_automatic_size_follows_the_first_picture(
    client: httpx.AsyncClient, model: str, came: tuple[int, int], size: str
) -> None:
    first, second = picture(drawn(*came), "image[]"), picture(drawn(64, 64), "image[]")
    answer = (await edit(client, [first, second], model=model, size="auto")).json()
    width, height = image_of(answer).size
    assert answer["size"] == f"{width}x{height}" == size


async def test_a_photograph_counts_as_it_is_held(client: httpx.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture(drawn(300, 200, "JPEG", exif=exif), kind="image/jpeg")
    assert (await edit(client, [lying], size="auto")).json()["size"] == "832x1248"


async def test_an_edit_is_billed_for_what_goes_in_and_what_comes_out(
    client: httpx.AsyncClient, catalogue: Catalogue
) -> None:
    files = [picture(drawn(1024, 1024), "image[]"), picture(drawn(256, 256), "image[]")]
    usage = (await edit(client, files, n="2", quality="medium")).json()["usage"]
    rule = catalogue.rule("openai", "gpt-image-2")
    assert rule is not None
    expected = estimate(rule, size=SMALL, quality="medium", n=2, prompt="")
    assert expected is not None
    assert usage["input_tokens_details"]["image_tokens"] == 2 * (1024 + 256)
    assert usage["output_tokens"] == expected.image_out
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_n_images_are_n_different_edits(client: httpx.AsyncClient) -> None:
    answer = (await edit(client, n="2", user="me")).json()
    assert len({item["b64_json"] for item in answer["data"]}) == 2
    assert answer["safety_identifier"] == "me"


async def test_a_transparent_background_is_honoured_where_the_model_has_one(client: httpx.AsyncClient) -> None:
    reply = await edit(client, model="gpt-image-1.5", size="1024x1024", background="transparent", output_format="webp")
    answer = reply.json()
    assert answer["background"] == "transparent"
    assert image_of(answer).convert("RGBA").getchannel("A").getpixel((0, 0)) == 0


@pytest.mark.parametrize("partials", [0, 2])
async def test_a_stream_has_the_events_of_an_edit(client: httpx.AsyncClient, partials: int) -> None:
    plain = (await edit(client)).json()
    reply = await edit(client, stream="true", partial_images=str(partials))
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply.content)
    assert [name for name, _ in events] == ["image_edit.partial_image"] * partials + ["image_edit.completed"]
    assert all(name == data["type"] for name, data in events)
    assert [data["partial_image_index"] for _, data in events[:-1]] == list(range(partials))
    last = events[-1][1]
    assert last["b64_json"] == plain["data"][0]["b64_json"]
    assert last["usage"]["input_tokens_details"] == plain["usage"]["input_tokens_details"]
    assert last["usage"]["output_tokens"] == plain["usage"]["output_tokens"] + 100 * partials


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n and no more", drawn(64, 64)[:60]])
async def test_a_picture_that_cannot_be_read_is_refused(client: httpx.AsyncClient, data: bytes) -> None:
    reply = await edit(client, [picture(name="image[]"), picture(data, "image[]")])
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "invalid_image_file")
    assert error["message"] == "Invalid image file or mode for image 2, please check your image file."


async def test_so_is_a_mask(client: httpx.AsyncClient) -> None:
    reply = await edit(client, [picture(), picture(mask(128, 80)[:60], "mask")])
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_mask_image_format")


@pytest.mark.parametrize("source", [{"image_url": "https://example.com/a.png"}, {"file_id": "file-abc"}])
async def test_nothing_is_fetched(client: httpx.AsyncClient, source: dict[str, str]) -> None:
    reply = await edit_json(client, images=[source])
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "images")


async def test_the_rules_are_those_of_the_proxy_without_its_hints(client: httpx.AsyncClient) -> None:
    refused = {
        "Missing required parameter: 'image'.": await edit(client, [picture(mask(128, 80), "mask")]),
        "Invalid size '1000x1000'. Width and height must both be divisible by 16.": await edit(
            client, size="1000x1000"
        ),
        "The model 'gpt-image-2' does not support the 'input_fidelity' parameter.": await edit(
            client, input_fidelity="high"
        ),
        "Unknown parameter: 'response_format'.": await edit(client, response_format="b64_json"),
    }
    for message, reply in refused.items():
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, message)


async def test_another_content_type_is_refused(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "image/png"}
    reply = await client.post("/v1/images/edits", content=drawn(8, 8), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported_content_type")


@pytest.mark.parametrize(("words", "status"), [("error", 500), ("rate-limit", 429), ("moderation", 400)])
async def test_a_prompt_can_ask_for_trouble(client: httpx.AsyncClient, words: str, status: int) -> None:
    assert (await edit(client, prompt=f"a fox [{words}]")).status_code == status


# --- what it shows of itself ------------------------------------------------------------------------------------------


async def test_edits_are_counted_without_their_bytes(client: httpx.AsyncClient) -> None:
    await edit(client, [picture(), picture(mask(128, 80), "mask")])
    await edit(client, [picture(drawn(60, 40), "image[]"), picture(drawn(30, 30), "image[]")])
    await edit(client, [picture(b"\x89PNG\r\n\x1a\n")])
    counted = (await client.get("/sandbox/calls")).json()
    assert (counted["calls"], counted["billed"], counted["images"], counted["in_flight"]) == (3, 2, 2, 0)
    assert counted["edits"] == [
        {"images": 1, "sizes": ["128x80"], "mask": True, "answered": SMALL},
        {"images": 2, "sizes": ["60x40", "30x30"], "mask": False, "answered": SMALL},
    ]


async def test_models_are_those_of_the_catalogue(client: httpx.AsyncClient) -> None:
    listing = (await client.get("/v1/models")).json()
    models = {model["id"]: model for model in listing["data"]}
    assert listing["object"] == "list"
    assert set(models["gpt-image-2"]) == {"id", "object", "created", "owned_by", "shutdown_date"}
    assert "dall-e-3" not in models
    assert models["gpt-image-1.5"]["shutdown_date"] == "2026-12-01"
    assert (await client.get("/v1/models/gpt-image-2")).json() == models["gpt-image-2"]


async def test_a_model_that_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    reply = await client.get("/v1/models/no/such%20model")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "'no/such model'" in reply.json()["error"]["message"]

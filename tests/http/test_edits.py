"""Edits that are refused: in the API's words, before anything was sent, and with nothing left of them."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from proxy.settings import ServerSection
from tests.support.application import Gate, RawCall, eventually, gate, settings_over, with_cache
from tests.support.counting import CountingUpstream
from tests.support.edits import (
    EDITS,
    FOX,
    HAT,
    MASK,
    PHOTOGRAPH,
    Body,
    Photo,
    in_form,
    in_json,
    in_parts,
    left_of_uploads,
    painted,
)
from tests.support.multipart import BOUNDARY, FormPart, content_type, file, form, text

pytestmark = pytest.mark.anyio

IRE, IGUE = "invalid_request_error", "image_generation_user_error"
MIB = 2**20


class Row(NamedTuple):
    """A body, and the error that it gets: type, param, code and how the message begins."""

    body: Body
    type: str
    param: str | None
    code: str | None
    message: str


def fields(**more: str) -> list[FormPart]:
    return [text(name, value) for name, value in {"model": "gpt-image-2", "prompt": "at night", **more}.items()]


def a_file(name: str = "image", photo: Photo = FOX) -> FormPart:
    return file(name, photo.content, photo.media_type, photo.filename)


def cut(body: Body, end: int) -> Body:
    return replace(body, content=body.content[:end])


NOT_A_PICTURE = Photo(b"this is no picture, it is a sentence", "image/png")
DRAWN_SVG = Photo(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png")
BIG_MASK = Photo(painted("#00000000", more=bytes(4 * MIB)))
OTHER_SIZE = Photo(painted("#00000000", size=(48, 64)))
WITHOUT_ALPHA = Photo(painted("white", mode="RGB"))
SEVENTEEN = [Photo(painted("red", size=(8 + number, 8))) for number in range(17)]
MIMETYPES = "Supported file formats are 'image/jpeg', 'image/png', and 'image/webp'."
PARSED = "We could not parse the multipart body of your request: "

REFUSED = {
    # the wrong container
    "JSON with image": Row(
        in_json(images=..., image=FOX.url),
        IRE,
        "image",
        "invalid_value",
        "Unknown parameter: 'image'. For application/json on /v1/images/edits, use 'images' (array).",
    ),
    "JSON with image[]": Row(
        in_json({"image_url": FOX.url}, images=..., **{"image[]": {}}),
        IRE,
        "image[]",
        "invalid_value",
        "Unknown parameter",
    ),
    "a form with images": Row(
        in_parts(*fields(), a_file("images")),
        IRE,
        "images",
        "invalid_value",
        "Unknown parameter: 'images'. For multipart/form-data use 'image' or 'image[]'.",
    ),
    "a form with images as text": Row(
        in_parts(*fields(images="[]"), a_file()), IRE, "images", "invalid_value", "Unknown parameter: 'images'. For"
    ),
    # parts that are none
    "no final boundary": Row(cut(in_form(FOX), -4), IRE, None, "invalid_multipart", PARSED),
    "an empty body": Row(cut(in_form(FOX), 0), IRE, None, "invalid_multipart", PARSED),
    "another boundary": Row(
        replace(in_form(FOX), content_type=content_type("other")), IRE, None, "invalid_multipart", PARSED
    ),
    "no boundary at all": Row(
        replace(in_form(FOX), content_type="multipart/form-data"),
        IRE,
        None,
        "invalid_multipart",
        PARSED + "its content type names no boundary",
    ),
    "a part without a name": Row(
        in_parts(*fields(), FormPart(["Content-Disposition: form-data"], b"x"), a_file()),
        IRE,
        None,
        "invalid_multipart",
        PARSED,
    ),
    "a part without headers": Row(in_parts(FormPart([], b"x")), IRE, None, "invalid_multipart", PARSED),
    "a part that is a form": Row(
        in_parts(*fields(), file("image", form(a_file()), "multipart/mixed; boundary=x")),
        IRE,
        None,
        "invalid_multipart",
        PARSED + "a part is a multipart body itself",
    ),
    "too many parts": Row(
        in_parts(*(text(f"field-{number}", "x") for number in range(65))), IRE, None, "invalid_multipart", PARSED
    ),
    "a header bomb": Row(
        in_parts(FormPart([f"X-{number}: x" for number in range(1000)], b"x")), IRE, None, "invalid_multipart", PARSED
    ),
    "a text that is no UTF-8": Row(
        in_parts(FormPart(['Content-Disposition: form-data; name="prompt"'], b"\xff"), a_file()),
        IRE,
        "prompt",
        "invalid_multipart",
        "Invalid 'prompt': it is not UTF-8.",
    ),
    "a parameter twice": Row(
        in_parts(*fields(), text("prompt", "again"), a_file()),
        IRE,
        "prompt",
        "duplicate_parameter",
        "Duplicate parameter: 'prompt'. You provided multiple values for this parameter",
    ),
    "image twice": Row(
        in_parts(*fields(), a_file(), a_file(photo=HAT)),
        IRE,
        "image",
        "duplicate_parameter",
        "Duplicate parameter: 'image'.",
    ),
    "mask twice": Row(
        in_parts(*fields(), a_file(), a_file("mask", MASK), a_file("mask", MASK)),
        IRE,
        "mask",
        "duplicate_parameter",
        "Duplicate parameter: 'mask'.",
    ),
    "a member twice": Row(
        Body(b'{"model":"gpt-image-2","model":"gpt-image-2","prompt":"x","images":[]}', "application/json"),
        IRE,
        None,
        None,
        "We could not parse the JSON body of your request",
    ),
    "half of a JSON body": Row(
        cut(in_json(FOX), 60), IRE, None, None, "We could not parse the JSON body of your request"
    ),
    # pictures
    "no picture": Row(
        in_parts(*fields()), IRE, "image", "missing_required_parameter", "Missing required parameter: 'image'."
    ),
    "no picture in JSON": Row(
        in_json(images=...), IRE, "images", "missing_required_parameter", "Missing required parameter: 'images'."
    ),
    "an empty list": Row(
        in_json(),
        IRE,
        "images",
        "empty_array",
        "Invalid 'images': empty array. Expected an array with minimum length 1, but got an empty array instead.",
    ),
    "seventeen": Row(
        in_form(*SEVENTEEN),
        IRE,
        "image",
        "array_above_max_length",
        "Invalid 'image': array too long. Expected an array with maximum length 16, but got an array with length 17",
    ),
    "seventeen in JSON": Row(
        in_json(*SEVENTEEN), IRE, "images", "array_above_max_length", "Invalid 'images': array too long."
    ),
    "a text for a picture": Row(
        in_parts(*fields(image="fox.png")),
        IRE,
        "image",
        "invalid_type",
        "Invalid type for 'image': expected a file, but got a string instead.",
    ),
    "a text for a picture in JSON": Row(
        in_json(images=["fox.png"]),
        IRE,
        "images",
        "invalid_type",
        "Invalid type for 'images[0]': expected an object, but got a string instead.",
    ),
    "a mimetype nobody takes": Row(
        in_form(replace(FOX, media_type="application/octet-stream")),
        IRE,
        "image",
        "unsupported_file_mimetype",
        f"Invalid file 'image': unsupported mimetype ('application/octet-stream'). {MIMETYPES}",
    ),
    "no mimetype": Row(
        in_form(FOX, replace(HAT, media_type=None)),
        IRE,
        "image",
        "unsupported_file_mimetype",
        f"Invalid file 'image[1]': unsupported mimetype ('application/octet-stream'). {MIMETYPES}",
    ),
    "a mimetype nobody takes in JSON": Row(
        in_json(replace(FOX, media_type="image/gif")),
        IRE,
        "images",
        "unsupported_file_mimetype",
        f"Invalid file 'images[0]': unsupported mimetype ('image/gif'). {MIMETYPES}",
    ),
    "no picture by its bytes": Row(
        in_form(FOX, NOT_A_PICTURE),
        IGUE,
        None,
        "invalid_image_file",
        "Invalid image file or mode for image 2, please check your image file.",
    ),
    "a drawing": Row(in_form(DRAWN_SVG), IGUE, None, "invalid_image_file", "Invalid image file or mode for image 1"),
    "an empty file": Row(
        in_form(Photo(b"")), IGUE, None, "invalid_image_file", "Invalid image file or mode for image 1"
    ),
    "no base64": Row(
        in_json({"image_url": "data:image/png;base64,iVBOR*w0KGgo="}),
        IRE,
        "images",
        "invalid_value",
        "Invalid 'images[0].image_url'. Expected a base64-encoded data URL with an image MIME type",
    ),
    "a file in another place": Row(
        in_parts(*fields(), a_file(), a_file("markup", MASK)), IRE, "markup", "unknown_parameter", "Unknown parameter"
    ),
    # masks
    "a mask that is no PNG": Row(
        in_form(FOX, mask=PHOTOGRAPH),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        "Invalid mask image format - mask image is not a PNG file.",
    ),
    "a mask that is too large": Row(
        in_form(FOX, mask=BIG_MASK),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        "Invalid mask image format - mask image is too large.",
    ),
    "a mask of another size": Row(
        in_form(FOX, mask=OTHER_SIZE),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        "Invalid mask image format - mask size does not match image size. The mask is 48x64 pixels, the first image 64x48.",
    ),
    "a mask without alpha": Row(
        in_form(FOX, mask=WITHOUT_ALPHA),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        "Invalid mask image format - mask image missing alpha channel.",
    ),
    "a mask without alpha in JSON": Row(
        in_json(FOX, mask=WITHOUT_ALPHA), IGUE, "mask", "invalid_mask_image_format", "Invalid mask image format - mask"
    ),
    # what every request has
    "no prompt": Row(
        in_form(FOX, prompt=...), IRE, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."
    ),
    "an empty prompt": Row(in_form(FOX, prompt=""), IRE, "prompt", "empty_string", "Invalid 'prompt': empty string."),
    "no model": Row(
        in_form(FOX, model=...), IRE, "model", "missing_required_parameter", "Missing required parameter: 'model'."
    ),
    "a retired model": Row(
        in_form(FOX, model="dall-e-2"), IGUE, "model", "invalid_value", "The model 'dall-e-2' does not exist."
    ),
    "no number": Row(
        in_form(FOX, n="x"),
        IRE,
        "n",
        "invalid_type",
        "Invalid type for 'n': expected an integer, but got a string value that could not be converted into an integer.",
    ),
    "a text for a number in JSON": Row(
        in_json(FOX, n="2"),
        IRE,
        "n",
        "invalid_type",
        "Invalid type for 'n': expected an integer, but got a string instead.",
    ),
    "too many results": Row(
        in_form(FOX, n=11), IRE, "n", "integer_above_max_value", "Invalid 'n': integer above maximum value."
    ),
    "a size off the grid": Row(
        in_form(FOX, size="1000x1000"), IGUE, "size", "invalid_value", "Invalid size '1000x1000'."
    ),
    "a quality nobody has": Row(
        in_form(FOX, quality="best"), IRE, "quality", "invalid_value", "Invalid value: 'best'. Supported values are:"
    ),
    "input_fidelity": Row(
        in_form(FOX, input_fidelity="high"),
        IGUE,
        "input_fidelity",
        "invalid_input_fidelity_model",
        "The model 'gpt-image-2' does not support the 'input_fidelity' parameter.",
    ),
    "an unknown field": Row(
        in_form(FOX, style="vivid"), IRE, "style", "unknown_parameter", "Unknown parameter: 'style'."
    ),
    "a stream of several": Row(
        in_form(FOX, stream=True, n=2), IRE, "n", "invalid_value", "Streaming is only supported with n=1."
    ),
}


async def post(proxy: Gate, body: Body) -> httpx.Response:
    return await proxy.client.post(EDITS, content=body.content, headers=body.headers)


@pytest.fixture(autouse=True)
async def leaves_nothing(proxy: Gate) -> AsyncIterator[None]:
    yield
    await eventually(lambda: left_of_uploads(proxy.directory) == [])


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_api_would_refuse_is_refused_here_in_its_words(
    proxy: Gate, upstream: CountingUpstream, name: str
) -> None:
    row = REFUSED[name]
    answer = await post(proxy, row.body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert {key: error[key] for key in ("type", "param", "code")} == {
        "type": row.type,
        "param": row.param,
        "code": row.code,
    }
    assert error["message"].startswith(row.message)
    assert "x-imagegate-cache" not in answer.headers
    assert upstream.calls == []
    page = proxy.scrape()
    assert page.total("imagegate_validation_rejections_total") == 1
    assert page.total("imagegate_requests_total", operation="image_edit", code="400") == 1


@pytest.mark.parametrize(
    "of_edits", [{"mask": MASK.url}, {"images": [FOX.url]}, {"image": FOX.url}, {"input_fidelity": "high"}]
)
async def test_what_belongs_to_edits_is_unknown_to_generations(
    proxy: Gate, upstream: CountingUpstream, of_edits: dict[str, Any]
) -> None:
    answer = await proxy.ask(**of_edits)
    (name,) = of_edits
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")
    assert (answer.json()["error"]["param"], upstream.calls) == (name, [])


async def test_a_form_is_no_body_of_a_generation(proxy: Gate, upstream: CountingUpstream) -> None:
    body = in_form(FOX)
    answer = await proxy.client.post("/v1/images/generations", content=body.content, headers=body.headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert upstream.calls == []


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "image/png"},
        {"content-type": "multipart/mixed; boundary=x"},
        {"content-type": ""},
        {"content-type": content_type(), "content-encoding": "gzip"},
    ],
)
async def test_another_kind_of_body_is_a_415(proxy: Gate, upstream: CountingUpstream, headers: dict[str, str]) -> None:
    answer = await proxy.client.post(EDITS, content=in_form(FOX).content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert upstream.calls == []


# --- too much, and too slowly -----------------------------------------------------------------------------------------

SMALL = ServerSection(max_multipart_bytes=MIB, max_edit_json_bytes=MIB, receive_timeout_seconds=0.1)
LARGE = Photo(painted("purple", more=bytes(2 * MIB)))


def arriving(proxy: Gate, body: Body, *, announced: bool, sent: int | None = None) -> RawCall:
    """A post of which only the first `sent` bytes arrive."""
    headers = [(b"content-type", body.content_type.encode())]
    headers += [(b"content-length", b"%d" % len(body.content))] if announced else []
    call = RawCall(proxy.app)
    call.start(body.content[:sent], path=EDITS, headers=headers, more_body=sent is not None)
    return call


@pytest.fixture
async def strict(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[Gate]:
    async with gate(settings_over(tmp_path / "strict", upstream, server=SMALL)) as proxy:
        yield proxy
        await eventually(lambda: left_of_uploads(proxy.directory) == [])


@pytest.mark.parametrize("body", [in_form(LARGE), in_json(LARGE)], ids=["form", "JSON"])
async def test_what_is_announced_as_too_large_is_a_413_before_it_is_read(
    strict: Gate, upstream: CountingUpstream, body: Body
) -> None:
    call = arriving(strict, body, announced=True, sent=0)
    await call.over()
    assert (call.status, call.answer.json()["error"]["code"]) == (413, "request_too_large")
    assert call.answer.headers["connection"] == "close"
    assert strict.total("imagegate_validation_rejections_total", reason="request_too_large") == 1
    assert upstream.calls == []


@pytest.mark.parametrize("body", [in_form(LARGE), in_json(LARGE)], ids=["form", "JSON"])
async def test_what_turns_out_to_be_too_large_is_a_413(strict: Gate, upstream: CountingUpstream, body: Body) -> None:
    call = arriving(strict, body, announced=False)
    await call.over()
    assert (call.status, call.answer.json()["error"]["code"]) == (413, "request_too_large")
    assert strict.total("imagegate_requests_total", operation="image_edit", code="413") == 1
    assert upstream.calls == []


async def test_a_picture_of_more_than_fifty_megabytes_is_refused(proxy: Gate, upstream: CountingUpstream) -> None:
    answer = await post(proxy, in_form(Photo(painted(more=bytes(50 * MIB)))))
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("image", "file_too_large")
    assert upstream.calls == []


async def test_a_text_of_more_than_a_megabyte_is_refused(proxy: Gate, upstream: CountingUpstream) -> None:
    answer = await post(proxy, in_form(FOX, prompt="x" * (MIB + 1)))
    assert answer.status_code in (400, 413)
    assert upstream.calls == []


@pytest.mark.parametrize("body", [in_form(FOX, mask=MASK), in_json(FOX)], ids=["form", "JSON"])
async def test_a_body_that_stops_arriving_is_a_408(strict: Gate, upstream: CountingUpstream, body: Body) -> None:
    call = arriving(strict, body, announced=True, sent=len(body.content) // 2)
    await call.over()
    assert (call.status, call.answer.json()["error"]["code"]) == (408, "request_timeout")
    assert (call.answer.headers["connection"], call.answer.headers["x-should-retry"]) == ("close", "false")
    assert upstream.calls == []


# --- what is told -------------------------------------------------------------------------------------------------------


async def test_a_dry_run_tells_what_would_be_sent_and_sends_nothing(proxy: Gate, upstream: CountingUpstream) -> None:
    body = in_form(FOX, mask=MASK)
    headers = {**body.headers, "x-imagegate-dry-run": "true"}
    told = (await proxy.client.post(EDITS, content=body.content, headers=headers)).json()
    assert json.dumps(told).count("sha256") == 2
    assert upstream.calls == []


async def test_nothing_of_a_picture_or_a_prompt_is_in_an_error(proxy: Gate) -> None:
    secret = "a-secret-that-nobody-repeats"
    for body in (
        in_form(Photo(secret.encode()), prompt=secret),
        in_form(FOX, mask=Photo(secret.encode()), prompt=secret),
        cut(in_form(FOX, prompt=secret, boundary=BOUNDARY), -4),
        in_json(FOX, prompt=secret, mask={"image_url": f"data:image/png;base64,{secret}"}),
    ):
        answer = await post(proxy, body)
        assert answer.status_code == 400
        assert secret not in answer.text


async def test_an_edit_that_would_fill_the_disk_is_refused_before_it_is_read(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    settings = with_cache(settings_over(tmp_path, upstream), min_free_bytes=10**15)
    async with gate(settings) as proxy:
        call = RawCall(proxy.app)
        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"600000000")]
        call.start(b"", path="/v1/images/edits", headers=headers, more_body=True)
        await call.over()
    assert call.status == 503
    assert json.loads(call.body)["error"]["code"] == "no_room_for_upload"
    assert dict(call.headers)[b"retry-after"] == b"10"

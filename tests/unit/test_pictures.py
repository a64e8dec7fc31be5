"""Pictures to be edited: what is missing, too many, in the wrong place or of the wrong kind, in the API's words."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.catalogue import load
from proxy.errors import RequestError
from proxy.model import Document, ImageRequest, Operation
from proxy.pictures import MASK_BYTES
from proxy.settings import RulesSection
from proxy.validation import Validator
from tests.support.edits import FILE, LINK, edit, input_image

CATALOGUE = load()
IRE, IGUE = "invalid_request_error", "image_generation_user_error"
JPEG = input_image(media_type="image/jpeg", has_alpha=False)
TEXT = input_image(media_type="application/octet-stream", found_type=None)
SUPPORTED = "Supported file formats are 'image/jpeg', 'image/png', and 'image/webp'."
CHECK = "please check your image file."
TRANSPARENT = "Send a PNG whose transparent pixels mark what is to be edited."


def judge(document: Document, on_invalid: str = "reject", vendor: str = "openai") -> ImageRequest:
    rules = RulesSection(on_invalid=on_invalid)  # type: ignore[arg-type]
    return Validator(CATALOGUE, rules).validate(document, Operation.EDIT, vendor)


def refusal(document: Document, on_invalid: str = "reject", vendor: str = "openai") -> tuple[Any, ...]:
    with pytest.raises(RequestError) as caught:
        judge(document, on_invalid, vendor)
    assert caught.value.status == 400
    error = caught.value.body()["error"]
    return error["type"], error["param"], error["code"], error["message"]


def bare(container: Any, given: Any = None, /, **fields: Any) -> Document:
    return Document({"model": "gpt-image-2", "prompt": "x", **fields}, given, None, container)


# --- what is no picture: refused whatever the operator says -----------------------------------------------------------

NO_PICTURES: list[tuple[Document, str, str, str]] = [
    (bare("multipart"), "image", "missing_required_parameter", "Missing required parameter: 'image'."),
    (bare("json"), "images", "missing_required_parameter", "Missing required parameter: 'images'."),
    (
        bare("json", ()),
        "images",
        "empty_array",
        "Invalid 'images': empty array. Expected an array with minimum length 1, but got an empty array instead.",
    ),
    (
        bare("json", images={}),
        "images",
        "invalid_type",
        "Invalid type for 'images': expected an array of objects, but got an object instead.",
    ),
    (
        bare("json", images=None),
        "images",
        "invalid_type",
        "Invalid type for 'images': expected an array of objects, but got null instead.",
    ),
    (
        bare("json", (input_image(),), image="fox"),
        "image",
        "invalid_value",
        "Unknown parameter: 'image'. For application/json on /v1/images/edits, use 'images' (array).",
    ),
    (
        bare("multipart", (input_image(),), images=input_image()),
        "images",
        "invalid_value",
        "Unknown parameter: 'images'. For multipart/form-data use 'image' or 'image[]'.",
    ),
    (
        edit("a string", container="json"),
        "images",
        "invalid_type",
        "Invalid type for 'images[0]': expected an object, but got a string instead.",
    ),
    (
        edit(input_image(), None, container="json"),
        "images",
        "invalid_type",
        "Invalid type for 'images[1]': expected an object, but got null instead.",
    ),
    (
        edit("a string"),
        "image",
        "invalid_type",
        "Invalid type for 'image': expected a file, but got a string instead.",
    ),
    (
        edit(input_image(), LINK),
        "image",
        "invalid_type",
        "Invalid type for 'image[1]': expected a file, but got an object instead.",
    ),
    (
        edit(mask="a string"),
        "mask",
        "invalid_type",
        "Invalid type for 'mask': expected a file, but got a string instead.",
    ),
    (
        edit(mask=[1], container="json"),
        "mask",
        "invalid_type",
        "Invalid type for 'mask': expected an object, but got an array instead.",
    ),
    (
        edit({}, container="json"),
        "images",
        "missing_required_parameter",
        "Missing required parameter: 'images[0].image_url'.",
    ),
    (
        edit({"image_url": "https://x.example/a.png", "file_id": "file-1"}, container="json"),
        "images",
        "mutually_exclusive_parameters",
        "Mutually exclusive parameters: 'images[0]'. Ensure you are only providing one of: 'image_url' or 'file_id'.",
    ),
    (
        edit({"image_url": {"url": "https://x.example/a.png"}}, container="json"),
        "images",
        "invalid_type",
        "Invalid type for 'images[0].image_url': expected a string, but got an object instead.",
    ),
    (
        edit({"image_url": "fox.png"}, container="json"),
        "images",
        "invalid_value",
        "Invalid 'images[0].image_url'. Expected a valid URL, but got a value with an invalid format.",
    ),
    (
        edit({"b64_json": "Zm94"}, container="json"),
        "images",
        "unknown_parameter",
        "Unknown parameter: 'images[0].b64_json'.",
    ),
]


@pytest.mark.parametrize("on_invalid", ["reject", "adjust", "pass"])
@pytest.mark.parametrize(
    ("document", "param", "code", "message"), NO_PICTURES, ids=[row[3][:70] for row in NO_PICTURES]
)
def test_what_is_no_picture_is_always_refused(
    document: Document, param: str, code: str, message: str, on_invalid: str
) -> None:
    assert refusal(document, on_invalid) == (IRE, param, code, message)


@pytest.mark.parametrize("on_invalid", ["reject", "adjust", "pass"])
def test_an_empty_file_is_always_refused(on_invalid: str) -> None:
    empty = input_image(b"", found_type=None, width=None, height=None, has_alpha=None)
    code = "invalid_image_file"
    message = f"Invalid image file or mode for image 2, {CHECK}"
    assert refusal(edit(input_image(), empty), on_invalid) == (IGUE, None, code, message)
    assert refusal(edit(mask=empty), on_invalid)[1:3] == ("mask", "invalid_mask_image_format")


def test_a_type_that_cannot_be_written_into_a_part_is_always_refused() -> None:
    hostile = input_image(media_type="image/png\r\nx-header: 1", found_type="image/png")
    assert refusal(edit(hostile), "pass")[2] == "unsupported_file_mimetype"
    flat = edit(hostile, model="gpt-image-2-all")
    assert refusal(flat, "pass", vendor="apiyi")[2] == "unsupported_file_mimetype"


# --- what is a picture, but not one that the model takes --------------------------------------------------------------

UNFIT: list[tuple[Document, str, str | None, str, str]] = [
    (
        edit(*(input_image() for _ in range(17)), container="json"),
        IRE,
        "images",
        "array_above_max_length",
        "Invalid 'images': array too long. Expected an array with maximum length 16, but got an array with length 17"
        " instead.",
    ),
    (
        edit(input_image(media_type="application/octet-stream", found_type="image/png")),
        IRE,
        "image",
        "unsupported_file_mimetype",
        f"Invalid file 'image': unsupported mimetype ('application/octet-stream'). {SUPPORTED}",
    ),
    (
        edit(JPEG, input_image(media_type="image/jpg", found_type="image/jpeg")),
        IRE,
        "image",
        "unsupported_file_mimetype",
        f"Invalid file 'image[1]': unsupported mimetype ('image/jpg'). {SUPPORTED}",
    ),
    (
        edit(input_image(media_type="image/gif", found_type="image/png"), container="json"),
        IRE,
        "images",
        "unsupported_file_mimetype",
        f"Invalid file 'images[0]': unsupported mimetype ('image/gif'). {SUPPORTED}",
    ),
    (
        edit(mask=input_image(media_type="application/octet-stream", found_type="image/png")),
        IRE,
        "mask",
        "unsupported_file_mimetype",
        f"Invalid file 'mask': unsupported mimetype ('application/octet-stream'). {SUPPORTED}",
    ),
    (
        edit(JPEG, input_image(found_type="image/gif")),
        IGUE,
        None,
        "invalid_image_file",
        f"Invalid image file or mode for image 2, {CHECK}",
    ),
    (
        edit(input_image(found_type=None)),
        IGUE,
        None,
        "invalid_image_file",
        f"Invalid image file or mode for image 1, {CHECK}",
    ),
    (
        edit(mask=input_image(found_type="image/jpeg")),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        f"Invalid mask image format - mask image is not a PNG file. {TRANSPARENT}",
    ),
    (
        edit(mask=input_image(bytes(MASK_BYTES))),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        "Invalid mask image format - mask image is too large. Send a PNG file of less than 4 MB.",
    ),
    (
        edit(mask=input_image(has_alpha=False)),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        f"Invalid mask image format - mask image missing alpha channel. {TRANSPARENT}",
    ),
    (
        edit(mask=input_image(width=512, height=512)),
        IGUE,
        "mask",
        "invalid_mask_image_format",
        "Invalid mask image format - mask size does not match image size. The mask is 512x512 pixels, the first image"
        " 1024x1024.",
    ),
    (
        edit(mask=input_image(), model="gpt-image-2.6-flare", output_format="gif"),
        IGUE,
        "mask",
        "invalid_value",
        "Masks are not supported for GIF output format",
    ),
]


@pytest.mark.parametrize(("document", "kind", "param", "code", "message"), UNFIT, ids=[row[4][:70] for row in UNFIT])
def test_a_picture_that_does_not_fit_is_refused_or_let_through_but_never_left_out(
    document: Document, kind: str, param: str | None, code: str, message: str
) -> None:
    assert refusal(document) == refusal(document, "adjust") == (kind, param, code, message)
    request = judge(document, "pass")
    assert (param or "", code) in request.violations
    assert (request.images, request.mask) == (document.images, document.mask)


@pytest.mark.parametrize(
    "document",
    [
        edit(input_image(), JPEG, input_image(media_type="image/webp", has_alpha=None)),
        edit(*(input_image() for _ in range(16))),
        edit(LINK, FILE, input_image(), mask=LINK, container="json"),
        edit(input_image(media_type="image/jpeg", found_type="image/png")),
        edit(mask=input_image(bytes(MASK_BYTES - 1))),
        edit(mask=input_image(has_alpha=None)),
        edit(mask=input_image(width=None)),
        edit(LINK, mask=input_image(width=7), container="json"),
        edit(input_image(width=None), mask=input_image(width=7)),
        edit(replace(JPEG, width=1536), mask=input_image(height=1536)),
    ],
)
def test_what_is_right_or_cannot_be_known_passes(document: Document) -> None:
    request = judge(document)
    assert (request.images, request.mask) == (document.images, document.mask)
    assert request.violations == ()


def test_a_mask_for_a_png_must_not_be_turned() -> None:
    assert refusal(edit(input_image(width=1536), mask=input_image(height=1536)))[1] == "mask"


def test_of_a_model_that_nobody_knows_only_the_shape_is_checked() -> None:
    many = (input_image(media_type="image/heic", found_type=None),) * 17
    for vendor, model in (("openai", "gpt-image-9"), ("apiyi", "gpt-image-2-all")):
        request = judge(edit(*many, mask=JPEG, model=model), vendor=vendor)
        assert len(request.images) == 17
        assert refusal(edit("x", model=model), vendor=vendor)[2] == "invalid_type"
        assert refusal(edit(input_image(b""), model=model), vendor=vendor)[2] == "invalid_image_file"
        nothing = Document({"model": model, "prompt": "x"}, container="multipart")
        assert refusal(nothing, vendor=vendor)[2] == "missing_required_parameter"


def test_pictures_are_checked_after_the_prompt_and_before_n_and_masks_after_the_size() -> None:
    wrong: dict[str, Any] = {"style": "vivid", "prompt": "", "n": "0", "size": "1x1"}
    seen = []
    pictures: tuple[Any, ...] = (TEXT,)
    for _ in range(7):
        param = refusal(edit(*pictures, mask="x", **wrong))[1]
        seen.append(param)
        if param == "image":
            pictures = (input_image(),)
        elif param == "mask":
            break
        elif param == "prompt":
            del wrong["prompt"]
        else:
            wrong.pop(param)
    assert seen == ["style", "prompt", "image", "n", "size", "mask"]


def test_a_generation_takes_no_pictures() -> None:
    validator = Validator(CATALOGUE, RulesSection(on_invalid="pass", unknown_parameter="pass"))
    for document, param in (
        (edit(container="json"), "images"),
        (edit(), "image"),
        (Document({"model": "gpt-image-2", "prompt": "x"}, None, LINK), "mask"),
    ):
        with pytest.raises(RequestError) as caught:
            validator.validate(document, Operation.GENERATION, "openai")
        assert caught.value.message == f"Unknown parameter: '{param}'."

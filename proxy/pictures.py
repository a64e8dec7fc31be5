"""The rules of the pictures that a caller sends to be edited, in the API's words where those are known.

Each fault comes with whether the picture could be sent all the same: what is a picture can, what is none cannot. Pure.
Sources: openai-python 3.54.0, types/image_edit_params.py; OpenAI Images API, observed answers.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from proxy import faults
from proxy.errors import InvalidRequest, RequestError, UnsupportedByModel
from proxy.model import Document, InputImage, Reference

MOST_IMAGES = 16
MASK_BYTES = 4 * 2**20
"""A mask is smaller than this."""

Container = Literal["json", "multipart"]
Faults = Iterator[tuple[RequestError, bool]]

_MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")
# It is written into the head of a part, or into a data URL.
_PLAIN_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}", re.ASCII)
_SOURCES = ("image_url", "file_id")


def places(container: Container) -> tuple[str, ...]:
    """The parameters that hold pictures."""
    return ("images", "mask") if container == "json" else ("image", "image[]", "mask")


def misplaced(key: str, container: Container) -> RequestError | None:
    """The two containers have different names for the pictures."""
    if container == "json" and key in ("image", "image[]"):
        hint = "For application/json on /v1/images/edits, use 'images' (array)."
    elif container == "multipart" and key == "images":
        hint = "For multipart/form-data use 'image' or 'image[]'."
    else:
        return None
    return InvalidRequest(f"Unknown parameter: '{key}'. {hint}", param=key, code="invalid_value")


def of_images(document: Document, *, is_open: bool) -> Faults:
    """`is_open`: of a model whose rules nobody knows, only the shape is checked."""
    name = places(document.container)[0]
    images = document.images
    if images is None:
        strays = [document.fields[place] for place in places(document.container)[:-1] if place in document.fields]
        expected = "an array of objects" if document.container == "json" else "a file"
        yield faults.wrong_type(name, expected, strays[0]) if strays else faults.missing(name), False
        return
    if not images:
        message = (
            f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        yield InvalidRequest(message, param=name, code="empty_array"), False
    if len(images) > MOST_IMAGES and not is_open:
        message = (
            f"Invalid '{name}': array too long. Expected an array with maximum length {MOST_IMAGES}, but got an array"
            f" with length {len(images)} instead."
        )
        yield InvalidRequest(message, param=name, code="array_above_max_length"), True
    for index, picture in enumerate(images):
        is_alone = document.container == "multipart" and len(images) == 1
        yield from _of_picture(name, name if is_alone else f"{name}[{index}]", picture, document.container, is_open)
        if isinstance(picture, InputImage):
            yield from _of_bytes(index + 1, picture, is_open)


def of_mask(document: Document, *, is_open: bool) -> Faults:
    mask = document.mask if document.mask is not None else document.fields.get("mask")
    if mask is None:
        return
    yield from _of_picture("mask", "mask", mask, document.container, is_open)
    if isinstance(mask, InputImage) and not is_open:
        first = document.images[0] if document.images else None
        for sentence in _of_mask_bytes(mask, first):
            message = f"Invalid mask image format - {sentence}"
            yield UnsupportedByModel(message, param="mask", code="invalid_mask_image_format"), len(mask.body) > 0


def member(picture: InputImage | Reference) -> dict[str, Any]:
    """What stands for a picture in the canonical request: its bytes and its type, not its file's name."""
    if isinstance(picture, Reference):
        return dict(picture.member)
    return {"sha256": picture.sha256, "type": picture.media_type}


def _of_picture(param: str, place: str, picture: object, container: Container, is_open: bool) -> Faults:
    """What is no picture at all, and what is declared to be something else than a picture."""
    if isinstance(picture, Reference) and container == "json" and faults.is_json(dict(picture.member)):
        return  # its rules are the upstream's
    if not isinstance(picture, InputImage):
        yield _of_something_else(param, place, picture, container), False
        return
    is_plain = _PLAIN_MEDIA_TYPE.fullmatch(picture.media_type) is not None
    if picture.media_type not in _MEDIA_TYPES and not (is_open and is_plain):
        message = (
            f"Invalid file '{place}': unsupported mimetype ('{faults.cut(picture.media_type)}'). Supported file formats"
            " are 'image/jpeg', 'image/png', and 'image/webp'."
        )
        yield InvalidRequest(message, param=param, code="unsupported_file_mimetype"), is_plain


def _of_bytes(number: int, picture: InputImage, is_open: bool) -> Faults:
    is_empty = len(picture.body) == 0
    if is_empty or (picture.found_type not in _MEDIA_TYPES and not is_open):
        message = f"Invalid image file or mode for image {number}, please check your image file."
        # The observed answer names no parameter.
        yield UnsupportedByModel(message, code="invalid_image_file"), not is_empty


def _of_mask_bytes(mask: InputImage, first: object) -> Iterator[str]:
    if mask.found_type != "image/png":
        yield "mask image is not a PNG file. Send a PNG whose transparent pixels mark what is to be edited."
        return
    if len(mask.body) >= MASK_BYTES:
        yield "mask image is too large. Send a PNG file of less than 4 MB."
    if mask.has_alpha is False:
        yield "mask image missing alpha channel. Send a PNG whose transparent pixels mark what is to be edited."
    if isinstance(first, InputImage) and _differ(mask, first):
        yield (
            f"mask size does not match image size. The mask is {mask.width}x{mask.height} pixels, the first image"
            f" {first.width}x{first.height}."
        )


def _differ(mask: InputImage, first: InputImage) -> bool:
    """A photograph may be turned before it is compared: its head may say so, and we have not read that far."""
    if None in (mask.width, mask.height, first.width, first.height):
        return False
    size = (first.width, first.height)
    return (mask.width, mask.height) not in ((size,) if first.found_type == "image/png" else (size, size[::-1]))


def _of_something_else(param: str, place: str, value: object, container: Container) -> RequestError:
    """What stands in a picture's place and is none."""
    fault: RequestError
    if container == "multipart" or not isinstance(value, dict):
        # A reference cannot come in a form: it is an object there too.
        found = {} if isinstance(value, Reference) else value
        fault = faults.wrong_type(place, "an object" if container == "json" else "a file", found)
    else:
        fault = _of_object(place, value)
    fault.param = param
    return fault


def _of_object(place: str, value: Mapping[str, Any]) -> RequestError:
    stray = next((key for key in value if key not in _SOURCES), None)
    if stray is not None:
        return faults.unknown(f"{place}.{stray}")
    given = [source for source in _SOURCES if value.get(source) is not None]
    if not given:
        return faults.missing(f"{place}.image_url")
    if len(given) == 2:
        message = (
            f"Mutually exclusive parameters: '{place}'. Ensure you are only providing one of: 'image_url' or 'file_id'."
        )
        return InvalidRequest(message, code="mutually_exclusive_parameters")
    name = f"{place}.{given[0]}"
    if not isinstance(value[given[0]], str):
        return faults.wrong_type(name, "a string", value[given[0]])
    expected = "a valid URL" if given[0] == "image_url" else "the id of a file"
    message = f"Invalid '{name}'. Expected {expected}, but got a value with an invalid format."
    return InvalidRequest(message, code="invalid_value")

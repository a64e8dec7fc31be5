"""The pictures that came with a call, opened: what the API cannot read, it does not edit.

Law: whatever the bytes are, they become a small picture or an UnsupportedByModel, with bounded memory: one file at a time,
of no more than `MOST_PIXELS`, and no more of it kept than an answer shows. Opening blocks: it belongs into a thread.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field

from PIL import ExifTags, Image, ImageOps

from proxy.errors import RequestError, UnsupportedByModel
from proxy.model import Body

MOST_PIXELS = 50_000_000
"""What a large camera makes. Pillow itself would warn at 90 million, and a file of some kilobytes can hold as many."""
_KEPT_SIDE = 2048
_FORMATS = ("PNG", "JPEG", "WEBP")
_READERS_FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError, AssertionError,
    struct.error, zlib.error, Image.DecompressionBombError, Warning,
)  # fmt: skip
"""What Pillow's readers are known to raise for files that are no good; a warning is raised only where it is an error."""
_LYING = (5, 6, 7, 8)
"""Orientations (Exif 2.32 §4.6.5) whose rows are the picture's columns."""


@dataclass(frozen=True, slots=True)
class Original:
    """One picture, upright, scaled down if it is large, and the size that it came in."""

    image: Image.Image = field(repr=False)
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Originals:
    """All pictures of one call, in the caller's order."""

    pictures: tuple[Original, ...] = ()
    mask: Original | None = None


def opened(data: bytes | bytearray, fault: RequestError) -> Original:
    """The picture that these bytes are. Raises `fault` if they are none."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # A phone's file of several pictures (MPO) is refused by the API, too.
            if image.format not in _FORMATS or image.width * image.height > MOST_PIXELS:
                raise fault
            size = image.size
            image.thumbnail((_KEPT_SIDE, _KEPT_SIDE))
            if image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING:
                size = size[::-1]
            ImageOps.exif_transpose(image, in_place=True)
            return Original(image.convert("RGBA" if image.has_transparency_data else "RGB"), size)
    except _READERS_FAULTS as cause:
        raise fault from cause


def unreadable(number: int) -> UnsupportedByModel:
    """The API's answer to a picture, counted from 1, that it cannot open."""
    message = f"Invalid image file or mode for image {number}, please check your image file."
    return UnsupportedByModel(message, code="invalid_image_file")


def unreadable_mask() -> UnsupportedByModel:
    message = "Invalid mask image format - mask image cannot be read, please check your image file."
    return UnsupportedByModel(message, param="mask", code="invalid_mask_image_format")


async def whole(body: Body) -> bytearray:
    """All bytes of a picture."""
    data = bytearray()
    with body.reading():
        while len(data) < len(body):
            data += await body.window(len(data), min(len(body), len(data) + body.window_bytes))
    return data

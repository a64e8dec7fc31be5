"""The head of an image says what an image library says about it, and no bytes make it fail."""

import io
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proxy.uploads.imagehead import MAX_SEGMENTS, ImageHead, look

SIZES = [(1, 1), (37, 21), (1024, 1), (3, 700)]
PNG = b"\x89PNG\r\n\x1a\n"


def seen(content: bytes) -> ImageHead:
    return look(lambda start, stop: content[start:stop])


def painted(mode: str, size: tuple[int, int], kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    Image.new(mode, size).save(target, kind, **options)
    return target.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return len(data).to_bytes(4, "big") + name + data + b"\0\0\0\0"


def ihdr(width: int, height: int, colour_type: int) -> bytes:
    return chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour_type, 0, 0, 0]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("mode", "options", "has_alpha"),
    [
        ("1", {}, False),
        ("L", {}, False),
        ("LA", {}, True),
        ("P", {}, False),
        ("P", {"transparency": 0}, True),
        ("L", {"transparency": 0}, True),
        ("RGB", {}, False),
        ("RGB", {"transparency": (0, 0, 0)}, True),
        ("RGBA", {}, True),
        ("I;16", {}, False),
    ],
)
def test_a_png_tells_size_and_transparency(
    mode: str, options: Mapping[str, Any], has_alpha: bool, size: tuple[int, int]
) -> None:
    assert seen(painted(mode, size, "PNG", **options)) == ImageHead("image/png", *size, has_alpha)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_tells_its_size_and_is_never_transparent(mode: str, progressive: bool, size: tuple[int, int]) -> None:
    assert seen(painted(mode, size, "JPEG", progressive=progressive)) == ImageHead("image/jpeg", *size, False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("mode", "options", "has_alpha"),
    [
        ("RGB", {}, False),
        ("RGB", {"lossless": True}, False),
        ("RGBA", {}, True),
        ("RGBA", {"lossless": True}, True),
        ("RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, False),
    ],
)
def test_a_webp_tells_size_and_transparency(
    mode: str, options: Mapping[str, Any], has_alpha: bool, size: tuple[int, int]
) -> None:
    # Half transparent: an encoder drops an alpha channel that says nothing.
    target = io.BytesIO()
    Image.new(mode, size, (9, 9, 9, 128) if mode == "RGBA" else (9, 9, 9)).save(target, "WEBP", **options)
    assert seen(target.getvalue()) == ImageHead("image/webp", *size, has_alpha)


def test_a_jpeg_is_walked_over_large_segments_with_a_thumbnail_in_them() -> None:
    plain, thumbnail = painted("RGB", (640, 480), "JPEG"), painted("RGB", (16, 16), "JPEG")
    segment = b"\xff\xe1" + (2 + 60_000).to_bytes(2, "big") + thumbnail.ljust(60_000, b"\0")
    assert seen(plain[:2] + segment * 5 + b"\xff\xff\xff" + plain[2:]) == ImageHead("image/jpeg", 640, 480, False)


def test_a_gif_and_an_svg_are_known_by_type_alone() -> None:
    assert seen(painted("P", (5, 6), "GIF")) == ImageHead("image/gif")
    assert seen(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == ImageHead("image/svg+xml")


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 300, b"RIFF\0\0\0\0WAVEfmt "])
def test_what_is_no_image_has_no_head(content: bytes) -> None:
    assert seen(content) == ImageHead()


@pytest.mark.parametrize("side", [0, 2**31])
def test_a_png_of_an_impossible_size_tells_none(side: int) -> None:
    assert seen(PNG + ihdr(side, 5, 6)) == ImageHead("image/png")


def test_a_png_without_picture_data_does_not_tell_whether_it_is_transparent() -> None:
    assert seen(PNG + ihdr(4, 5, 2)) == ImageHead("image/png", 4, 5, None)
    assert seen(PNG + ihdr(4, 5, 2) + chunk(b"IEND")) == ImageHead("image/png", 4, 5, None)
    assert seen(PNG + ihdr(4, 5, 7) + chunk(b"IDAT")) == ImageHead("image/png", 4, 5, None)


def test_a_head_that_never_ends_is_given_up() -> None:
    reads = 0
    endless = PNG + ihdr(4, 5, 2) + chunk(b"tEXt") * 100_000

    def read(start: int, stop: int) -> bytes:
        nonlocal reads
        reads += 1
        return endless[start:stop]

    assert look(read).has_alpha is None
    assert reads < MAX_SEGMENTS + 10
    assert seen(b"\xff\xd8" + b"\xff" * 100_000) == ImageHead("image/jpeg", has_alpha=False)


HEADS = st.sampled_from(
    [
        b"",
        PNG,
        PNG + ihdr(4, 5, 3),
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0",
        b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f",
        b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0",
    ]
)


@given(HEADS, st.binary(max_size=80))
def test_no_bytes_make_it_fail(head: bytes, rest: bytes) -> None:
    found = seen(head + rest)
    assert found.width is None or found.width > 0
    assert found.height is None or found.height > 0


@given(
    st.sampled_from([("RGBA", "PNG"), ("P", "PNG"), ("RGB", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP")]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6),
    st.integers(0, 80),
)
def test_no_damage_makes_it_fail(kind: tuple[str, str], damage: list[tuple[int, int]], length: int) -> None:
    content = bytearray(painted(kind[0], (4, 4), kind[1]))
    for at, value in damage:
        content[at % len(content)] = value
    seen(bytes(content[:length]))
    seen(bytes(content))

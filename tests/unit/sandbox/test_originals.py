"""proxy/sandbox/originals.py: any bytes are a picture, opened within bounds, or the fault that was asked for."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proxy.errors import UnsupportedByModel
from proxy.sandbox.originals import MOST_PIXELS, opened, unreadable, whole
from proxy.spool import Spools
from proxy.stores.body import body_of
from tests.unit.sandbox.pictures import drawn

FAULT = unreadable(3)
FILES = [drawn(33, 20, "PNG"), drawn(33, 20, "JPEG"), drawn(33, 20, "WEBP"), drawn(9, 9, "PNG", (1, 2, 3, 4))]


def lying(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes) -> bytes:
    """A file that announces so many pixels and holds a thousand zeros."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_the_api_takes_is_opened(kind: str) -> None:
    original = opened(drawn(40, 30, kind), FAULT)
    assert (original.image.mode, original.image.size, original.size) == ("RGB", (40, 30), (40, 30))


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_other_modes_become_colours(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, "PNG")
    assert opened(buffer.getvalue(), FAULT).image.mode == "RGB"


def test_transparency_is_kept() -> None:
    assert opened(drawn(8, 8, "PNG", (1, 2, 3, 0)), FAULT).image.getpixel((0, 0)) == (1, 2, 3, 0)


@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40)), (8, (30, 40))])
def test_a_photograph_is_turned_upright(orientation: int, size: tuple[int, int]) -> None:
    original = opened(drawn(40, 30, "JPEG", exif=lying(orientation)), FAULT)
    assert (original.size, original.image.size) == (size, size)


def test_of_a_large_picture_no_more_is_kept_than_can_be_shown() -> None:
    original = opened(drawn(6000, 3000, "JPEG", exif=lying(6)), FAULT)
    assert (original.size, original.image.size) == ((3000, 6000), (1024, 2048))


@pytest.mark.parametrize(("width", "height"), [(MOST_PIXELS // 8 + 1, 8), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_head(width: int, height: int) -> None:
    with pytest.raises(UnsupportedByModel) as caught:
        opened(png(width, height), FAULT)
    assert caught.value is FAULT


def test_so_is_a_bomb_of_text() -> None:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(8_000_000)))
    with pytest.raises(UnsupportedByModel):
        opened(png(8, 8, text), FAULT)


def test_other_formats_are_refused() -> None:
    for kind in ("GIF", "BMP", "TIFF"):
        with pytest.raises(UnsupportedByModel):
            opened(drawn(8, 8, kind), FAULT)


def test_a_phone_s_file_of_several_pictures_is_refused_as_by_the_api() -> None:
    buffer = io.BytesIO()
    one, two = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    one.save(buffer, "MPO", save_all=True, append_images=[two])
    with pytest.raises(UnsupportedByModel):
        opened(buffer.getvalue(), FAULT)


@given(
    file=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=6)), max_size=4),
    length=st.integers(0, 400),
)
def test_damaged_files_are_pictures_or_the_fault_and_nothing_else(
    file: bytes, changes: list[tuple[int, bytes]], length: int
) -> None:
    data = bytearray(file[:length])
    for at, what in changes:
        data[at : at + len(what)] = what
    try:
        assert opened(data, FAULT).image.mode in ("RGB", "RGBA")
    except UnsupportedByModel as fault:
        assert fault is FAULT


@pytest.mark.anyio
async def test_a_picture_is_read_from_where_it_lies(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3000
    with ThreadPoolExecutor(1) as threads:
        spool = Spools(tmp_path, threads, "test").open()
        await spool.write(content)
        assert await whole(await body_of(spool, threads)) == content

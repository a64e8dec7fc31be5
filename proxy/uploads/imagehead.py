"""What the head of an image file says about it: media type, size in pixels, and whether it may be transparent.

The law: any bytes have an answer, found in bounded work, and what is not certain is None. Pure. Sources: PNG (ISO/IEC 15948)
§5 and §11, JPEG (ITU-T T.81) annex B, WebP container specification and RFC 6386 §9.1 (VP8).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proxy.reply import media_type_of

Read = Callable[[int, int], bytes]
"""The bytes [start, stop) of the file; fewer where it ends before."""

MAX_SEGMENTS = 1024
"""How many chunks or segments are stepped over: a camera writes some dozens, an attacker as many as bytes allow."""
_SIGNATURE_BYTES = 256
_PNG_ALPHA = {0: False, 2: False, 3: False, 4: True, 6: True}
"""Colour types, and whether they have an alpha channel; without one, a tRNS chunk may still make pixels transparent."""
_MAX_PNG_SIDE = 2**31 - 1
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_LAST_MARKERS = frozenset({0xD9, 0xDA})


@dataclass(frozen=True, slots=True)
class ImageHead:
    """What was found; None is "the head does not tell"."""

    media_type: str | None = None
    width: int | None = None
    height: int | None = None
    has_alpha: bool | None = None


def look(read: Read) -> ImageHead:
    """The head of the file whose bytes `read` gives."""
    media_type = media_type_of(read(0, _SIGNATURE_BYTES))
    match media_type:
        case "image/png":
            return _png(read)
        case "image/jpeg":
            return _jpeg(read)
        case "image/webp":
            return _webp(read)
        case _:
            return ImageHead(media_type)


def _png(read: Read) -> ImageHead:
    header = read(8, 26)  # length, "IHDR", width, height, bit depth, colour type
    if len(header) < 18 or header[:8] != b"\0\0\0\x0dIHDR":
        return ImageHead("image/png")
    width, height = int.from_bytes(header[8:12], "big"), int.from_bytes(header[12:16], "big")
    if not (0 < width <= _MAX_PNG_SIDE and 0 < height <= _MAX_PNG_SIDE):
        return ImageHead("image/png")
    return ImageHead("image/png", width, height, _PNG_ALPHA.get(header[17]) or _has_transparency(read, header[17]))


def _has_transparency(read: Read, colour_type: int) -> bool | None:
    """Whether a tRNS chunk stands before the first IDAT."""
    if colour_type not in _PNG_ALPHA:
        return None
    at = 8
    for _ in range(MAX_SEGMENTS):
        chunk = read(at, at + 8)
        if len(chunk) < 8 or chunk[4:] == b"IEND":
            return None
        if chunk[4:] in {b"tRNS", b"IDAT"}:
            return chunk[4:] == b"tRNS"
        at += 12 + int.from_bytes(chunk[:4], "big")  # length, type, data, checksum
    return None


def _jpeg(read: Read) -> ImageHead:
    for marker, at in _jpeg_segments(read):
        if marker in _START_OF_FRAME:
            frame = read(at + 4, at + 9)  # precision, height, width
            if len(frame) < 5:
                break
            height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
            # A height of 0 is told after the first scan (DNL).
            return ImageHead("image/jpeg", width or None, height or None, has_alpha=False)
    return ImageHead("image/jpeg", has_alpha=False)


def _jpeg_segments(read: Read) -> Iterator[tuple[int, int]]:
    """Markers up to the first scan, each with where it stands."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        head = read(at, at + 4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in _LAST_MARKERS:
            return
        if head[1] == 0xFF:  # a fill byte
            at += 1
        elif head[1] in _BARE_MARKERS:
            at += 2
        else:
            yield head[1], at
            at += 2 + max(2, int.from_bytes(head[2:], "big"))


def _webp(read: Read) -> ImageHead:
    kind, data = read(12, 16), read(20, 30)
    found: tuple[int, int, bool] | None = None
    if len(data) == 10:
        if kind == b"VP8 " and not data[0] & 1 and data[3:6] == b"\x9d\x01\x2a":
            found = _little(data[6:8]) & 0x3FFF, _little(data[8:10]) & 0x3FFF, False
        elif kind == b"VP8X":
            found = _little(data[4:7]) + 1, _little(data[7:10]) + 1, bool(data[0] & 0x10)
    if kind == b"VP8L" and len(data) >= 5 and data[0] == 0x2F and not data[4] >> 5:
        bits = _little(data[1:5])
        found = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    return ImageHead("image/webp", *found) if found and found[0] and found[1] else ImageHead("image/webp")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")

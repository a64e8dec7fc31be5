"""One stored body, several faces: every rendering is the body itself with a few short ranges exchanged.

Pure. Nothing here touches the base64; a piece is either a range of the stored body or a few bytes of our own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.model import EventMembers, ImageSpan, Rendering
from proxy.reply import Edit
from proxy.shapes import event_edits

Piece = tuple[int, int] | bytes
"""A range [start, stop) of the body, or literal bytes."""


@dataclass(frozen=True, slots=True)
class Face:
    """How a reply is to look: the rendering, the field that data URLs go in, and what names the i-th image."""

    rendering: Rendering
    data_url_field: Literal["url", "b64_json"]
    link: Callable[[int, ImageSpan], str]


def pieces(
    length: int,
    images: Sequence[ImageSpan],
    face: Face,
    echo: tuple[int, bytes] | None = None,
    event: EventMembers | None = None,
) -> list[Piece]:
    """A body of `length` bytes as `face` shows it.

    `echo` is the caller's own member, put back where it was cut; `event` says that the body is the data of an event, to
    be shown as the reply that it stands for.
    """
    edits = event_edits(event, images[0]) if event is not None else []
    edits += (edit for index, image in enumerate(images) for edit in _edits(index, image, face))
    if echo is not None:
        # Beside the image in an event, it belongs outside of what is wrapped around it: a member that stood before the
        # image came with the comma behind it, one that stood after it with the comma before it.
        edits.insert(len(edits) if echo[1].startswith(b",") else 0, Edit(echo[0], echo[0], echo[1]))
    return list(_spliced(length, sorted(edits, key=lambda edit: (edit.start, edit.stop))))


def windows(parts: Iterable[Piece], size: int) -> Iterator[Piece]:
    """The same pieces, with no range of the body longer than `size`."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
        else:
            yield from ((at, min(at + size, part[1])) for at in range(*part, size))


def length_of(parts: Sequence[Piece]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)


def _edits(index: int, image: ImageSpan, face: Face) -> Iterator[Edit]:
    prefix = b"data:%s;base64," % image.media_type.encode("ascii")
    match face.rendering:
        case Rendering.B64_JSON:
            return
        case Rendering.DATA_URL if face.data_url_field == "b64_json":
            yield Edit(image.value[0], image.value[0], prefix)
            return
        case Rendering.DATA_URL:
            yield Edit(*image.key, b'"url"')
            yield Edit(image.value[0], image.value[0], prefix)
        case Rendering.URL:
            link = face.link(index, image).encode("ascii")
            yield Edit(image.key[0], image.value[1] + 1, b'"url":"' + link + b'"')
    if image.url is not None:
        yield Edit(*image.url)


def _spliced(length: int, edits: Sequence[Edit]) -> Iterator[Piece]:
    position = 0
    for edit in edits:
        if edit.start > position:
            yield (position, edit.start)
        if edit.replacement:
            yield edit.replacement
        position = edit.stop
    if position < length:
        yield (position, length)

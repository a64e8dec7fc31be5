"""A request's body as it goes out: the canonical members, and the pictures as they came.

Small things are bytes, pictures stay on disk and are read in windows, once for each attempt: sixteen pictures of 50 MB
take no more memory than one prompt. The length is known before the first byte. Source: OpenAI API reference, "Create
image edit"; RFC 7578 (multipart/form-data).
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pybase64

from proxy import ids
from proxy.model import Body, ImageRequest, InputImage, Reference
from proxy.vendors import Vendor

WINDOW_BYTES = 3 << 16
"""A multiple of 3, so that the base64 of the windows is the base64 of the whole."""
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


@dataclass(frozen=True, slots=True)
class InBase64:
    """A picture that goes out as text."""

    body: Body

    def __len__(self) -> int:
        return (len(self.body) + 2) // 3 * 4


Piece = bytes | Body | InBase64


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A body and what it is. It can be sent any number of times."""

    content_type: str
    pieces: tuple[Piece, ...]

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises StoreError if a picture cannot be read back."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            is_text = isinstance(piece, InBase64)
            body = piece.body if isinstance(piece, InBase64) else piece
            for start in range(0, len(body), WINDOW_BYTES):
                window = await body.window(start, min(start + WINDOW_BYTES, len(body)))
                yield pybase64.b64encode(window) if is_text else bytes(window)


def outgoing(request: ImageRequest, vendor: Vendor) -> Outgoing:
    """The body of a call: JSON, or multipart if it came so."""
    extra = _beside_the_key(request)
    if not request.images and request.mask is None and vendor.is_plain:
        return Outgoing("application/json", (_with(request.canonical, extra),))
    members = {**json.loads(request.canonical), **extra}
    if request.images:
        del members["images"]
    if request.mask is not None:
        del members["mask"]
    members = vendor.members(members)
    is_multipart = request.container == "multipart" or not (vendor.edits_in_json or request.is_by_reference)
    if is_multipart:
        return _multipart(members, request)
    return Outgoing("application/json", tuple(_json(members, request)))


def _beside_the_key(request: ImageRequest) -> dict[str, Any]:
    """What is sent and no part of the key."""
    extra = dict(request.unkeyed)
    if request.wants_b64_json:
        extra["response_format"] = "b64_json"
    if request.stream:
        extra["stream"] = True
    if request.partial_images:
        extra["partial_images"] = request.partial_images
    return extra


def _with(canonical: bytes, extra: Mapping[str, Any]) -> bytes:
    """What is sent is what was hashed: the canonical body itself, and further members behind it."""
    return canonical[:-1] + b"," + _dumped(extra)[1:] if extra else canonical


def _dumped(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json(members: Mapping[str, Any], request: ImageRequest) -> Iterator[Piece]:
    yield _dumped(members)[:-1]
    for number, picture in enumerate(request.images):
        yield b',"images":[' if number == 0 else b","
        yield from _json_picture(picture)
    if request.images:
        yield b"]"
    if request.mask is not None:
        yield b',"mask":'
        yield from _json_picture(request.mask)
    yield b"}"


def _json_picture(picture: InputImage | Reference) -> Iterator[Piece]:
    if isinstance(picture, Reference):
        yield _dumped(picture.member)
        return
    yield b'{"image_url":"data:%s;base64,' % picture.media_type.encode("ascii")
    yield InBase64(picture.body)
    yield b'"}'


# --- multipart --------------------------------------------------------------------------------------------------------


def _multipart(members: Mapping[str, Any], request: ImageRequest) -> Outgoing:
    boundary = f"imagegate-{ids.purchase_id()}"
    return Outgoing(f"multipart/form-data; boundary={boundary}", tuple(_parts(members, request, boundary)))


def _parts(members: Mapping[str, Any], request: ImageRequest, boundary: str) -> Iterator[Piece]:
    opening = b"--%s\r\ncontent-disposition: form-data; " % boundary.encode("ascii")
    for name, text in _flat(members):
        yield opening + b'name="%s"\r\n\r\n%s\r\n' % (_quoted(name), text.encode())
    name = "image" if len(request.images) == 1 else "image[]"
    pictures = [(name, f"image-{number}", picture) for number, picture in enumerate(request.images, 1)]
    for name, file, picture in [*pictures, ("mask", "mask", request.mask)]:
        if isinstance(picture, InputImage):
            extension = _EXTENSIONS.get(picture.media_type, "bin")
            yield opening + b'name="%s"; filename="%s.%s"\r\ncontent-type: %s\r\n\r\n' % tuple(
                word.encode("ascii") for word in (name, file, extension, picture.media_type)
            )
            yield picture.body
            yield b"\r\n"
    yield b"--%s--\r\n" % boundary.encode("ascii")


def _flat(members: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, str]]:
    """Fields as the SDKs write them: `svg[model]` for what is nested, `true` and `false`."""
    for key, value in sorted(members.items()):
        name = f"{parent}[{key}]" if parent else key
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif value is not None:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _quoted(name: str) -> bytes:
    """A field's name (RFC 7578 §5.1; WHATWG HTML, "multipart/form-data encoding algorithm")."""
    return name.encode().replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")

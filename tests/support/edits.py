"""Edits: documents as the edge would have read them, bodies as clients write them, and what must be left of them."""

import base64
import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from proxy.model import Document, InputImage, Reference
from proxy.stores.body import MemoryBody
from tests.support.multipart import BOUNDARY, FormPart, content_type, file, form, text

EDITS = "/v1/images/edits"
LINK = Reference({"image_url": "https://pictures.example/fox.png"})
FILE = Reference({"file_id": "file-abc"})


def input_image(content: bytes = b"fox", media_type: str = "image/png", **found: Any) -> InputImage:
    """A picture of 1024 x 1024 pixels with an alpha channel, of the type it is declared to be."""
    facts = {"found_type": media_type, "width": 1024, "height": 1024, "has_alpha": True, **found}
    return InputImage(media_type, hashlib.sha256(content).hexdigest(), MemoryBody(content), **facts)


def edit(
    *images: Any, mask: Any = None, container: Literal["json", "multipart"] = "multipart", **fields: Any
) -> Document:
    """A valid edit of one picture, unless other pictures or fields are given; `...` takes a field away."""
    members = {"model": "gpt-image-2", "prompt": "at night", **fields}
    members = {name: value for name, value in members.items() if value is not ...}
    return Document(members, images or (input_image(),), mask, container)


# --- on the wire ------------------------------------------------------------------------------------------------------


def painted(
    color: str = "navy", *, kind: str = "PNG", mode: str = "RGBA", size: tuple[int, int] = (64, 48), more: bytes = b""
) -> bytes:
    """A picture that opens; `more` bytes stand behind its end."""
    target = io.BytesIO()
    Image.new(mode, size, color).save(target, kind)
    return target.getvalue() + more


@dataclass(frozen=True)
class Photo:
    """A picture that a caller has: its bytes, and what the caller says that they are."""

    content: bytes = field(repr=False)
    media_type: str | None = "image/png"
    filename: str | None = "upload"

    @property
    def url(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


FOX, OWL, HAT = (Photo(painted(color)) for color in ("orange", "brown", "black"))
PHOTOGRAPH = Photo(painted("green", kind="JPEG", mode="RGB"), "image/jpeg", "IMG_0001.JPG")
MASK = Photo(painted("#00000000"))
OTHER_MASK = Photo(painted("#ffffff00"))


@dataclass(frozen=True)
class Body:
    """What is posted."""

    content: bytes = field(repr=False)
    content_type: str

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": self.content_type}


def in_form(
    *photos: Photo, mask: Photo | None = None, name: str | None = None, boundary: str = BOUNDARY, **fields: Any
) -> Body:
    """An edit as a form, its scalars as the SDKs write them; `...` takes a field away."""
    scalars = {"model": "gpt-image-2", "prompt": "at night", **fields}
    parts = [text(key, _spelled(value)) for key, value in scalars.items() if value is not ...]
    name = name or ("image" if len(photos) == 1 else "image[]")
    parts += [_part(name, photo) for photo in photos]
    parts += [_part("mask", mask)] if mask else []
    return in_parts(*parts, boundary=boundary)


def in_parts(*parts: FormPart, boundary: str = BOUNDARY) -> Body:
    """Any form."""
    return Body(form(*parts, boundary=boundary), content_type(boundary))


def in_json(*photos: Photo | dict[str, Any], mask: Photo | dict[str, Any] | None = None, **members: Any) -> Body:
    """An edit as JSON: pictures as data URLs, and whatever else is given as it is; `...` takes a member away."""
    document: dict[str, Any] = {"model": "gpt-image-2", "prompt": "at night"}
    document["images"] = [_member(photo) for photo in photos]
    document |= {"mask": _member(mask)} if mask else {}
    document |= members
    kept = {key: value for key, value in document.items() if value is not ...}
    return Body(json.dumps(kept).encode(), "application/json")


def _part(name: str, photo: Photo) -> FormPart:
    return file(name, photo.content, photo.media_type, photo.filename)


def _member(photo: Photo | dict[str, Any]) -> dict[str, Any]:
    return {"image_url": photo.url} if isinstance(photo, Photo) else photo


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- what is left -----------------------------------------------------------------------------------------------------


def left_of_uploads(cache: Path, pid: int | None = None) -> Sequence[str]:
    """The files that pictures are received in: those with a name, and those that a process still holds open without."""
    folder, left = cache / "tmp", []
    if folder.is_dir():
        left += [str(path) for path in folder.iterdir()]
    descriptors = Path(f"/proc/{pid or os.getpid()}/fd")
    for number in os.listdir(descriptors):
        try:
            target = os.readlink(descriptors / number)
        except FileNotFoundError:  # closed since
            continue
        if target.startswith(f"{folder}{os.sep}"):
            left.append(target)
    return left

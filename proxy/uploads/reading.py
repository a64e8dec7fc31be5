"""Reads the body of an edit into a Document: the pictures to disk while they arrive, the rest bounded and in memory.

The law: a Document holds all that was sent, or there is none; whatever goes wrong, and whenever it is cancelled, nothing of
it stays. What the fields mean is the validator's business (proxy/validation.py).

Sources: RFC 7578 (multipart/form-data); OpenAI API reference, "Create image edit".
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from proxy.errors import InvalidRequest, PayloadTooLarge
from proxy.model import Document, InputImage
from proxy.spool import Spools
from proxy.uploads import editjson
from proxy.uploads.dataurl import DataUrlDecoder
from proxy.uploads.editjson import Inline, Outline
from proxy.uploads.form import FormReader, Part
from proxy.uploads.room import Picture, Upload, UploadRoom

WINDOW_BYTES = 1 << 18
"""How much base64 is decoded at once."""

_IMAGE_NAMES = ("image", "image[]")
_PICTURE_NAMES = ("image", "images", "mask")
"""None of them is an object: what stands in one of its members would be paid for and not be seen."""
_NESTED_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]+\]){1,8})")
_UNDECLARED = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may have at most, and what all of them may hold in memory while the disk is full."""

    multipart_bytes: int = 850 * 10**6
    json_bytes: int = 64 * 2**20
    picture_bytes: int = 50 * 2**20
    field_bytes: int = 2**20
    """Of one text in a form."""
    pictures: int = 16
    parts: int = 64
    memory_bytes: int = 16 * 2**20
    least_free_bytes: int = 0
    """Of the disk: a request that announces more than there is beyond that is refused before it is read."""


_LIMITS = Limits()


class Uploads:
    """The two ways in. `chunks` is a request's body as it arrives; what it raises is passed on."""

    def __init__(self, spools: Spools, text_bytes: int, limits: Limits = _LIMITS) -> None:
        """`text_bytes` is what a request may have at most of everything that is no picture."""
        self.room = UploadRoom(spools, limits.memory_bytes, limits.least_free_bytes)
        self._text_bytes = text_bytes
        self._limits = limits

    async def multipart(self, chunks: AsyncIterator[bytes], content_type: str) -> Document:
        """Raises InvalidRequest, PayloadTooLarge and NoRoomForUpload."""
        reader = FormReader(content_type, self._limits.parts)
        form = _Form(self.room, self._text_bytes, self._limits)
        received = 0
        try:
            async for chunk in chunks:
                received = _counted(received, chunk, self._limits.multipart_bytes)
                for event in reader.read(chunk):
                    await form.take(event)
            reader.finish()
            return form.document()
        except BaseException:
            form.discard()
            raise

    async def json(self, chunks: AsyncIterator[bytes]) -> Document:
        """Raises InvalidRequest, PayloadTooLarge and NoRoomForUpload."""
        upload = self.room.open()
        pictures: list[Any] = []
        received = 0
        try:
            async for chunk in chunks:
                received = _counted(received, chunk, self._limits.json_bytes)
                await upload.write(chunk)
            await upload.finish()
            outline = await upload.read(self._outline)
            for place in (*(outline.images or ()), outline.mask):
                pictures.append(await self._decoded(upload, place) if isinstance(place, Inline) else place)
            *images, mask = pictures
            return Document(outline.fields, None if outline.images is None else tuple(images), mask, "json")
        except BaseException:
            pictures.clear()
            raise
        finally:
            upload.discard()

    def _outline(self, view: memoryview) -> Outline:
        return editjson.outline(view, max_text_bytes=self._text_bytes, max_pictures=self._limits.pictures)

    async def _decoded(self, upload: Upload, inline: Inline) -> InputImage:
        decoder = DataUrlDecoder(escaped=inline.escaped)
        picture = Picture(self.room.open(), editjson.param_of(inline.where), self._limits.picture_bytes)
        try:
            for start in range(inline.start, inline.stop, WINDOW_BYTES):
                decoded = await upload.read(
                    partial(_window, inline=inline, start=start, decoder=decoder, picture=picture)
                )
                await picture.write(decoded)
            return await picture.finish(decoder.media_type)
        except BaseException:
            picture.discard()
            raise


def _window(view: memoryview, *, inline: Inline, start: int, decoder: DataUrlDecoder, picture: Picture) -> bytes:
    """The bytes of the picture that the window at `start` stands for; in a worker thread."""
    stop = min(start + WINDOW_BYTES, inline.stop)
    try:
        decoded = decoder.feed(
            bytes((view if inline.text is None else inline.text)[start:stop]), last=stop == inline.stop
        )
    except ValueError:
        raise editjson.bad_data_url(inline.where, "an invalid base64-encoded value") from None
    if decoder.characters > editjson.MAX_URL_CHARACTERS:
        raise editjson.too_long(inline.where, editjson.MAX_URL_CHARACTERS)
    picture.digest.update(decoded)
    return decoded


def _counted(received: int, chunk: bytes, maximum: int) -> int:
    """What was received with this chunk."""
    received += len(chunk)
    if received > maximum:
        raise PayloadTooLarge(
            f"The body of your request is larger than {maximum} bytes.", headers={"connection": "close"}
        )
    return received


class _Form:
    """A multipart body becoming a Document, part by part."""

    def __init__(self, room: UploadRoom, max_text_bytes: int, limits: Limits) -> None:
        self._room = room
        self._max_text_bytes = max_text_bytes
        self._limits = limits
        self._fields: dict[str, Any] = {}
        self._images: list[InputImage | str] = []
        self._mask: InputImage | str | None = None
        self._names: set[str] = set()
        self._text_bytes = 0
        self._part: Part | None = None
        self._text = bytearray()
        self._picture: Picture | None = None

    def document(self) -> Document:
        return Document(self._fields, tuple(self._images) or None, self._mask, "multipart")

    def discard(self) -> None:
        if self._picture is not None:
            self._picture.discard()
        self._fields.clear()
        self._images.clear()
        self._mask = None

    async def take(self, event: Part | bytes | None) -> None:
        """One event of a FormReader."""
        if isinstance(event, Part):
            self._begin(event)
            return
        assert self._part is not None
        if event is None:
            await self._end(self._part)
        elif self._picture is not None:
            self._picture.digest.update(event)
            await self._picture.write(event)
        else:
            self._add_text(self._part, event)

    def _begin(self, part: Part) -> None:
        self._part = part
        if part.name in self._names and part.name != "image[]":
            raise _duplicate(part.name)
        self._names.add(part.name)
        if part.name in _IMAGE_NAMES and len(self._images) == self._limits.pictures:
            raise editjson.too_many("image", self._limits.pictures, self._limits.pictures + 1)
        self._text = bytearray()
        self._picture = None
        # A file in another place is a file all the same: the validator has the words for it.
        if part.is_file or (part.media_type is not None and part.name in (*_IMAGE_NAMES, "mask")):
            param = "image" if part.name in _IMAGE_NAMES else part.name
            self._picture = Picture(self._room.open(), param, self._limits.picture_bytes)

    def _add_text(self, part: Part, text: bytes) -> None:
        self._text += text
        self._text_bytes += len(text)
        if len(self._text) > self._limits.field_bytes:
            raise editjson.too_long(part.name, self._limits.field_bytes)
        if self._text_bytes > self._max_text_bytes:
            limit = self._max_text_bytes
            raise PayloadTooLarge(f"The fields of your request are larger than {limit} bytes without its pictures.")

    async def _end(self, part: Part) -> None:
        name, value = part.name, await self._value(part)
        if name in _IMAGE_NAMES:
            self._images.append(value)
        elif name == "mask":
            self._mask = value
        else:
            _place(self._fields, name, value)

    async def _value(self, part: Part) -> InputImage | str:
        if self._picture is not None:
            picture = await self._picture.finish(part.media_type or _UNDECLARED)
            self._picture = None
            return picture
        try:
            return self._text.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"Invalid '{part.name}': it is not UTF-8.", param=part.name, code="invalid_multipart"
            ) from None


def _place(fields: dict[str, Any], name: str, value: InputImage | str) -> None:
    """`svg[model]` is the member `model` of the object `svg`."""
    nested = _NESTED_NAME.fullmatch(name)
    if nested and nested[1] in _PICTURE_NAMES:
        hint = "" if nested[1] == "mask" else " For multipart/form-data use 'image' or 'image[]'."
        raise InvalidRequest(f"Unknown parameter: '{name}'.{hint}", param=name, code="unknown_parameter")
    path = [nested[1], *nested[2][1:-1].split("][")] if nested else [name]
    for step in path[:-1]:
        fields = fields.setdefault(step, {})
        if not isinstance(fields, Mapping):
            raise _duplicate(name)
    if path[-1] in fields:
        raise _duplicate(name)
    fields[path[-1]] = value


def _duplicate(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"Duplicate parameter: '{name}'. You provided multiple values for this parameter, whereas only one is allowed. "
        f"If you are trying to provide a list of values, use the array syntax instead e.g. '{name}[]=<value>'.",
        param=name,
        code="duplicate_parameter",
    )

"""Reads a request's body: bounded in size and in time, and not before somebody asks for it.

The JSON of a generation is read whole, it is small. What holds pictures goes to disk while it arrives.
"""

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from dataclasses import dataclass
from types import coroutine
from typing import Any

from starlette.types import Message, Receive

from proxy import mediatype
from proxy.errors import PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from proxy.model import Document, Operation, Unparsed
from proxy.settings import ServerSection
from proxy.targets import Target
from proxy.uploads import Uploads

LEAST_BYTES_PER_SECOND = 1 << 18
"""What a large body must move at, beside the seconds that every body has: 850 MB have almost an hour."""


class ClientGone(Exception):
    """There is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """`uploads` takes what holds pictures."""

    server: ServerSection
    uploads: Uploads

    async def read(self, target: Target, headers: Mapping[str, str], incoming: "Incoming") -> Document | Unparsed:
        """The body of a call. Raises RequestError (400, 408, 413, 415), NoRoomForUpload, and ClientGone."""
        takes_pictures = target.operation is Operation.EDIT
        is_form = _is_form(headers, takes_pictures=takes_pictures)
        limit = self._limit(is_form=is_form, takes_pictures=takes_pictures)
        announced = _announced(headers)
        if announced > limit:
            raise _too_large(limit)
        chunks = incoming.chunks(limit)
        if not takes_pictures:
            return Unparsed(b"".join([chunk async for chunk in chunks]), target.deployment)
        self.uploads.room.expect(announced, announced)
        reading = self.uploads.multipart(chunks, headers["content-type"]) if is_form else self.uploads.json(chunks)
        return (await reading).deployed(target.deployment)

    def _limit(self, *, is_form: bool, takes_pictures: bool) -> int:
        """Bytes."""
        if is_form:
            return self.server.max_multipart_bytes
        return self.server.max_edit_json_bytes if takes_pictures else self.server.max_json_bytes


@dataclass(slots=True)
class Incoming:
    """The body of one request as it arrives."""

    receive: Receive
    seconds: float
    """How long it may take, however small it is."""
    received_bytes: int = 0

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """Raises PayloadTooLarge, RequestTimeout and ClientGone."""
        began = asyncio.get_running_loop().time()
        more = True
        while more:
            message = await self._next(began)
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            self.received_bytes += len(chunk)
            if self.received_bytes > limit:
                raise _too_large(limit)
            if chunk:
                yield chunk
            more = message.get("more_body", False)

    async def _next(self, began: float) -> Message:
        """Raises RequestTimeout. What has arrived already, as a small body has with its head, needs no deadline: setting one
        costs as much as the rest of the reading."""
        receiving = self.receive().__await__()
        try:
            waits_for = next(receiving)
        except StopIteration as arrived:
            message: Message = arrived.value
            return message
        patience = self.seconds + self.received_bytes / LEAST_BYTES_PER_SECOND
        try:
            async with asyncio.timeout_at(began + patience):
                return await _continued(receiving, waits_for)
        except TimeoutError:
            raise RequestTimeout(
                f"The body of your request did not arrive within {patience:g} seconds.", headers={"connection": "close"}
            ) from None


@coroutine
def _continued(begun: Generator[Any, Any, Message], waits_for: Any) -> Generator[Any, Any, Message]:
    """Awaits what has run up to its first wait, which is for `waits_for`."""
    try:
        while True:
            try:
                news = yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation, above all: it is for whoever waits to handle
                waits_for = begun.throw(error)
            else:
                waits_for = begun.send(news)
    except StopIteration as done:
        message: Message = done.value
        return message


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body of your request is larger than {limit} bytes.", headers={"connection": "close"})


def _announced(headers: Mapping[str, str]) -> int:
    value = headers.get("content-length", "")
    return int(value[:20]) if value.isascii() and value.isdigit() else 0


def _is_form(headers: Mapping[str, str], *, takes_pictures: bool) -> bool:
    """Whether it is a form, else it is JSON. Raises UnsupportedMediaType."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType("Compressed request bodies are not supported. Send the body as it is.")
    media_type = mediatype.of(headers)
    if mediatype.is_json(media_type):
        return False
    shown = media_type[:100] or "none"
    if not takes_pictures:
        raise UnsupportedMediaType(
            f"Invalid Content-Type header ({shown}), expected application/json. "
            "(HINT: If you're using curl, you can pass -H 'Content-Type: application/json')"
        )
    if media_type == "multipart/form-data":
        return True
    raise UnsupportedMediaType(
        f"Invalid Content-Type header ({shown}), expected multipart/form-data or application/json. "
        "(HINT: If you're using curl, you can pass -F 'image=@picture.png')"
    )

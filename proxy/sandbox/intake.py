"""What a call brings: its body, read into a Document, and the pictures in it, opened.

Law: nobody's body is held in memory unless it is small, one picture at a time is opened for each painter, and what came
goes with the call.
"""

import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.requests import Request

from proxy import ids, mediatype
from proxy.errors import RequestError
from proxy.model import Document, ImageRequest, InputImage, Operation
from proxy.sandbox import originals, wire
from proxy.sandbox.originals import Original, Originals
from proxy.spool import Spools
from proxy.strictjson import parse_object
from proxy.uploads import Uploads

_MOST_JSON_BYTES = 4 << 20
_DISK_THREADS = 2
_TAKEN = {
    Operation.GENERATION: ("application/json",),
    Operation.EDIT: ("application/json", "multipart/form-data"),
}


class Intake:
    """Pictures lie in a directory of its own, made when the first one comes and gone with the process."""

    def __init__(self, painters: int) -> None:
        self._openers = anyio.CapacityLimiter(painters)
        self._uploads: Uploads | None = None

    async def document(self, request: Request, operation: Operation) -> Document:
        """The whole body. Raises wire.Refusal and RequestError; NoRoomForUpload if the disk is full."""
        kind = request.headers.get("content-type", "")
        media_type = mediatype.of(request.headers)
        if media_type not in _TAKEN[operation]:
            raise wire.unsupported_content_type(kind, _TAKEN[operation])
        if operation is Operation.GENERATION:
            return Document(parse_object(await _whole(request)))
        if media_type == "multipart/form-data":
            return await self._room().multipart(_chunks(request), kind)
        return await self._room().json(_chunks(request))

    async def originals(self, request: ImageRequest) -> Originals:
        """The pictures of a valid edit. Raises UnsupportedByModel for one that cannot be read."""
        pictures = [
            await self._opened(picture, originals.unreadable(number))
            for number, picture in enumerate(request.images, start=1)
            if isinstance(picture, InputImage)
        ]
        mask = request.mask
        if not isinstance(mask, InputImage):
            return Originals(tuple(pictures))
        return Originals(tuple(pictures), await self._opened(mask, originals.unreadable_mask()))

    async def _opened(self, picture: InputImage, fault: RequestError) -> Original:
        async with self._openers:
            data = await originals.whole(picture.body)
            return await anyio.to_thread.run_sync(originals.opened, data, fault)

    def _room(self) -> Uploads:
        if self._uploads is None:
            directory = tempfile.mkdtemp(prefix="imagegate-sandbox-")
            weakref.finalize(self, partial(shutil.rmtree, directory, ignore_errors=True))
            threads = ThreadPoolExecutor(_DISK_THREADS, "sandbox-disk")
            self._uploads = Uploads(Spools(Path(directory), threads, ids.instance_id()), text_bytes=_MOST_JSON_BYTES)
        return self._uploads


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _whole(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_JSON_BYTES:
            raise wire.too_large()
    return bytes(body)

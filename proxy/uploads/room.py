"""Where a picture lies while it arrives: on disk, or, while the disk is full, in a little memory that all uploads share.

The law: what was not made a body leaves no file, no descriptor and no byte of that memory behind.
"""

import asyncio
import hashlib
import weakref
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from proxy.errors import InvalidRequest, NoRoomForUpload, StoreError
from proxy.model import Body, InputImage
from proxy.spool import Spool, Spools
from proxy.stores.body import body_of
from proxy.uploads import imagehead

RETRY_AFTER_SECONDS = 10
LOOK_EVERY_BYTES = 8 * 2**20
"""How often an upload looks how much of the disk is left; others write as well."""

T = TypeVar("T")


class UploadRoom:
    """Opens what an upload is received in, and counts what of all of them is held in memory."""

    def __init__(self, spools: Spools, memory_bytes: int, least_free_bytes: int) -> None:
        self.executor = spools.executor
        self.one_write = asyncio.Lock()
        """Held while a spool writes. One whose disk fills up first reads back all that it had written: only one of them at
        a time may do so before it is counted."""
        self._spools = spools
        self._memory_bytes = memory_bytes
        self._least_free_bytes = least_free_bytes
        self._held_bytes = 0
        self._returned: deque[int] = deque()  # a body may be dropped in any thread, at any moment

    @property
    def held_bytes(self) -> int:
        """What is held in memory now."""
        while self._returned:
            self._held_bytes -= self._returned.popleft()
        return self._held_bytes

    def expect(self, size: int, more: int) -> None:
        """Raises NoRoomForUpload if an upload of so many bytes, of which `more` are to come, would take what the disk is to
        have left. A small one may go to memory."""
        free = self._spools.free_bytes()
        if size > self._memory_bytes and free is not None and free - more < self._least_free_bytes:
            raise no_room()

    def open(self) -> "Upload":
        return Upload(self._spools.open(), self)

    def take(self, size: int) -> None:
        """Raises NoRoomForUpload."""
        if self.held_bytes + size > self._memory_bytes:
            raise no_room()
        self._held_bytes += size

    def give_back(self, size: int) -> None:
        self._returned.append(size)


def no_room() -> NoRoomForUpload:
    """Nothing was sent upstream, and trying again may help."""
    return NoRoomForUpload(
        "There is no room for your request's pictures right now. Please try again.",
        headers={"retry-after": str(RETRY_AFTER_SECONDS)},
    )


class Upload:
    """Bytes on their way in. `write` and `finish`, then `read`, and at the end either `body` or `discard`."""

    def __init__(self, spool: Spool, room: UploadRoom) -> None:
        self._spool = spool
        self._room = room
        self._counted = 0
        self._looked = 0

    @property
    def size(self) -> int:
        return self._spool.size

    async def write(self, chunk: bytes) -> None:
        """Raises NoRoomForUpload."""
        async with self._room.one_write:
            try:
                await self._spool.write(chunk)
                self._count()
            except StoreError as error:
                raise no_room() from error
        if self.size - self._looked > LOOK_EVERY_BYTES:
            self._looked = self.size
            self._room.expect(self.size, 0)

    async def finish(self) -> None:
        """Raises NoRoomForUpload."""
        async with self._room.one_write:
            try:
                await self._spool.finish()
                self._count()
            except StoreError as error:
                raise no_room() from error

    async def read(self, work: Callable[[memoryview], T]) -> T:
        """What `work` makes, in a worker thread, of all that was received. Raises NoRoomForUpload."""

        def job() -> T:
            with self._spool.view() as view:
                return work(view)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._room.executor, job)
        except StoreError as error:
            raise no_room() from error

    async def body(self) -> Body:
        """Hand over what was received, once it is finished."""
        body = await body_of(self._spool, self._room.executor)
        if self._counted:
            weakref.finalize(body, self._room.give_back, self._counted)
            self._counted = 0
        return body

    def discard(self) -> None:
        """Idempotent, and harmless after `body`."""
        self._spool.discard()
        self._room.give_back(self._counted)
        self._counted = 0

    def _count(self) -> None:
        if self._spool.in_memory:
            try:
                self._room.take(self.size - self._counted)
            except NoRoomForUpload:
                self.discard()
                raise
            self._counted = self.size


class Picture:
    """A picture on its way in, named by its bytes."""

    def __init__(self, upload: Upload, param: str, max_bytes: int) -> None:
        self.digest = hashlib.sha256()
        """Of what was written: the writer's to update, in the thread where it has the bytes at hand."""
        self._upload = upload
        self._param = param
        self._max_bytes = max_bytes

    async def write(self, chunk: bytes) -> None:
        """Raises InvalidRequest if it is too large, and NoRoomForUpload."""
        if self._upload.size + len(chunk) > self._max_bytes:
            raise InvalidRequest(
                f"Invalid '{self._param}': file too large. A file may have at most {self._max_bytes} bytes.",
                param=self._param,
                code="file_too_large",
            )
        await self._upload.write(chunk)

    async def finish(self, media_type: str) -> InputImage:
        """Raises NoRoomForUpload."""
        await self._upload.finish()
        head = await self._upload.read(lambda view: imagehead.look(lambda start, stop: bytes(view[start:stop])))
        return InputImage(
            media_type=media_type,
            sha256=self.digest.hexdigest(),
            body=await self._upload.body(),
            found_type=head.media_type,
            width=head.width,
            height=head.height,
            has_alpha=head.has_alpha,
        )

    def discard(self) -> None:
        """Idempotent, and harmless after `finish`."""
        self._upload.discard()

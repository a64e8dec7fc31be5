"""A reply's bytes as a client is served them: from a file by offset, or from memory."""

import asyncio
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext

from proxy import envelope
from proxy.errors import StoreError
from proxy.spool import Spool
from proxy.stores.files import PrivateFile, read_exactly, remove_quietly

_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
"""0 where the system has no such thing."""
_TURN_BYTES = 1 << 20
"""What one reader is given before it is the others' turn."""


class FileBody:
    """A range of an open file. The file may lose its name meanwhile (evicted, purged): the descriptor keeps its bytes.

    Read by `pread` and never mapped: a file that is shortened under a mapping kills the process (SIGBUS), a short read is
    an error like any other. The descriptor is closed when the last reference goes.
    """

    window_bytes = 1 << 18
    """A window is read into memory of its own, and 64 slow readers hold two each: 32 MB, where 1 MiB would be 128 MB."""

    def __init__(self, fd: int, offset: int, length: int, executor: Executor) -> None:
        self._fd = fd
        self._offset = offset
        self.length = length
        self._executor = executor
        self._may_be_cached = _NOWAIT != 0
        weakref.finalize(self, os.close, fd)

    def __len__(self) -> int:
        return self.length

    async def window(self, start: int, stop: int) -> bytes | memoryview:
        if (cached := self._cached(start, stop)) is not None:
            if start // _TURN_BYTES != stop // _TURN_BYTES:
                await asyncio.sleep(0)  # others have their turn, and a client that has left is seen
            return cached
        try:
            # The bound method keeps this body, and so its descriptor, alive in the thread even if we are cancelled.
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, start, stop)
        except RuntimeError as error:
            raise StoreError("the store is closed") from error

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _cached(self, start: int, stop: int) -> memoryview | None:
        """The same without a thread, if all of it lies in the system's cache, as what was written a moment ago does: a
        copy of 256 KB is cheaper than being told that a thread has made it. None if it would have to be waited for, or if
        the file system cannot tell (Linux 4.14, preadv2(2), RWF_NOWAIT)."""
        if not self._may_be_cached:
            return None
        start, stop, _ = slice(start, stop).indices(self.length)
        buffer = bytearray(max(0, stop - start))
        try:
            count = os.preadv(self._fd, [buffer], self._offset + start, _NOWAIT)
        except BlockingIOError:
            return None
        except OSError:
            self._may_be_cached = False
            return None
        return memoryview(buffer).toreadonly() if count == len(buffer) else None

    def _read(self, start: int, stop: int) -> bytes:
        start, stop, _ = slice(start, stop).indices(self.length)
        try:
            return read_exactly(self._fd, self._offset + start, self._offset + max(start, stop))
        except OSError as error:
            raise StoreError("the stored reply cannot be read") from error


class MemoryBody:
    """Bytes in memory. `readers` says how many clients are being served from them right now."""

    window_bytes = 1 << 20
    """A window is a view: it costs nothing, and the fewer the better."""

    def __init__(self, content: bytes | bytearray | memoryview, length: int | None = None) -> None:
        view = memoryview(content)
        self._view = (view if length is None else view[:length]).toreadonly()
        self.readers = 0

    def __len__(self) -> int:
        return len(self._view)

    async def window(self, start: int, stop: int) -> memoryview:
        return self._view[start:stop]

    def view(self, start: int, stop: int) -> memoryview:
        """The same, for whoever need not wait."""
        return self._view[start:stop]

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1


async def body_of(spool: Spool, executor: Executor) -> FileBody | MemoryBody:
    """What a spool has received, as a body: its file loses its name, and is gone when the body is."""
    await spool.finish()
    length = spool.size
    content = spool.take()
    if isinstance(content, bytearray):
        return MemoryBody(content)
    return unnamed(content, length, executor)


def unnamed(file: PrivateFile, length: int, executor: Executor) -> FileBody:
    """The body of a spool's file, which has no name from now on."""
    remove_quietly(file.path)
    return FileBody(file.release(), len(envelope.MAGIC), length, executor)

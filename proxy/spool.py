"""The spool: where an upstream's reply is received before anybody believes it.

A file of our own, written by a worker thread while the reply arrives and begun with the envelope's magic, so that the very
same file becomes the stored entry by rename. Where no file can be written, the spool goes on in memory: a full disk must
not cost a reply that is already paid for. Law of the module: whatever happens to a flight, its file and descriptor go.
"""

import asyncio
import itertools
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from proxy import envelope, ids
from proxy.errors import StoreError
from proxy.scan import Scan
from proxy.stores.files import WINDOW_BYTES, PrivateFile, read_exactly, write_all, write_gathered

FLUSH_BYTES = 1 << 18
BEHIND_BYTES = 1 << 19
"""Twice of it may be in memory."""
_OFFSET = len(envelope.MAGIC)


class Edit(Protocol):
    """Replace the bytes [start, stop) of a body by `replacement`: bytes, or the body of another spool, finished."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def replacement(self) -> "bytes | Spool": ...


class Spools:
    """Opens spools under `directory`/tmp; with `directory` None they all live in memory.

    A file's name says which process it belongs to (`<instance>-<boot>-<n>.spool`), so that a successor's sweeper can tell
    what was left behind from what is being written.
    """

    def __init__(self, directory: Path | None, executor: Executor, instance_id: str) -> None:
        self.executor = executor
        """Where files are written and read."""
        self._directory = None if directory is None else directory / "tmp"
        self._prefix = f"{instance_id}-{ids.instance_id()[:8]}"
        self._numbers = itertools.count(1)

    def free_bytes(self) -> int | None:
        """What the disk has left for them; None where that cannot be told."""
        try:
            found = None if self._directory is None else os.statvfs(self._directory.parent)
        except OSError:
            return None
        return None if found is None else found.f_bavail * found.f_frsize

    def open(self, *, scans: bool = False) -> "Spool":
        """A new, empty spool; no file is touched before there is something to write."""
        if self._directory is None:
            return Spool(None, self.executor)
        path = self._directory / f"{self._prefix}-{next(self._numbers)}.spool"
        return Spool(path, self.executor, scans=scans)


class Spool:
    """One reply's body. `write` and `finish` are awaited by the receiver; `view` and `replace` block, for a worker thread.

    `discard` may be called at any time, also while a cancelled `write` is still busy in its thread: whoever holds the lock
    last cleans up.
    """

    def __init__(self, path: Path | None, executor: Executor, *, scans: bool = False) -> None:
        """One that `scans` looks at what it writes: `scan` and `digest` then know what else would have to be read again."""
        self.error: OSError | None = None
        """Why the spool went on in memory."""
        self._path = path
        self._executor = executor
        self._file: PrivateFile | None = None
        self._memory: bytearray | None = bytearray() if path is None else None
        self._stored_bytes = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        """What is being written: one piece at a time, while the next one arrives."""
        self._scan: Scan | None = Scan() if scans else None
        self._digest = envelope.begun_digest() if scans else None
        """Of the file as it was written, its magic included."""
        self._lock = threading.RLock()
        self._views = 0
        self._gone = False

    @property
    def size(self) -> int:
        """Bytes of the body so far."""
        return self._stored_bytes + self._pending_bytes

    @property
    def scan(self) -> Scan | None:
        """What was seen of the body, if that was all of it, and it is still as it came."""
        return self._scan if self._scan is not None and self._scan.size == self._stored_bytes else None

    @property
    def digest(self) -> envelope.Digest | None:
        """Of the file, likewise."""
        return self._digest if self.scan is not None and self._file is not None else None

    @property
    def in_memory(self) -> bool:
        """The body has no file."""
        return self._memory is not None

    async def write(self, chunk: bytes) -> None:
        """Add to the body. Raises StoreError only if what was received is lost."""
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if self._pending_bytes >= FLUSH_BYTES:
            await self._flush()
            await self._written()

    async def write_behind(self, chunk: bytes) -> None:
        """The same without waiting for the disk, as long as it keeps up: one piece is written while the next arrives."""
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if self._pending_bytes >= BEHIND_BYTES:
            await self._flush()

    async def finish(self) -> None:
        """Write what is still buffered. Idempotent."""
        await self._written()
        if self._pending or (self._file is None and self._memory is None):
            await self._flush()
            await self._written()

    @contextmanager
    def view(self) -> Iterator[memoryview]:
        """The body, read-only, for as long as the context lasts. Blocks: for a worker thread.

        The mapping is of our own private file, which nobody shortens under us; a stored entry is never read this way.
        """
        with self._held():
            self._views += 1
            try:
                if self._file is None or self._stored_bytes == 0:
                    with memoryview(self._memory or b"") as whole, whole.toreadonly() as body:
                        yield body
                else:
                    with _mapped(self._file.fd, self._stored_bytes) as body:
                        yield body
            finally:
                self._views -= 1

    def replace(self, edits: Sequence[Edit]) -> None:
        """Cut or replace ranges of the body, given in order and without overlap. Blocks: for a worker thread.

        While the body only shrinks, bytes move towards the front of the same file. One that grows is written anew; if
        the disk has no room for that, it is left as it was: raises StoreError.
        """
        if not edits:
            return
        with ExitStack() as held:
            for spool in (self, *(edit.replacement for edit in edits if isinstance(edit.replacement, Spool))):
                held.enter_context(spool._held())
            if self._views:
                raise RuntimeError("a body cannot be edited while it is viewed")
            self._scan = self._digest = None
            pieces = _pieces(edits, self._stored_bytes)
            if self._path is not None and not _only_shrinks(edits):
                self._write_anew(self._path, pieces)
            elif self._file is not None:
                self._rewrite(self._file, pieces)
            else:
                self._memory = bytearray(b"".join(part for _, part in self._parts(pieces)))
                self._stored_bytes = len(self._memory)

    def move_to_file(self) -> None:
        """Try once more to have a file, now that there may be room. Blocks: for a worker thread."""
        with self._held():
            if self._memory is None or self._path is None:
                return
            try:
                write_all(self._opened().fd, self._memory, _OFFSET)
            except OSError as error:
                self.error = error
                if self._file is not None:
                    self._file.remove()
                self._file = None
            else:
                self._memory, self.error = None, None

    def discard(self) -> None:
        """Give the body up: no file and no descriptor remain. Idempotent, and harmless after `take`."""
        self._gone = True
        if self._writing is not None:  # whose failure, of which we are the cause, concerns nobody
            self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._clean_up()

    def take(self) -> PrivateFile | bytearray:
        """Hand over the body: the file (magic, then the body), or the bytes. The spool is empty afterwards."""
        with self._held():
            file, memory, digest = self._file, self._memory, self.digest
            self._file, self._memory, self._gone = None, None, True
            if file is not None:
                file.digest = digest
                return file
            return bytearray() if memory is None else memory

    # --- in a worker thread -----------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        await self._written()
        chunks, size, at = self._pending, self._pending_bytes, self._stored_bytes
        self._pending, self._pending_bytes = [], 0
        self._stored_bytes += size
        if self._memory is not None:
            for chunk in chunks:
                self._memory += chunk
        else:
            self._writing = asyncio.get_running_loop().run_in_executor(self._executor, self._append, chunks, at)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    def _append(self, chunks: Sequence[bytes], at: int) -> None:
        with self._held():
            if self._memory is None:
                try:
                    write_gathered(self._opened().fd, chunks, _OFFSET + at)
                    self._look_at(chunks)
                except OSError as error:
                    self._go_on_in_memory(error, at)
            if self._memory is not None:
                for chunk in chunks:
                    self._memory += chunk

    def _look_at(self, chunks: Sequence[bytes]) -> None:
        if self._scan is not None and self._digest is not None:
            for chunk in chunks:
                self._digest.update(chunk)
                self._scan.feed(chunk)

    def _opened(self) -> PrivateFile:
        if self._file is None:
            assert self._path is not None
            self._file = PrivateFile(self._path)
            write_all(self._file.fd, envelope.MAGIC, 0)
        return self._file

    def _go_on_in_memory(self, error: OSError, written: int) -> None:
        """The disk is full, read-only or broken: read back what it took, and leave it."""
        self.error = error
        self._memory = bytearray()
        if self._file is not None:
            for part in self._windows(0, written):
                self._memory += part
            self._file.remove()
            self._file = None

    def _write_anew(self, path: Path, pieces: Sequence["Piece"]) -> None:
        done = 0
        try:
            target = PrivateFile((self._file.path if self._file else path).with_suffix(".edited.spool"))
            try:
                write_all(target.fd, envelope.MAGIC, 0)
                for _, part in self._parts(pieces):
                    write_all(target.fd, part, _OFFSET + done)
                    done += len(part)
            except BaseException:
                target.remove()
                raise
        except OSError as error:
            raise StoreError("the disk has no room for a longer body") from error
        if self._file is not None:
            self._file.remove()
        self._file, self._memory, self._stored_bytes, self.error = target, None, done, None

    def _rewrite(self, file: PrivateFile, pieces: Sequence["Piece"]) -> None:
        """Move the pieces together within the file: writing never overtakes reading.

        If the disk gives out half-way, what was written is right, and what was not yet read is still there.
        """
        done = 0
        parts = self._parts(pieces)
        for at, part in parts:
            try:
                if at != done:
                    write_all(file.fd, part, _OFFSET + done)
            except OSError as error:
                rest = b"".join((part, *(later for _, later in parts)))
                self._go_on_in_memory(error, done)
                assert self._memory is not None
                self._memory += rest
                self._stored_bytes = len(self._memory)
                return
            done += len(part)
        try:
            os.ftruncate(file.fd, _OFFSET + done)
        except OSError as error:
            raise StoreError("the spool cannot be shortened") from error
        self._stored_bytes = done

    def _parts(self, pieces: Sequence["Piece"]) -> Iterator[tuple[int, bytes]]:
        """The parts of the new body in order, each with its place in the old one (-1 for what is put in)."""
        for piece in pieces:
            if isinstance(piece, tuple):
                at = piece[0]
                for part in self._windows(*piece):
                    yield at, part
                    at += len(part)
            elif isinstance(piece, Spool):
                yield from ((-1, part) for part in piece._windows(0, piece._stored_bytes))
            elif piece:
                yield -1, piece

    def _windows(self, start: int, stop: int) -> Iterator[bytes]:
        """The body's bytes [start, stop)."""
        for at in range(start, stop, WINDOW_BYTES):
            end = min(stop, at + WINDOW_BYTES)
            if self._file is None:
                yield bytes((self._memory or b"")[at:end])
            else:
                yield _read(self._file.fd, at, end)

    # --- who cleans up ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with self._lock:
                if self._gone:
                    raise StoreError("the spool was discarded")
                yield
        finally:
            # `discard` came while we held the lock, and left the cleaning to us.
            if self._gone:
                self._clean_up()

    def _clean_up(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._file is not None:
                self._file.remove()
            self._file, self._memory = None, None
            self._pending.clear()
        finally:
            self._lock.release()


Piece = tuple[int, int] | bytes | Spool
"""A range that is kept, or what is put in."""


def _pieces(edits: Sequence[Edit], size: int) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for edit in edits:
        if not at <= edit.start <= edit.stop <= size:
            raise ValueError("edits must be in order, without overlap, and within the body")
        pieces.append((at, edit.start))
        pieces.append(edit.replacement)
        at = edit.stop
    pieces.append((at, size))
    return pieces


def _only_shrinks(edits: Sequence[Edit]) -> bool:
    """Whether, after each edit, no more was written than was read."""
    ahead = 0
    for edit in edits:
        new = edit.replacement
        ahead += (new.size if isinstance(new, Spool) else len(new)) - (edit.stop - edit.start)
        if ahead > 0:
            return False
    return True


def _read(fd: int, start: int, stop: int) -> bytes:
    try:
        return read_exactly(fd, _OFFSET + start, _OFFSET + stop)
    except OSError as error:
        raise StoreError("the spool cannot be read back") from error


@contextmanager
def _mapped(fd: int, size: int) -> Iterator[memoryview]:
    try:
        mapping = mmap.mmap(fd, _OFFSET + size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # no address space left, or the file is shorter than it was
        raise StoreError("the spool cannot be read back") from error
    body = memoryview(mapping)[_OFFSET:]
    try:
        yield body
        mapping.madvise(mmap.MADV_DONTNEED)
    finally:
        try:
            body.release()
            mapping.close()
        except BufferError:
            pass  # a frame in some traceback still holds a part of it; the mapping goes when that does

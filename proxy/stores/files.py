"""Reading and writing files by offset, completely or not at all, and the one file that a spool owns."""

import os
import stat
import weakref
from collections.abc import Sequence
from pathlib import Path

from proxy.envelope import Digest
from proxy.errors import StoreError

WINDOW_BYTES = 1 << 18
"""How much of a body is moved at once: large enough for the medium, small enough to hold per reader."""
_GATHERED = 512
"""Pieces that are written at once: half of what the system takes (IOV_MAX)."""
PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600

Buffer = bytes | bytearray | memoryview


def read_into(fd: int, start: int, room: memoryview) -> None:
    """Fills `room` with the bytes from `start` on: no memory is taken for them. Raises as `read_exactly` does."""
    at = 0
    while at < len(room):
        with room[at:] as rest:
            count = os.preadv(fd, [rest], start + at)
        if not count:
            raise StoreError("damaged entry: the file is shorter than it was")
        at += count


def read_exactly(fd: int, start: int, stop: int) -> bytes:
    """The bytes [start, stop). Raises StoreError if the file ends before, OSError if the medium fails."""
    data = os.pread(fd, stop - start, start)
    if len(data) == stop - start:
        return data
    parts = [data]
    at = start + len(data)
    while at < stop:
        part = os.pread(fd, stop - at, at)
        if not part:
            raise StoreError("damaged entry: the file is shorter than it was")
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def write_all(fd: int, data: Buffer, at: int) -> None:
    """Write every byte at offset `at`; a full disk may take some of them before it says so. Raises OSError."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], at + done)


def write_gathered(fd: int, chunks: Sequence[bytes], at: int) -> None:
    """Write them one after the other from offset `at`, from where they lie. Raises OSError."""
    few = chunks if len(chunks) <= _GATHERED else [b"".join(chunks)]
    done = os.pwritev(fd, few, at) if few else 0
    if done < sum(map(len, few)):
        write_all(fd, b"".join(few)[done:], at + done)


def make_private_directory(path: Path) -> None:
    """Create a directory that only its owner may enter, parents included. Raises OSError."""
    try:
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
    except FileNotFoundError:
        # Not mkdir's own `parents`: it gives those the umask's mode.
        make_private_directory(path.parent)
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)


def remove_quietly(path: Path) -> bool:
    """Unlink; whether it was there and went."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


class PrivateFile:
    """A new file of our own, gone without a trace unless it is released.

    Its descriptor and its name have one owner at a time: this object, until `release` hands the descriptor on.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError; the directory is created if it is missing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = os.open(path, flags, PRIVATE_FILE)
        except FileNotFoundError:
            make_private_directory(path.parent)
            self.fd = os.open(path, flags, PRIVATE_FILE)
        self.path = path
        self.digest: Digest | None = None
        """Of all that stands in it, if whoever wrote it says so."""
        # Runs at most once: by `remove`, when the last reference goes, or when the process ends in good order.
        self._remove = weakref.finalize(self, _close_and_unlink, self.fd, path)

    def remove(self) -> None:
        """Close and unlink. Idempotent."""
        self._remove()

    def release(self) -> int:
        """The descriptor, now the caller's to close; the name is the caller's affair too."""
        self._remove.detach()
        return self.fd


def _close_and_unlink(fd: int, path: Path) -> None:
    os.close(fd)
    remove_quietly(path)


def open_regular(path: Path) -> int:
    """Open for reading a regular file that is no link. Raises OSError.

    O_NONBLOCK so that a pipe put in its place cannot hold a thread for ever.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(f"{path.name} is no regular file")
    return fd


def remove_entry(directory: Path, filename: str | None) -> None:
    """Unlink an entry's file, and its folder if that was the last one in it."""
    if filename is not None and remove_quietly(directory / filename):
        try:
            (directory / filename).parent.rmdir()
        except OSError:
            pass  # not empty

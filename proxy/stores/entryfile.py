"""Reads and seals the file of an entry: its layout, its metadata, or the whole of it with its digest checked.

Every function raises StoreError for what is no sound entry, and OSError if the medium fails, which says nothing about it.
"""

import os
from pathlib import Path

from proxy import envelope
from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores.files import WINDOW_BYTES, PrivateFile, open_regular, read_exactly, read_into, write_all

_STEP_BYTES = 1 << 20
"""Read at once into memory that is there anyway: between two steps a thread may have to wait for the interpreter."""


def read_layout(fd: int) -> envelope.Layout:
    """From the footer; the digest is not checked."""
    size = os.fstat(fd).st_size
    if size < envelope.FOOTER_BYTES:
        raise StoreError("damaged entry: too short")
    return envelope.layout(read_exactly(fd, size - envelope.FOOTER_BYTES, size), size)


def read_metadata(path: Path) -> Metadata:
    """What an entry says of itself, without reading its body."""
    fd = open_regular(path)
    try:
        found = read_layout(fd)
        header = read_exactly(fd, found.body_stop, found.body_stop + found.header_bytes)
    finally:
        os.close(fd)
    return envelope.decode_header(header, found.body_bytes)


def read_entry(path: Path) -> Metadata:
    """What an entry says of itself, and every byte of it is as it was sealed."""
    fd = open_regular(path)
    try:
        return check_entry(fd, read_layout(fd), None)
    finally:
        os.close(fd)


def check_entry(fd: int, found: envelope.Layout, buffer: memoryview | None) -> Metadata:
    """Run every byte of the file through the digest; the body goes into `buffer` on the way."""
    running = envelope.digest()
    magic = read_exactly(fd, 0, found.body_start)
    if magic != envelope.MAGIC:
        raise StoreError("damaged entry: no magic")
    running.update(magic)
    room, step = (memoryview(bytearray(WINDOW_BYTES)), WINDOW_BYTES) if buffer is None else (buffer, _STEP_BYTES)
    for start in range(0, found.body_bytes, step):
        stop = min(found.body_bytes, start + step)
        with room[: stop - start] if buffer is None else room[start:stop] as window:
            read_into(fd, found.body_start + start, window)
            running.update(window)
    return envelope.unseal(found, running, read_exactly(fd, found.body_stop, found.size))


def seal(file: PrivateFile, metadata: Metadata, body_bytes: int) -> int:
    """Append header and footer to a file of magic and body; the size of the whole."""
    stop = len(envelope.MAGIC) + body_bytes
    running = _read_through(file.fd, stop) if file.digest is None else file.digest.copy()
    tail = envelope.tail(metadata, body_bytes, running)
    write_all(file.fd, tail, stop)
    os.ftruncate(file.fd, stop + len(tail))
    return stop + len(tail)


def _read_through(fd: int, stop: int) -> envelope.Digest:
    running = envelope.digest()
    for at in range(0, stop, WINDOW_BYTES):
        running.update(read_exactly(fd, at, min(stop, at + WINDOW_BYTES)))
    return running

"""Memory for bodies, counted exactly, and used again: to touch 3 MB for the first time takes longer than to send them.

Law of the module: a buffer is counted from the moment it is lent until the last view of it goes, wherever that is; and what
is kept for another time counts as well. Nothing is lent again while anybody can see it.
"""

import ctypes
import mmap
import weakref
from collections import deque
from contextlib import suppress

KEPT_FROM_BYTES = 1 << 18
"""Smaller ones are not worth it, and are exactly as large as was asked for."""
_GRAIN_BYTES = 1 << 14
_WASTE = 8
"""At most this part of what is asked for may lie idle in the buffer that is given for it."""
MOST_SPARE_BYTES = 1 << 26
HUGE_PAGE_BYTES = 1 << 21
"""From here on the kernel is asked for large pages."""


class Buffers:
    """All of them together are never more than `limit_bytes`. One caller at a time; views may be dropped in any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._spare_limit_bytes = min(limit_bytes // 4, MOST_SPARE_BYTES)
        self._spares: list[mmap.mmap] = []
        """The one that was given back last is the last."""
        self._spare_bytes = 0
        self._lent_bytes = 0
        # Finalizers run in whichever thread drops the last view; appending to a deque is atomic, subtracting is not.
        self._returned: deque[tuple[mmap.mmap | None, int]] = deque()

    @property
    def lent_bytes(self) -> int:
        """Of every buffer that somebody can see, with what is counted beside it."""
        self._take_back()
        return self._lent_bytes

    @property
    def spare_bytes(self) -> int:
        """Of those that nobody sees."""
        self._take_back()
        return self._spare_bytes

    def missing(self, size_bytes: int, extra_bytes: int) -> int:
        """How many bytes have to be given back before so much can be lent; 0 or less if it can be."""
        return self.lent_bytes + _charge(size_bytes, extra_bytes) - self.limit_bytes

    def lend(self, size_bytes: int, extra_bytes: int = 0) -> tuple[memoryview, int] | None:
        """At least so many bytes, whatever stands in them, and what they count for; None if there is no room for them, or
        the system has none. `extra_bytes` counts what is kept beside them.
        """
        if self.missing(size_bytes, extra_bytes) > 0:
            return None
        if size_bytes < KEPT_FROM_BYTES:
            self._shed(_charge(size_bytes, extra_bytes))
            return self._lend_small(size_bytes, extra_bytes)
        mapping = self._spare(_charge(size_bytes), extra_bytes)
        if mapping is None:
            self._shed(_charge(size_bytes, extra_bytes))
            mapping = _mapped(_charge(size_bytes))
        if mapping is None:
            return None
        # Every view of it, and views of views, hold this array, and nothing else does: it goes with the last of them, and
        # the mapping stays.
        lent = (ctypes.c_ubyte * len(mapping)).from_buffer(mapping)
        return memoryview(lent).cast("B"), self._note(lent, mapping, len(mapping) + extra_bytes)

    def _lend_small(self, size_bytes: int, extra_bytes: int) -> tuple[memoryview, int] | None:
        mapping = _mapped(max(1, size_bytes))
        if mapping is None:
            return None
        return memoryview(mapping), self._note(mapping, None, _charge(size_bytes, extra_bytes))

    def _note(self, lent: object, mapping: mmap.mmap | None, charge: int) -> int:
        self._lent_bytes += charge
        weakref.finalize(lent, self._returned.append, (mapping, charge)).atexit = False
        return charge

    def _spare(self, capacity: int, extra_bytes: int) -> mmap.mmap | None:
        """The one that was used last, of those that fit: its memory is the likeliest to be near."""
        most = min(capacity + capacity // _WASTE, self.limit_bytes - self._lent_bytes - extra_bytes)
        for place in range(len(self._spares) - 1, -1, -1):
            if capacity <= len(self._spares[place]) <= most:
                found = self._spares.pop(place)
                self._spare_bytes -= len(found)
                self._shed(len(found) + extra_bytes)
                return found
        return None

    def _shed(self, charge: int) -> None:
        """Give spare ones up, the oldest first, for what is about to be lent."""
        while self._spares and self._lent_bytes + self._spare_bytes + charge > self.limit_bytes:
            self._spare_bytes -= len(self._spares.pop(0))

    def _take_back(self) -> None:
        while self._returned:
            mapping, charge = self._returned.popleft()
            self._lent_bytes -= charge
            if mapping is not None:
                self._spares.append(mapping)
                self._spare_bytes += len(mapping)
        while self._spare_bytes > self._spare_limit_bytes:
            self._spare_bytes -= len(self._spares.pop(0))


def _charge(size_bytes: int, extra_bytes: int = 0) -> int:
    """What a new buffer counts for."""
    if size_bytes < KEPT_FROM_BYTES:
        return size_bytes + extra_bytes
    return -(-size_bytes // _GRAIN_BYTES) * _GRAIN_BYTES + extra_bytes


def _mapped(size_bytes: int) -> mmap.mmap | None:
    """Anonymous memory, because it goes back to the system at once, where the heap would keep it."""
    try:
        mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None  # the system has less to give than we may use
    if size_bytes >= HUGE_PAGE_BYTES:
        with suppress(OSError):  # a kernel without them: it was only asked
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping

"""The memory tier: hot replies within an exact number of bytes, least recently used out first.

Law of the module: the bytes of all buffers that exist never pass the limit, whoever still holds them. A buffer is counted
from the moment it is reserved until the memory is given back, so a slow reader of an evicted entry counts as well; an
insertion that cannot make room is refused. For the event loop's thread alone; buffers may be dropped in any.
"""

import mmap
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from proxy.model import Entry, Metadata
from proxy.stores.body import MemoryBody

HUGE_PAGE_BYTES = 1 << 21
"""From here on the kernel is asked for large pages: to touch 3 MB for the first time in small ones takes as long as to send
them."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for one body, counted until the last reference to its buffer goes. `charge` is what it counts for."""

    buffer: mmap.mmap
    body_bytes: int
    charge: int


@dataclass(slots=True)
class Slot:
    """One entry in its place in the queue."""

    entry: Entry
    body: MemoryBody
    charge: int
    touched_at: float
    """Wall clock; when the disk was last told that this entry is in use."""


class MemoryTier:
    """Lookups are dictionary operations. `on_evict` is told the reason and the number of entries that left."""

    def __init__(self, limit_bytes: int, on_evict: Callable[[str, int], None]) -> None:
        self.limit_bytes = limit_bytes
        self._on_evict = on_evict
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._charged = 0
        # Finalizers run in whichever thread drops the last reference; appending to a deque is atomic, subtracting is not.
        self._released: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def resident_bytes(self) -> int:
        """Bytes of every buffer that was reserved and is not yet given back. May be read from any thread."""
        with self._lock:
            while self._released:
                self._charged -= self._released.popleft()
            return self._charged

    def get(self, key: str) -> Slot | None:
        slot = self._slots.get(key)
        if slot is not None:
            self._slots.move_to_end(key)
        return slot

    def reserve(self, body_bytes: int, extra_bytes: int = 0) -> Room | None:
        """Room for one body, or None if there is none. Dropping the buffer gives the room back.

        `extra_bytes` counts what is kept beside it. An anonymous mapping, because its memory goes back to the system at
        once, where the heap would keep it.
        """
        charge = body_bytes + extra_bytes
        if not self._make_room(charge):
            return None
        try:
            buffer = mmap.mmap(-1, max(1, body_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if body_bytes >= HUGE_PAGE_BYTES:
                buffer.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            return None  # the system has less to give than we may use
        with self._lock:
            self._charged += charge
        weakref.finalize(buffer, self._released.append, charge).atexit = False
        return Room(buffer, body_bytes, charge)

    def insert(self, metadata: Metadata, room: Room, now: float) -> Entry:
        """Take a filled buffer in, in place of what was there under the same key."""
        body = MemoryBody(room.buffer, room.body_bytes)
        entry = Entry(metadata, body, "memory")
        self.discard(metadata.key)
        self._slots[metadata.key] = Slot(entry, body, room.charge, now)
        return entry

    def discard(self, key: str) -> bool:
        """Forget an entry. Its memory goes when its last reader does."""
        return self._slots.pop(key, None) is not None

    def purge(self, matches: Callable[[Metadata], bool]) -> int:
        """Forget every entry that matches, read or not."""
        doomed = [key for key, slot in self._slots.items() if matches(slot.entry.metadata)]
        for key in doomed:
            self.discard(key)
        if doomed:
            self._on_evict("manual", len(doomed))
        return len(doomed)

    def _make_room(self, charge: int) -> bool:
        missing = self.resident_bytes + charge - self.limit_bytes
        if missing <= 0:
            return True
        if charge > self.limit_bytes:
            return False
        doomed = self._idle(missing)
        if doomed is None:
            return False
        for key in doomed:
            self.discard(key)
        self._on_evict("size", len(doomed))
        # Somebody may hold an entry without having begun to read it: then its memory is not back yet.
        return self.resident_bytes + charge <= self.limit_bytes

    def _idle(self, needed: int) -> list[str] | None:
        """The least recently used entries that nobody reads, enough of them for `needed` bytes; None if there are not.

        Decided before anything is evicted: to evict for an insertion that is then refused would be plain loss. A function
        of its own, so that no local variable holds on to a buffer that is to be freed.
        """
        doomed = []
        for key, slot in self._slots.items():
            if needed <= 0:
                break
            if slot.body.readers == 0:
                doomed.append(key)
                needed -= slot.charge
        return doomed if needed <= 0 else None

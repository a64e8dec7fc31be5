"""The memory tier: hot replies within an exact number of bytes, least recently used out first.

Law of the module: the bytes of all buffers that exist never pass the limit, whoever still holds them
(`proxy.stores.buffers`): a slow reader of an evicted entry counts as well. An insertion that cannot make room is refused.
Room is reserved in the threads that read files; the rest is for the event loop's.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from proxy.model import Entry, Metadata
from proxy.stores.body import MemoryBody
from proxy.stores.buffers import Buffers


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for one body, counted until the last reference to its buffer goes. `charge` is what it counts for."""

    buffer: memoryview
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
        self._buffers = Buffers(limit_bytes)
        self._on_evict = on_evict
        self._slots: OrderedDict[str, Slot] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def limit_bytes(self) -> int:
        return self._buffers.limit_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of every buffer that was reserved and is not yet given back. May be read from any thread."""
        with self._lock:
            return self._buffers.lent_bytes

    def get(self, key: str) -> Slot | None:
        with self._lock:
            slot = self._slots.get(key)
            if slot is not None:
                self._slots.move_to_end(key)
            return slot

    def reserve(self, body_bytes: int, extra_bytes: int = 0) -> Room | None:
        """Room for one body, or None if there is none; from any thread. Dropping the buffer gives the room back.

        `extra_bytes` counts what is kept beside it.
        """
        with self._lock:
            evicted = self._make_room(body_bytes, extra_bytes)
            lent = self._buffers.lend(body_bytes, extra_bytes)
        if evicted:
            self._on_evict("size", evicted)
        return None if lent is None else Room(lent[0], body_bytes, lent[1])

    def insert(self, metadata: Metadata, room: Room, now: float) -> Entry:
        """Take a filled buffer in, in place of what was there under the same key."""
        body = MemoryBody(room.buffer, room.body_bytes)
        entry = Entry(metadata, body, "memory")
        with self._lock:
            self.discard(metadata.key)
            self._slots[metadata.key] = Slot(entry, body, room.charge, now)
        return entry

    def discard(self, key: str) -> bool:
        """Forget an entry. Its memory goes when its last reader does."""
        with self._lock:
            return self._slots.pop(key, None) is not None

    def purge(self, matches: Callable[[Metadata], bool]) -> int:
        """Forget every entry that matches, read or not."""
        with self._lock:
            doomed = [key for key, slot in self._slots.items() if matches(slot.entry.metadata)]
            for key in doomed:
                self.discard(key)
        if doomed:
            self._on_evict("manual", len(doomed))
        return len(doomed)

    def _make_room(self, body_bytes: int, extra_bytes: int) -> int:
        """How many entries went for it. Somebody may hold one without having begun to read it: then its memory is not back
        yet, and there is no room all the same."""
        missing = self._buffers.missing(body_bytes, extra_bytes)
        if missing <= 0:
            return 0
        doomed = self._idle(missing) or []
        for key in doomed:
            self.discard(key)
        return len(doomed)

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

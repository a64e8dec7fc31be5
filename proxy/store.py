"""The store: memory over disk, one door for both. Whatever breaks below is a miss, a count and a reason, never an error."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, Protocol, TypeVar

from proxy import envelope
from proxy.clock import Clock
from proxy.errors import StoreError
from proxy.model import Entry, Metadata
from proxy.settings import CacheSection
from proxy.spool import Spool, Spools
from proxy.stores import faults
from proxy.stores.body import FileBody, MemoryBody, body_of, unnamed
from proxy.stores.claims import Claims
from proxy.stores.disk import TOUCH_EVERY_SECONDS, DiskTier, Found, Verdict
from proxy.stores.eviction import Limits
from proxy.stores.files import WINDOW_BYTES, read_exactly
from proxy.stores.memory import MemoryTier, Room, Slot
from proxy.stores.purges import PurgeLog

THREADS = 3
PURGE_POLL_SECONDS = 0.5
TEND_SECONDS = 10.0
SWEEP_SECONDS = 600.0

Tier = Literal["memory", "disk"]
T = TypeVar("T")


class Observer(Protocol):
    """Who counts what the store does: look-ups from the event loop's thread, the rest from any."""

    def lookup(self, tier: str, result: str, seconds: float) -> None:
        """`result` is hit, stale (found, but expired), miss or error."""

    def evicted(self, tier: str, reason: str, count: int = 1) -> None:
        """`reason` is size, ttl, manual or corrupt."""

    def write_error(self, tier: str) -> None:
        """A reply that a tier could not keep."""


class Store:
    """Entries by key. Reading and writing happen in three threads of our own; memory lookups in none."""

    def __init__(self, settings: CacheSection, clock: Clock, *, instance_id: str, observer: Observer) -> None:
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self.spools = Spools(settings.directory, self.executor, instance_id)
        self.claims = Claims(settings.directory)
        """Which request an `Idempotency-Key` stands for; kept beside the entries that are the answers."""
        self._clock = clock
        self._instance_id = instance_id
        self._observer = observer
        self._purges = PurgeLog(settings.directory)
        self._obeyed = 0
        """The epoch up to which the memory tier has been purged."""
        self._memory = MemoryTier(settings.memory_bytes, lambda reason, n: observer.evicted("memory", reason, n))
        self._disk = DiskTier(
            settings.directory,
            Limits(settings.max_bytes, settings.min_free_bytes),
            clock,
            self._purges,
            self.executor,
            lambda reason, n: observer.evicted("disk", reason, n),
        )
        self._max_bytes = settings.max_bytes
        self._loads: dict[str, asyncio.Task[Entry | None]] = {}
        """Keys that are being read from disk; taken out by whatever makes the reading out of date."""
        self._chores: tuple[asyncio.Task[None], ...] = ()
        self._is_swept = asyncio.Event()
        self._closed = False

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the disk tier, if it can be opened, and begin to tend it."""
        try:
            await self._run(self._open)
        except StoreError:
            pass  # `degraded` says why; `tend` tries again
        self._obey_purges()
        self._chores = tuple(map(asyncio.create_task, (self._keep_tending(), self._keep_sweeping())))

    async def swept(self) -> None:
        """Returns when the first sweep after the start is over. Nobody who is served waits for it: it looks at every entry,
        and a million of them take some seconds."""
        await self._is_swept.wait()

    async def close(self) -> None:
        """Flights must have landed. Idempotent."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        self._chores = ()
        if not self._closed:
            self._closed = True
            await self._run(self._disk.close)
            self.executor.shutdown(wait=True)

    async def tend(self, *, sweep: bool = False) -> None:
        """What is due every few seconds: try again what is broken, sweep, obey purges."""
        try:
            await self._run(self._disk.tend)
        except StoreError:
            pass  # `degraded` says why
        if sweep:
            await self._sweep()
        await self.poll()

    async def _sweep(self) -> None:
        """What crashes left behind, and what is long over: remove or adopt it."""
        try:
            await self._run(self.claims.sweep, self._clock.wall())
            await self._run(self._disk.sweep, self._instance_id)
        except StoreError:
            pass  # `degraded` says why

    async def poll(self) -> None:
        """Obey purges that were asked for since the last time."""
        try:
            await self._run(self._purges.refresh)
        except StoreError:
            return
        self._obey_purges()

    # --- entries ----------------------------------------------------------------------------------

    def at_hand(self, key: str) -> Entry | None:
        """The entry under `key`, if it lies in memory. That it was found is not counted: `taken` says that it was used."""
        slot = self._memory.get(key)
        return None if slot is None else slot.entry

    def taken(self, key: str) -> None:
        """The entry that is at hand was used."""
        started = self._clock.monotonic()
        slot = self._memory.get(key)
        if slot is not None:
            self._observe("memory", slot.entry.metadata, started)
            self._touch(slot)

    async def lookup(self, key: str, *, promote: bool = True) -> Entry | None:
        """The entry under `key`, fresh or expired: freshness is for the caller to judge. Never raises StoreError.

        From memory without awaiting anything; from disk with its digest checked. With `promote`, a fresh entry that is read
        from disk enters memory.
        """
        started = self._clock.monotonic()
        slot = self._memory.get(key)
        if slot is not None:
            self._observe("memory", slot.entry.metadata, started)
            self._touch(slot)
            return slot.entry
        self._observer.lookup("memory", "miss", self._clock.monotonic() - started)
        started = self._clock.monotonic()
        try:
            entry = await self._from_disk(key, promote=promote)
        except StoreError:
            self._observer.lookup("disk", "error", self._clock.monotonic() - started)
            return None
        if entry is None:
            self._observer.lookup("disk", "miss", self._clock.monotonic() - started)
        else:
            self._observe("disk", entry.metadata, started)
        return entry

    async def commit(self, spool: Spool, metadata: Metadata, *, begun_epoch: int) -> tuple[Entry, bool]:
        """Store a reply. The entry can be read in any case; the bool says whether a later lookup can find it.

        `begun_epoch` is `epoch()` before the reply was bought: what was purged since is delivered, not stored.
        """
        await spool.finish()
        body_bytes = spool.size
        if spool.error is not None:
            await self._run(self._make_room_for, spool)
        content = spool.take()
        if isinstance(content, bytearray):
            self._observer.write_error("disk")
            return await self._into_memory(MemoryBody(content), content, metadata, begun_epoch)
        try:
            verdict = await self._run(self._disk.put, content, metadata, body_bytes, begun_epoch)
        except StoreError:
            self._observer.write_error("disk")
            body = unnamed(content, body_bytes, self.executor)
            return await self._into_memory(body, content.fd, metadata, begun_epoch)
        if verdict is not Verdict.STORED:
            return Entry(metadata, unnamed(content, body_bytes, self.executor), "none"), False
        self._loads.pop(metadata.key, None)
        self._memory.discard(metadata.key)
        body = FileBody(content.release(), len(envelope.MAGIC), body_bytes, self.executor)
        return Entry(metadata, body, "disk"), True

    async def keep(self, spool: Spool, metadata: Metadata) -> Entry:
        """A reply that is to be delivered and not stored: nothing of it remains once the entry is dropped."""
        return Entry(metadata, await body_of(spool, self.executor), "none")

    def epoch(self) -> int:
        """How many purges were asked for so far; costs one `stat`."""
        try:
            epoch = self._purges.refresh()
        except StoreError:
            return self._purges.epoch
        self._obey_purges()
        return epoch

    # --- what gauges and health read --------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """The disk takes replies, as far as is known."""
        return not self.degraded

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the store is not whole; empty when it is."""
        problems = [] if self._disk.problem is None else [self._disk.problem]
        if any(chore.done() for chore in self._chores):
            # A defect of ours; without it nothing recovers and no purge is obeyed in time.
            problems.append("the store is no longer tended")
        return tuple(problems)

    def bytes_on_disk(self) -> int:
        return self._disk.bytes

    def bytes_in_memory(self) -> int:
        return self._memory.resident_bytes

    def entries(self, tier: Tier = "disk") -> int:
        return self._disk.entries if tier == "disk" else len(self._memory)

    def capacity(self, tier: Tier = "disk") -> int:
        return self._max_bytes if tier == "disk" else self._memory.limit_bytes

    # --- disk to memory ---------------------------------------------------------------------------

    async def _from_disk(self, key: str, *, promote: bool) -> Entry | None:
        """Who looks up a key that is being read waits for that: one reading and one buffer, however many they are.

        It is a task of its own, because whoever asked first may leave.
        """
        if not promote:
            return await self._load(key, promote=False)
        load = self._loads.get(key)
        if load is None:
            self._loads[key] = load = asyncio.create_task(self._load(key, promote=True), name="load")
            load.add_done_callback(partial(self._loaded, key))
        try:
            return await asyncio.shield(load)
        finally:
            del load  # as in `_run`

    async def _load(self, key: str, *, promote: bool) -> Entry | None:
        read = await self._run(self._read, key, promote)
        if read is None:
            return None
        found, metadata, room = read
        if self._clock.wall() - found.row.used_at > TOUCH_EVERY_SECONDS or found.row.used_at > self._clock.wall():
            self._note_use(key)
        # Replaced or purged while it was read: those who asked before that may have it, memory may not.
        is_current = self._loads.get(key) is asyncio.current_task()
        if room is None or not is_current or self._is_expired(metadata):
            return Entry(metadata, found.body, "disk")
        return Entry(metadata, self._memory.insert(metadata, room, self._clock.wall()).body, "disk")

    def _read(self, key: str, promote: bool) -> tuple[Found, Metadata, Room | None] | None:
        """In one thread, once: each change of threads costs as much as reading a small entry."""
        found = self._disk.find(key)
        if found is None:
            return None
        room = self._room(found) if promote else None
        return found, self._disk.load(found, None if room is None else room.buffer), room

    def _loaded(self, key: str, load: asyncio.Task[Entry | None]) -> None:
        if self._loads.get(key) is load:
            del self._loads[key]
        if not load.cancelled():
            load.exception()  # retrieved, even if everybody who waited has left

    def _room(self, found: Found) -> Room | None:
        """In a thread. Reserved before the body is read, so that not even bytes on their way in pass the limit."""
        if found.row.expires_at <= self._clock.wall():
            return None
        return self._memory.reserve(found.layout.body_bytes, found.layout.header_bytes)

    async def _into_memory(
        self, body: FileBody | MemoryBody, content: bytearray | int, metadata: Metadata, begun_epoch: int
    ) -> tuple[Entry, bool]:
        """The disk refused: keep the reply in memory, if there is room and nobody asked to forget it."""
        refused = Entry(metadata, body, "none"), False
        try:
            room = self._memory.reserve(len(body), len(envelope.encode_header(metadata)))
            if room is None:
                return refused
            await self._run(_copy, content, room, body)
        except StoreError:
            return refused
        # By what is known here: what becomes known later is applied to the memory tier when it does.
        if self._purges.forbids(metadata, begun_epoch):
            return refused
        self._loads.pop(metadata.key, None)
        return self._memory.insert(metadata, room, self._clock.wall()), True

    # --- purges -----------------------------------------------------------------------------------

    def _obey_purges(self) -> None:
        news = self._purges.since(self._obeyed)
        self._obeyed += len(news)
        if news:
            self._loads.clear()
            self._memory.purge(lambda metadata: any(purge.matches_metadata(metadata) for purge in news))

    # --- threads ----------------------------------------------------------------------------------

    async def _run(self, work: Callable[..., T], *values: object) -> T:
        try:
            running = asyncio.get_running_loop().run_in_executor(self.executor, work, *values)
        except RuntimeError as error:
            raise StoreError("the store is closed") from error
        try:
            return await running
        finally:
            # Else a failure and this frame hold each other, and the failure's frames hold buffers and descriptors.
            del running

    async def _keep_tending(self) -> None:
        polls = 0
        while True:
            await asyncio.sleep(PURGE_POLL_SECONDS)
            polls += 1
            seconds = polls * PURGE_POLL_SECONDS
            if seconds % TEND_SECONDS == 0:
                await self.tend()
            else:
                await self.poll()

    async def _keep_sweeping(self) -> None:
        while True:
            await self._sweep()
            self._is_swept.set()
            await asyncio.sleep(SWEEP_SECONDS)

    def _open(self) -> None:
        self._disk.open()
        self._purges.refresh()
        self._disk.tend()

    def _touch(self, slot: Slot) -> None:
        now = self._clock.wall()
        if not 0 <= now - slot.touched_at < TOUCH_EVERY_SECONDS:
            slot.touched_at = now
            self._note_use(slot.entry.metadata.key)

    def _note_use(self, key: str) -> None:
        if not self._closed:
            self.executor.submit(self._write_use, key)

    def _write_use(self, key: str) -> None:
        try:
            self._disk.touch(key)
        except StoreError:
            pass  # it will seem a little older than it is

    def _make_room_for(self, spool: Spool) -> None:
        """The disk was full when this reply came in. It was paid for now; what goes was paid for long ago."""
        try:
            if spool.error is not None and faults.is_full(spool.error):
                self._disk.relieve(spool.size + spool.size // 10)
        except StoreError:
            return  # `degraded` says why
        spool.move_to_file()

    # --- small things -----------------------------------------------------------------------------

    def _is_expired(self, metadata: Metadata) -> bool:
        return metadata.expires_at <= self._clock.wall()

    def _observe(self, tier: Tier, metadata: Metadata, started: float) -> None:
        result = "stale" if self._is_expired(metadata) else "hit"
        self._observer.lookup(tier, result, self._clock.monotonic() - started)


def _copy(content: bytearray | int, room: Room, _owner: FileBody | MemoryBody) -> None:
    """Fill `room` from memory, or from a descriptor that `_owner` keeps open. Raises StoreError."""
    if isinstance(content, bytearray):
        room.buffer[: room.body_bytes] = content
        return
    offset = len(envelope.MAGIC)
    try:
        for at in range(0, room.body_bytes, WINDOW_BYTES):
            stop = min(room.body_bytes, at + WINDOW_BYTES)
            room.buffer[at:stop] = read_exactly(content, offset + at, offset + stop)
    except OSError as error:
        raise StoreError("the reply cannot be read back") from error

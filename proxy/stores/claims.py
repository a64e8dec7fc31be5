"""Which request an `Idempotency-Key` stands for: small tables beside the cache, shared by all processes that use it.

`claims/00` to `claims/ff`, by the first byte of a claim's name; each has a fixed number of fixed records, so that a million
keys take no more room than a hundred thousand do. Laws of the module: nobody reads or writes a table without its lock; a
record that its digest does not vouch for is no claim; a table that the disk refuses is kept in memory, and what stands
there goes before the disk, so that a key keeps its meaning for as long as this process lives.
"""

import fcntl
import os
import secrets
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import xxhash

from proxy.errors import StoreError
from proxy.stores.files import PRIVATE_FILE, make_private_directory, write_all

FOLDER = "claims"
LIFETIME_SECONDS = 86_400.0
MAX_CLAIMS = 100_000
TABLES = 256
SLOTS = MAX_CLAIMS // TABLES
LOCK_PATIENCE_SECONDS = 0.05
"""A lock is held for microseconds: who holds it longer has been stopped, and we do without the disk."""

_FIELDS = struct.Struct(">32s32s16sd64s")
"""Name, fingerprint, token, arrived, purchase id (padded with zeros)."""
_ARRIVED, _ARRIVED_AT = struct.Struct(">d"), 80
_DIGEST = struct.Struct(">Q")
_SEED = b"imagegate claim 1"
RECORD_BYTES = _FIELDS.size + _DIGEST.size
_MAX_ID_BYTES = 64
_LOCK_PAUSE_SECONDS = 0.005

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """A key and what it stands for. `name` is the digest of the key and its owner, `fingerprint` that of the request."""

    name: bytes
    fingerprint: bytes
    token: bytes
    """Random: a key that was freed and taken again is another claim."""
    arrived: float
    """When the first request with this key came; wall clock."""
    purchase_id: str = ""
    """Of the success that was given; empty until there is one."""
    is_first: bool = False
    """This request made the claim; not stored."""

    def is_live(self, now: float) -> bool:
        return _is_live(self.arrived, now)


def fresh(name: bytes, fingerprint: bytes, arrived: float) -> Claim:
    """A claim that nobody has made yet."""
    return Claim(name, fingerprint, secrets.token_bytes(16), arrived, is_first=True)


def _is_live(arrived: float, now: float) -> bool:
    """A claim from the future (the clock was wrong then, or is wrong now) lives no longer than another."""
    return abs(now - arrived) < LIFETIME_SECONDS


class Claims:
    """The tables of one cache directory. Every method blocks, is safe for threads and processes, and never raises."""

    def __init__(
        self, directory: Path, *, slots: int = SLOTS, lock_patience_seconds: float = LOCK_PATIENCE_SECONDS
    ) -> None:
        self._directory = directory.absolute() / FOLDER
        self._slots = slots
        self._lock_patience_seconds = lock_patience_seconds
        self._memory: dict[str, _Table] = {}
        self._lock = threading.Lock()

    def take(self, wanted: Claim) -> Claim:
        """The live claim of that name, if there is one; else `wanted`, which now stands. Of several at once, one wins."""

        def work(table: _Table) -> Claim:
            found = table.find(wanted.name, wanted.arrived)
            if found is None:
                table.put(wanted, wanted.arrived)
            return found or wanted

        return self._on(wanted.name, wanted.arrived, work)

    def settle(self, claim: Claim, purchase_id: str, now: float) -> None:
        """Note the success that was given; again if the claim was freed meanwhile, unless another request has the key."""
        if len(purchase_id.encode()) > _MAX_ID_BYTES:
            return  # none of ours

        def work(table: _Table) -> None:
            found = table.find(claim.name, now) or claim
            if found.fingerprint == claim.fingerprint and (found.purchase_id != purchase_id or found is claim):
                table.put(replace(found, purchase_id=purchase_id), now)

        self._on(claim.name, now, work)

    def free(self, claim: Claim, now: float) -> None:
        """Forget this very claim, unless somebody has had a success with it."""

        def work(table: _Table) -> None:
            found = table.find(claim.name, now)
            if found is not None and found.token == claim.token and not found.purchase_id:
                table.drop(claim.name)

        self._on(claim.name, now, work)

    def sweep(self, now: float) -> None:
        """Give back the room of tables in which every claim has expired; the others use theirs again."""
        for prefix in (f"{number:02x}" for number in range(TABLES)):
            with self._lock:
                remembered = self._memory.get(prefix)
                if remembered is not None and not remembered.has_live(now):
                    del self._memory[prefix]
                try:
                    if os.path.lexists(self._directory / prefix):
                        with self._on_disk(prefix) as table:
                            if not table.has_live(now):
                                table.clear()
                except (OSError, StoreError):
                    continue  # the next sweep may be luckier

    def _on(self, name: bytes, now: float, work: Callable[["_Table"], T]) -> T:
        """`work` with the table of a name: the one in memory if the name stands there, or if the disk fails."""
        prefix = name[:1].hex()
        with self._lock:
            remembered = self._memory.get(prefix)
            if remembered is not None and remembered.find(name, now) is not None:
                return work(remembered)
            try:
                with self._on_disk(prefix) as table:
                    return work(table)
            except (OSError, StoreError):
                return work(self._memory.setdefault(prefix, _Table(bytearray(), self._slots)))

    @contextmanager
    def _on_disk(self, prefix: str) -> Iterator["_Table"]:
        """The table, read whole, under its lock. Raises OSError, StoreError."""
        path = self._directory / prefix
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(path, flags, PRIVATE_FILE)
        except FileNotFoundError:
            make_private_directory(self._directory)
            fd = os.open(path, flags, PRIVATE_FILE)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StoreError("a table of claims is no regular file")
            self._acquire(fd)
            yield _Table(bytearray(os.pread(fd, self._slots * RECORD_BYTES, 0)), self._slots, fd)
        finally:
            os.close(fd)  # and the lock with it

    def _acquire(self, fd: int) -> None:
        attempts = 1 + int(self._lock_patience_seconds / _LOCK_PAUSE_SECONDS)
        for _ in range(attempts):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                threading.Event().wait(_LOCK_PAUSE_SECONDS)
        raise StoreError("another process holds a table of claims")


class _Table:
    """The records of one table; what is written goes to `fd` first, if there is one. Writing raises OSError."""

    def __init__(self, content: bytearray, slots: int, fd: int | None = None) -> None:
        self._content = content
        self._slots = slots
        self._fd = fd

    def find(self, name: bytes, now: float) -> Claim | None:
        """The live claim of that name."""
        at = self._position(name)
        claim = None if at is None else self._claim(at)
        return claim if claim is not None and claim.is_live(now) else None

    def has_live(self, now: float) -> bool:
        claims = map(self._claim, range(0, len(self._content), RECORD_BYTES))
        return any(claim is not None and claim.is_live(now) for claim in claims)

    def put(self, claim: Claim, now: float) -> None:
        """In the place of its name, else in a vacant one, else in that of the oldest."""
        at = self._position(claim.name)
        self._write(_encoded(claim), self._vacant(now) if at is None else at)

    def drop(self, name: bytes) -> None:
        at = self._position(name)
        if at is not None:
            self._write(bytes(RECORD_BYTES), at)

    def clear(self) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
        self._content.clear()

    def _position(self, name: bytes) -> int | None:
        at = self._content.find(name)
        while at % RECORD_BYTES and at != -1:
            at = self._content.find(name, at + 1)
        return None if at == -1 else at

    def _vacant(self, now: float) -> int:
        oldest, earliest = 0, float("inf")
        for at in range(0, self._slots * RECORD_BYTES, RECORD_BYTES):
            # Not the whole claim: with every place taken, that is 1 ms.
            fields = _sound(self._content[at : at + RECORD_BYTES])
            arrived = _ARRIVED.unpack_from(fields, _ARRIVED_AT)[0] if fields else float("-inf")
            if not _is_live(arrived, now):
                return at
            if arrived < earliest:
                oldest, earliest = at, arrived
        return oldest

    def _claim(self, at: int) -> Claim | None:
        return _decoded(self._content[at : at + RECORD_BYTES])

    def _write(self, record: bytes, at: int) -> None:
        if self._fd is not None:
            write_all(self._fd, record, at)
        self._content[at : at + RECORD_BYTES] = record


def _encoded(claim: Claim) -> bytes:
    fields = _FIELDS.pack(claim.name, claim.fingerprint, claim.token, claim.arrived, claim.purchase_id.encode())
    return fields + _digest(fields)


def _decoded(record: bytearray) -> Claim | None:
    fields = _sound(record)
    if fields is None:
        return None
    name, fingerprint, token, arrived, purchase_id = _FIELDS.unpack(fields)
    return Claim(name, fingerprint, token, arrived, purchase_id.rstrip(b"\0").decode("utf-8", "replace"))


def _sound(record: bytearray) -> bytes | None:
    """The fields of a record; None for a place that is empty, damaged, or beyond the end."""
    fields = bytes(record[: _FIELDS.size])
    return fields if record[_FIELDS.size :] == _digest(fields) else None


def _digest(fields: bytes) -> bytes:
    return _DIGEST.pack(xxhash.xxh3_64_intdigest(_SEED + fields))

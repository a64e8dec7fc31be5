"""The purge log: what operators asked to forget, so that running proxies and flights in the air obey it too.

`purges.jsonl` in the cache directory, only ever appended to, one JSON object per line. A process's *epoch* is the number of
records it has read; a reply whose flight began at epoch E is not stored if a record after E matches it.
"""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.stores.files import PRIVATE_FILE

FILENAME = "purges.jsonl"


@dataclass(frozen=True, slots=True)
class Purge:
    """One request to forget. `value` is the key (or its first digits), the model or the scope; `before` a wall-clock time.

    `at` is when it was asked. A request is recorded twice: before its rows are deleted, and `enacted`, after. What was read
    from disk in between must leave memory, too; a flight that began in between has nothing to do with it.
    """

    by: Literal["key", "model", "scope", "older_than", "all"]
    at: float
    value: str = ""
    before: float = 0.0
    enacted: bool = False

    def matches(self, key: str, model: str, scope: str, stored_at: float) -> bool:
        if self.by == "key":
            return bool(self.value) and key.startswith(self.value)
        if self.by == "model":
            return model == self.value
        if self.by == "scope":
            return scope == self.value
        if self.by == "older_than":
            return stored_at < self.before
        return True

    def matches_metadata(self, metadata: Metadata) -> bool:
        return self.matches(metadata.key, metadata.model, metadata.scope, metadata.stored_at)


_EVERYTHING = Purge("all", at=float("-inf"))
"""Stands for a record that cannot be read, or a log that was cut: something was to be forgotten, and we cannot tell what."""


class PurgeLog:
    """Reads the log as it grows. Safe for threads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILENAME
        self._lock = threading.Lock()
        self._records: list[Purge] = []
        self._offset = 0
        self._inode = 0

    @property
    def epoch(self) -> int:
        """Records known so far; never goes back within a process."""
        return len(self._records)

    def since(self, epoch: int) -> Sequence[Purge]:
        return self._records[epoch:]

    def forbids(self, metadata: Metadata, begun_epoch: int) -> bool:
        """Whether a reply whose flight began at `begun_epoch` was to be forgotten since, by what has been read so far."""
        return any(not purge.enacted and purge.matches_metadata(metadata) for purge in self.since(begun_epoch))

    def refresh(self) -> int:
        """Read what was added; the epoch afterwards. Costs one `stat` when nothing was. Raises StoreError."""
        with self._lock:
            try:
                self._read_on()
            except OSError as error:
                raise StoreError("the purge log cannot be read") from error
            return len(self._records)

    def append(self, purge: Purge) -> None:
        """Add a record; it counts from now on, for every process. Raises OSError."""
        # The leading line end closes a line that a crash or a full disk left half-written.
        line = b"\n" + json.dumps(asdict(purge), separators=(",", ":")).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, PRIVATE_FILE)
        try:
            if os.geteuid() == 0:
                # An operator's root shell must not leave a file that the proxy's own user cannot read.
                owner = self._path.parent.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
            if os.write(fd, line) != len(line):
                raise OSError("the purge was recorded only in part")
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read_on(self) -> None:
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            if self._offset:
                self._restart(0)
            return
        if found.st_size < self._offset or (self._inode and found.st_ino != self._inode):
            self._restart(found.st_ino)
        if found.st_size == self._offset:
            return
        fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._records.extend(_decoded(line) for line in whole.split(b"\n") if line.strip())
        self._offset += len(whole)
        self._inode = found.st_ino

    def _restart(self, inode: int) -> None:
        self._records.append(_EVERYTHING)
        self._offset, self._inode = 0, inode


def _decoded(line: bytes) -> Purge:
    try:
        members: Any = json.loads(line)
        at, value, before = float(members["at"]), str(members["value"]), float(members["before"])
        purge = Purge(members["by"], at, value, before, members.get("enacted") is True)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return _EVERYTHING
    return purge if purge.by in ("key", "model", "scope", "older_than", "all") else _EVERYTHING

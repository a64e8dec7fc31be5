"""A cache directory as an operator looks at it: counted, listed, purged and verified, offline or beside a running proxy."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from proxy.errors import StoreError
from proxy.model import Metadata
from proxy.money import dollars
from proxy.stores import entryfile, sweeper
from proxy.stores.files import remove_quietly
from proxy.stores.index import DamagedRowError, Index, Row
from proxy.stores.purges import Purge, PurgeLog


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading every entry showed. `damaged` and `missing` are keys, `orphans` files without a row."""

    sound: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    orphans: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Orphans are no fault: a running proxy adopts or removes them in time."""
        return not self.damaged and not self.missing


class CacheDirectory:
    """Opens the index for each call and closes it again. Every method raises StoreError if that cannot be done."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def stats(self) -> dict[str, Any]:
        """Totals, for printing."""
        with self._index() as index:
            rows = [row for row in index.rows() if isinstance(row, Row)]
        models: dict[str, int] = {}
        for row in rows:
            models[row.model] = models.get(row.model, 0) + 1
        return {
            "directory": str(self._path),
            "entries": len(rows),
            "bytes": sum(row.size for row in rows),
            "quarantined_bytes": sweeper.quarantined_bytes(self._path),
            "oldest_stored_at": min((row.stored_at for row in rows), default=None),
            "newest_stored_at": max((row.stored_at for row in rows), default=None),
            "entries_by_model": dict(sorted(models.items())),
        }

    def entries(self, limit: int = 100, after: str = "") -> list[tuple[Metadata, int]]:
        """Metadata and bytes of up to `limit` entries, in the order of their keys, those behind the key `after`."""
        found: list[tuple[Metadata, int]] = []
        with self._index() as index:
            while len(found) < limit:
                page = index.page(after, limit)
                for row in page:
                    if isinstance(row, Row):
                        after = row.key
                        found.extend(self._described(row))
                if len(page) < limit:
                    break
        return found[:limit]

    def show(self, key: str) -> tuple[Metadata, int]:
        """The one entry whose key begins so."""
        with self._index() as index:
            rows = [row for row in index.rows() if isinstance(row, Row) and row.key.startswith(key)]
        if not rows:
            raise StoreError(f"there is no entry whose key begins with {key}")
        if len(rows) > 1:
            raise StoreError(f"{len(rows)} entries have keys that begin with {key}; give more digits")
        try:
            return entryfile.read_metadata(self._path / rows[0].filename), rows[0].size
        except OSError as error:
            raise StoreError(f"the entry cannot be read: {error.strerror}") from error

    def purge(self, purge: Purge) -> int:
        """Forget every entry that matches, here, in running proxies and in flights that have begun; how many were here.

        The record comes first: what is stored after it was written has seen it, what was stored before is deleted below.
        """
        self._record(purge)
        with self._index() as index:
            with index.writing() as sql:
                doomed = [row for row in index.rows(sql) if _is_doomed(row, purge)]
                index.delete(sql, doomed)
            for row in doomed:
                self._remove(row)
        # A proxy that obeyed the record before the rows were gone may have taken one of them into memory again.
        self._record(replace(purge, enacted=True))
        return len(doomed)

    def verify(self, *, delete: bool = False) -> Verification:
        """Read every entry whole and check its digest; with `delete`, drop what is damaged or has no file."""
        sound = 0
        damaged: list[str] = []
        missing: list[str] = []
        with self._index() as index:
            known = set()
            for row in index.rows():
                fault = self._fault(row)
                if fault is None:
                    sound += 1
                else:
                    (missing if fault == "missing" else damaged).append(_name(row))
                    if delete and index.forget(row):
                        self._remove(row)
                if isinstance(row, Row):
                    known.add(row.filename)
            # Listed before the rows are read again: an entry published meanwhile is no orphan.
            files = list(sweeper.value_files(self._path))
            known |= {row.filename for row in index.rows() if isinstance(row, Row)}
        return Verification(sound, tuple(damaged), tuple(missing), tuple(name for name in files if name not in known))

    def _record(self, purge: Purge) -> None:
        try:
            PurgeLog(self._path).append(purge)
        except OSError as error:
            raise StoreError(f"the purge cannot be recorded: {error.strerror or error}") from error

    def _fault(self, row: Row | DamagedRowError) -> Literal["damaged", "missing"] | None:
        if isinstance(row, DamagedRowError):
            return "damaged"
        try:
            return None if entryfile.read_entry(self._path / row.filename).key == row.key else "damaged"
        except FileNotFoundError:
            return "missing"
        except (StoreError, OSError):
            return "damaged"

    def _remove(self, row: Row | DamagedRowError) -> None:
        if isinstance(row, Row):
            remove_quietly(self._path / row.filename)

    def _described(self, row: Row) -> list[tuple[Metadata, int]]:
        try:
            return [(entryfile.read_metadata(self._path / row.filename), row.size)]
        except (StoreError, OSError):
            return []  # `verify` is for those

    @contextmanager
    def _index(self) -> Iterator[Index]:
        try:
            index = Index(self._path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the cache index cannot be opened: {error}") from error
        try:
            yield index
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the cache index cannot be used: {error}") from error
        finally:
            index.shut()


def _is_doomed(row: Row | DamagedRowError, purge: Purge) -> bool:
    """A row that cannot be read is not known to be something else."""
    return isinstance(row, DamagedRowError) or purge.matches(row.key, row.model, row.scope, row.stored_at)


def _name(row: Row | DamagedRowError) -> str:
    return row.key if isinstance(row, Row) else f"row {row.rowid}"


def described(metadata: Metadata, size: int) -> dict[str, Any]:
    """What is known of an entry, but for its request: a list of entries shows no prompts."""
    usage = metadata.usage
    return {
        "key": metadata.key,
        "scope": metadata.scope,
        "model": metadata.model,
        "size": metadata.size,
        "quality": metadata.quality,
        "images": len(metadata.images),
        "bytes": size,
        "tokens": usage.total if usage else None,
        "cost_usd": None if metadata.cost is None else dollars(metadata.cost),
        "upstream": metadata.upstream,
        "cache_group": metadata.cache_group,
        "purchase_id": metadata.purchase_id,
        "upstream_request_id": metadata.upstream_request_id,
        "stored_at": metadata.stored_at,
        "expires_at": metadata.expires_at,
    }

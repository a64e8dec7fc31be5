"""`/admin/v1/cache`: the store counted, listed, shown and purged beside the running proxy, as `imagegate cache` does."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyio import to_thread

from proxy import faults, keyfields
from proxy.admin import listing
from proxy.admin.desk import Desk
from proxy.admin.operation import Asked, Operation, Parameter, Reply, encoded
from proxy.clock import Clock
from proxy.errors import CacheUnavailable, InvalidRequest, NotFound, StoreError
from proxy.stores.database import DATABASE
from proxy.stores.directory import CacheDirectory, described
from proxy.stores.purges import Purge

_PATH = "/admin/v1/cache"
_KEY_DIGITS = 64
KEY_PATTERN = "^[0-9A-Fa-f]{8,64}$"
_MOST_SECONDS = 10**10
_AFTER = Parameter("after", "go on behind this key", {"type": "string", "pattern": KEY_PATTERN})
_WHICH = ("key", "model", "scope", "older_than_seconds", "all")


def operations(desk: Desk, directory: Path, clock: Clock) -> Sequence[Operation]:
    cache = _Cache(desk, directory, clock)
    return (
        Operation(
            name="get_cache",
            method="GET",
            path=_PATH,
            summary="Entries and bytes, counted.",
            handle=cache.stats,
            answer="CacheStats",
        ),
        Operation(
            name="list_cache_entries",
            method="GET",
            path=f"{_PATH}/entries",
            summary="Entries in the order of their keys, without their prompts.",
            handle=cache.list,
            query=(listing.LIMIT, _AFTER),
            answer="CacheEntryList",
        ),
        Operation(
            name="get_cache_entry",
            method="GET",
            path=f"{_PATH}/entries/{{key}}",
            summary="One entry, by its key or the first digits of it, with the request that bought it.",
            handle=cache.show,
            answer="CacheEntryDetails",
        ),
        Operation(
            name="purge_cache",
            method="POST",
            path=f"{_PATH}/purge",
            summary="Forget entries, here and in every proxy on the same directory, within a second.",
            handle=cache.purge,
            body="Purge",
            answer="Purged",
        ),
    )


class _Cache:
    def __init__(self, desk: Desk, directory: Path, clock: Clock) -> None:
        self._desk = desk
        self._path = directory
        self._clock = clock

    async def stats(self, asked: Asked) -> Reply:
        return await self._look(lambda directory: directory.stats())

    async def list(self, asked: Asked) -> Reply:
        limit = asked.query.get("limit", listing.USUAL)
        after = asked.query.get("after", "").lower()

        def look(directory: CacheDirectory) -> dict[str, Any]:
            # Of a key, people have the digits that `X-Imagegate-Cache-Key` showed.
            found = directory.entries(limit + 1, after and after.ljust(_KEY_DIGITS, "f"))
            told = [described(metadata, size) for metadata, size in found[:limit]]
            return listing.listed(told, told[-1]["key"] if told else None, more=len(found) > limit)

        return await self._look(look)

    async def show(self, asked: Asked) -> Reply:
        digits = asked.name.lower()
        if re.fullmatch(KEY_PATTERN, digits) is None:
            raise InvalidRequest(
                "Invalid 'key': must be 8 to 64 hexadecimal digits.", param="key", code="invalid_value"
            )
        return await self._look(lambda directory: _shown(directory, digits))

    async def purge(self, asked: Asked) -> Reply:
        which, purge = _purge(asked.body, self._clock.wall())
        target = purge.value or which
        # The log first: nothing is removed that nobody can find out who removed.
        await self._desk.ask(lambda store: store.note(asked.actor, "purge", "cache", target, dict(asked.body)))
        return await self._look(lambda directory: {"removed": directory.purge(purge)})

    async def _look(self, look: Callable[[CacheDirectory], Any]) -> Reply:
        """Raises CacheUnavailable, or what `look` raises but for StoreError."""
        return Reply(await to_thread.run_sync(self._looked, look))

    def _looked(self, look: Callable[[CacheDirectory], Any]) -> bytes:
        if not (self._path / DATABASE).is_file():
            # Looking must not create one.
            raise CacheUnavailable("There is no cache to look into.")
        try:
            return encoded(look(CacheDirectory(self._path)))
        except StoreError as error:
            raise CacheUnavailable("The cache cannot be used right now. Please try again.") from error


def _shown(directory: CacheDirectory, digits: str) -> dict[str, Any]:
    before = int(digits, 16) - 1
    after = f"{before:0{len(digits)}x}".ljust(_KEY_DIGITS, "f") if before >= 0 else ""
    found = [each for each in directory.entries(2, after) if each[0].key.startswith(digits)]
    if not found:
        raise NotFound("There is no entry whose key begins so.", code="cache_entry_not_found")
    if len(found) > 1:
        message = "Several entries have keys that begin so. Give more digits."
        raise InvalidRequest(message, param="key", code="ambiguous_key")
    metadata, size = found[0]
    return {**described(metadata, size), "request": dict(metadata.request)}


def _purge(body: Mapping[str, Any], now: float) -> tuple[str, Purge]:
    """Raises InvalidRequest unless exactly one thing is asked, and well."""
    for name in body:
        if name not in _WHICH:
            raise faults.unknown(name)
    if not body:
        message = f"Say what to purge: exactly one of {', '.join(_WHICH)}."
        raise InvalidRequest(message, code="missing_required_parameter")
    if len(body) > 1:
        message = f"Give exactly one of {', '.join(_WHICH)}."
        raise InvalidRequest(message, param=list(body)[1], code="mutually_exclusive_parameters")
    ((which, value),) = body.items()
    match which:
        case "all":
            return which, _purge_all(value, now)
        case "older_than_seconds":
            return which, Purge("older_than", now, before=now - _seconds(which, value))
        case "key":
            if re.fullmatch(KEY_PATTERN, _text(which, value)) is None:
                raise _invalid(which, "must be 8 to 64 hexadecimal digits")
            return which, Purge("key", now, value.lower())
        case "model":
            return which, Purge("model", now, _text(which, value))
        case _:
            return which, Purge("scope", now, _text(which, value))


def _purge_all(value: Any, now: float) -> Purge:
    if value is not True:
        raise _invalid("all", "must be true")
    return Purge("all", now)


def _seconds(name: str, value: Any) -> int:
    if type(value) is not int:
        raise faults.wrong_type(name, "an integer", value)
    if not 0 <= value <= _MOST_SECONDS:
        raise _invalid(name, f"must be from 0 to {_MOST_SECONDS:,}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise faults.wrong_type(name, "a string", value)
    if not keyfields.is_name(value):
        raise _invalid(name, "must have 1 to 128 printable characters")
    return value


def _invalid(name: str, fault: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{name}': {fault}.", param=name, code="invalid_value")

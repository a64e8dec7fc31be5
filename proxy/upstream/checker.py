"""Checks a received reply whole, and makes it fit to be stored, before anybody is told."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from proxy.errors import StoreError, UpstreamInvalidResponse, UpstreamRefusal
from proxy.reply import Inspection, Link, Peek, addition, document_of, inspect, inspect_event, peek, shifted
from proxy.scan import Scan
from proxy.spool import Spool, Spools
from proxy.upstream.links import Fetcher, NotFetchable, Room
from proxy.upstream.wire import Wire
from proxy.vendors import Vendor
from proxy.vendors.profile import no_refusal

T = TypeVar("T")
Picture = tuple[Link, Spool]
"""A link, and what is behind it as base64."""
Look = Callable[[memoryview, Scan | None], Inspection]
"""How a body is inspected: as a reply, or as an event."""

LINKS_SECONDS = 60.0
"""For all the pictures of one reply together."""
LINKS_AT_ONCE = 4
"""Of one reply. How many replies wait for pictures is bounded by their places at the upstream, which they still hold."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A reply that is fit to be stored."""

    inspection: Inspection
    echo: tuple[int, bytes] | None = None
    """The caller's own member that was cut out: where it stood, and its bytes."""
    is_amended: bool = False
    """It got a member that its vendor leaves out."""


class Checker:
    """`executor` is where replies are parsed: its size bounds how many at once, and so their memory."""

    def __init__(self, executor: Executor, wire: Wire, spools: Spools, *, links_seconds: float = LINKS_SECONDS) -> None:
        self._executor = executor
        self._fetcher = Fetcher(wire, spools)
        self._links_seconds = links_seconds

    async def peek(self, spool: Spool) -> Peek:
        """What the data of an event says it is. Raises StoreError."""
        return await self._run(_peek, spool)

    async def cut(self, spool: Spool, span: tuple[int, int]) -> None:
        """Without these bytes. Raises StoreError."""
        await self._run(spool.replace, [_Insertion(*span)])

    async def check_event(self, spool: Spool, vendor: Vendor, now: float) -> Checked:
        """The same as `check` for the data of the event that completes a stream."""
        inspection = await self._run(_inspect, spool, inspect_event)
        return await self._fit(spool, inspection, inspect_event, vendor, b'"created_at":%d' % int(now))

    async def check(
        self, spool: Spool, vendor: Vendor, now: float, *, upstream_base_url: str, limit_bytes: int
    ) -> Checked:
        """What stands where in the body, once it is fit to be stored; and the caller's own member that was cut from it.

        Addresses are replaced by the pictures behind them, where those may be fetched, come in time and fit into
        `limit_bytes`; prefixes and the caller's `safety_identifier` are cut; what the vendor leaves out is added, as of
        `now`. Raises UpstreamInvalidResponse, StoreError, and for a refusal dressed as a reply UpstreamRefusal.
        """
        if vendor.refusal_in is not no_refusal:
            await self._run(_refuse, spool, vendor)
        inspection = await self._run(_inspect, spool, inspect)
        if inspection.links:
            room = Room(limit_bytes - spool.size)
            pictures = await self._fetch(inspection.links, room, upstream_base_url)
            if pictures and await self._put_in(spool, pictures):
                inspection = await self._run(_inspect, spool, inspect)
        return await self._fit(spool, inspection, inspect, vendor, b'"created":%d' % int(now))

    async def _fit(self, spool: Spool, inspection: Inspection, look: Look, vendor: Vendor, created: bytes) -> Checked:
        """Cut, and with the member `created` if it is missing and the vendor may leave it out."""
        checked = await self._cut(spool, inspection, look)
        if vendor.adds_created and not inspection.has_created:
            return await self._complete(spool, checked, created, look)
        return checked

    async def _cut(self, spool: Spool, inspection: Inspection, look: Look) -> Checked:
        """Prefixes and the caller's own member, which is given back with its place."""
        cuts = inspection.cuts()
        if not cuts:
            return Checked(inspection)
        echo = await self._run(_read_echo, spool, inspection)
        await self._run(spool.replace, cuts)
        return Checked(await self._run(_inspect, spool, look), echo)

    async def _complete(self, spool: Spool, checked: Checked, member: bytes, look: Look) -> Checked:
        """With a member that the vendor leaves out; without it if the disk has no room for a longer reply."""
        before = spool.size
        try:
            await self._run(_add, spool, member)
        except StoreError:
            return checked
        echo = checked.echo and (checked.echo[0] + spool.size - before, checked.echo[1])
        return Checked(await self._run(_inspect, spool, look), echo, is_amended=True)

    async def _fetch(self, links: Sequence[Link], room: Room, upstream_base_url: str) -> list[Picture]:
        """The pictures that could be had in time."""
        pictures: list[Picture] = []
        waiting = iter(links)
        try:
            async with asyncio.timeout(self._links_seconds), asyncio.TaskGroup() as group:
                for _ in range(LINKS_AT_ONCE):
                    group.create_task(self._fetch_in_turn(waiting, pictures, room, upstream_base_url))
        except TimeoutError:
            pass  # the others pass through as addresses
        except BaseException:
            _discard(pictures)
            raise
        return pictures

    async def _fetch_in_turn(
        self, waiting: Iterator[Link], pictures: list[Picture], room: Room, upstream_base_url: str
    ) -> None:
        for link in waiting:
            try:
                pictures.append((link, await self._fetcher.fetch(link.url, room, upstream_base_url=upstream_base_url)))
            except NotFetchable:
                pass  # passes through as an address

    async def _put_in(self, spool: Spool, pictures: list[Picture]) -> bool:
        try:
            await self._run(spool.replace, _edits(pictures))
        except StoreError:
            return False  # the disk has no room for them; the reply as it came is still there
        finally:
            _discard(pictures)
        return True

    async def _run(self, work: Callable[..., T], *values: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *values)


def _refuse(spool: Spool, vendor: Vendor) -> None:
    with spool.view() as view:
        document = document_of(view)
    refusal, usage = vendor.refusal_in(document), document.get("usage")
    if refusal is not None:
        status, error = refusal
        raised = UpstreamRefusal(status, json.dumps({"error": error}).encode("ascii"), "application/json", {})
        raised.told_cost = vendor.cost_of(usage) if isinstance(usage, Mapping) else None
        raise raised


def _add(spool: Spool, member: bytes) -> None:
    with spool.view() as view:
        edit = addition(view, member)
    spool.replace([edit])


def _peek(spool: Spool) -> Peek:
    with spool.view() as view:
        return peek(view)


def _inspect(spool: Spool, look: Look) -> Inspection:
    with spool.view() as view:
        try:
            return look(view, spool.scan)
        except UpstreamInvalidResponse as error:
            # The traceback holds the frames, and those hold views into a file that is about to be unmapped.
            failure = error.again()
    raise failure


def _read_echo(spool: Spool, inspection: Inspection) -> tuple[int, bytes] | None:
    if inspection.echo is None:
        return None
    start, stop = inspection.echo
    with spool.view() as view:
        return shifted(start, inspection.cuts()), bytes(view[start:stop])


@dataclass(frozen=True, slots=True)
class _Insertion:
    start: int
    stop: int
    replacement: bytes | Spool = b""


def _edits(pictures: Sequence[Picture]) -> list[_Insertion]:
    """What turns items that came as addresses into items with `b64_json`."""
    edits: list[_Insertion] = []
    for link, text in pictures:
        start, stop = link.replace
        edits += (_Insertion(start, stop, b'"b64_json":"'), _Insertion(stop, stop, text), _Insertion(stop, stop, b'"'))
        if link.cut is not None:
            edits.append(_Insertion(*link.cut))
    return sorted(edits, key=lambda edit: edit.start)


def _discard(pictures: Sequence[Picture]) -> None:
    for _, text in pictures:
        text.discard()

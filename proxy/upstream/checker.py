"""Checks a received reply whole, and makes it fit to be stored, before anybody is told."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from proxy.errors import UpstreamInvalidResponse
from proxy.reply import Edit, Inspection, inspect, shifted
from proxy.spool import Spool
from proxy.upstream.links import NotFetchable, fetch_base64
from proxy.upstream.wire import Wire

T = TypeVar("T")

FETCHES = 2
"""Pictures fetched from addresses at once: each may hold three times its 50 MB for a moment."""


class Checker:
    """`executor` is where replies are parsed: its size bounds how many at once, and so their memory."""

    def __init__(self, executor: Executor, wire: Wire) -> None:
        self._executor = executor
        self._wire = wire
        self._fetches = asyncio.Semaphore(FETCHES)

    async def check(self, spool: Spool, *, upstream_base_url: str) -> tuple[Inspection, tuple[int, bytes] | None]:
        """What stands where in the body, once it is fit to be stored; and the caller's own member that was cut from it.

        Addresses are replaced by the pictures behind them, where those may be fetched; prefixes and the caller's
        `safety_identifier` are cut. Raises UpstreamInvalidResponse.
        """
        inspection = await self._run(_inspect, spool)
        if inspection.links:
            inspection = await self._resolve(spool, inspection, upstream_base_url)
        cuts = inspection.cuts()
        if not cuts:
            return inspection, None
        echo = await self._run(_read_echo, spool, inspection)
        await self._run(spool.replace, cuts)
        return await self._run(_inspect, spool), echo

    async def _resolve(self, spool: Spool, inspection: Inspection, upstream_base_url: str) -> Inspection:
        edits: list[Edit] = []
        async with self._fetches:
            for link in inspection.links:
                try:
                    text = await fetch_base64(self._wire, link.url, upstream_base_url=upstream_base_url)
                except NotFetchable:
                    continue
                edits.extend(link.edits(text))
            if not edits:
                return inspection
            await self._run(spool.replace, tuple(edits))
        return await self._run(_inspect, spool)

    async def _run(self, work: Callable[..., T], *values: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *values)


def _inspect(spool: Spool) -> Inspection:
    with spool.view() as view:
        try:
            return inspect(view)
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

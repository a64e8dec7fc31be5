"""The checker: pictures behind addresses are put into the reply, those that come in time and fit."""

import asyncio
import base64
import json
import tracemalloc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy import vendors
from proxy.reply import Inspection
from proxy.spool import Spool, Spools
from proxy.upstream.checker import LINKS_AT_ONCE, Checker
from proxy.upstream.wire import Wire
from tests.support import faulty
from tests.support.door import content
from tests.support.faulty import FaultyUpstream
from tests.support.images import picture

pytestmark = pytest.mark.anyio

PLENTY = 100_000_000


def base64_of(seed: str, size: int = 300) -> str:
    return base64.b64encode(picture(seed, size=size)).decode()


@dataclass
class Bench:
    """A checker, and what it is given."""

    checker: Checker
    spools: Spools
    directory: Path

    async def spooled(self, body: bytes) -> Spool:
        spool = self.spools.open()
        await spool.write(body)
        await spool.finish()
        return spool

    async def check(self, upstream: FaultyUpstream, *data: Any, limit: int = PLENTY) -> tuple[Any, Inspection]:
        """The checked reply, and what stands where in it."""
        spool = await self.spooled(json.dumps({"data": data}).encode())
        try:
            inspection = await self.judged(spool, upstream, limit)
            return json.loads(content(spool))["data"], inspection
        finally:
            spool.discard()

    async def judged(self, spool: Spool, upstream: FaultyUpstream, limit: int = PLENTY) -> Inspection:
        url = upstream.base_url
        return (
            await self.checker.check(spool, vendors.of("openai"), 0.0, upstream_base_url=url, limit_bytes=limit)
        ).inspection

    def files(self) -> list[Path]:
        return list(self.directory.glob("tmp/*"))


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire(tcp_keepalive_seconds=30)


@asynccontextmanager
async def bench(wire: Wire, directory: Path, **bounds: Any) -> AsyncIterator[Bench]:
    with ThreadPoolExecutor(2) as executor:
        spools = Spools(directory, executor, "instance")
        yield Bench(Checker(executor, wire, spools, **bounds), spools, directory)


async def test_every_item_gets_the_picture_behind_its_own_address(wire: Wire, tmp_path: Path) -> None:
    """The first to be asked for answers last; members stand before, behind and between."""
    gate = asyncio.Event()
    async with FaultyUpstream() as upstream, bench(wire, tmp_path) as here:
        upstream.play(faulty.held(gate, faulty.replied(picture("0"))))
        upstream.play(*(faulty.replied(picture(str(number), size=300_000 + number)) for number in range(1, 4)))
        task = asyncio.create_task(
            here.check(
                upstream,
                {"url": f"{upstream.base_url}/0", "b64_json": None, "revised_prompt": "a"},
                {"revised_prompt": "b", "b64_json": None, "url": f"{upstream.base_url}/1"},
                {"b64_json": base64_of("inline")},
                {"url": f"{upstream.base_url}/2", "b64_json": ""},
                {"url": f"{upstream.base_url}/3"},
            )
        )
        await upstream.heard_calls(4)
        gate.set()
        data, inspection = await task
        numbers = {heard.target[-1]: number for number, heard in enumerate(upstream.heard)}
        size = {number: 300 if number == 0 else 300_000 + number for number in range(4)}
        texts = [base64_of(str(numbers[at]), size[numbers[at]]) for at in "0123"]
        assert data == [
            {"b64_json": texts[0], "revised_prompt": "a"},
            {"revised_prompt": "b", "b64_json": texts[1]},
            {"b64_json": base64_of("inline")},
            {"b64_json": texts[2]},
            {"b64_json": texts[3]},
        ]
        assert (len(inspection.images), inspection.links, here.files()) == (5, (), [])


async def test_a_slow_host_stops_nobody_elses_pictures(wire: Wire, tmp_path: Path) -> None:
    async with FaultyUpstream() as slow, FaultyUpstream() as quick, bench(wire, tmp_path) as here:
        slow.always(faulty.silent())
        quick.always(faulty.replied(picture("quick")))
        links = [{"url": f"{slow.base_url}/{number}"} for number in range(10)]
        waiting = [asyncio.create_task(here.check(slow, *links)) for _ in range(8)]
        await slow.heard_calls(8 * LINKS_AT_ONCE)
        async with asyncio.timeout(10):
            data, _ = await here.check(quick, {"url": quick.base_url + "/a"})
        assert data == [{"b64_json": base64_of("quick")}]
        assert slow.calls == 8 * LINKS_AT_ONCE, "so many of one reply at once, and not more"
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert here.files() == []


async def test_what_is_not_there_in_time_passes_through_as_an_address(wire: Wire, tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, bench(wire, tmp_path, links_seconds=0.3) as here:
        upstream.play(faulty.replied(picture("a")), faulty.silent())
        upstream.always(faulty.replied(picture("a")))
        links = [{"url": f"{upstream.base_url}/{number}"} for number in range(6)]
        data, inspection = await here.check(upstream, *links)
        late = [item for item in data if "url" in item]
        assert len(late) == len(inspection.links) == 1
        assert [item for item in data if item not in late] == [{"b64_json": base64_of("a")}] * 5
        assert here.files() == []


async def test_pictures_that_are_too_large_together_pass_through_as_addresses(wire: Wire, tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, bench(wire, tmp_path) as here:
        upstream.always(faulty.replied(picture("a", size=30_000)))
        data, inspection = await here.check(
            upstream, *({"url": f"{upstream.base_url}/{number}"} for number in range(3)), limit=100_000
        )
        assert [len(inspection.images), len(inspection.links)] == [2, 1]
        assert sum("url" in item for item in data) == 1


async def test_large_pictures_take_little_memory(wire: Wire, tmp_path: Path) -> None:
    large = picture("a", size=6_000_000)
    async with FaultyUpstream() as upstream, bench(wire, tmp_path) as here:
        upstream.always(faulty.chunked(large, size=65_536))
        links = [{"url": f"{upstream.base_url}/{number}"} for number in range(8)]
        spool = await here.spooled(json.dumps({"data": links}).encode())
        tracemalloc.start()
        try:
            inspection = await here.judged(spool, upstream)
            assert tracemalloc.get_traced_memory()[1] < 12_000_000, "64 MB were fetched"
        finally:
            tracemalloc.stop()
        assert [image.size for image in inspection.images] == [6_000_000] * 8
        assert len(here.files()) == 1
        spool.discard()


async def test_a_disk_without_room_for_the_pictures_leaves_the_reply_as_it_came(wire: Wire, tmp_path: Path) -> None:
    async with FaultyUpstream() as upstream, bench(wire, tmp_path) as here:
        upstream.always(faulty.replied(picture("a")))
        body = json.dumps({"data": [{"url": upstream.base_url + "/a"}]}).encode()
        spool = await here.spooled(body)
        (file,) = here.files()
        file.with_suffix(".edited.spool").write_text("in the way")
        inspection = await here.judged(spool, upstream)
        assert (len(inspection.links), content(spool)) == (1, body)
        spool.discard()

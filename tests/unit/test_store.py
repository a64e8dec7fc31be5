"""The store as the pipeline sees it: entries go in once, come out exactly, and whatever breaks is only a miss."""

import asyncio
import gc
import os
import random
import resource
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.model import Entry
from proxy.settings import CacheSection
from proxy.spool import Spool
from proxy.store import Store
from proxy.stores.directory import CacheDirectory
from proxy.stores.purges import Purge, PurgeLog
from tests.support.clock import ManualClock
from tests.support.polling import eventually
from tests.support.store import NOW, Bench, Witness, bench, body_of, key, metadata, read

pytestmark = pytest.mark.anyio

LARGE = 700_000


async def test_what_was_committed_is_found(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number, size in ((1, 10), (2, LARGE)):
            entry, stored = await b.put(number, body_of(number, size))
            assert (entry.tier, stored) == ("disk", True)
            assert await read(entry) == body_of(number, size)
            found = await b.store.lookup(key(number))
            assert found is not None and found.metadata == metadata(number)
            assert await read(found) == body_of(number, size)
        assert await b.get(3) is None


async def test_an_entry_enters_memory_at_its_first_hit(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        assert b.store.bytes_in_memory() == 0
        tiers = []
        for _ in range(3):
            found = await b.store.lookup(key(1))
            assert found is not None and await read(found) == body_of(1)
            tiers.append(found.tier)
        assert tiers == ["disk", "memory", "memory"]
        assert b.witness.lookups == {("memory", "miss"): 1, ("disk", "hit"): 1, ("memory", "hit"): 2}


class Sweepless(Store):
    """A store whose sweeps take until they are allowed to end, as those of a million entries do."""

    may_end: asyncio.Event

    async def _sweep(self) -> None:
        await self.may_end.wait()
        await super()._sweep()


async def test_nobody_waits_for_the_sweep_and_purges_are_obeyed_while_it_lasts(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        await b.put(2)
    settings = CacheSection(directory=tmp_path, min_free_bytes=0)
    store = Sweepless(settings, ManualClock(NOW), instance_id="bbbb", observer=Witness())
    store.may_end = asyncio.Event()
    await store.start()
    try:
        assert await store.lookup(key(1)) is not None
        assert store.at_hand(key(1)) is not None
        PurgeLog(tmp_path).append(Purge("key", NOW, key(1)))
        async with asyncio.timeout(5):
            while store.at_hand(key(1)) is not None:
                await asyncio.sleep(0.01)
        assert await store.lookup(key(2)) is not None
        sweeping = asyncio.create_task(store.swept())
        await asyncio.sleep(0)
        assert not sweeping.done()
        store.may_end.set()
        await sweeping
    finally:
        await store.close()


async def test_a_lookup_that_is_not_to_promote_does_not(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        for _ in range(2):
            found = await b.store.lookup(key(1), promote=False)
            assert found is not None and found.tier == "disk"
        assert b.store.bytes_in_memory() == 0


async def test_memory_of_zero_bytes_means_disk_alone(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        for _ in range(3):
            found = await b.store.lookup(key(1))
            assert found is not None and found.tier == "disk"


async def test_an_entry_that_many_ask_for_at_once_is_read_once_and_evicts_no_more_than_it_must(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=20_000) as b:
        for number in range(12):
            await b.put(number)
            await b.get(number)
        assert b.store.entries("memory") == 12
        await b.put(99, body_of(99, 4000))
        found = await asyncio.gather(*(b.store.lookup(key(99)) for _ in range(15)))
        assert {entry.tier for entry in found if entry is not None} == {"disk"}
        assert len({id(entry and entry.body) for entry in found}) == 1
        assert b.store.entries("memory") >= 10
        assert b.witness.lookups["disk", "hit"] == 12 + 15, "each is counted, however it was served"


async def test_who_asked_first_may_leave(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1, body_of(1, LARGE))
        first, second = (asyncio.create_task(b.get(1)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == body_of(1, LARGE)
        assert b.store.entries("memory") == 1


async def test_a_reading_that_fails_when_everybody_has_left_is_nobodys_error(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        os.truncate(b.files()[0], 10)
        only = asyncio.create_task(b.get(1))
        await asyncio.sleep(0)
        only.cancel()
        await asyncio.gather(only, return_exceptions=True)
        async with asyncio.timeout(5):
            while b.witness.evictions["disk", "corrupt"] == 0:
                await asyncio.sleep(0)
        assert await b.get(1) is None
        gc.collect()


async def test_a_hit_in_memory_waits_for_nothing_and_makes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        await b.get(1)
        entries = []
        for _ in range(2):
            with pytest.raises(StopIteration) as done:
                b.store.lookup(key(1)).send(None)
            entries.append(done.value.value)
        assert entries[0] is entries[1] is await b.store.lookup(key(1))


async def test_an_expired_entry_is_returned_for_the_policy_to_judge_and_not_promoted(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        b.clock.advance(90_000)
        for _ in range(2):
            found = await b.store.lookup(key(1))
            assert found is not None and (found.tier, await read(found)) == ("disk", body_of(1))
        assert b.witness.lookups["disk", "stale"] == 2


async def test_a_newer_reply_replaces_the_older_in_both_tiers(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1, b"older")
        await b.get(1)
        await b.put(1, b"newer")
        assert [await b.get(1), await b.get(1)] == [b"newer", b"newer"]
        assert (len(b.files()), b.store.entries()) == (1, 1)


async def test_a_lookup_that_began_before_a_replacement_does_not_bring_the_older_back(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(30):
            await b.put(number, b"older" * 1000)
            results = await asyncio.gather(b.get(number), b.put(number, b"newer" * 1000), b.get(number))
            assert {results[0], results[2]} <= {b"older" * 1000, b"newer" * 1000}
            assert await b.get(number) == b"newer" * 1000


async def test_entries_survive_a_restart(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with bench(tmp_path, clock=clock) as b:
        for number in range(5):
            await b.put(number)
    async with bench(tmp_path, clock=clock, instance_id="bbbb") as b:
        assert [await b.get(number) for number in range(5)] == [body_of(number) for number in range(5)]
        assert (b.store.entries(), b.store.bytes_on_disk()) == (5, sum(file.stat().st_size for file in b.files()))


async def test_two_stores_share_a_directory(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with bench(tmp_path, clock=clock) as one, bench(tmp_path, clock=clock, instance_id="bbbb") as two:
        await asyncio.gather(*(b.put(number) for number in range(20) for b in (one, two)))
        for b in (one, two):
            assert [await b.get(number) for number in range(20)] == [body_of(number) for number in range(20)]
        assert len(one.files()) == 20


async def test_a_reply_that_is_only_delivered_leaves_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        spool = b.store.spools.open()
        await spool.write(body_of(1, LARGE))
        entry = await b.store.keep(spool, metadata(1))
        before = len(os.listdir("/proc/self/fd"))
        assert (b.spools(), b.files(), entry.tier) == ([], [], "none")
        assert await read(entry) == body_of(1, LARGE)
        del entry
        async with asyncio.timeout(5):
            while len(os.listdir("/proc/self/fd")) != before - 1:
                await asyncio.sleep(0)
        assert await b.get(1) is None


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(0)
        await b.get(0)
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(20):
            entry, _ = await b.put(number, body_of(number, LARGE))
            await read(entry)
            del entry
            await b.get(number, promote=number % 2 == 0)
        assert b.spools() == []
        async with asyncio.timeout(5):
            # A worker thread may hold on to its last job for a moment; it may have done so when we counted first.
            while len(os.listdir("/proc/self/fd")) > before:
                await asyncio.sleep(0)


async def test_everything_is_private(tmp_path: Path) -> None:
    async with bench(tmp_path / "cache") as b:
        await b.put(1, body_of(1, LARGE))
        spool = b.store.spools.open()
        await spool.write(body_of(1, LARGE))
        CacheDirectory(b.directory).purge(Purge("model", NOW, "none"))
        for path in [b.directory, *b.directory.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        spool.discard()


async def test_what_is_too_open_is_closed_at_start(tmp_path: Path) -> None:
    async with bench(tmp_path / "cache") as b:
        await b.put(1)
    b.directory.chmod(0o755)
    (b.directory / "cache.db").chmod(0o644)
    async with bench(tmp_path / "cache") as b:
        assert stat.S_IMODE(b.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((b.directory / "cache.db").stat().st_mode) == 0o600
        assert await b.get(1) == body_of(1)


# --- limits -----------------------------------------------------------------------------------------------------------


def on_disk(b: Bench) -> int:
    return sum(file.stat().st_size for file in b.files())


async def test_the_least_recently_used_entry_goes_first(tmp_path: Path) -> None:
    async with bench(tmp_path, max_bytes=5000, memory_bytes=0) as b:
        for number in (1, 2, 3):
            await b.put(number)
            b.clock.advance(10)
        b.clock.advance(4000)
        await b.get(1)
        await b.store.tend()  # the note of that use is written behind the lookup
        b.clock.advance(10)
        await b.put(4)
        assert [await b.get(number) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]
        assert b.witness.evictions == {("disk", "size"): 1}


async def test_a_use_in_memory_counts_for_the_disk_too(tmp_path: Path) -> None:
    async with bench(tmp_path, max_bytes=5000) as b:
        await b.put(1)
        await b.get(1)
        for number in (2, 3):
            b.clock.advance(10)
            await b.put(number)
        b.clock.advance(4000)
        found = await b.store.lookup(key(1))
        assert found is not None and found.tier == "memory"
        await b.store.tend()
        await b.put(4)
        assert b.sql("SELECT COUNT(*) FROM Cache WHERE key = ?", key(1)) == [(1,)]


async def test_expired_entries_go_before_used_ones(tmp_path: Path) -> None:
    async with bench(tmp_path, max_bytes=5000, memory_bytes=0) as b:
        await b.put(1)
        b.clock.advance(10)
        await b.put(2, expires_at=b.clock.wall() + 5)
        b.clock.advance(10)
        await b.put(3)
        await b.put(4)
        assert [await b.get(number) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]
        assert b.witness.evictions == {("disk", "ttl"): 1}


async def test_uses_in_the_future_make_nobody_immortal(tmp_path: Path) -> None:
    async with bench(tmp_path, max_bytes=5000, memory_bytes=0) as b:
        b.clock.jump(10 * 365 * 86_400)
        await b.put(1, expires_at=NOW * 2)
        b.clock.jump(-10 * 365 * 86_400)
        for number in range(2, 12):
            b.clock.advance(10)
            await b.put(number, expires_at=NOW * 2)
        assert await b.get(1) is None
        assert on_disk(b) <= 5000


async def test_an_entry_larger_than_the_limit_is_delivered_and_not_stored(tmp_path: Path) -> None:
    async with bench(tmp_path, max_bytes=5000) as b:
        await b.put(1)
        entry, stored = await b.put(2, body_of(2, 6000))
        assert (entry.tier, stored, await read(entry)) == ("none", False, body_of(2, 6000))
        assert (await b.get(1), await b.get(2)) == (body_of(1), None)
        assert (b.spools(), len(b.files())) == ([], 1)
        assert b.is_well()


async def test_an_entry_as_large_as_the_limit_can_be_replaced(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        size = on_disk(b)
    async with bench(tmp_path, memory_bytes=0, max_bytes=size) as b:
        assert (await b.put(1, body_of(7)))[1]
        assert await b.get(1) == body_of(7)


@pytest.mark.parametrize("seed", range(4))
async def test_the_limit_holds_to_the_byte(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    limit = 60_000
    async with bench(tmp_path, max_bytes=limit, memory_bytes=rng.choice([0, 20_000])) as b:
        stored: dict[int, int] = {}
        for _ in range(12):
            batch = {rng.randrange(30): rng.randrange(1, 20_000) for _ in range(rng.randrange(1, 6))}
            await asyncio.gather(*(b.put(number, body_of(number, size)) for number, size in batch.items()))
            stored.update(batch)
            b.clock.advance(rng.randrange(5000))
            assert on_disk(b) <= limit
            assert b.store.bytes_on_disk() == on_disk(b) == b.sql("SELECT SUM(size) FROM Cache")[0][0]
            assert b.store.bytes_in_memory() <= 20_000
            for number, size in stored.items():
                assert await b.get(number) in (None, body_of(number, size))
        assert b.store.entries() > 2


async def test_when_the_disk_has_too_little_room_for_others_the_cache_yields(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
    free = os.statvfs(tmp_path)
    async with bench(tmp_path, memory_bytes=0, min_free_bytes=free.f_blocks * free.f_frsize) as b:
        entry, stored = await b.put(2)
        assert (stored, await read(entry)) == (False, body_of(2))
        assert await b.get(1) == body_of(1), "what could not reach the floor anyway is not thrown away for it"
        assert b.store.degraded == ("less free space than cache.min_free_bytes asks for",)


# --- purges -----------------------------------------------------------------------------------------------------------


async def test_a_purge_by_another_process_reaches_memory(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in (1, 2):
            await b.put(number, model=f"model-{number}")
            await b.get(number)
        assert CacheDirectory(tmp_path).purge(Purge("model", NOW, "model-1")) == 1
        await b.store.poll()
        assert (await b.get(1), await b.get(2)) == (None, body_of(2))
        assert b.witness.evictions["memory", "manual"] == 1


@pytest.mark.parametrize(
    "purge",
    [
        Purge("key", NOW, key(1)),
        Purge("key", NOW, key(1)[:63]),
        Purge("model", NOW, "gpt-image-2"),
        Purge("scope", NOW, "5c09e"),
        Purge("older_than", NOW, before=NOW + 1),
        Purge("all", NOW),
    ],
)
async def test_a_flight_begun_before_a_purge_is_delivered_and_not_stored(tmp_path: Path, purge: Purge) -> None:
    async with bench(tmp_path) as b:
        epoch = b.store.epoch()
        PurgeLog(tmp_path).append(purge)
        spool = b.store.spools.open()
        await spool.write(body_of(1))
        entry, stored = await b.store.commit(spool, metadata(1), begun_epoch=epoch)
        assert (entry.tier, stored, await read(entry)) == ("none", False, body_of(1))
        assert await b.get(1) is None
        assert (b.files(), b.spools()) == ([], [])


async def test_a_flight_begun_after_a_purge_is_stored(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(3):
            PurgeLog(tmp_path).append(Purge("all", NOW))
            assert (await b.put(number))[1], "epoch() sees a purge the moment it is recorded"
            assert await b.get(number) == body_of(number)


async def test_a_purge_of_others_does_not_concern_a_flight(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        epoch = b.store.epoch()
        for purge in (Purge("key", NOW, "f"), Purge("model", NOW, "x"), Purge("older_than", NOW, before=NOW)):
            PurgeLog(tmp_path).append(purge)
        spool = b.store.spools.open()
        await spool.write(body_of(1))
        assert (await b.store.commit(spool, metadata(1), begun_epoch=epoch))[1]


async def test_an_entry_purged_while_it_is_read_from_disk_does_not_enter_memory(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(20):
            await b.put(number)

            async def purge(number: int) -> None:
                await asyncio.to_thread(CacheDirectory(tmp_path).purge, Purge("key", NOW, key(number)))
                await b.store.poll()

            await asyncio.gather(b.get(number), purge(number))
            assert await b.get(number) is None


async def test_an_entry_read_between_the_record_of_a_purge_and_its_deletion_leaves_memory_too(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        await b.get(1)
        before = b.store.epoch()
        with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            purger = asyncio.create_task(asyncio.to_thread(CacheDirectory(tmp_path).purge, Purge("all", NOW)))
            async with asyncio.timeout(4):
                while b.store.epoch() == before:
                    await asyncio.sleep(0)
            assert b.store.entries("memory") == 0
            assert await b.get(1) == body_of(1), "its row is still there"
            holder.execute("ROLLBACK")
        assert await purger == 1
        await b.store.poll()
        assert await b.get(1) is None


async def test_a_flight_begun_while_a_purge_was_carried_out_is_stored(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        purge = Purge("all", NOW)
        PurgeLog(tmp_path).append(purge)
        epoch = b.store.epoch()
        PurgeLog(tmp_path).append(replace(purge, enacted=True))
        spool = b.store.spools.open()
        await spool.write(body_of(1))
        assert (await b.store.commit(spool, metadata(1), begun_epoch=epoch))[1]


async def test_a_purge_and_a_commit_at_the_same_time_leave_nothing_that_was_begun_before(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(20):
            epoch = b.store.epoch()
            spool = b.store.spools.open()
            await spool.write(body_of(number))
            await asyncio.gather(
                b.store.commit(spool, metadata(number), begun_epoch=epoch),
                asyncio.to_thread(CacheDirectory(tmp_path).purge, Purge("all", NOW)),
            )
            assert await b.get(number) is None


async def test_a_log_that_was_cut_or_garbled_purges_memory_to_be_safe(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        PurgeLog(tmp_path).append(Purge("key", NOW, "f"))
        await b.put(1)
        await b.get(1)
        await b.store.poll()
        assert b.store.bytes_in_memory() > 0
        (tmp_path / "purges.jsonl").write_text("")
        await b.store.poll()
        assert b.store.bytes_in_memory() == 0
        await b.get(1)
        (tmp_path / "purges.jsonl").write_text("\nnonsense\n")
        await b.store.poll()
        assert b.store.bytes_in_memory() == 0
        assert await b.get(1) == body_of(1)


async def test_a_running_store_polls_by_itself(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        await b.get(1)
        PurgeLog(tmp_path).append(Purge("all", NOW))
        async with asyncio.timeout(5):
            while b.store.bytes_in_memory():
                await asyncio.sleep(0.01)


# --- memory as the last resort ----------------------------------------------------------------------------------------


def block(directory: Path) -> None:
    """Take the directory away and put a file in its place: nothing can be opened or written any more."""
    directory.rename(directory.with_name("away"))
    directory.write_text("in the way")


def unblock(directory: Path) -> None:
    directory.unlink()
    directory.with_name("away").rename(directory)


async def test_a_reply_the_disk_refuses_stays_in_memory(tmp_path: Path) -> None:
    async with bench(tmp_path / "cache") as b:
        await b.put(1)
        block(b.directory)
        entry, stored = await b.put(2)
        assert (entry.tier, stored, await read(entry)) == ("memory", True, body_of(2))
        assert await b.get(2) == body_of(2)
        assert b.witness.refusals == {"disk": 1}
        await b.store.tend()
        assert not b.is_well()
        unblock(b.directory)
        await b.store.tend()
        assert b.is_well()
        assert await b.get(1) == body_of(1)
        assert (await b.put(3))[0].tier == "disk"


async def test_a_reply_that_neither_tier_takes_is_still_delivered(tmp_path: Path) -> None:
    async with bench(tmp_path / "cache", memory_bytes=100) as b:
        block(b.directory)
        entry, stored = await b.put(1)
        assert (entry.tier, stored, await read(entry)) == ("none", False, body_of(1))
        assert await b.get(1) is None
        unblock(b.directory)


async def test_memory_that_the_system_does_not_give_costs_no_answer(tmp_path: Path) -> None:
    size = 64_000_000
    async with bench(tmp_path / "cache", memory_bytes=10 * size) as b:
        await b.store.commit(await received(b, size), metadata(1), begun_epoch=b.store.epoch())
        await b.store.lookup(key(1), promote=False)
        spool = await received(b, size)
        block(b.directory)
        with little_memory(size // 2):
            refused, stored = await b.store.commit(spool, metadata(2), begun_epoch=b.store.epoch())
        assert (refused.tier, stored) == ("none", False)
        unblock(b.directory)
        await b.store.tend()
        with little_memory(size // 2):
            found = await b.store.lookup(key(1))
        assert found is not None and found.tier == "disk"
        assert (b.store.entries("memory"), b.store.bytes_in_memory()) == (0, 0)


async def received(b: Bench, size: int) -> Spool:
    """A reply that came in small parts: nobody holds the whole of it in memory that would soon be free again."""
    spool = b.store.spools.open()
    for _ in range(size // 500_000):
        await spool.write(bytes(500_000))
    await spool.finish()
    return spool


@contextmanager
def little_memory(more_bytes: int) -> Iterator[None]:
    """The process gets no more than that, on top of what it has."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


async def test_a_store_that_cannot_open_its_directory_serves_and_recovers(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    async with bench(tmp_path / "cache") as b:
        assert not b.is_well()
        assert (await b.put(1))[0].tier == "memory"
        assert await b.get(1) == body_of(1)
        b.directory.unlink()
        await b.store.tend()
        assert b.is_well()
        assert (await b.put(2))[0].tier == "disk"


async def test_a_purge_reaches_what_only_memory_holds(tmp_path: Path) -> None:
    async with bench(tmp_path / "cache") as b:
        epoch = b.store.epoch()
        PurgeLog(b.directory).append(Purge("all", NOW))
        (b.directory / "tmp").write_text("in the way")
        spool = b.store.spools.open()
        await spool.write(body_of(1))
        b.store.epoch()
        assert (await b.store.commit(spool, metadata(1), begun_epoch=epoch))[1] is False


async def test_slow_readers_of_evicted_entries_do_not_lift_the_limit(tmp_path: Path) -> None:
    limit = 5000
    async with bench(tmp_path, memory_bytes=limit) as b:
        readers: list[Entry] = []
        for number in range(20):
            await b.put(number)
            await b.get(number)
            found = await b.store.lookup(key(number))
            assert found is not None
            readers.append(found)
            assert b.store.bytes_in_memory() <= limit
        assert sum(entry.tier == "memory" for entry in readers) in (2, 3, 4)
        for number, entry in enumerate(readers):
            assert await read(entry) == body_of(number)


async def test_an_emptied_directory_is_begun_anew(tmp_path: Path) -> None:
    async with bench(tmp_path / "cache", memory_bytes=0) as b:
        await b.put(1)
        b.directory.rename(tmp_path / "gone")
        await b.store.tend()
        assert b.is_well()
        assert await b.get(1) is None
        assert (await b.put(2))[0].tier == "disk"
        assert await b.get(2) == body_of(2)


async def test_gauges_tell_what_is_there(tmp_path: Path) -> None:
    async with bench(tmp_path, max_bytes=10**6) as b:
        await b.put(1)
        await b.get(1)
        assert b.store.entries() == b.store.entries("memory") == 1
        assert b.store.bytes_on_disk() == on_disk(b)
        assert b.store.bytes_in_memory() > 1000
        assert (b.store.capacity(), b.store.capacity("memory")) == (10**6, 10_000_000)


async def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.store.close()


async def test_a_closed_store_has_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        await b.store.close()
        assert await b.get(1) is None


async def test_a_damaged_entry_leaves_its_memory_and_its_descriptor_at_once(tmp_path: Path) -> None:
    """Not when the garbage collector comes by: the failure must hold none of the frames that read it."""
    async with bench(tmp_path) as b:
        await b.put(1, body_of(1, 700_000))
        (file,) = b.files()
        damaged = bytearray(file.read_bytes())
        damaged[5000] ^= 1
        file.write_bytes(damaged)
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        gc.disable()
        try:
            assert await b.store.lookup(key(1)) is None
            await asyncio.sleep(0)
            # The thread that read it may be about to let go.
            eventually(lambda: b.store.bytes_in_memory() == 0, what="the memory")
            eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, what="the descriptor")
        finally:
            gc.enable()

"""The disk tier against every hazard of its medium: each is a miss or a recovery, never a wrong byte, never an error."""

import os
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diskcache
import pytest

from proxy.errors import StoreError
from proxy.stores.directory import CacheDirectory
from proxy.stores.disk import DiskTier
from proxy.stores.eviction import Limits
from proxy.stores.files import PrivateFile
from proxy.stores.index import Index
from proxy.stores.purges import Purge, PurgeLog
from tests.support.clock import ManualClock
from tests.support.store import NOW, Bench, Witness, bench, body_of, key, metadata, tamper

pytestmark = pytest.mark.anyio

ENTRIES = 40


# --- rows that somebody else wrote ------------------------------------------------------------------------------------


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


POISON = {
    "a pickle": ("UPDATE Cache SET mode = 4, value = ?, filename = NULL", "bomb"),
    "a pickled file": ("UPDATE Cache SET mode = 4", None),
    "a raw value": ("UPDATE Cache SET mode = 1, value = ?, filename = NULL", "bomb"),
    "text": ("UPDATE Cache SET mode = 3", None),
    "a path upwards": ("UPDATE Cache SET filename = '../secret.txt'", None),
    "a path through a folder": ("UPDATE Cache SET filename = '00/../../secret.txt'", None),
    "an absolute path": ("UPDATE Cache SET filename = '/etc/hostname'", None),
    "a path with a line end": ("UPDATE Cache SET filename = filename || char(10)", None),
    "no path": ("UPDATE Cache SET filename = NULL", None),
    "a path of bytes": ("UPDATE Cache SET filename = CAST(filename AS BLOB)", None),
    "a tag that is no JSON": ("UPDATE Cache SET tag = 'x'", None),
    "no tag": ("UPDATE Cache SET tag = NULL", None),
    "times that are no numbers": ("UPDATE Cache SET store_time = 'now', expire_time = 'later'", None),
    "a size that is no number": ("UPDATE Cache SET size = 'large'", None),
    "a tag that is no text": ("UPDATE Cache SET tag = CAST(x'7bff7d' AS TEXT)", None),
    "a path that is no text": ("UPDATE Cache SET filename = CAST(x'ff' AS TEXT)", None),
    "a key that is no text": ("UPDATE Cache SET key = CAST(x'ff' AS TEXT)", None),
    "a key that is no digest": ("UPDATE Cache SET key = 'x'", None),
}


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("running", [True, False])
async def test_a_row_that_is_not_ours_is_a_miss_and_is_deleted(tmp_path: Path, poison: str, running: bool) -> None:
    directory, bomb = tmp_path / "cache", tmp_path / "exploded"
    (tmp_path / "secret.txt").write_text("not for callers")
    statement, what = POISON[poison]
    values = [pickle.dumps(Bomb(bomb))] if what else []
    async with bench(directory) as b:
        await b.put(1)
        if running:
            b.sql(statement, *values)
            assert await b.get(1) is None
    if not running:
        tamper(directory, statement, *values)
    async with bench(directory) as b:
        assert await b.get(1) in (None, body_of(1))
        await b.store.tend(sweep=True)
        assert not [row for row in b.sql("SELECT mode, raw FROM Cache") if row != (2, 1)]
        assert (await b.put(2))[1] and await b.get(2) == body_of(2)
        assert b.is_well()
    assert not bomb.exists()
    assert (tmp_path / "secret.txt").exists()


@pytest.mark.parametrize("poison", [name for name in POISON if "text" in name])
async def test_a_row_that_cannot_be_read_costs_no_other_entry(tmp_path: Path, poison: str) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        for number in (1, 2):
            await b.put(number)
        b.sql(f"{POISON[poison][0]} WHERE key = ?", key(1))
        assert await b.get(1) is None
        await b.store.tend(sweep=True)
        assert b.is_well()
        assert await b.get(2) == body_of(2)
        assert b.sql("SELECT COUNT(*) FROM Cache") == [(1,)]


@pytest.mark.parametrize("path", ["../secret.txt", "tmp/../../secret.txt"])
async def test_replacing_a_row_that_is_not_ours_unlinks_nothing_that_is_not_ours(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.txt").write_text("not for callers")
    async with bench(tmp_path / "cache") as b:
        await b.put(1)
        b.sql("UPDATE Cache SET filename = ?", path)
        assert (await b.put(1))[1]
        assert await b.get(1) == body_of(1)
    assert (tmp_path / "secret.txt").exists()


async def test_a_pickled_key_is_never_unpickled(tmp_path: Path) -> None:
    directory, bomb = tmp_path / "cache", tmp_path / "exploded"
    async with bench(directory) as b:
        await b.put(1)
        b.sql(
            "INSERT INTO Cache (key, raw, store_time, access_time, tag, size, mode, filename)"
            " SELECT ?, 0, store_time, access_time, tag, size, mode, filename FROM Cache",
            pickle.dumps(Bomb(bomb)),
        )
        await b.store.tend(sweep=True)
        assert await b.get(1) == body_of(1)
    async with bench(directory) as b:
        assert await b.get(1) == body_of(1)
        assert b.sql("SELECT COUNT(*) FROM Cache") == [(1,)]
    assert not bomb.exists()


async def test_diskcaches_own_methods_refuse_what_is_not_ours(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1, expires_at=NOW * 2)
        with closing(Index(tmp_path)) as index:
            refused: tuple[tuple[object, ...], ...] = (
                (key(2), b"x"),
                (b"x", b"x"),
                (("a", "tuple"), 1),
                ("not hex", b""),
            )
            for name, value in refused:
                with pytest.raises(StoreError):
                    index.set(name, value)
            b.sql("UPDATE Cache SET mode = 4, value = x'80', filename = NULL")
            with pytest.raises(StoreError):
                index.get(key(1))


async def test_settings_rows_are_not_obeyed(tmp_path: Path) -> None:
    poison = {
        "disk_min_file_size": "junk",
        "disk_evil": 1,
        "sqlite_mmap_size": 2**30,
        "sqlite_journal_mode": "delete",
        "sqlite_user_version = 7; --": 1,
        "sqlite_synchronous": 0,
        "cull_limit": 10,
        "size_limit": 1,
        "eviction_policy": "least-recently-used; DROP TABLE Cache",
        "statistics": 1,
        "find": "overwritten",
        "_disk": "overwritten",
        "count": 10**9,
        "size": 10**12,
    }
    async with bench(tmp_path) as b:
        for number in range(5):
            await b.put(number)
    for name, value in poison.items():
        tamper(tmp_path, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", name, value)
    tamper(tmp_path, "INSERT OR REPLACE INTO Settings VALUES (x'00', 1)")
    async with bench(tmp_path) as b:
        assert [await b.get(number) for number in range(5)] == [body_of(number) for number in range(5)]
        assert (b.store.entries(), b.is_well()) == (5, True)
        assert b.store.bytes_on_disk() == sum(file.stat().st_size for file in b.files())
        assert b.sql("PRAGMA user_version") == [(0,)]
        assert b.sql("PRAGMA journal_mode") == [("wal",)]
        settings = dict(b.sql("SELECT key, value FROM Settings"))
        assert not {"disk_evil", "find", "_disk", b"\0"} & set(settings)
        assert (settings["sqlite_mmap_size"], settings["cull_limit"]) == (0, 0)
        # And again while we are running: a new connection reads them too.
        b.sql("INSERT OR REPLACE INTO Settings VALUES ('sqlite_user_version', 8)")
        await b.put(6)
        assert b.sql("PRAGMA user_version") == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW Evil AS SELECT * FROM Cache",
        "CREATE TRIGGER Evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END",
        "CREATE TABLE Evil (x)",
        "DROP TABLE Settings",
        "DROP TABLE Cache",
        "ALTER TABLE Cache RENAME COLUMN filename TO elsewhere",
    ],
)
async def test_an_index_with_a_strange_schema_is_put_aside(tmp_path: Path, statement: str) -> None:
    async with bench(tmp_path) as b:
        for number in range(5):
            await b.put(number)
    tamper(tmp_path, statement)
    async with bench(tmp_path) as b:
        await b.get(0)
        assert [await b.get(number) for number in range(5)] == [body_of(number) for number in range(5)]
        assert (await b.put(6))[1]
        await b.store.tend()
        assert b.is_well()


# --- files that are not what they were --------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip(at: float) -> Callable[[Path], None]:
    def flipped(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int((len(content) - 1) * at)] ^= 1
        file.write_bytes(content)

    return flipped


def lengthen(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def link_elsewhere(file: Path) -> None:
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


def put_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def put_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


HARM: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "emptied": empty,
    "flipped at the start": flip(0),
    "flipped in the body": flip(0.3),
    "flipped in the header": flip(0.95),
    "flipped at the end": flip(1),
    "lengthened": lengthen,
    "missing": Path.unlink,
    "a link": link_elsewhere,
    "a pipe": put_a_pipe,
    "a folder": put_a_folder,
}


@pytest.mark.parametrize("harm", HARM)
async def test_a_damaged_file_is_a_miss_counted_and_deleted(tmp_path: Path, harm: str) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        (file,) = b.files()
        HARM[harm](file)
        assert await b.get(1) is None
        assert b.witness.lookups["disk", "error"] == 1
        assert b.witness.evictions == {("disk", "corrupt"): 1}
        assert await b.get(1) is None
        assert b.witness.lookups["disk", "miss"] == 1
        assert b.sql("SELECT COUNT(*) FROM Cache") == [(0,)]
        assert (await b.put(1))[1]
        assert await b.get(1) == body_of(1)
        assert b.is_well()


@pytest.mark.parametrize("harm", HARM)
async def test_a_damaged_file_is_found_by_verifying_and_keeps_it_from_no_other(tmp_path: Path, harm: str) -> None:
    async with bench(tmp_path) as b:
        for number in (1, 2):
            await b.put(number)
        ((path,),) = b.sql("SELECT filename FROM Cache WHERE key = ?", key(1))
        HARM[harm](tmp_path / path)
        found = CacheDirectory(tmp_path).verify(delete=True)
        assert (found.sound, found.damaged + found.missing) == (1, (key(1),))
        assert CacheDirectory(tmp_path).verify().passed
        assert (await b.get(1), await b.get(2)) == (None, body_of(2))


async def test_the_file_of_another_entry_is_never_served(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in (1, 2):
            await b.put(number)
        one, two = b.files()
        one.write_bytes(two.read_bytes())
        bodies = [await b.get(1), await b.get(2)]
        assert sorted(bodies, key=lambda body: body is None) in ([body_of(1), None], [body_of(2), None])
        assert bodies[0] in (None, body_of(1)) and bodies[1] in (None, body_of(2))


async def test_a_file_that_is_cut_while_it_is_served_is_an_error_for_the_reader_and_not_a_signal(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as b:
        entry, _ = await b.put(1, body_of(1, 1_000_000))
        assert await entry.body.window(0, 1000) == body_of(1, 1000)
        os.truncate(b.files()[0], 5000)
        with pytest.raises(StoreError):
            await entry.body.window(400_000, 500_000)


async def test_a_medium_that_fails_does_not_cost_the_entry(tmp_path: Path) -> None:
    """A digest that disagrees says something about the entry, EMFILE only about us."""
    import resource

    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert await b.get(1) is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert b.witness.lookups["disk", "error"] == 1
        assert await b.get(1) == body_of(1)
        assert b.is_well()


# --- an index that is not what it was ---------------------------------------------------------------------------------


def overwrite(at: float, length: int = 4096) -> Callable[[Path], None]:
    def overwritten(directory: Path) -> None:
        path = directory / "cache.db"
        with path.open("r+b") as file:
            file.seek(int(path.stat().st_size * at))
            file.write(os.urandom(length))

    return overwritten


def cut_to(share: float) -> Callable[[Path], None]:
    def cut(directory: Path) -> None:
        path = directory / "cache.db"
        os.truncate(path, int(path.stat().st_size * share))

    return cut


def remove_index(directory: Path) -> None:
    for path in directory.glob("cache.db*"):
        path.unlink()


def link_index(directory: Path) -> None:
    (directory / "cache.db").rename(directory / "elsewhere")
    (directory / "cache.db").symlink_to(directory / "elsewhere")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "header overwritten": overwrite(0, 100),
    "first page overwritten": overwrite(0),
    "middle overwritten": overwrite(0.5),
    "much overwritten": overwrite(0.2, 20_000),
    "cut to nothing": cut_to(0),
    "cut in half": cut_to(0.5),
    "cut in the first page": cut_to(0.01),
    "removed": remove_index,
    "a link": link_index,
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_index_is_put_aside_at_start_and_no_entry_is_lost(tmp_path: Path, damage: str) -> None:
    async with bench(tmp_path) as b:
        for number in range(ENTRIES):
            await b.put(number)
    DAMAGE[damage](tmp_path)
    async with bench(tmp_path, memory_bytes=0) as b:
        assert b.is_well()
        found = [await b.get(number) for number in range(ENTRIES)]
        assert found == [body_of(number) for number in range(ENTRIES)]
        assert b.store.entries() == len(b.files()) == ENTRIES
        aside = sum(path.stat().st_size for path in tmp_path.glob("quarantine/*/*") if not path.is_symlink())
        assert b.store.bytes_on_disk() >= sum(path.stat().st_size for path in b.files()) + aside


@pytest.mark.parametrize("damage", DAMAGE)
async def test_an_index_damaged_while_running_costs_misses_and_heals(tmp_path: Path, damage: str) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        for number in range(ENTRIES):
            await b.put(number)
        b.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        DAMAGE[damage](tmp_path)
        for number in range(ENTRIES):
            assert await b.get(number) in (None, body_of(number))
        entry, _ = await b.put(ENTRIES)
        assert len(entry.body) == 1000
        for _ in range(3):
            await b.store.tend()
        assert b.is_well()
        assert (await b.put(ENTRIES + 1))[0].tier == "disk"
        for number in range(ENTRIES):
            assert await b.get(number) in (None, body_of(number))
    async with bench(tmp_path, memory_bytes=0) as b:
        found = [await b.get(number) for number in range(ENTRIES)]
        await b.store.tend(sweep=True)
        assert set(found) <= {None, *(body_of(number) for number in range(ENTRIES))}
        assert await b.get(ENTRIES + 1) == body_of(ENTRIES + 1)


async def test_an_index_put_aside_gives_way_before_entries_do(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in range(10):
            await b.put(number)
    overwrite(0)(tmp_path)
    async with bench(tmp_path, max_bytes=17_000) as b:
        assert list(tmp_path.glob("quarantine/*")) == []
        assert b.store.entries() == 10


async def test_another_process_that_puts_the_index_aside_is_noticed(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as one:
        await one.put(1)
        (tmp_path / "aside").mkdir()
        for path in tmp_path.glob("cache.db*"):
            path.rename(tmp_path / "aside" / path.name)
        async with bench(tmp_path, memory_bytes=0, instance_id="bbbb") as two:
            await two.put(2)
            await one.store.tend()
            assert (await one.get(1), await one.get(2)) == (body_of(1), body_of(2))
            await one.put(3)
            assert await two.get(3) == body_of(3)


# --- what a crash leaves ----------------------------------------------------------------------------------------------


def age(path: Path, seconds: float) -> None:
    os.utime(path, (NOW - seconds, NOW - seconds))


async def orphaned(b: Bench, number: int, **changes: Any) -> Path:
    """An entry's file whose row was never inserted."""
    before = set(b.files())
    await b.put(number, **changes)
    (file,) = set(b.files()) - before
    b.sql("DELETE FROM Cache WHERE key = ?", key(number))
    return file


async def test_an_orphan_is_left_alone_while_young_and_adopted_when_old(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        file = await orphaned(b, 2)
        age(file, 60)
        await b.store.tend(sweep=True)
        assert await b.get(2) is None and file.exists()
        assert b.store.bytes_on_disk() == sum(path.stat().st_size for path in b.files()), "orphans count"
        age(file, 4000)
        await b.store.tend(sweep=True)
        assert await b.get(2) == body_of(2)


@contextmanager
def unprivileged(directory: Path) -> Iterator[None]:
    """Root may read anything; nobody may read what they may."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65_534
    for path in (directory, *directory.rglob("*")):
        os.chown(path, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_that_cannot_be_read_keeps_no_other_from_being_adopted() -> None:
    with TemporaryDirectory() as place:
        async with bench(Path(place), memory_bytes=0) as b:
            files = [await orphaned(b, number) for number in range(5)]
            for file in files:
                age(file, 4000)
            files[0].chmod(0)
            files[1].parent.chmod(0)
            with unprivileged(b.directory):
                await b.store.tend(sweep=True)
                assert b.is_well()
                assert [await b.get(number) for number in range(5)] == [None, None, *map(body_of, (2, 3, 4))]
            files[1].parent.chmod(0o700)
            assert all(file.exists() for file in files)


async def test_an_old_orphan_that_is_damaged_expired_purged_or_outdated_is_removed(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        damaged = await orphaned(b, 2)
        os.truncate(damaged, 50)
        b.clock.advance(-100_000)
        expired = await orphaned(b, 3)
        b.clock.advance(100_000)
        purged = await orphaned(b, 4)
        PurgeLog(tmp_path).append(Purge("key", NOW + 1, key(4)))
        outdated = await orphaned(b, 5)
        b.clock.advance(5)
        await b.put(5, body_of(55))
        for file in (damaged, expired, purged, outdated):
            age(file, 4000)
        await b.store.tend(sweep=True)
        assert not any(file.exists() for file in (damaged, expired, purged, outdated))
        assert (await b.get(1), await b.get(5)) == (body_of(1), body_of(55))
        assert len(b.files()) == b.store.entries() == 2


async def test_an_orphan_whose_purchase_began_before_a_purge_does_not_come_back(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        PurgeLog(tmp_path).append(Purge("all", NOW + 100))
        b.clock.advance(110)
        forgotten = await orphaned(b, 1, begun_at=NOW + 90)
        later = await orphaned(b, 2, begun_at=NOW + 105)
        of_an_earlier_release = await orphaned(b, 3)
        for file in (forgotten, later, of_an_earlier_release):
            age(file, 4000)
        await b.store.tend(sweep=True)
        assert not forgotten.exists()
        assert [await b.get(number) for number in (1, 2, 3)] == [None, body_of(2), body_of(3)]


async def test_a_file_from_the_future_begins_to_age_now(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        file = await orphaned(b, 2)
        age(file, -(10**8))
        await b.store.tend(sweep=True)
        assert await b.get(2) is None
        b.clock.advance(4000)
        await b.store.tend(sweep=True)
        assert await b.get(2) == body_of(2)


async def test_spools_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    async with bench(tmp_path, instance_id="aaaa") as b:
        (tmp_path / "tmp").mkdir(exist_ok=True)
        left = {name: tmp_path / "tmp" / name for name in ("bbbb-1-1.spool", "bbbb-1-2.spool", "aaaa-1-3.spool")}
        for file in left.values():
            file.write_bytes(b"half a reply")
            age(file, 4000)
        age(left["bbbb-1-2.spool"], 60)
        await b.store.tend(sweep=True)
        assert [file.name for file in b.spools()] == ["aaaa-1-3.spool", "bbbb-1-2.spool"]


async def test_a_row_without_its_file_is_swept_up(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        for number in (1, 2):
            await b.put(number)
        b.files()[0].unlink()
        await b.store.tend(sweep=True)
        assert b.store.entries() == 1
        assert b.witness.evictions == {("disk", "corrupt"): 1}


async def test_what_expired_long_ago_is_swept_up_and_what_expired_just_now_is_not(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1)
        b.clock.advance(86_400 + 3600)
        await b.store.tend(sweep=True)
        assert await b.get(1) == body_of(1)
        b.clock.advance(86_400)
        await b.store.tend(sweep=True)
        assert (b.store.entries(), b.files()) == (0, [])
        assert b.witness.evictions["disk", "ttl"] == 1


# --- other processes --------------------------------------------------------------------------------------------------


async def test_an_index_held_by_another_process_is_waited_for_once_and_then_left(tmp_path: Path) -> None:
    clock, witness = ManualClock(NOW), Witness()
    with ThreadPoolExecutor(1) as executor:
        tier = DiskTier(
            tmp_path,
            Limits(10**6, 0, busy_timeout_seconds=0.01),
            clock,
            PurgeLog(tmp_path),
            executor,
            lambda reason, count: witness.evicted("disk", reason, count),
        )
        tier.open()
        with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            for refused in (1, 2):
                with pytest.raises(StoreError):
                    put(tier, refused, tmp_path)
            assert tier.find(key(1)) is None, "reading goes on"
            assert problem(tier) == "another process holds the cache index"
            holder.execute("ROLLBACK")
        with pytest.raises(StoreError, match="busy"):
            put(tier, 3, tmp_path)
        clock.advance(11)
        put(tier, 4, tmp_path)
        assert tier.find(key(4)) is not None and problem(tier) is None
        tier.close()


def problem(tier: DiskTier) -> str | None:
    return tier.problem


def put(tier: DiskTier, number: int, directory: Path) -> None:
    file = PrivateFile(directory / "tmp" / f"{number}.spool")
    try:
        os.write(file.fd, b"\x89IGATE\r\n" + body_of(number))
        tier.put(file, metadata(number), 1000, 0)
    finally:
        file.remove()


async def test_the_directory_can_be_read_by_diskcache_itself(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await b.put(1, expires_at=NOW * 2)
    with diskcache.Cache(str(tmp_path)) as cache:
        assert body_of(1) in cache.get(key(1)) and list(cache) == [key(1)]

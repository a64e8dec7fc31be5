"""The operator's view: what is there, what goes, and what is wrong."""

import os
from pathlib import Path

import pytest

from proxy.errors import StoreError
from proxy.stores.directory import CacheDirectory
from proxy.stores.purges import Purge
from tests.support.store import NOW, Bench, bench, body_of, key

pytestmark = pytest.mark.anyio


async def filled(b: Bench, count: int = 6) -> CacheDirectory:
    for number in range(count):
        await b.put(number, model=f"model-{number % 2}", scope=f"5c09e{number % 3}", stored_at=NOW + number)
    return CacheDirectory(b.directory)


async def test_it_counts_what_is_there_beside_a_running_store(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        found = (await filled(b)).stats()
        assert found["entries"] == 6
        assert found["bytes"] == b.store.bytes_on_disk() == sum(file.stat().st_size for file in b.files())
        assert (found["oldest_stored_at"], found["newest_stored_at"]) == (NOW, NOW + 5)
        assert found["entries_by_model"] == {"model-0": 3, "model-1": 3}
        assert found["quarantined_bytes"] == 0


async def test_an_empty_cache_counts_nothing(tmp_path: Path) -> None:
    found = CacheDirectory(tmp_path).stats()
    assert (found["entries"], found["bytes"], found["oldest_stored_at"]) == (0, 0, None)
    assert CacheDirectory(tmp_path).entries() == []


async def test_it_lists_entries_in_the_order_of_their_keys_page_by_page(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        directory = await filled(b)
        keys: list[str] = []
        after = ""
        while page := directory.entries(4, after):
            keys.extend(metadata.key for metadata, _ in page)
            after = keys[-1]
        assert keys == [key(number) for number in range(6)]


async def test_a_page_is_full_even_where_entries_are_damaged(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        directory = await filled(b)
        (path,) = b.sql("SELECT filename FROM Cache WHERE key = ?", key(0))[0]
        os.truncate(tmp_path / path, 10)
        b.sql("UPDATE Cache SET mode = 4 WHERE key = ?", key(1))
        assert [metadata.key for metadata, _ in directory.entries(3)] == [key(number) for number in (2, 3, 4)]


async def test_it_shows_the_one_entry_whose_key_begins_so(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        directory = await filled(b)
        metadata, size = directory.show(key(3))
        assert (metadata.key, metadata.request["prompt"], size > 1000) == (key(3), "a cat", True)
        with pytest.raises(StoreError, match="6 entries"):
            directory.show("000")
        with pytest.raises(StoreError, match="no entry"):
            directory.show("f")


@pytest.mark.parametrize(
    ("purge", "gone"),
    [
        (Purge("key", NOW, key(3)), {3}),
        (Purge("key", NOW, key(3)[:-1]), {0, 1, 2, 3, 4, 5}),
        (Purge("key", NOW, ""), set()),
        (Purge("model", NOW, "model-1"), {1, 3, 5}),
        (Purge("scope", NOW, "5c09e0"), {0, 3}),
        (Purge("older_than", NOW, before=NOW + 2), {0, 1}),
        (Purge("all", NOW), {0, 1, 2, 3, 4, 5}),
    ],
)
async def test_a_purge_takes_what_matches_and_nothing_else(tmp_path: Path, purge: Purge, gone: set[int]) -> None:
    async with bench(tmp_path) as b:
        directory = await filled(b)
        await b.get(3)
        assert directory.purge(purge) == len(gone)
        await b.store.poll()
        left = {number for number in range(6) if await b.get(number) is not None}
        assert left == {0, 1, 2, 3, 4, 5} - gone
        assert len(b.files()) == len(left)


async def test_a_row_that_cannot_be_read_is_purged_with_any_other(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        directory = await filled(b, 2)
        b.sql("UPDATE Cache SET tag = NULL WHERE key = ?", key(0))
        assert directory.purge(Purge("model", NOW, "none")) == 1
        assert await b.get(1) == body_of(1)


async def test_verifying_finds_what_is_damaged_missing_or_without_a_row(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        directory = await filled(b)
        paths = dict(b.sql("SELECT key, filename FROM Cache"))
        content = bytearray((tmp_path / paths[key(0)]).read_bytes())
        content[500] ^= 1
        (tmp_path / paths[key(0)]).write_bytes(content)
        (tmp_path / paths[key(1)]).unlink()
        b.sql("DELETE FROM Cache WHERE key = ?", key(2))
        for delete in (False, True):
            found = directory.verify(delete=delete)
            assert (found.sound, found.damaged, found.missing) == (3, (key(0),), (key(1),))
            assert found.orphans == (paths[key(2)],) and not found.passed
        found = directory.verify()
        assert found.passed and found.sound == 3
        assert not (tmp_path / paths[key(0)]).exists()


async def test_a_damaged_index_is_said_and_not_touched(tmp_path: Path) -> None:
    async with bench(tmp_path) as b:
        await filled(b)
    (tmp_path / "cache.db").write_bytes(b"junk" * 5000)
    for action in (CacheDirectory(tmp_path).stats, CacheDirectory(tmp_path).verify):
        with pytest.raises(StoreError, match="index"):
            action()
    assert (tmp_path / "cache.db").read_bytes().startswith(b"junk")

"""A broken store costs hits, never an answer; and it comes back by itself."""

import shutil
from pathlib import Path

import pytest

from proxy.stores.database import DATABASE, DATABASE_FILES
from tests.support.application import Gate, gate, settings_over, with_cache
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio


def take_away(directory: Path) -> Path:
    """Nothing can be written any more: also not by root, who heeds no permission bits."""
    aside = directory.with_name("aside")
    directory.rename(aside)
    directory.write_text("a file where the directory was")
    return aside


def put_back(directory: Path, aside: Path) -> None:
    directory.unlink()
    aside.rename(directory)


async def test_without_a_directory_it_serves_from_the_upstream_and_from_memory(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.ask("before")
    aside = take_away(proxy.directory)
    await proxy.app.store.tend()
    first, second = await proxy.ask(), await proxy.ask()
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content == upstream.replies[1]
    assert second.headers["cache-status"].endswith("detail=memory")
    assert proxy.total("imagegate_degraded", part="store") == 1
    ready = await proxy.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["problems"] == ["the cache cannot be written"]
    assert (await proxy.client.get("/healthz")).status_code == 200

    put_back(proxy.directory, aside)
    await proxy.app.store.tend()
    assert proxy.total("imagegate_degraded", part="store") == 0
    assert (await proxy.client.get("/readyz")).status_code == 200
    assert (await proxy.ask("before")).headers["x-imagegate-cache"] == "HIT"
    assert (await proxy.ask("after")).headers["cache-status"] == "imagegate; fwd=uri-miss; stored"


async def test_without_a_directory_and_without_memory_every_request_is_served(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    async with gate(with_cache(settings_over(tmp_path, upstream), memory_bytes=0)) as proxy:
        take_away(proxy.directory)
        await proxy.app.store.tend()
        answers = [await proxy.ask() for _ in range(2)]
    assert [answer.content for answer in answers] == upstream.replies
    assert {answer.headers["cache-status"] for answer in answers} == {"imagegate; fwd=uri-miss"}


async def test_a_directory_that_vanishes_is_made_again(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask("before")
    shutil.rmtree(proxy.directory)
    assert (await proxy.ask()).status_code == 200
    await proxy.app.store.tend()
    assert (await proxy.ask("after")).headers["cache-status"] == "imagegate; fwd=uri-miss; stored"
    assert (await proxy.ask("after")).headers["x-imagegate-cache"] == "HIT"


async def test_an_index_that_is_damaged_while_running_is_a_miss_and_then_made_again(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.ask()
    for name in DATABASE_FILES:
        if (proxy.directory / name).exists():
            (proxy.directory / name).write_bytes(b"\x00not a database\xff" * 4096)
    answer = await proxy.ask()
    assert answer.status_code == 200
    assert answer.content in upstream.replies
    await proxy.app.store.tend()
    assert (await proxy.ask("after")).headers["cache-status"] == "imagegate; fwd=uri-miss; stored"
    assert (await proxy.ask("after")).headers["x-imagegate-cache"] == "HIT"
    assert proxy.total("imagegate_degraded", part="store") == 0
    assert (proxy.directory / DATABASE).read_bytes().startswith(b"SQLite format 3")


async def test_a_damaged_entry_is_a_miss_counted_and_deleted(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask()
    (stored,) = proxy.directory.rglob("*.val")
    damaged = bytearray(stored.read_bytes())
    damaged[100] ^= 1
    stored.write_bytes(damaged)
    answer = await proxy.ask()
    assert answer.headers["x-imagegate-cache"] == "MISS"
    assert answer.content == upstream.replies[1]
    assert proxy.total("imagegate_cache_lookups_total", tier="disk", result="error") >= 1
    assert proxy.total("imagegate_cache_evictions_total", tier="disk", reason="corrupt") == 1
    assert not stored.exists()


async def test_a_cache_directory_that_cannot_be_used_at_the_start_does_not_keep_it_from_serving(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    (tmp_path / "cache").write_text("in the way")
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        first, second = await proxy.ask(), await proxy.ask()
        assert first.content == second.content == upstream.replies[0]
        assert proxy.total("imagegate_degraded", part="store") == 1

"""The store against the machine: killed at any moment, a disk that is full, a disk that may not be written."""

import os
import random
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.stores.directory import CacheDirectory
from tests.support.store import Bench, bench, body_of, key, read

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
SIZE = 400_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def writer(directory: Path, first: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.support.store_process", str(directory), str(first), str(SIZE)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def acknowledged(process: "subprocess.Popen[str]") -> list[int]:
    """What a killed process had said it stored; a line that was cut does not count."""
    assert process.stdout is not None
    with process.stdout as lines:
        return [int(line) for line in lines.read().splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
async def test_kill_9_at_any_moment_costs_nothing_that_was_stored(tmp_path: Path) -> None:
    """Slow: six rounds of two processes that start, write and are killed."""
    rng = random.Random(9)
    stored: list[int] = []
    for round_ in range(6):
        pair = [writer(tmp_path, (2 * round_ + side) * 1000) for side in (0, 1)]
        for process in pair:
            assert process.stdout is not None
            first = process.stdout.readline()
            stored.append(int(first))
        let_them_work(rng.random() * 0.2)
        for process in pair:
            process.send_signal(signal.SIGKILL)
        for process in pair:
            stored.extend(acknowledged(process))
            process.wait()
    assert len(stored) > 20

    async with bench(tmp_path, clock=SystemClock(), memory_bytes=0) as b:  # type: ignore[arg-type]
        assert b.is_well()
        for number in stored:
            assert await b.get(number) == body_of(number, SIZE), number
        rows = {filename for (filename,) in b.sql("SELECT filename FROM Cache")}
        assert rows <= {str(file.relative_to(tmp_path)) for file in b.files()}
        for path in [*b.files(), *b.spools()]:
            os.utime(path, (1, 1))
        await b.store.tend(sweep=True)
        assert b.spools() == []
        assert len(b.files()) == b.store.entries() >= len(stored)
        report = CacheDirectory(tmp_path).verify()
        assert report.passed and not report.orphans


def let_them_work(seconds: float) -> None:
    select.select([], [], [], seconds)


async def check_every_reply(b: Bench, numbers: range) -> list[str]:
    """Commit replies one after the other; each must be readable at once. The tiers they went to."""
    tiers: list[str] = []
    for number in numbers:
        entry, stored = await b.put(number, body_of(number, SIZE))
        assert await read(entry) == body_of(number, SIZE)
        assert stored == (entry.tier != "none")
        tiers.append(entry.tier)
        del entry
        for earlier in range(numbers.start, number + 1):
            assert await b.get(earlier, promote=False) in (None, body_of(earlier, SIZE))
    return tiers


async def test_a_disk_that_is_full_of_our_own_entries_goes_on_taking_new_ones(small_disk: Path) -> None:
    async with bench(small_disk / "cache", max_bytes=10**9, memory_bytes=2_000_000) as b:
        tiers = await check_every_reply(b, range(60))
        assert set(tiers) == {"disk"}
        assert b.store.entries() > 15
        assert len(b.files()) == b.store.entries()
        assert b.spools() == []


async def test_a_disk_that_others_have_filled_degrades_and_recovers_by_itself(small_disk: Path) -> None:
    async with bench(small_disk / "cache", max_bytes=10**9, memory_bytes=2_000_000) as b:
        await check_every_reply(b, range(5))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(65_536))
        await check_every_reply(b, range(100, 130))
        assert b.store.bytes_in_memory() <= 2_000_000
        filler.unlink()
        await b.store.tend()
        assert b.is_well()
        assert (await check_every_reply(b, range(200, 205))) == ["disk"] * 5
        await b.store.tend()
        assert (small_disk / "cache" / "ballast").exists()
        report = CacheDirectory(small_disk / "cache").verify()
        assert report.passed and not report.orphans


async def test_a_disk_with_no_room_for_an_index_is_served_without(small_disk: Path) -> None:
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    async with bench(small_disk / "cache", memory_bytes=2_000_000) as b:
        assert not b.is_well()
        assert (await check_every_reply(b, range(3))) == ["memory"] * 3
        filler.unlink()
        await b.store.tend()
        assert b.is_well()
        assert (await check_every_reply(b, range(10, 13))) == ["disk"] * 3


async def test_a_read_only_disk_is_served_without_and_taken_back(small_disk: Path) -> None:
    async with bench(small_disk / "cache", memory_bytes=2_000_000) as b:
        await check_every_reply(b, range(3))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with bench(small_disk / "cache", memory_bytes=2_000_000) as b:
        assert not b.is_well()
        assert (await check_every_reply(b, range(10, 13))) == ["memory"] * 3
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        await b.store.tend()
        assert b.is_well()
        assert [await b.get(number) for number in range(3)] == [body_of(number, SIZE) for number in range(3)]
        assert (await b.put(20))[0].tier == "disk"


async def test_a_limit_on_the_size_of_files_is_a_full_disk_by_another_name(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=2_000_000) as b:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        try:
            assert (await check_every_reply(b, range(3))) == ["memory"] * 3
            assert b.spools() == []
            assert (await b.put(5))[1], "what is small enough is stored"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await b.store.tend()
        assert b.is_well()
        assert (await check_every_reply(b, range(10, 13))) == ["disk"] * 3
        found = await b.store.lookup(key(0))
        assert found is not None and found.tier == "memory"

"""A spool holds exactly what was written, in a file or in memory, and leaves nothing behind."""

import asyncio
import errno
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import envelope
from proxy.errors import StoreError
from proxy.spool import BEHIND_BYTES, FLUSH_BYTES, Spool, Spools
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * (3 * FLUSH_BYTES // 256) + b"the end"


@dataclass(frozen=True)
class Cut:
    start: int
    stop: int
    replacement: bytes = b""


@dataclass(frozen=True)
class Replaced:
    start: int
    stop: int
    replacement: Spool


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def spools(tmp_path: Path, executor: ThreadPoolExecutor) -> Spools:
    return Spools(tmp_path, executor, "aaaa")


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("tmp/*"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def filled(spools: Spools, body: bytes, chunk: int = 100_000, *, scans: bool = False) -> Spool:
    spool = spools.open(scans=scans)
    for at in range(0, len(body), chunk):
        await spool.write(body[at : at + chunk])
    await spool.finish()
    return spool


def contents(spool: Spool) -> bytes:
    with spool.view() as view:
        return bytes(view)


def contents_taken(spool: Spool) -> bytes:
    taken = spool.take()
    assert isinstance(taken, bytearray)
    return bytes(taken)


@pytest.mark.parametrize("body", [b"", b"x", LARGE])
async def test_what_was_written_is_seen(spools: Spools, body: bytes) -> None:
    spool = await filled(spools, body)
    assert (spool.size, contents(spool)) == (len(body), body)
    spool.discard()


async def test_the_view_is_read_only(spools: Spools) -> None:
    for spool in (await filled(spools, b"body"), await filled(Spools(None, ThreadPoolExecutor(1), "a"), b"body")):
        with spool.view() as view, pytest.raises(TypeError):
            view[0] = 0
        spool.discard()


async def test_the_file_begins_with_the_magic_and_is_private(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, LARGE)
    (file,) = files(tmp_path)
    assert file.name.startswith("aaaa-") and file.name.endswith(".spool")
    assert file.read_bytes() == envelope.MAGIC + LARGE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    spool.discard()


async def test_writing_happens_in_a_thread_and_in_large_pieces(tmp_path: Path) -> None:
    class Counting(ThreadPoolExecutor):
        jobs = 0

        def submit(self, *args, **keywords):  # type: ignore[no-untyped-def]
            self.jobs += 1
            return super().submit(*args, **keywords)

    with Counting(1) as executor:
        spool = await filled(Spools(tmp_path, executor, "aaaa"), LARGE, chunk=1000)
        assert executor.jobs == 3
        spool.discard()


async def test_discarding_leaves_no_file_and_no_descriptor(spools: Spools, tmp_path: Path) -> None:
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    before = descriptors()
    for _ in range(20):
        spool = await filled(spools, LARGE)
        spool.discard()
        spool.discard()
    assert (files(tmp_path), descriptors()) == ([], before)


async def test_a_spool_that_is_forgotten_leaves_nothing_either(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, LARGE)
    before = descriptors()
    assert files(tmp_path)
    del spool
    # The thread that wrote lets go of it a moment after it has said so.
    assert eventually(lambda: (files(tmp_path), descriptors()) == ([], before - 1))


async def test_a_write_that_was_cancelled_is_cleaned_up_by_its_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        gate = threading.Event()
        executor.submit(gate.wait)
        spool = Spools(tmp_path, executor, "aaaa").open()
        writing = asyncio.create_task(spool.write(LARGE))
        await asyncio.sleep(0)
        writing.cancel()
        spool.discard()
        gate.set()
    assert files(tmp_path) == []


async def test_discarding_while_a_thread_is_looking_is_left_to_that_thread(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, LARGE)
    looking, seen = threading.Event(), threading.Event()
    found: list[bytes] = []

    def look() -> None:
        with spool.view() as view:
            looking.set()
            seen.wait()
            found.append(bytes(view))

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait()
    spool.discard()
    assert files(tmp_path)
    seen.set()
    thread.join()
    assert (found, files(tmp_path)) == ([LARGE], [])


async def test_after_discarding_nothing_is_to_be_had(spools: Spools) -> None:
    spool = await filled(spools, b"body")
    spool.discard()
    with pytest.raises(StoreError), spool.view():
        pass
    with pytest.raises(StoreError):
        spool.take()


async def test_without_a_directory_it_lives_in_memory(executor: ThreadPoolExecutor) -> None:
    spool = await filled(Spools(None, executor, "aaaa"), LARGE)
    assert spool.in_memory
    assert contents(spool) == LARGE
    assert contents_taken(spool) == LARGE


async def test_a_disk_that_takes_nothing_is_left_for_memory(executor: ThreadPoolExecutor, tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("in the way")
    spool = await filled(Spools(tmp_path, executor, "aaaa"), LARGE)
    assert spool.in_memory and isinstance(spool.error, OSError)
    assert contents(spool) == LARGE


async def test_a_disk_that_gives_out_half_way_is_left_for_memory_with_all_that_was_written(
    spools: Spools, tmp_path: Path
) -> None:
    spool = spools.open()
    await spool.write(LARGE[:FLUSH_BYTES])
    (file,) = files(tmp_path)
    before, fd = descriptors(), descriptor_of(file)
    # The descriptor keeps its number, and what is behind it: only writing fails from now on.
    reading = os.open(file, os.O_RDONLY)
    os.dup2(reading, fd)
    os.close(reading)
    await spool.write(LARGE[FLUSH_BYTES:])
    await spool.finish()
    assert spool.in_memory and spool.error is not None and spool.error.errno == errno.EBADF
    assert contents(spool) == LARGE
    assert (files(tmp_path), descriptors()) == ([], before - 1)


@given(st.lists(st.integers(1, 3 * BEHIND_BYTES // 2), max_size=6))
@settings(max_examples=20, deadline=None)
async def test_what_is_written_behind_is_there_whole_and_in_order(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as executor:
        spool = Spools(Path(folder), executor, "aaaa").open()
        for number, size in enumerate(sizes):
            await spool.write_behind(bytes([number]) * size)
        await spool.finish()
        assert spool.size == sum(sizes)
        assert contents(spool) == b"".join(bytes([number]) * size for number, size in enumerate(sizes))
        spool.discard()


async def test_a_piece_is_written_while_the_next_one_arrives_and_the_one_after_that_waits(tmp_path: Path) -> None:
    may_write = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        spool = Spools(tmp_path, executor, "aaaa").open()
        executor.submit(may_write.wait, 10)
        piece = bytes(BEHIND_BYTES)
        async with asyncio.timeout(5):
            await spool.write_behind(piece)  # handed to a disk that is busy
            await spool.write_behind(piece[1:])
        third = asyncio.create_task(spool.write_behind(piece))
        await asyncio.sleep(0)
        assert not third.done()
        may_write.set()
        await third
        await spool.finish()
        assert contents(spool) == piece + piece[1:] + piece
        spool.discard()


async def test_a_disk_that_gives_out_behind_us_is_left_for_memory_with_all_that_was_written(
    spools: Spools, tmp_path: Path
) -> None:
    spool = spools.open()
    body = bytes(range(256)) * (3 * BEHIND_BYTES // 256) + b"the end"
    await spool.write_behind(body[:BEHIND_BYTES])
    eventually(lambda: [file for file in files(tmp_path) if file.stat().st_size > BEHIND_BYTES], what="the first piece")
    (file,) = files(tmp_path)
    reading, fd = os.open(file, os.O_RDONLY), descriptor_of(file)
    os.dup2(reading, fd)
    os.close(reading)
    await spool.write_behind(body[BEHIND_BYTES:])
    await spool.finish()
    assert spool.in_memory and spool.error is not None and spool.error.errno == errno.EBADF
    assert contents(spool) == body


async def test_a_spool_that_is_given_up_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    may_write = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        spool = Spools(tmp_path, executor, "aaaa").open()
        executor.submit(may_write.wait, 10)
        await spool.write_behind(bytes(BEHIND_BYTES))
        spool.discard()
        may_write.set()
    assert files(tmp_path) == []


async def test_one_that_scans_knows_its_quotes_and_its_digest_when_all_is_written(spools: Spools) -> None:
    body = b'{"a":"' + LARGE.replace(b"\\", b"").replace(b'"', b"") + b'"}'
    spool = await filled(spools, body, scans=True)
    assert spool.scan is not None
    assert [spool.scan.find_quote(at) for at in (0, 2, 4, 6)] == [1, 3, 5, len(body) - 2]
    file = spool.take()
    assert not isinstance(file, bytearray) and file.digest is not None
    assert file.digest.digest() == xxhash.xxh3_128(envelope.MAGIC + body).digest()
    file.remove()


@pytest.mark.parametrize("body", [b"", b"x"])
async def test_one_that_scans_hardly_anything_knows_it_too(spools: Spools, body: bytes) -> None:
    spool = await filled(spools, body, scans=True)
    file = spool.take()
    assert not isinstance(file, bytearray) and file.digest is not None
    assert file.digest.digest() == xxhash.xxh3_128(envelope.MAGIC + body).digest()
    file.remove()


async def test_an_edit_takes_back_what_was_known(spools: Spools) -> None:
    spool = await filled(spools, LARGE, scans=True)
    spool.replace([Cut(5, 9)])
    assert spool.scan is None
    file = spool.take()
    assert not isinstance(file, bytearray) and file.digest is None
    file.remove()


async def test_nothing_is_known_of_what_is_still_to_be_written_or_went_to_memory(
    spools: Spools, executor: ThreadPoolExecutor, tmp_path: Path
) -> None:
    spool = spools.open(scans=True)
    await spool.write_behind(bytes(BEHIND_BYTES - 1))
    await spool.write_behind(b"11")
    assert spool.scan is None or spool.scan.size == spool.size
    await spool.write_behind(b"x")
    await spool.finish()
    assert spool.scan is not None and spool.scan.size == spool.size
    spool.discard()
    (tmp_path / "tmp").rename(tmp_path / "gone")
    (tmp_path / "tmp").write_text("in the way")
    spool = await filled(Spools(tmp_path, executor, "aaaa"), LARGE, scans=True)
    assert spool.in_memory and spool.scan is None
    (tmp_path / "tmp").unlink()
    spool.move_to_file()
    file = spool.take()
    assert not isinstance(file, bytearray) and file.digest is None
    file.remove()


def descriptor_of(file: Path) -> int:
    return next(
        int(name)
        for name in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{name}") and os.readlink(f"/proc/self/fd/{name}") == str(file)
    )


async def test_once_there_is_room_again_it_can_have_a_file_after_all(
    executor: ThreadPoolExecutor, tmp_path: Path
) -> None:
    (tmp_path / "tmp").write_text("in the way")
    spool = await filled(Spools(tmp_path, executor, "aaaa"), LARGE)
    spool.move_to_file()
    assert spool.in_memory and contents(spool) == LARGE
    (tmp_path / "tmp").unlink()
    spool.move_to_file()
    assert contents(spool) == LARGE
    assert files(tmp_path)[0].read_bytes() == envelope.MAGIC + LARGE
    spool.discard()
    assert files(tmp_path) == []


async def test_taking_hands_over_the_file_and_discarding_does_not_touch_it(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, LARGE)
    file = spool.take()
    spool.discard()
    assert not isinstance(file, bytearray)
    assert file.path.read_bytes() == envelope.MAGIC + LARGE
    file.remove()
    assert files(tmp_path) == []


# --- edits ------------------------------------------------------------------------------------------------------------


def edited(body: bytes, edits: list[Cut]) -> bytes:
    for edit in reversed(edits):
        body = body[: edit.start] + edit.replacement + body[edit.stop :]
    return body


@st.composite
def bodies_and_edits(draw: st.DrawFn) -> tuple[bytes, list[Cut]]:
    body = draw(st.binary(max_size=50)) * draw(st.sampled_from([1, 3, 20_000]))
    places = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    cuts = [
        Cut(start, stop, draw(st.binary(max_size=12))) for start, stop in zip(places[::2], places[1::2], strict=False)
    ]
    return body, cuts


@settings(deadline=None, max_examples=60)
@given(case=bodies_and_edits(), in_memory=st.booleans())
def test_edits_do_what_slicing_does(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[bytes, list[Cut]], in_memory: bool
) -> None:
    body, cuts = case
    directory = tmp_path_factory.mktemp("spool")

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            spool = await filled(Spools(None if in_memory else directory, executor, "aaaa"), body)
            spool.replace(cuts)
            expected = edited(body, cuts)
            assert (contents(spool), spool.size, spool.in_memory) == (expected, len(expected), in_memory)
            spool.discard()

    asyncio.run(run())
    assert files(directory) == []


async def test_a_shrinking_edit_stays_in_the_same_file(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, LARGE)
    (before,) = files(tmp_path)
    inode = before.stat().st_ino
    spool.replace([Cut(3, 25), Cut(FLUSH_BYTES, FLUSH_BYTES + 9, b"abc")])
    (after,) = files(tmp_path)
    assert after.stat().st_ino == inode
    assert after.read_bytes() == envelope.MAGIC + edited(LARGE, [Cut(3, 25), Cut(FLUSH_BYTES, FLUSH_BYTES + 9, b"abc")])
    spool.discard()


async def test_a_growing_edit_leaves_one_file_and_one_descriptor(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, LARGE)
    before = descriptors()
    for _ in range(3):
        spool.replace([Cut(10, 20, bytes(1000))])
    assert (len(files(tmp_path)), descriptors()) == (1, before)
    spool.discard()
    assert (files(tmp_path), descriptors()) == ([], before - 1)


@pytest.mark.parametrize("in_memory", [True, False])
async def test_the_body_of_another_spool_can_be_put_in(
    tmp_path: Path, executor: ThreadPoolExecutor, in_memory: bool
) -> None:
    here = Spools(None if in_memory else tmp_path, executor, "aaaa")
    spool = await filled(here, b"0123456789")
    for other in (await filled(here, LARGE), await filled(Spools(None, executor, "aaaa"), b"abc")):
        before, body = contents(spool), contents(other)
        spool.replace([Cut(2, 4, b"["), Replaced(4, 4, other), Replaced(4, 6, other), Cut(6, 6, b"]")])
        assert contents(spool) == before[:2] + b"[" + body + body + b"]" + before[6:]
        assert (spool.in_memory, contents(other)) == (in_memory, body)
        other.discard()
        with pytest.raises(StoreError):
            spool.replace([Replaced(0, 0, other)])
    spool.discard()
    assert files(tmp_path) == []


async def test_a_body_that_has_no_room_to_grow_is_left_as_it_was(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, b"0123456789")
    (file,) = files(tmp_path)
    in_the_way = file.with_suffix(".edited.spool")
    in_the_way.write_text("in the way")
    with pytest.raises(StoreError):
        spool.replace([Cut(1, 2, b"abc")])
    assert contents(spool) == b"0123456789"
    in_the_way.unlink()
    spool.replace([Cut(1, 2, b"abc")])
    assert contents(spool) == b"0abc23456789"
    spool.discard()


async def test_a_body_that_is_in_memory_grows_into_a_file(executor: ThreadPoolExecutor, tmp_path: Path) -> None:
    (tmp_path / "tmp").write_text("in the way")
    spool = await filled(Spools(tmp_path, executor, "aaaa"), b"0123456789")
    assert spool.in_memory
    (tmp_path / "tmp").unlink()
    spool.replace([Cut(1, 2, b"abc")])
    assert (spool.in_memory, spool.error, contents(spool)) == (False, None, b"0abc23456789")
    spool.discard()


async def test_a_body_that_cannot_be_mapped_is_an_error_of_the_store(spools: Spools, tmp_path: Path) -> None:
    spool = await filled(spools, LARGE)
    (file,) = files(tmp_path)
    fd = descriptor_of(file)
    os.truncate(file, 10)
    with pytest.raises(StoreError), spool.view():
        pass
    null = os.open("/dev/null", os.O_RDWR)  # takes everything, and cannot be mapped
    os.dup2(null, fd)
    os.close(null)
    with pytest.raises(StoreError), spool.view():
        pass
    spool.discard()
    assert files(tmp_path) == []


async def test_edits_out_of_order_or_outside_are_refused_before_anything_is_touched(spools: Spools) -> None:
    spool = await filled(spools, b"0123456789")
    for wrong in ([Cut(5, 6), Cut(4, 5)], [Cut(3, 2)], [Cut(5, 11)], [Cut(1, 4), Cut(3, 5)]):
        with pytest.raises(ValueError, match="in order"):
            spool.replace(wrong)
    assert contents(spool) == b"0123456789"
    spool.discard()


async def test_editing_what_is_being_viewed_is_refused(spools: Spools) -> None:
    spool = await filled(spools, b"0123456789")
    with spool.view(), pytest.raises(RuntimeError):
        spool.replace([Cut(0, 1)])
    spool.discard()

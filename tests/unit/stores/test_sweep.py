"""The sweep: rows and files are each read once, nothing damaged is missed, nothing sound is harmed."""

import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import StoreError
from proxy.stores import index as index_module
from proxy.stores.index import RECORD_BYTES, DamagedRowError, Index, Roll, Row
from proxy.stores.purges import PurgeLog
from proxy.stores.sweeper import Stocktaking
from tests.support.store import NOW, Bench, bench, body_of, key, metadata
from tests.unit.stores.test_disk import age, orphaned, unprivileged

pytestmark = pytest.mark.anyio

ODD: dict[str, list[object]] = {
    "raw": [0, 2, None, "x", b"1"],
    "mode": [1, 4, None, "2x"],
    "value": [b"", b"x", 0, ""],
    "key": ["", "x", "A" * 64, " " * 64, "0" * 63, "0" * 65, "0" * 62 + " 0", "é" * 64, "0" * 63 + "\0", b"0" * 64, 7],
    "filename": [
        None,
        b"00/00/0000000000000000000000000000.val",
        "00/00/0000000000000000000000000000.val\n",
        "00/00/000000000000000000000000000A.val",
        "00/00/00000000000000000000000000 0.val",
        "00/00/00000000000000000000000000é0.val",
        "00/00/000000000000000000000000.val.val",
        "00/0/00000000000000000000000000000.val",
        "00/00/0000000000000000000000000000.va\0",
        "00/00/00000000000000000000000000/0.val",
        "/etc/hostname",
    ],
    "size": ["large", 1.5, None, b"1"],
    "store_time": ["now", None, b"1", "inf", "nan"],
    "expire_time": ["later", None, b"1", "inf", "1e3"],
    "access_time": ["now", None, b"1"],
    "tag": [
        None,
        7,
        "",
        "x",
        "[]",
        "{}",
        "{",
        '"model"',
        '{"model":1,"scope":"s"}',
        '{"model":"m","scope":null}',
        '{"model":"m"}',
        '{"model":"m","scope":"s","expires":NaN}',
        "{'model':'m','scope':'s'}",
        '{"model":"m","scope":"s",}',
        '{"model":"\x01","scope":"s"}',
        "[" * 3000,
        b'{"model":"m","scope":"s"}',
        b"\xff",
    ],
}
ONE_ODD = st.sampled_from(sorted(ODD)).flatmap(lambda column: st.tuples(st.just(column), st.sampled_from(ODD[column])))


def fill(index: Index, count: int) -> None:
    dice = random.Random(count)
    with index.writing() as sql:
        for _ in range(count):
            digits = dice.randbytes(16).hex()
            name = f"{digits[:2]}/{digits[2:4]}/{digits[4:]}.val"
            index.insert(sql, metadata(key=dice.randbytes(32).hex()), name, 10, NOW)


def rowids(index: Index) -> list[int]:
    return [row.rowid for row in index.rows()]


def called(index: Index) -> tuple[dict[str, int], set[int]]:
    """What a roll says: the rowids of sound rows by the digits of their filenames, and the rowids of the rest."""
    sound: dict[str, int] = {}
    damaged: set[int] = set()
    for records, damages in index.roll():
        for at in range(0, len(records), RECORD_BYTES):
            record = records[at : at + RECORD_BYTES]
            sound[record[:16].hex()] = int.from_bytes(record[16:], "big", signed=True)
        damaged |= {damage.rowid for damage in damages}
    return sound, damaged


def read_one_by_one(index: Index) -> tuple[dict[str, int], set[int]]:
    rows = list(index.rows())
    sound = {row.filename.replace("/", "").removesuffix(".val"): row.rowid for row in rows if isinstance(row, Row)}
    return sound, {row.rowid for row in rows if isinstance(row, DamagedRowError)}


# --- the roll ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_json", [True, False])
@given(odd=st.lists(ONE_ODD, max_size=3), count=st.integers(0, 5), batch=st.integers(1, 3))
def test_a_roll_says_what_reading_each_row_says(
    odd: list[tuple[str, object]], count: int, batch: int, has_json: bool
) -> None:
    with TemporaryDirectory() as place, closing(Index(Path(place))) as index, pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_BATCH_ROWS", batch)
        patch.setattr(index_module, "_has_json", lambda: has_json)
        fill(index, count)
        for (column, value), rowid in zip(odd, rowids(index), strict=False):
            with index.writing() as sql:
                sql.execute(f"UPDATE OR IGNORE Cache SET {column} = ? WHERE rowid = ?", (value, rowid))
        assert called(index) == read_one_by_one(index)


@pytest.mark.parametrize("column", ODD)
def test_every_oddity_is_seen_as_it_is_when_the_row_is_read(tmp_path: Path, column: str) -> None:
    with closing(Index(tmp_path)) as index:
        fill(index, 2)
        for value in ODD[column]:
            with index.writing() as sql:
                sql.execute(f"UPDATE Cache SET {column} = ? WHERE rowid = 1", (value,))
            assert called(index) == read_one_by_one(index), value


def test_two_names_that_make_up_for_each_other_are_both_damaged(tmp_path: Path) -> None:
    with closing(Index(tmp_path)) as index:
        fill(index, 2)
        first, second = (row.filename for row in index.rows() if isinstance(row, Row))
        with index.writing() as sql:
            sql.execute("UPDATE Cache SET filename = ? WHERE rowid = 1", (first + second[:1],))
            sql.execute("UPDATE Cache SET filename = ? WHERE rowid = 2", (second[1:],))
        assert called(index) == ({}, {1, 2})


def test_rowids_of_any_sign_and_size_are_called(tmp_path: Path) -> None:
    with closing(Index(tmp_path)) as index:
        fill(index, 4)
        with index.writing() as sql:
            for old, new in enumerate((-(2**63) + 1, -1, 0, 2**63 - 1), 1):
                sql.execute("UPDATE Cache SET rowid = ? WHERE rowid = ?", (new, old))
        assert sorted(called(index)[0].values()) == [-(2**63) + 1, -1, 0, 2**63 - 1]
        assert called(index) == read_one_by_one(index)


def test_sound_rows_are_not_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Index(tmp_path)) as index:
        fill(index, 1200)
        expected = read_one_by_one(index)
        monkeypatch.setattr(index_module, "_row", None)
        assert called(index) == expected


def test_a_tag_of_any_model_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Index(tmp_path)) as index:
        for number, model in enumerate(('"', "\\", "\x01", "é\U0001f408", "a" * 10_000, "\ud800")):
            with index.writing() as sql:
                name = f"00/00/{number:028x}.val"
                index.insert(sql, metadata(number, model=model, scope=model), name, 1, NOW)
        monkeypatch.setattr(index_module, "_row", None)
        assert len(called(index)[0]) == 6


def test_what_expired_is_read_in_order_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_BATCH_ROWS", 2)
    with closing(Index(tmp_path)) as index:
        fill(index, 8)
        with index.writing() as sql:
            for rowid, at in enumerate((5.0, 3.0, 3.0, 3.0, 9.0, 1.0, "later", None), 1):
                sql.execute("UPDATE Cache SET expire_time = ? WHERE rowid = ?", (at, rowid))
            sql.execute("UPDATE Cache SET tag = 'x' WHERE rowid = 3")
        assert [row.rowid for row in index.expired(6.0)] == [6, 2, 4, 1]


# --- rows that come and go meanwhile ----------------------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Something happens between the reading of the rows and the walk over the files."""
    genuine = Index.roll

    def roll(self: Index) -> Iterator[Roll]:
        yield from genuine(self)
        change()

    monkeypatch.setattr(Index, "roll", roll)


def evict(b: Bench, number: int) -> None:
    """As another process does: the row first, the file after it."""
    [(filename,)] = b.sql("SELECT filename FROM Cache WHERE key = ?", key(number))
    b.sql("DELETE FROM Cache WHERE key = ?", key(number))
    (b.directory / filename).unlink()


def republish(b: Bench, number: int) -> None:
    """As another process does: a new row, maybe under the old one's number, for the same file under a new name."""
    [(filename,)] = b.sql("SELECT filename FROM Cache WHERE key = ?", key(number))
    target = b.directory / "0f" / "f0" / f"{number:028x}.val"
    target.parent.mkdir(parents=True, exist_ok=True)
    (b.directory / filename).rename(target)
    b.sql(
        "UPDATE Cache SET filename = ? WHERE key = ?",
        str(target.relative_to(b.directory)),
        key(number),
    )


async def test_what_another_process_evicts_or_replaces_meanwhile_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        for number in (1, 2, 3):
            await b.put(number)
        for file in b.files():
            age(file, 4000)

        def change() -> None:
            evict(b, 1)
            republish(b, 2)

        meanwhile(monkeypatch, change)
        await b.store.tend(sweep=True)
        assert [await b.get(number) for number in (1, 2, 3)] == [None, body_of(2), body_of(3)]
        assert not b.witness.evictions and b.store.entries() == 2


async def test_a_row_whose_file_was_not_listed_but_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        monkeypatch.setattr("proxy.stores.sweeper._names", lambda directory: [])
        await b.store.tend(sweep=True)
        assert await b.get(1) == body_of(1)


async def test_a_damaged_row_whose_place_was_taken_meanwhile_stays(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        b.sql("UPDATE Cache SET tag = 'x'")
        with closing(Index(tmp_path)) as index:
            [damage] = index.rows()
            assert isinstance(damage, DamagedRowError)
            await b.put(1)
            assert b.sql("SELECT rowid FROM Cache") == [(damage.rowid,)]
            assert not index.forget(damage)
        assert await b.get(1) == body_of(1)


async def test_a_sweep_ends_when_the_store_is_closed(tmp_path: Path) -> None:
    """Where each file has its row nothing is asked of the index any more, and nobody would tell it."""
    async with bench(tmp_path, memory_bytes=0) as b:
        for number in (1, 3, 4, 5):  # their folders are chosen by chance: one of them comes behind the first
            await b.put(number)
    index = Index(tmp_path)
    listed: list[DamagedRowError | Row] = []

    def shut(row: DamagedRowError | Row) -> None:
        listed.append(row)
        index.shut()

    with index.writing() as sql:
        index.insert(sql, metadata(2), f"00/00/{28 * '0'}.val", 1, NOW)
    with pytest.raises(StoreError):
        Stocktaking(tmp_path, PurgeLog(tmp_path), NOW, shut).run(index, age_seconds=0)
    assert len(listed) == 1


# --- what a sweep must not cost ---------------------------------------------------------------------------------------


async def test_an_entry_whose_row_is_damaged_is_adopted_with_a_new_row(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        for number in (1, 2):
            await b.put(number)
        for file in b.files():
            age(file, 4000)
        b.sql("UPDATE Cache SET tag = 'x' WHERE key = ?", key(1))
        await b.store.tend(sweep=True)
        assert [await b.get(number) for number in (1, 2)] == [body_of(1), body_of(2)]
        assert b.witness.evictions == {("disk", "corrupt"): 1}


async def test_an_entry_whose_row_is_damaged_meanwhile_keeps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        file = await orphaned(b, 1)
        age(file, 4000)
        name = str(file.relative_to(tmp_path))

        def change() -> None:
            with closing(Index(tmp_path)) as index, index.writing() as sql:
                index.insert(sql, metadata(1), name, 1, NOW)
                sql.execute("UPDATE Cache SET tag = 'x'")

        meanwhile(monkeypatch, change)
        await b.store.tend(sweep=True)
        assert await b.get(1) == body_of(1)


async def test_a_row_whose_file_cannot_be_looked_at_just_now_stays() -> None:
    with TemporaryDirectory() as place:
        async with bench(Path(place), memory_bytes=0) as b:
            for number in (1, 2):
                await b.put(number)
            folder = b.files()[0].parent
            with unprivileged(b.directory):
                folder.chmod(0)
                await b.store.tend(sweep=True)
                folder.chmod(0o700)
                assert b.is_well()
                assert [await b.get(number) for number in (1, 2)] == [body_of(1), body_of(2)]


async def test_what_looks_like_an_entry_and_is_no_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "00").mkdir(parents=True)
    kept = tmp_path / "elsewhere" / "00" / f"{7:028x}.val"
    kept.write_bytes(b"somebody else's")
    age(kept, 4000)
    async with bench(tmp_path / "cache", memory_bytes=0) as b:
        await b.put(1)
        inside = b.files()[0].parent
        (inside / f"{1:028x}.val").mkdir()
        (inside / f"{2:028x}.val").symlink_to(kept)
        (inside / "notes.txt").write_text("an operator's")
        taken = {path.name for path in b.directory.iterdir()}
        free = next(name for name in (f"{number:02x}" for number in range(256)) if name not in taken)
        (b.directory / free).symlink_to(tmp_path / "elsewhere")
        await b.store.tend(sweep=True)
        assert len(list(inside.iterdir())) == 4
        assert kept.exists()
        assert await b.get(1) == body_of(1)


async def test_files_that_rows_name_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        for number in range(20):
            await b.put(number)
        looked_at: list[str] = []
        genuine = os.lstat

        def lstat(path: "os.PathLike[str]") -> os.stat_result:
            looked_at.append(str(path))
            return genuine(path)

        monkeypatch.setattr(Path, "lstat", lstat)
        await b.store.tend(sweep=True)
        assert not [path for path in looked_at if path.endswith(".val")]


async def test_a_tag_that_sqlite_calls_sound_and_python_does_not_is_found_by_a_look_up(tmp_path: Path) -> None:
    async with bench(tmp_path, memory_bytes=0) as b:
        await b.put(1)
        b.sql("UPDATE Cache SET tag = ?", json.dumps({"model": "m", "scope": "s"})[:-1] + ',"model":1}')
        await b.store.tend(sweep=True)
        assert b.is_well()
        assert await b.get(1) is None
        assert b.sql("SELECT COUNT(*) FROM Cache") == [(0,)]


def test_sqlite_has_json_here() -> None:
    assert index_module._has_json() or sqlite3.sqlite_version_info < (3, 38)

"""Claims: one request has a key, whoever asks at once, from whichever process, whatever the disk does."""

import fcntl
import os
import resource
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stores import claims
from proxy.stores.claims import LIFETIME_SECONDS, MAX_CLAIMS, RECORD_BYTES, SLOTS, TABLES, Claim, Claims
from tests.support.store import NOW

BODY, OTHER_BODY = b"b" * 32, b"o" * 32
NAME = bytes(range(32))


def wanted(body: bytes = BODY, *, name: bytes = NAME, at: float = NOW) -> Claim:
    return claims.fresh(name, body, at)


def numbered(number: int) -> bytes:
    """Names that share a table."""
    return bytes([7]) + number.to_bytes(31, "big")


def table(directory: Path) -> Path:
    (found,) = (directory / "claims").iterdir()
    return found


def stored(directory: Path, *, at: float = NOW) -> Claim | None:
    """What another process finds under the name; its own claim, if nothing."""
    probe = wanted(b"p" * 32, at=at)
    found = Claims(directory).take(probe)
    if found is not probe:
        return found
    Claims(directory).free(probe, at)
    return None


# --- take, settle, free -----------------------------------------------------------------------------------------------


def test_the_first_claim_stands_and_the_next_finds_it(tmp_path: Path) -> None:
    first = wanted()
    assert Claims(tmp_path).take(first) is first and first.is_first
    found = Claims(tmp_path).take(wanted(OTHER_BODY, at=NOW + 5))
    assert not found.is_first
    assert (found.fingerprint, found.token, found.arrived) == (BODY, first.token, NOW)
    assert found.purchase_id == ""


def test_what_was_given_is_known_to_the_next(tmp_path: Path) -> None:
    first = Claims(tmp_path).take(wanted())
    Claims(tmp_path).settle(first, "buy_1", NOW + 1)
    found = stored(tmp_path)
    assert found is not None and found.purchase_id == "buy_1" and found.arrived == NOW


def test_a_freed_name_may_be_taken_for_anything(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    here.free(here.take(wanted()), NOW)
    other = wanted(OTHER_BODY)
    assert here.take(other) is other


def test_who_frees_too_late_frees_nobody_elses_claim(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    failed, duplicate = here.take(wanted()), here.take(wanted())
    here.free(failed, NOW)
    other = here.take(wanted(OTHER_BODY))
    here.free(duplicate, NOW)
    found = stored(tmp_path)
    assert found is not None and found.token == other.token


def test_a_failure_does_not_free_what_a_duplicate_has_succeeded_with(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    failed, duplicate = here.take(wanted()), here.take(wanted())
    here.settle(duplicate, "buy_2", NOW)
    here.free(failed, NOW)
    found = stored(tmp_path)
    assert found is not None and found.purchase_id == "buy_2"


def test_a_success_after_the_claim_was_freed_takes_the_name_again(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    failed, duplicate = here.take(wanted()), here.take(wanted())
    here.free(failed, NOW)
    here.settle(duplicate, "buy_2", NOW)
    found = stored(tmp_path)
    assert found is not None and (found.fingerprint, found.purchase_id) == (BODY, "buy_2")


def test_a_success_after_another_request_took_the_name_leaves_it_to_that(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    failed, duplicate = here.take(wanted()), here.take(wanted())
    here.free(failed, NOW)
    here.take(wanted(OTHER_BODY))
    here.settle(duplicate, "buy_2", NOW)
    found = stored(tmp_path)
    assert found is not None and (found.fingerprint, found.purchase_id) == (OTHER_BODY, "")


def test_the_latest_success_is_the_one_to_give_again(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    claim = here.take(wanted())
    here.settle(claim, "buy_1", NOW)
    here.settle(claim, "buy_2", NOW + 1)
    found = stored(tmp_path)
    assert found is not None and found.purchase_id == "buy_2"


def test_an_id_that_is_none_of_ours_is_not_kept(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    here.settle(here.take(wanted()), "x" * 65, NOW)
    found = stored(tmp_path)
    assert found is not None and found.purchase_id == ""


@pytest.mark.parametrize("difference", [LIFETIME_SECONDS, -LIFETIME_SECONDS, 1e9, -1e9])
def test_a_claim_expires_after_a_day_in_either_direction(tmp_path: Path, difference: float) -> None:
    here = Claims(tmp_path)
    here.settle(here.take(wanted()), "buy_1", NOW)
    other = wanted(OTHER_BODY, at=NOW + difference)
    assert here.take(other) is other


@pytest.mark.parametrize("difference", [LIFETIME_SECONDS - 1, 1 - LIFETIME_SECONDS])
def test_a_claim_stands_for_a_day_in_either_direction(tmp_path: Path, difference: float) -> None:
    here = Claims(tmp_path)
    here.take(wanted())
    assert here.take(wanted(OTHER_BODY, at=NOW + difference)).fingerprint == BODY


def test_of_all_who_ask_at_once_in_several_processes_exactly_one_wins(tmp_path: Path) -> None:
    processes = [Claims(tmp_path, lock_patience_seconds=30) for _ in range(4)]
    for round_number in range(20):
        name = numbered(round_number)
        rivals = [wanted(bytes([i]) * 32, name=name) for i in range(8)]
        with ThreadPoolExecutor(8) as executor:
            found = list(executor.map(lambda i: processes[i % 4].take(rivals[i]), range(8)))  # noqa: B023
        assert len({claim.token for claim in found}) == 1
        assert sum(claim.is_first for claim in found) == 1


# --- room -------------------------------------------------------------------------------------------------------------


def test_files_and_folder_are_private(tmp_path: Path) -> None:
    Claims(tmp_path / "cache").take(wanted())
    file = table(tmp_path / "cache")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o700


def test_all_tables_together_are_bounded() -> None:
    assert TABLES * SLOTS <= MAX_CLAIMS == 100_000
    assert TABLES * SLOTS * RECORD_BYTES < 20e6


def test_however_many_keys_there_are_a_table_does_not_grow_and_the_oldest_go(tmp_path: Path) -> None:
    here = Claims(tmp_path, slots=4)
    for number in range(50):
        here.take(wanted(name=numbered(number), at=NOW + number))
    assert table(tmp_path).stat().st_size == 4 * RECORD_BYTES
    kept = [not here.take(wanted(name=numbered(number), at=NOW + 50)).is_first for number in (49, 48, 47, 46)]
    assert kept == [True] * 4
    assert here.take(wanted(name=numbered(45), at=NOW + 50)).is_first


def test_memory_is_bounded_as_the_disk_is(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("in the way")
    here = Claims(tmp_path, slots=4)
    for number in range(50):
        here.take(wanted(name=numbered(number), at=NOW + number))
    found = [here.take(wanted(name=numbered(number), at=NOW + 50)).is_first for number in (49, 46, 45)]
    assert found == [False, False, True]


def test_places_of_expired_and_freed_claims_are_used_again_before_a_live_one_goes(tmp_path: Path) -> None:
    here = Claims(tmp_path, slots=3)
    here.take(wanted(name=numbered(1)))
    here.take(wanted(name=numbered(2), at=NOW + LIFETIME_SECONDS - 10))
    freed = here.take(wanted(name=numbered(3), at=NOW + LIFETIME_SECONDS - 10))
    here.free(freed, NOW + LIFETIME_SECONDS)
    for number in (4, 5):
        here.take(wanted(name=numbered(number), at=NOW + LIFETIME_SECONDS))
    found = [here.take(wanted(name=numbered(n), at=NOW + LIFETIME_SECONDS)).is_first for n in (2, 4, 5)]
    assert found == [False, False, False]
    assert table(tmp_path).stat().st_size == 3 * RECORD_BYTES


def test_a_sweep_empties_tables_whose_claims_have_all_expired_and_no_others(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    here.take(wanted(name=bytes([1]) * 32))
    here.take(wanted(name=bytes([2]) * 32))
    here.take(wanted(name=b"\2" + bytes(31), at=NOW + 3600))
    here.sweep(NOW + 60)
    assert [(tmp_path / "claims" / name).stat().st_size for name in ("01", "02")] == [RECORD_BYTES, 2 * RECORD_BYTES]
    here.sweep(NOW + LIFETIME_SECONDS)
    assert [(tmp_path / "claims" / name).stat().st_size for name in ("01", "02")] == [0, 2 * RECORD_BYTES]
    assert not here.take(wanted(name=b"\2" + bytes(31), at=NOW + LIFETIME_SECONDS)).is_first


def test_a_sweep_creates_nothing(tmp_path: Path) -> None:
    Claims(tmp_path).sweep(NOW)
    assert list(tmp_path.iterdir()) == []


# --- a disk that fails ------------------------------------------------------------------------------------------------


def _folder(path: Path) -> None:
    path.mkdir(parents=True)


def _pipe(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent.parent / "elsewhere")


def _file_for_the_folder(path: Path) -> None:
    path.parent.write_text("in the way")


@pytest.mark.parametrize("obstacle", [_folder, _pipe, _link, _file_for_the_folder])
def test_where_the_disk_fails_claims_hold_for_this_process(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    obstacle(tmp_path / "claims" / f"{NAME[0]:02x}")
    here = Claims(tmp_path)
    first = here.take(wanted())
    assert first.is_first
    here.settle(first, "buy_1", NOW)
    found = here.take(wanted(OTHER_BODY))
    assert (found.fingerprint, found.purchase_id, found.is_first) == (BODY, "buy_1", False)
    here.sweep(NOW)
    assert not here.take(wanted()).is_first
    here.sweep(NOW + LIFETIME_SECONDS)
    assert not (tmp_path / "elsewhere").exists()
    failed = here.take(wanted(at=NOW + LIFETIME_SECONDS))
    here.free(failed, NOW + LIFETIME_SECONDS)
    assert here.take(wanted(OTHER_BODY, at=NOW + LIFETIME_SECONDS)).is_first


def test_a_full_disk_still_tells_what_it_has_and_the_rest_is_kept_in_memory(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    here.take(wanted(name=numbered(1)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (RECORD_BYTES + 50, hard))
    try:
        first = here.take(wanted(name=numbered(2)))
        here.settle(first, "buy_2", NOW)
        known, again = (here.take(wanted(OTHER_BODY, name=numbered(number))) for number in (1, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert first.is_first and not known.is_first
    assert (again.fingerprint, again.purchase_id) == (BODY, "buy_2")
    assert here.take(wanted(OTHER_BODY, name=numbered(3))).is_first
    assert not Claims(tmp_path).take(wanted(name=numbered(1))).is_first


def test_what_was_claimed_without_a_disk_is_obeyed_when_it_is_back(tmp_path: Path) -> None:
    obstacle = tmp_path / "claims"
    obstacle.write_text("in the way")
    here = Claims(tmp_path)
    here.take(wanted())
    obstacle.unlink()
    assert here.take(wanted(OTHER_BODY)).fingerprint == BODY
    here.take(wanted(name=numbered(1)))
    assert not Claims(tmp_path).take(wanted(name=numbered(1))).is_first


def test_a_lock_that_another_process_does_not_give_back_holds_nobody_up(tmp_path: Path) -> None:
    here = Claims(tmp_path, lock_patience_seconds=0)
    here.take(wanted(name=numbered(1)))
    with table(tmp_path).open("rb+") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        first = here.take(wanted(name=numbered(2)))
        assert first.is_first
        here.sweep(NOW)
    assert not here.take(wanted(name=numbered(2))).is_first
    assert not here.take(wanted(name=numbered(1))).is_first


@given(data=st.binary(max_size=3 * RECORD_BYTES))
def test_a_table_of_anything_holds_no_claim_and_takes_one(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "claims").mkdir()
        (directory / "claims" / f"{NAME[0]:02x}").write_bytes(data)
        first = wanted()
        assert Claims(directory).take(first) is first
        assert Claims(directory).take(wanted(OTHER_BODY)).token == first.token


@given(st.data())
def test_a_damaged_record_is_no_claim_and_its_neighbours_stand(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        here = Claims(directory)
        for number in range(3):
            here.settle(here.take(wanted(name=numbered(number))), f"buy_{number}", NOW)
        content = bytearray(table(directory).read_bytes())
        at = data.draw(st.integers(RECORD_BYTES, 2 * RECORD_BYTES - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        table(directory).write_bytes(content)
        found = [here.take(wanted(OTHER_BODY, name=numbered(number))) for number in range(3)]
        assert [claim.fingerprint for claim in found] == [BODY, OTHER_BODY, BODY]
        assert [claim.purchase_id for claim in found] == ["buy_0", "", "buy_2"]


@given(length=st.integers(0, 3 * RECORD_BYTES + 50))
def test_a_table_that_was_cut_short_keeps_what_is_whole(length: int) -> None:
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        here = Claims(directory)
        for number in range(3):
            here.take(wanted(name=numbered(number)))
        os.truncate(table(directory), length)
        first = [here.take(wanted(name=numbered(number))).is_first for number in range(3)]
        assert first == [length < (number + 1) * RECORD_BYTES for number in range(3)]
        assert not any(here.take(wanted(name=numbered(number))).is_first for number in range(3))

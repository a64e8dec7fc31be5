"""A key stands for one request of one caller, and for its success."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import IdempotencyMismatch, InvalidRequest
from proxy.idempotency import Claim, Idempotency
from proxy.model import Principal
from proxy.stores.claims import Claims
from tests.support.clock import ManualClock
from tests.support.store import metadata

pytestmark = pytest.mark.anyio

ALICE, BOB = Principal(scope="a1"), Principal(scope="b0b")
BODY, OTHER_BODY = "0" * 64, "f" * 64
DAY_SECONDS = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
async def stage(tmp_path: Path, executor: ThreadPoolExecutor, clock: ManualClock) -> AsyncIterator[Idempotency]:
    yield Idempotency(Claims(tmp_path), executor, clock)


def is_first(claim: Claim) -> bool:
    return claim.held.is_first


# --- the header -------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_any_short_printable_text_is_a_key_as_it_is(key: str) -> None:
    assert Idempotency.key_of({"idempotency-key": key}) == key


@given(
    st.one_of(
        st.just(""),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=256, max_size=300),
        st.tuples(
            st.text(max_size=20),
            st.characters(max_codepoint=0x1F) | st.characters(min_codepoint=0x7F),
            st.text(max_size=20),
        ).map("".join),
    )
)
def test_anything_else_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Idempotency.key_of({"idempotency-key": key})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_header", None)
    assert len(key) < 4 or key not in caught.value.message


def test_without_the_header_there_is_no_key() -> None:
    assert Idempotency.key_of({"content-type": "application/json"}) is None


# --- who has a key ----------------------------------------------------------------------------------------------------


async def test_the_same_request_finds_its_claim_and_another_is_refused_for_good(stage: Idempotency) -> None:
    assert is_first(await stage.claim(ALICE, "k", BODY))
    assert not is_first(await stage.claim(ALICE, "k", BODY))
    with pytest.raises(IdempotencyMismatch) as caught:
        await stage.claim(ALICE, "k", OTHER_BODY)
    error = caught.value
    assert (error.status, error.type, error.code) == (422, "invalid_request_error", "idempotency_key_in_use")
    assert error.should_retry is False


async def test_a_key_belongs_to_its_caller_alone(stage: Idempotency) -> None:
    await stage.claim(ALICE, "k", BODY)
    others = (BOB, Principal(scope="a1", name="second key"), Principal(scope="a1s", name="econd key"))
    for other in others:
        assert is_first(await stage.claim(other, "k", OTHER_BODY))
    assert is_first(await stage.claim(ALICE, "K", OTHER_BODY))


async def test_of_two_requests_at_once_one_has_the_key(stage: Idempotency) -> None:
    outcomes = await asyncio.gather(
        *(stage.claim(ALICE, "k", f"{number:064x}") for number in range(10)), return_exceptions=True
    )
    claims = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, IdempotencyMismatch)]
    assert (len(claims), len(refusals)) == (1, 9)
    assert is_first(claims[0])


async def test_a_failure_frees_the_key(stage: Idempotency) -> None:
    await stage.free(await stage.claim(ALICE, "k", BODY))
    assert is_first(await stage.claim(ALICE, "k", OTHER_BODY))


async def test_a_failure_that_a_duplicate_shares_frees_the_key_once(stage: Idempotency) -> None:
    first, duplicate = await stage.claim(ALICE, "k", BODY), await stage.claim(ALICE, "k", BODY)
    await stage.free(first)
    other = await stage.claim(ALICE, "k", OTHER_BODY)
    await stage.free(duplicate)
    await stage.free(duplicate)
    with pytest.raises(IdempotencyMismatch):
        await stage.claim(ALICE, "k", BODY)
    await stage.free(other)
    assert is_first(await stage.claim(ALICE, "k", BODY))


async def test_a_duplicate_may_succeed_where_the_first_failed(stage: Idempotency) -> None:
    first, duplicate = await stage.claim(ALICE, "k", BODY), await stage.claim(ALICE, "k", BODY)
    await stage.free(first)
    await stage.settle(duplicate, "buy_2")
    await stage.free(first)
    again = await stage.claim(ALICE, "k", BODY)
    assert again.replays(metadata(2))
    with pytest.raises(IdempotencyMismatch):
        await stage.claim(ALICE, "k", OTHER_BODY)


async def test_a_key_is_free_after_a_day(stage: Idempotency, clock: ManualClock) -> None:
    await stage.settle(await stage.claim(ALICE, "k", BODY), "buy_1")
    clock.advance(DAY_SECONDS - 1)
    with pytest.raises(IdempotencyMismatch):
        await stage.claim(ALICE, "k", OTHER_BODY)
    clock.advance(1)
    assert is_first(await stage.claim(ALICE, "k", OTHER_BODY))


@pytest.mark.parametrize("jump", [-7200.0, 7200.0, 1 - DAY_SECONDS])
async def test_a_clock_that_jumps_within_the_day_changes_nothing(
    stage: Idempotency, clock: ManualClock, jump: float
) -> None:
    await stage.settle(await stage.claim(ALICE, "k", BODY), "buy_1")
    clock.jump(jump)
    assert (await stage.claim(ALICE, "k", BODY)).replays(metadata(1))


@pytest.mark.parametrize("jump", [-DAY_SECONDS, DAY_SECONDS, -1e9])
async def test_no_claim_is_immortal_whatever_the_clock_does(
    stage: Idempotency, clock: ManualClock, jump: float
) -> None:
    await stage.settle(await stage.claim(ALICE, "k", BODY), "buy_1")
    clock.jump(jump)
    assert is_first(await stage.claim(ALICE, "k", OTHER_BODY))


async def test_claims_survive_a_restart_and_hold_in_every_process(
    tmp_path: Path, stage: Idempotency, executor: ThreadPoolExecutor, clock: ManualClock
) -> None:
    await stage.settle(await stage.claim(ALICE, "k", BODY), "buy_1")
    other = Idempotency(Claims(tmp_path), executor, clock)
    assert (await other.claim(ALICE, "k", BODY)).replays(metadata(1))
    with pytest.raises(IdempotencyMismatch):
        await other.claim(ALICE, "k", OTHER_BODY)


async def test_a_broken_disk_is_no_failure(tmp_path: Path, executor: ThreadPoolExecutor, clock: ManualClock) -> None:
    (tmp_path / "cache").write_text("in the way")
    stage = Idempotency(Claims(tmp_path / "cache"), executor, clock)
    await stage.settle(await stage.claim(ALICE, "k", BODY), "buy_1")
    assert (await stage.claim(ALICE, "k", BODY)).replays(metadata(1))
    with pytest.raises(IdempotencyMismatch):
        await stage.claim(ALICE, "k", OTHER_BODY)


async def test_a_claim_can_be_settled_after_the_threads_have_gone(
    tmp_path: Path, stage: Idempotency, executor: ThreadPoolExecutor
) -> None:
    claim = await stage.claim(ALICE, "k", BODY)
    executor.shutdown()
    await stage.settle(claim, "buy_1")
    assert (await stage.claim(ALICE, "k", BODY)).replays(metadata(1))


async def test_nothing_of_a_caller_or_a_key_is_written_down(tmp_path: Path, stage: Idempotency) -> None:
    await stage.claim(Principal(scope="5c09e5c09e", name="alice"), "order-4711", BODY)
    (table,) = (tmp_path / "claims").iterdir()
    assert not any(secret in table.read_bytes() for secret in (b"5c09e5c09e", b"alice", b"order-4711"))


# --- what is replayed -------------------------------------------------------------------------------------------------


async def test_the_first_request_replays_nothing(stage: Idempotency, clock: ManualClock) -> None:
    claim = await stage.claim(ALICE, "k", BODY)
    assert not claim.replays(metadata(1, stored_at=clock.wall() + 1))
    assert not claim.replays(metadata(1, purchase_id=""))


async def test_a_duplicate_gets_what_was_given_however_old_it_is(stage: Idempotency, clock: ManualClock) -> None:
    await stage.settle(await stage.claim(ALICE, "k", BODY), "buy_1")
    clock.advance(60)
    duplicate = await stage.claim(ALICE, "k", BODY)
    assert duplicate.replays(metadata(1, stored_at=clock.wall() - 1e6, expires_at=clock.wall() - 1))
    assert not duplicate.replays(metadata(2, stored_at=clock.wall() - 61))


async def test_a_duplicate_that_nobody_told_takes_what_was_stored_since_the_first(
    stage: Idempotency, clock: ManualClock
) -> None:
    await stage.claim(ALICE, "k", BODY)
    arrived = clock.wall()
    clock.advance(60)
    duplicate = await stage.claim(ALICE, "k", BODY)
    assert duplicate.replays(metadata(1, stored_at=arrived))
    assert duplicate.replays(metadata(1, stored_at=arrived + 30))
    assert not duplicate.replays(metadata(1, stored_at=arrived - 0.1))
    assert not duplicate.replays(metadata(1, stored_at=arrived - 0.1, purchase_id=""))
    assert not duplicate.replays(metadata(1, stored_at=arrived + DAY_SECONDS))


# --- flights of their own ---------------------------------------------------------------------------------------------


async def test_duplicates_name_the_same_flight_and_nobody_else_does(stage: Idempotency) -> None:
    first, duplicate = await stage.claim(ALICE, "k", BODY), await stage.claim(ALICE, "k", BODY)
    others = [
        await stage.claim(BOB, "k", BODY),
        await stage.claim(ALICE, "other", BODY),
        await stage.claim(ALICE, "third", OTHER_BODY),
    ]
    assert first.flight_key == duplicate.flight_key != BODY
    assert len({claim.flight_key for claim in (first, *others)}) == 4
    assert len(first.flight_key) == 64 and int(first.flight_key, 16)

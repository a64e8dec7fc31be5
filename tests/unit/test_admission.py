"""Limits in time: never more than N in any minute, a refusal takes nothing, and a 429 says when to come back."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admission import Admission
from proxy.errors import RateLimited, UpstreamTimeout, UpstreamUnreachable
from proxy.keyrecord import KeyRecord
from proxy.model import Holder, Principal
from tests.support.clock import ManualClock

NOBODY = Principal(scope="0")
UNBILLED = UpstreamUnreachable("nobody there")


class Scene:
    """An admission, its clock, and what it told of refusals."""

    def __init__(self) -> None:
        self.clock = ManualClock(monotonic=0.0)
        self.refusals: list[tuple[str, str]] = []
        self.admission = Admission(self.clock, lambda scope, limit: self.refusals.append((scope, limit)))

    def refused_request(self, principal: Principal) -> RateLimited:
        with pytest.raises(RateLimited) as caught:
            self.admission.admit(principal)
        return caught.value

    def refused_purchase(self, principal: Principal, images: int = 1) -> RateLimited:
        with pytest.raises(RateLimited) as caught, self.admission.buying(principal, images):
            raise AssertionError("it was let in")
        return caught.value

    def buy(self, principal: Principal, images: int = 1) -> None:
        with self.admission.buying(principal, images):
            pass


@pytest.fixture
def scene() -> Scene:
    return Scene()


def caller(name: str = "1", **limits: Any) -> Principal:
    key = KeyRecord(
        id=f"key_{name}",
        digest=name.encode(),
        shown="sk-ig-…Ab3x",
        key_alias=name,
        created_at=1.0,
        updated_at=1.0,
        revision=1,
        **limits,
    )
    return Principal(scope="0", name=key.id, holder=Holder(key))


# Requests


def test_who_has_no_limit_passes(scene: Scene) -> None:
    for principal in (NOBODY, caller(), caller(ipm_limit=1, max_parallel_requests=1)):
        for _ in range(100):
            scene.admission.admit(principal)
        assert scene.admission.standing(principal) == {}
    assert scene.refusals == []
    assert scene.admission.remembered() == 0


def test_a_minute_slides(scene: Scene) -> None:
    principal = caller(rpm_limit=3)
    for _ in range(3):
        scene.admission.admit(principal)
        scene.clock.advance(10)
    scene.refused_request(principal)
    scene.clock.advance(29.875)
    scene.refused_request(principal)
    scene.clock.advance(0.125)
    scene.admission.admit(principal)
    scene.refused_request(principal)
    scene.clock.advance(10)
    scene.admission.admit(principal)


def test_each_key_has_a_minute_of_its_own(scene: Scene) -> None:
    scene.admission.admit(caller("a", rpm_limit=1))
    scene.admission.admit(caller("b", rpm_limit=1))
    scene.refused_request(caller("a", rpm_limit=1))


def test_what_is_refused_counts_for_nothing(scene: Scene) -> None:
    principal = caller(rpm_limit=1)
    scene.admission.admit(principal)
    for _ in range(50):
        scene.clock.advance(1)
        scene.refused_request(principal)
    scene.clock.advance(10)
    scene.admission.admit(principal)


def test_the_wall_clock_may_jump(scene: Scene) -> None:
    principal = caller(rpm_limit=1)
    scene.admission.admit(principal)
    scene.clock.jump(86_400)
    scene.refused_request(principal)
    scene.clock.jump(-2 * 86_400)
    scene.clock.advance(60)
    scene.admission.admit(principal)


def test_a_refused_request_is_told_in_openais_words(scene: Scene) -> None:
    principal = caller(rpm_limit=5)
    for _ in range(5):
        scene.admission.admit(principal)
    scene.clock.advance(48)
    error = scene.refused_request(principal)
    assert error.body() == {
        "error": {
            "message": "Rate limit reached for this key on requests per min (RPM): Limit 5, Used 5, Requested 1. "
            "Please try again in 12s.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
    assert (error.status, error.should_retry) == (429, None)
    assert error.headers == {
        "retry-after": "12",
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "12s",
    }
    assert scene.refusals == [("key", "rpm")]


@pytest.mark.parametrize(
    ("passed", "words", "retry_after"),
    [
        (0.0, "1m0s", "60"),
        (0.5, "59.5s", "60"),
        (58.99, "1.01s", "2"),
        (59.0, "1s", "1"),
        (59.76, "240ms", "1"),
        (59.9999, "1ms", "1"),
    ],
)
def test_durations_are_written_as_openai_does_and_rounded_up(
    scene: Scene, passed: float, words: str, retry_after: str
) -> None:
    principal = caller(rpm_limit=1)
    scene.admission.admit(principal)
    scene.clock.advance(passed)
    error = scene.refused_request(principal)
    assert error.message.endswith(f"Please try again in {words}.")
    assert error.headers["x-ratelimit-reset-requests"] == words
    assert error.headers["retry-after"] == retry_after


def test_who_comes_back_when_told_to_is_let_in(scene: Scene) -> None:
    principal = caller(rpm_limit=2)
    scene.admission.admit(principal)
    scene.clock.advance(13.3)
    scene.admission.admit(principal)
    scene.clock.advance(7.77)
    error = scene.refused_request(principal)
    assert error.headers["x-ratelimit-reset-requests"] == "52.23s"  # of all of it
    scene.clock.advance(float(error.headers["retry-after"]))
    scene.admission.admit(principal)


def test_an_answer_says_where_the_key_stands(scene: Scene) -> None:
    principal = caller(rpm_limit=3)
    assert scene.admission.standing(principal) == standing(3, 3, "0s")
    scene.admission.admit(principal)
    scene.clock.advance(20)
    scene.admission.admit(principal)
    assert scene.admission.standing(principal) == standing(3, 1, "1m0s")
    scene.clock.advance(45)
    assert scene.admission.standing(principal) == standing(3, 2, "15s")
    scene.clock.advance(15)
    assert scene.admission.standing(principal) == standing(3, 3, "0s")


def standing(limit: int, remaining: int, reset: str) -> Mapping[str, str]:
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": reset,
    }


def test_a_changed_limit_applies_at_once(scene: Scene) -> None:
    for _ in range(4):
        scene.admission.admit(caller(rpm_limit=4))
        scene.clock.advance(1)
    scene.admission.admit(caller(rpm_limit=5))
    error = scene.refused_request(caller(rpm_limit=2))
    assert "Limit 2, Used 5, Requested 1. Please try again in 59s." in error.message  # four of five have to go
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    scene.admission.admit(caller())
    scene.clock.advance(59)
    scene.admission.admit(caller(rpm_limit=2))


# Purchases


def test_who_has_no_limit_buys(scene: Scene) -> None:
    with ExitStack() as stack:
        for principal in (NOBODY, caller(), caller(rpm_limit=1)):
            for _ in range(10):
                stack.enter_context(scene.admission.buying(principal, 10))
    assert scene.refusals == []


def test_images_of_a_minute_are_counted(scene: Scene) -> None:
    principal = caller(ipm_limit=4)
    scene.buy(principal, 3)
    scene.clock.advance(30)
    scene.buy(principal, 1)
    error = scene.refused_purchase(principal, 2)
    assert error.body()["error"] == {
        "message": "Rate limit reached for this key on images per min (IPM): Limit 4, Used 4, Requested 2. "
        "Please try again in 30s.",
        "type": "images",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert error.headers == {
        "retry-after": "30",
        "x-ratelimit-limit-images": "4",
        "x-ratelimit-remaining-images": "0",
        "x-ratelimit-reset-images": "1m0s",
    }
    assert error.concerns_payer_only
    assert scene.refusals == [("key", "ipm")]
    scene.clock.advance(30)
    scene.buy(principal, 3)
    scene.refused_purchase(principal, 1)


def test_the_wait_is_until_there_is_room_for_all_the_images(scene: Scene) -> None:
    principal = caller(ipm_limit=4)
    for _ in range(4):
        scene.buy(principal, 1)
        scene.clock.advance(10)
    assert [scene.refused_purchase(principal, n).headers["retry-after"] for n in (1, 2, 3, 4)] == [
        "20",
        "30",
        "40",
        "50",
    ]


def test_more_images_than_a_minute_has_can_never_pass(scene: Scene) -> None:
    principal = caller(ipm_limit=4, max_parallel_requests=1)
    with scene.admission.buying(principal, 1):
        error = scene.refused_purchase(principal, 5)
    assert error.message == (
        "Request too large for this key on images per min (IPM): Limit 4, Requested 5. "
        "It can never pass: ask for at most 4 at a time (parameter 'n')."
    )
    assert (error.status, error.type) == (429, "images")
    assert error.headers == {
        "x-should-retry": "false",
        "x-ratelimit-limit-images": "4",
        "x-ratelimit-remaining-images": "3",
        "x-ratelimit-reset-images": "1m0s",
    }
    assert scene.refusals == [("key", "ipm")]


def test_a_refused_purchase_takes_nothing(scene: Scene) -> None:
    principal = caller(ipm_limit=4, max_parallel_requests=1)
    scene.buy(principal, 2)
    scene.refused_purchase(principal, 3)
    scene.refused_purchase(principal, 5)
    with scene.admission.buying(principal, 1):
        scene.refused_purchase(principal, 1)
    scene.buy(principal, 1)
    scene.refused_purchase(principal, 1)


def test_images_that_were_not_billed_are_given_back(scene: Scene) -> None:
    principal = caller(ipm_limit=4)
    with suppress(UpstreamUnreachable), scene.admission.buying(principal, 4):
        scene.refused_purchase(principal, 1)
        raise UNBILLED.again()
    scene.buy(principal, 4)
    scene.refused_purchase(principal, 1)


@pytest.mark.parametrize("error", [UpstreamTimeout("late"), ValueError("a defect")], ids=str)
def test_images_that_may_have_been_billed_count(scene: Scene, error: Exception) -> None:
    principal = caller(ipm_limit=4)
    with suppress(UpstreamTimeout, ValueError), scene.admission.buying(principal, 4):
        raise error
    scene.refused_purchase(principal, 1)


def test_images_may_be_given_back_when_their_minute_is_over(scene: Scene) -> None:
    principal = caller(ipm_limit=4)
    with suppress(UpstreamUnreachable), scene.admission.buying(principal, 4):
        scene.clock.advance(60)
        scene.buy(principal, 4)
        raise UNBILLED.again()
    scene.refused_purchase(principal, 1)
    with suppress(UpstreamUnreachable), scene.admission.buying(caller("other", ipm_limit=4), 4):
        scene.clock.advance(60)
        scene.buy(caller("third"), 1)
        raise UNBILLED.again()
    scene.buy(principal, 4)
    scene.refused_purchase(principal, 1)


def test_images_given_back_hold_nobody_up(scene: Scene) -> None:
    principal = caller(ipm_limit=2)
    with suppress(UpstreamUnreachable), scene.admission.buying(principal, 1):
        raise UNBILLED.again()
    scene.clock.advance(10)
    scene.buy(principal, 1)
    scene.clock.advance(10)
    with suppress(UpstreamUnreachable), scene.admission.buying(principal, 1):
        assert scene.refused_purchase(principal, 1).headers["retry-after"] == "50"
        raise UNBILLED.again()
    error = scene.refused_purchase(principal, 2)
    assert (error.headers["retry-after"], error.headers["x-ratelimit-reset-images"]) == ("50", "50s")


def test_places_are_held_until_the_purchase_is_over(scene: Scene) -> None:
    principal = caller(max_parallel_requests=2)
    with scene.admission.buying(principal, 1):
        with scene.admission.buying(principal, 1):
            scene.clock.advance(3600)
            error = scene.refused_purchase(principal)
        scene.buy(principal)
        scene.buy(caller("other", max_parallel_requests=1))
    scene.buy(principal)
    assert error.message == (
        "Rate limit reached for this key on parallel requests: Limit 2, Used 2, Requested 1. "
        "Please try again when one of them has ended."
    )
    assert (error.status, error.type, error.headers) == (429, "requests", {"retry-after": "5"})
    assert scene.refusals == [("key", "concurrency")]


def test_a_purchase_that_fails_gives_its_place_back_but_not_its_images(scene: Scene) -> None:
    principal = caller(max_parallel_requests=1, ipm_limit=2)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), scene.admission.buying(principal, 1):
            raise ZeroDivisionError
    assert "IPM" in scene.refused_purchase(principal).message


@pytest.mark.parametrize(("passed", "limit"), [(54.0, "ipm"), (56.0, "concurrency")])
def test_of_two_limits_the_one_with_the_longer_wait_is_told(scene: Scene, passed: float, limit: str) -> None:
    principal = caller(max_parallel_requests=1, ipm_limit=1)
    with scene.admission.buying(principal, 1):
        scene.clock.advance(passed)
        scene.refused_purchase(principal)
    assert scene.refusals == [("key", limit)]


def test_a_limit_that_is_set_in_the_middle_knows_what_was_bought_before(scene: Scene) -> None:
    with scene.admission.buying(caller(), 3), scene.admission.buying(caller(), 3):
        assert "Used 2" in scene.refused_purchase(caller(max_parallel_requests=1)).message
        assert "Used 6" in scene.refused_purchase(caller(ipm_limit=5)).message
        scene.buy(caller(max_parallel_requests=3, ipm_limit=7), 1)


# Memory


def test_a_key_that_is_idle_for_a_minute_costs_nothing(scene: Scene) -> None:
    for number in range(100):
        scene.admission.admit(caller(str(number), rpm_limit=5))
        scene.buy(caller(str(number)))
    scene.clock.advance(30)
    scene.admission.admit(caller("0", rpm_limit=5))
    assert scene.admission.remembered() == 200
    scene.clock.advance(30)
    scene.admission.admit(caller("100", rpm_limit=5))
    scene.buy(caller("100"))
    assert scene.admission.remembered() == 3
    scene.clock.advance(60)
    assert scene.admission.standing(caller(rpm_limit=5)) == standing(5, 5, "0s")
    assert scene.admission.remembered() == 1


def test_what_is_refused_is_not_remembered(scene: Scene) -> None:
    for number in range(100):
        scene.refused_purchase(caller(str(number), ipm_limit=1), 2)
        scene.admission.standing(caller(str(number), rpm_limit=1))
    assert scene.admission.remembered() == 0


# Any sequence

PAUSES = st.integers(0, 480).map(lambda eighths: eighths / 8)


@given(st.integers(1, 6), st.lists(st.tuples(PAUSES | st.just(0.0), st.integers(1, 7), st.booleans()), max_size=60))
def test_never_more_than_the_limit_in_any_minute_and_never_less_than_there_is_room_for(
    limit: int, steps: list[tuple[float, int, bool]]
) -> None:
    scene = Scene()
    buyer, asker = caller(ipm_limit=limit), caller(rpm_limit=limit)
    bought: list[tuple[float, int]] = []
    asked: list[tuple[float, int]] = []
    for pause, images, is_released in steps:
        scene.clock.advance(pause)
        now = scene.clock.monotonic()
        assert let_in(scene, asker, None) == (live(asked, now) + 1 <= limit)
        if live(asked, now) + 1 <= limit:
            asked.append((now, 1))
        fits = live(bought, now) + images <= limit
        assert let_in(scene, buyer, images, release=is_released) == fits
        if fits and not is_released:
            bought.append((now, images))
        left = int(scene.admission.standing(asker)["x-ratelimit-remaining-requests"])
        assert left == limit - live(asked, now)
    for taken in (asked, bought):
        assert all(sum(amount for at, amount in taken if start <= at < start + 60) <= limit for start, _ in taken)


@given(st.integers(1, 6), st.lists(st.tuples(PAUSES, st.integers(1, 6)), max_size=30), st.integers(1, 6))
def test_the_wait_that_is_told_is_long_enough_and_no_longer(
    limit: int, steps: list[tuple[float, int]], images: int
) -> None:
    scene = Scene()
    principal = caller(ipm_limit=limit)
    for pause, amount in steps:
        scene.clock.advance(pause)
        let_in(scene, principal, amount)
    if images > limit or let_in(scene, principal, images, release=True):
        return
    wait = float(scene.refused_purchase(principal, images).headers["retry-after"])
    scene.clock.advance(wait - 1)
    assert wait == 1 or not let_in(scene, principal, images, release=True)
    scene.clock.advance(1)
    assert let_in(scene, principal, images)


def live(taken: list[tuple[float, int]], now: float) -> int:
    return sum(amount for at, amount in taken if now - 60 < at)


def let_in(scene: Scene, principal: Principal, images: int | None, *, release: bool = False) -> bool:
    """A request if there are no images, else a purchase."""
    try:
        if images is None:
            scene.admission.admit(principal)
        else:
            with suppress(UpstreamUnreachable), scene.admission.buying(principal, images):
                if release:
                    raise UNBILLED.again()
    except RateLimited:
        return False
    return True


# Speed, with an order of magnitude to spare for a busy machine


def test_a_request_is_counted_without_delay(scene: Scene) -> None:
    callers = [caller(str(number), rpm_limit=100) for number in range(1000)]
    started = time.thread_time()
    for _ in range(10):
        for principal in callers:
            scene.admission.admit(principal)
    assert (time.thread_time() - started) / 10_000 < 50e-6

"""The breaker: five failures in a row and half a minute."""

from proxy.upstream.breaker import FAILURES_TO_REST, REST_SECONDS, Breaker
from tests.support.clock import ManualClock


def broken() -> tuple[Breaker, ManualClock]:
    clock = ManualClock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_REST):
        assert not breaker.rests
        breaker.failed()
    return breaker, clock


def test_it_rests_after_failures_in_a_row_and_wakes_by_itself() -> None:
    breaker, clock = broken()
    seen = []
    for seconds in (0, REST_SECONDS - 0.1, 0.1):
        clock.advance(seconds)
        seen.append(breaker.rests)
    assert seen == [True, True, False]


def test_one_more_failure_lets_it_rest_again_and_one_success_forgives_all() -> None:
    breaker, clock = broken()
    clock.advance(REST_SECONDS)
    seen = []
    for event in (breaker.failed, breaker.succeeded, breaker.failed):
        event()
        seen.append(breaker.rests)
    assert seen == [True, False, False]


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker(ManualClock())
    for _ in range(3):
        for _ in range(FAILURES_TO_REST - 1):
            breaker.failed()
        breaker.succeeded()
    assert not breaker.rests


def test_a_wall_clock_that_jumps_changes_nothing() -> None:
    breaker, clock = broken()
    seen = []
    for jump, advance in ((10**9, 0.0), (-(10**9), 0.0), (0, REST_SECONDS)):
        clock.jump(jump)
        clock.advance(advance)
        seen.append(breaker.rests)
    assert seen == [True, True, False]

"""How late the loop wakes: measured by the loop's own clock, turned by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from proxy.looplag import SLEEP_SECONDS, LoopLag


@dataclass
class Alarm:
    when: float
    callback: Callable[[], object]
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class ManualLoop:
    """A loop whose time passes when `run_until` says so, and which can be blocked."""

    now: float = 100.0
    alarms: list[Alarm] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> Alarm:
        self.alarms.append(Alarm(when, callback))
        return self.alarms[-1]

    def run_until(self, moment: float) -> None:
        """Nothing runs before `moment`, then all that was due."""
        self.now = moment
        for alarm in [each for each in self.alarms if each.when <= moment]:
            self.alarms.remove(alarm)
            if not alarm.is_cancelled:
                alarm.callback()


def test_a_loop_that_wakes_in_time_has_no_lag_and_one_that_was_blocked_has_what_it_was_blocked_for() -> None:
    lags: list[float] = []
    loop, lag = ManualLoop(), LoopLag(lags.append)
    lag.start(loop)
    loop.run_until(100.0 + SLEEP_SECONDS)
    loop.run_until(103.0)
    assert lags == [0.0, pytest.approx(2.0)]
    assert [alarm.when for alarm in loop.alarms] == [103.0 + SLEEP_SECONDS]


def test_a_clock_that_wakes_too_early_is_no_negative_lag() -> None:
    lags: list[float] = []
    loop, lag = ManualLoop(), LoopLag(lags.append)
    lag.start(loop)
    loop.now = 100.4996
    loop.alarms.pop().callback()
    assert lags == [0.0]


def test_once_stopped_nothing_is_observed_and_starting_twice_is_starting_once() -> None:
    lags: list[float] = []
    loop, lag = ManualLoop(), LoopLag(lags.append)
    lag.stop()
    lag.start(loop)
    lag.start(loop)
    loop.run_until(101.0)
    assert len(lags) == 1
    lag.stop()
    lag.stop()
    loop.run_until(200.0)
    assert len(lags) == 1


@pytest.mark.anyio
async def test_it_sleeps_on_the_running_loop() -> None:
    lag = LoopLag(lambda seconds: None)
    lag.start()
    lag.stop()

"""proxy/health.py: one phase, one deadline."""

import pytest

from proxy.errors import Draining
from proxy.health import Health, Phase
from tests.support.clock import ManualClock


def test_it_serves_until_it_is_told_to_leave() -> None:
    health = Health(store_is_writable=lambda: True, clock=ManualClock())
    health.refuse_new_purchases_when_draining()
    assert (health.phase, health.problems()) == (Phase.SERVING, [])
    assert Health(store_is_writable=lambda: False, clock=ManualClock()).problems() == ["the cache cannot be written"]


def test_while_leaving_it_is_not_ready_but_still_buys() -> None:
    clock = ManualClock()
    health = Health(store_is_writable=lambda: True, clock=clock)
    health.leave(5)
    health.refuse_new_purchases_when_draining()
    assert health.problems() == ["shutting down"]
    clock.advance(3)
    assert (health.seconds_left, health.is_draining) == (2, False)
    clock.advance(3)
    assert health.seconds_left == 0


def test_a_drain_has_one_deadline_however_often_it_begins() -> None:
    clock = ManualClock()
    health = Health(store_is_writable=lambda: True, clock=clock)
    health.leave(0)
    health.drain(10)
    clock.advance(4)
    health.drain(10)
    assert (health.seconds_left, health.problems()) == (6, ["shutting down"])
    with pytest.raises(Draining):
        health.refuse_new_purchases_when_draining()

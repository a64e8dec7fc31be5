"""Fixtures of the tests with real clients."""

import pytest

from tests.support.fixtures import proxy, start, upstream

__all__ = ["no_proxy_between", "proxy", "start", "upstream"]


@pytest.fixture(autouse=True)
def no_proxy_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients believe HTTP_PROXY; whatever it says on this machine, loopback is not behind it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")

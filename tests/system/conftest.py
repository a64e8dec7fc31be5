"""Fixtures of the system tests."""

from tests.support.fixtures import proxy, start, upstream

__all__ = ["proxy", "start", "upstream"]

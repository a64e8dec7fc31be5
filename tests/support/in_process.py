"""Fixtures of the tests in one process: a counting upstream, and the whole application over it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream, counting_upstream


@pytest.fixture
async def upstream() -> AsyncIterator[CountingUpstream]:
    async with counting_upstream() as upstream:
        yield upstream


@pytest.fixture
async def proxy(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[Gate]:
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        yield proxy

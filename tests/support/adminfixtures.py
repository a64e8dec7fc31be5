"""Fixtures: a running admin API, for a module that says `pytest_plugins = ["tests.support.adminfixtures"]`.

Nobody imports this file but pytest.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.database.background import BackgroundDatabase
from tests.support.admin import Admin, serving, settings_of
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def admin(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Admin]:
    async with serving(settings_of(tmp_path), BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db"), clock) as admin:
        yield admin

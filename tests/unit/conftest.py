"""What tests of the command line stand in."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of their own, and no settings from outside."""
    for name in list(os.environ):
        if name.startswith(("IMAGEGATE_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

"""Configurations written for a test: read, or refused with their problems."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.configuration import load
from proxy.errors import ConfigurationError
from proxy.settings import Settings

MARKED = "sk-marked-0123456789abcdef"
OPENAI = '[[upstreams]]\nname = "openai"\nbase_url = "https://api.openai.com/v1"\n'


def problems(toml: str | None, folder: Path, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        settings(toml, folder, environ)
    return caught.value.problems


def settings(toml: str | None, folder: Path, environ: Mapping[str, str] | None = None) -> Settings:
    return load(None if toml is None else Path(config(folder, toml)), environ or {})


def config(folder: Path, toml: str = "") -> str:
    """A file for `--config`."""
    file = folder / "imagegate.toml"
    file.write_text(toml, "utf-8")
    return str(file)

"""The composition root: what it refuses to build."""

from pathlib import Path

import pytest

from proxy.app import build
from proxy.errors import ConfigurationError
from proxy.settings import CacheSection, RulesSection, Settings, UpstreamSection


def settings(folder: Path, vendor: str, *files: Path) -> Settings:
    upstream = UpstreamSection(name="a", vendor=vendor, base_url="https://a.example/v1")
    return Settings(
        upstreams=(upstream,), cache=CacheSection(directory=folder / "cache"), rules=RulesSection(catalogue=files)
    )


def test_an_upstream_of_a_vendor_that_the_catalogue_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(settings(tmp_path, "nobody"))
    assert caught.value.problems == (
        "upstreams.0.vendor: 'nobody' is not in the catalogue (apiyi, azure, generic, openai, together, xai)",
    )
    assert not (tmp_path / "cache").exists()


def test_a_new_catalogue_without_the_vendor_of_a_running_upstream_leaves_the_old_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('vendor = "mine"\n')
    app = build(settings(tmp_path, "mine", mine))
    old = app.pipeline.doorkeeper.validator
    with pytest.raises(ConfigurationError, match="'mine' is not in the catalogue"):
        app.reload(settings(tmp_path, "openai"))
    assert app.pipeline.doorkeeper.validator is old
    app.reload(settings(tmp_path, "mine", mine))
    assert app.pipeline.doorkeeper.validator is not old

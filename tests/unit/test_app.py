"""The composition root: what it refuses to build, and what it tells of its build."""

import asyncio
from pathlib import Path

import pytest

from proxy.app import build
from proxy.errors import ConfigurationError
from proxy.settings import CacheSection, RulesSection, Settings, UpstreamSection

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize(
    ("told", "label"), [(None, "unknown"), ("", "unknown"), (" 0f3c9a \n", "0f3c9a"), ("x" * 1000, "x" * 64)]
)
def test_the_build_says_what_it_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, label: str
) -> None:
    if told is None:
        monkeypatch.delenv("IMAGEGATE_REVISION", raising=False)
    else:
        monkeypatch.setenv("IMAGEGATE_REVISION", told)
    app = build(settings(tmp_path, "openai"))
    assert f'revision="{label}"' in app.metrics.render(None)[0].decode()


async def test_the_lag_of_the_event_loop_is_watched_from_opening_to_closing(tmp_path: Path) -> None:
    app = build(settings(tmp_path, "openai"))
    loop = asyncio.get_running_loop()
    await app.open()
    alarm = app.lag._alarm
    assert 0 < alarm.when() - loop.time() <= 0.5
    alarm._callback()
    assert "imagegate_event_loop_lag_seconds_count 1.0" in app.metrics.render(None)[0].decode()
    last = app.lag._alarm
    await app.close(1)
    assert last.cancelled()

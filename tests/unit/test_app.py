"""The composition root: what it refuses to build, and what it tells of its build."""

import asyncio
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from proxy.app import build
from proxy.errors import ConfigurationError
from proxy.secret import Secret
from proxy.settings import AuthSection, CacheSection, RulesSection, Settings, UpstreamSection

pytestmark = pytest.mark.anyio

NOT_AT_THE_START = {"PIL", "alembic", "opentelemetry", "psycopg", "sqlalchemy"}
NOT_AT_THE_START |= {f"proxy.{name}" for name in ("admin", "keystore", "otel", "usage")}
"""What takes long to import, and is imported when somebody needs it. `proxy.sandbox` paints with PIL."""


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


def test_a_start_imports_nothing_that_it_may_never_need() -> None:
    """In a process of its own: this one has imported all of it."""
    code = "import proxy.server, sys; print(*sys.modules)"
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "proxy.app" in loaded
    assert not loaded & NOT_AT_THE_START


@pytest.mark.parametrize("path", ["/admin/v1/keys", "/v1/organization/costs"])
async def test_the_admin_api_is_made_once_however_many_ask_for_it_first(tmp_path: Path, path: str) -> None:
    """Guesses are counted in one place: of eleven at once the last is not looked at."""
    app = build(replace(settings(tmp_path, "openai"), auth=AuthSection(admin_token=Secret("right"))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gate.test") as client:
        guessing = (client.get(path, headers={"authorization": "Bearer wrong"}) for _ in range(11))
        answers = await asyncio.gather(*guessing)
        told = Counter(answer.status_code for answer in answers)
        unknown = await client.get("/admin/v1/nothing")
    assert told == {401: 10, 429: 1}
    assert unknown.json()["error"]["message"].startswith("Unknown request URL: GET /admin/v1/nothing. imagegate serves")

"""The keys that a running process knows: those of the database, within half a second, and whatever happens to it."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from proxy import keyfeed as keyfeed_module
from proxy.database.background import BackgroundDatabase
from proxy.database.engine import Database
from proxy.errors import ConfigurationError, DatabaseUnavailable
from proxy.keyfeed import KeyFeed
from proxy.keyring import KeyRefused, Keyring
from proxy.keystore import KeyStore
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio
ACTOR = "cli:root"


class Scene:
    """A process that follows the keys, and an administrator beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.door = Database(f"sqlite:///{path}")
        self.keys = KeyStore(self.door, self.clock)
        self.database = BackgroundDatabase(f"sqlite:///{path}", wait_seconds=0.02)
        self.keyring = Keyring()
        self.teams: list[str] = []
        self.feed = KeyFeed(self.database, self.keyring, self.clock, self.teams.append)

    def key(self, **fields: Any) -> str:
        return self.keys.create_key({"key_alias": "web", **fields}, ACTOR)[1]

    def works(self, key: str) -> bool:
        try:
            self.keyring.find(key, self.clock.wall())
        except KeyRefused:
            return False
        return True

    @contextmanager
    def away(self) -> Iterator[None]:
        kept = self.path.with_name("kept")
        self.path.rename(kept)
        try:
            yield
        finally:
            kept.rename(self.path)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "imagegate.db"
    database = Database(f"sqlite:///{path}")
    database.open()
    database.close()
    return path


@pytest.fixture
async def scene(migrated: Path, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(Path(shutil.copy(migrated, tmp_path / "imagegate.db")))
    yield scene
    await scene.feed.close()
    await scene.database.close()
    scene.door.close()


async def until(is_so: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not is_so():
            await anyio.sleep(0.001)


async def test_all_keys_are_known_when_it_has_started(scene: Scene) -> None:
    team = scene.keys.create_team({"team_alias": "art"}, ACTOR)
    key = scene.key(team_id=team.id)
    gone = scene.key(key_alias="gone")
    scene.keys.revoke_key("gone", ACTOR)
    await scene.feed.start()
    assert scene.keyring.is_loaded
    assert scene.works(key)
    assert not scene.works(gone)
    assert scene.keyring.find(key, 0).team == team
    assert scene.teams == ["art"]


async def test_without_any_key_it_is_loaded_all_the_same(scene: Scene) -> None:
    await scene.feed.start()
    assert scene.keyring.is_loaded
    assert len(scene.keyring) == 0


async def test_whatever_was_changed_is_known_after_the_next_poll(scene: Scene) -> None:
    await scene.feed.poll()
    first, second = scene.key(), scene.key(key_alias="app")
    assert not scene.works(first)
    await scene.feed.poll()
    assert scene.works(first)
    scene.keys.update_key("web", {"blocked": True}, ACTOR)
    await scene.feed.poll()
    assert not scene.works(first)
    scene.keys.update_key("web", {"blocked": False}, ACTOR)
    _, rotated = scene.keys.rotate_key("web", 0, ACTOR)
    await scene.feed.poll()
    assert not scene.works(first)
    assert scene.works(rotated)
    scene.keys.revoke_key("web", ACTOR)
    await scene.feed.poll()
    assert not scene.works(rotated)
    assert scene.works(second)
    await scene.feed.poll()
    assert scene.works(second)


async def test_a_team_that_is_blocked_blocks_its_keys(scene: Scene) -> None:
    team = scene.keys.create_team({"team_alias": "art"}, ACTOR)
    key = scene.key(team_id=team.id)
    await scene.feed.poll()
    scene.keys.update_team("art", {"blocked": True}, ACTOR)
    await scene.feed.poll()
    assert not scene.works(key)
    assert scene.teams == ["art", "art"]


async def test_it_follows_by_itself(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfeed_module, "POLL_SECONDS", 0.001)
    key = scene.key()
    await scene.feed.start()
    scene.keys.revoke_key("web", ACTOR)
    await until(lambda: not scene.works(key))
    await scene.feed.close()
    await scene.feed.close()
    late = scene.key(key_alias="late")
    await anyio.sleep(0.01)
    assert not scene.works(late)


async def test_a_database_that_is_gone_at_the_start_is_read_when_it_is_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keyfeed_module, "POLL_SECONDS", 0.001)
    key = scene.key()
    scene.door.close()
    folder = scene.path.parent
    away = folder.with_name("away")
    folder.rename(away)
    folder.touch()
    await scene.feed.start()
    assert "the keys cannot be read yet" in caplog.messages
    assert not scene.keyring.is_loaded
    assert scene.database.problem
    folder.unlink()
    away.rename(folder)
    await until(lambda: scene.keyring.is_loaded)
    assert scene.works(key)


async def test_while_the_database_is_gone_known_keys_go_on_working(scene: Scene) -> None:
    key = scene.key()
    await scene.feed.poll()
    with scene.away():
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await scene.feed.poll()
        assert scene.works(key)
    scene.keys.revoke_key("web", ACTOR)
    await scene.feed.poll()
    assert not scene.works(key)


async def test_a_database_of_former_times_is_read_anew(scene: Scene, migrated: Path) -> None:
    kept = scene.key()
    backup = scene.path.with_name("backup")
    copy = sqlite3.connect(backup)
    with sqlite3.connect(scene.path) as source:
        source.backup(copy)
    source.close()
    copy.close()
    late = scene.key(key_alias="late")
    scene.keys.rotate_key("web", 0, ACTOR)
    await scene.feed.poll()
    assert (scene.works(kept), scene.works(late)) == (False, True)
    for each in scene.path.parent.glob("imagegate.db*"):
        each.unlink()
    backup.rename(scene.path)
    await scene.feed.poll()
    assert (scene.works(kept), scene.works(late)) == (True, False)
    scene.keys.revoke_key("web", ACTOR)
    await scene.feed.poll()
    assert not scene.works(kept)


async def test_a_database_that_is_not_ours_to_read_is_the_operators_to_put_right(scene: Scene) -> None:
    with scene.door.writing() as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="made by a newer imagegate"):
        await scene.feed.start()
    assert not scene.keyring.is_loaded


async def test_no_defect_keeps_a_revoked_key_alive_and_it_is_logged_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keyfeed_module, "POLL_SECONDS", 0.001)
    key = scene.key()
    await scene.feed.start()
    read, fails = KeyFeed._read, 0

    async def broken(feed: KeyFeed) -> Any:
        nonlocal fails
        if fails < 5:
            fails += 1
            raise ValueError("a secret")
        return await read(feed)

    monkeypatch.setattr(KeyFeed, "_read", broken)
    scene.keys.revoke_key("web", ACTOR)
    await until(lambda: not scene.works(key))
    lines = [record for record in caplog.records if record.message == "the keys cannot be read"]
    assert [vars(line)["reason"] for line in lines] == ["ValueError"]
    assert "a secret" not in caplog.text

"""The cache over HTTP, beside the proxy that uses it: counted, listed, shown, purged, and who purged it."""

from pathlib import Path
from typing import Any

import pytest

from proxy.database.background import BackgroundDatabase
from proxy.stores.purges import PurgeLog
from tests.support.admin import ADDRESS, Admin, cached, serving, settings_of
from tests.support.application import gate, settings_over
from tests.support.clock import ManualClock
from tests.support.counting import counting_upstream

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.support.adminfixtures"]

CACHE = "/admin/v1/cache"
ENTRIES, PURGE = f"{CACHE}/entries", f"{CACHE}/purge"
PROMPTS = ("a red fox", "a marked fox", "a third fox")


@pytest.fixture
def keys(tmp_path: Path, clock: ManualClock) -> list[str]:
    """Of three entries."""
    return list(cached(tmp_path / "cache", clock, *PROMPTS))


async def left(admin: Admin) -> list[str]:
    return [each["model"] for each in (await admin.ask("GET", ENTRIES))["data"]]


async def test_entries_are_counted(admin: Admin, keys: list[str]) -> None:
    stats = await admin.ask("GET", CACHE)
    assert (stats["entries"], stats["entries_by_model"]) == (3, {"model-0": 1, "model-1": 1, "model-2": 1})


async def test_entries_are_listed_by_key_without_their_prompts(admin: Admin, keys: list[str]) -> None:
    first = await admin.ask("GET", f"{ENTRIES}?limit=2")
    assert [each["key"] for each in first["data"]] == sorted(keys)[:2]
    assert (first["has_more"], first["last_id"]) == (True, sorted(keys)[1])
    for after in (first["last_id"], first["last_id"][:12], first["last_id"][:12].upper()):
        rest = await admin.ask("GET", f"{ENTRIES}?limit=2&after={after}")
        assert ([each["key"] for each in rest["data"]], rest["has_more"]) == (sorted(keys)[2:], False)
    assert "fox" not in (await admin.client.get(ENTRIES)).text


async def test_one_entry_is_shown_with_the_request_that_bought_it(admin: Admin, keys: list[str]) -> None:
    for key, prompt in zip(keys, PROMPTS, strict=True):
        for digits in (key, key[:12], key[:8].upper()):
            shown = await admin.ask("GET", f"{ENTRIES}/{digits}")
            assert (shown["key"], shown["cost_usd"], shown["tokens"]) == (key, "0.011", 282)
            assert shown["request"]["prompt"] == prompt


@pytest.mark.parametrize("digits", ["0" * 8, "0" * 64, "f" * 8, "f" * 64])
async def test_an_entry_that_is_not_there_is_a_404(admin: Admin, keys: list[str], digits: str) -> None:
    assert await admin.refusal("GET", f"{ENTRIES}/{digits}", status=404) == ("cache_entry_not_found", None)


async def test_digits_that_several_keys_begin_with_are_refused(admin: Admin, tmp_path: Path) -> None:
    begin = "abcdef01" + "0" * 55
    cached(tmp_path / "cache", admin.clock, *PROMPTS[:2], keys=(f"{begin}0", f"{begin}1"))
    assert await admin.refusal("GET", f"{ENTRIES}/abcdef01") == ("ambiguous_key", "key")
    assert (await admin.ask("GET", f"{ENTRIES}/{begin}1"))["request"]["prompt"] == PROMPTS[1]


@pytest.mark.parametrize("key", ["x" * 12, "abc", "0" * 65, "..%2F..%2Fetc", "%00" * 8])
async def test_what_is_no_key_is_refused(admin: Admin, keys: list[str], key: str) -> None:
    answer = await admin.client.get(f"{ENTRIES}/{key}")
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["code"] in ("invalid_value", "not_found")


@pytest.mark.parametrize(
    ("which", "removed", "models"),
    [
        ({"all": True}, 3, set()),
        ({"model": "model-1"}, 1, {"model-0", "model-2"}),
        ({"scope": "ab" * 9}, 1, {"model-0", "model-2"}),
        ({"older_than_seconds": 15 * 86_400}, 1, {"model-0", "model-1"}),
        ({"older_than_seconds": 0}, 2, {"model-0"}),
        ({"model": "model-9"}, 0, {"model-0", "model-1", "model-2"}),
    ],
)
async def test_what_is_asked_for_is_purged_and_nothing_else(
    admin: Admin, keys: list[str], which: dict[str, Any], removed: int, models: set[str]
) -> None:
    assert await admin.ask("POST", PURGE, which) == {"removed": removed}
    assert set(await left(admin)) == models


async def test_one_entry_is_purged_by_the_first_digits_of_its_key(admin: Admin, keys: list[str]) -> None:
    assert await admin.ask("POST", PURGE, {"key": keys[1][:12].upper()}) == {"removed": 1}
    assert set(await left(admin)) == {"model-0", "model-2"}


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({}, ("missing_required_parameter", None)),
        ({"all": False}, ("invalid_value", "all")),
        ({"all": 1}, ("invalid_value", "all")),
        ({"all": True, "model": "model-0"}, ("mutually_exclusive_parameters", "model")),
        ({"key": "xyz"}, ("invalid_value", "key")),
        ({"key": ""}, ("invalid_value", "key")),
        ({"key": None}, ("invalid_type", "key")),
        ({"model": ""}, ("invalid_value", "model")),
        ({"model": ["model-0"]}, ("invalid_type", "model")),
        ({"scope": 7}, ("invalid_type", "scope")),
        ({"older_than_seconds": -1}, ("invalid_value", "older_than_seconds")),
        ({"older_than_seconds": True}, ("invalid_type", "older_than_seconds")),
        ({"older_than_seconds": "7d"}, ("invalid_type", "older_than_seconds")),
        ({"older_than": 7}, ("unknown_parameter", "older_than")),
    ],
)
async def test_a_purge_that_is_not_clear_removes_nothing(
    admin: Admin, keys: list[str], body: dict[str, Any], refused: tuple[str, str | None]
) -> None:
    assert await admin.refusal("POST", PURGE, body) == refused
    assert len(await left(admin)) == 3
    assert (await admin.ask("GET", "/admin/v1/audit"))["data"] == []


async def test_a_purge_without_a_body_removes_nothing(admin: Admin, keys: list[str]) -> None:
    headers = {"content-type": "application/json"}
    assert (await admin.client.post(PURGE, headers=headers)).status_code == 400
    assert len(await left(admin)) == 3


@pytest.mark.parametrize(
    ("which", "target"),
    [({"model": "model-1"}, "model-1"), ({"older_than_seconds": 60}, "older_than_seconds"), ({"all": True}, "all")],
)
async def test_who_purged_what_is_in_the_audit_log(
    admin: Admin, keys: list[str], which: dict[str, Any], target: str
) -> None:
    await admin.ask("POST", PURGE, which, headers={"x-imagegate-actor": "alice"})
    (line,) = (await admin.ask("GET", "/admin/v1/audit"))["data"]
    assert line == {
        "id": 1,
        "at": admin.clock.wall(),
        "actor": f"admin:alice@{ADDRESS}",
        "action": "purge",
        "kind": "cache",
        "target_id": target,
        "before": None,
        "after": which,
    }
    assert admin.changes == []  # of keys


async def test_a_purge_reaches_a_proxy_that_is_running_on_the_same_directory(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with counting_upstream() as upstream, gate(settings_over(tmp_path, upstream), clock) as proxy:
        database = BackgroundDatabase(f"sqlite:///{tmp_path}/admin.db")
        async with serving(settings_of(tmp_path), database, clock) as admin:
            await proxy.ask()
            assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"
            assert (await admin.ask("GET", CACHE))["entries"] == 1
            assert await admin.ask("POST", PURGE, {"model": "gpt-image-2"}) == {"removed": 1}
            await proxy.app.store.poll()
            assert (await proxy.ask()).headers["x-imagegate-cache"] == "MISS"


async def test_without_a_cache_everything_is_a_503_and_none_is_made(admin: Admin, tmp_path: Path) -> None:
    for method, path, body in (
        ("GET", CACHE, None),
        ("GET", ENTRIES, None),
        ("GET", f"{ENTRIES}/0123456789ab", None),
        ("POST", PURGE, {"all": True}),
    ):
        assert await admin.refusal(method, path, body, status=503) == ("cache_unavailable", None)
    assert not (tmp_path / "cache").exists()


async def test_a_cache_that_is_damaged_is_a_503(admin: Admin, keys: list[str], tmp_path: Path) -> None:
    for path in (tmp_path / "cache").glob("cache.db*"):
        path.write_bytes(b"no database" * 1000)
    assert await admin.refusal("GET", CACHE, status=503) == ("cache_unavailable", None)


async def test_nothing_is_purged_that_cannot_be_written_down(
    tmp_path: Path, clock: ManualClock, keys: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    async with serving(settings_of(tmp_path), BackgroundDatabase(f"sqlite:///{tmp_path}/file/x.db"), clock) as admin:
        assert await admin.refusal("POST", PURGE, {"all": True}, status=503) == ("database_unavailable", None)
        assert len(await left(admin)) == 3
    log = PurgeLog(tmp_path / "cache")
    log.refresh()
    assert log.since(0) == []

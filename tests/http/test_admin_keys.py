"""Keys, teams and the audit log over HTTP: what is asked is kept, told once, and written down."""

from pathlib import Path
from typing import Any

import pytest

from proxy import virtualkey
from proxy.database.background import BackgroundDatabase
from proxy.errors import DatabaseUnavailable
from proxy.keystore import KeyStore
from tests.support.admin import ADDRESS, Admin, serving, settings_of
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.support.adminfixtures"]

KEYS, TEAMS, AUDIT = "/admin/v1/keys", "/admin/v1/teams", "/admin/v1/audit"


async def a_key(admin: Admin, alias: str = "web", **fields: Any) -> Any:
    return await admin.ask("POST", KEYS, {"key_alias": alias, **fields}, status=201)


async def aliases(admin: Admin, query: str = "") -> list[str]:
    return [each["key_alias"] for each in (await admin.ask("GET", KEYS + query))["data"]]


async def test_a_key_is_told_once(admin: Admin) -> None:
    answer = await admin.client.post(KEYS, json={"key_alias": "web", "max_budget": 25, "models": ["gpt-image-2"]})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    key = made.pop("key")
    assert virtualkey.is_wellformed(key)
    assert (made["key_alias"], made["max_budget"], made["models"]) == ("web", 25, ["gpt-image-2"])
    unspent = {"spent_usd": 0.0, "reserved_usd": 0.0, "remaining_usd": 25.0, "budget_resets_at": None}
    assert await admin.ask("GET", f"{KEYS}/{made['id']}") == await admin.ask("GET", f"{KEYS}/web") == made | unspent
    for path in (KEYS, f"{KEYS}/web", AUDIT):
        assert key not in (await admin.client.get(path)).text
    record = await admin.parts.database.run(lambda database: KeyStore(database, admin.clock).get_key("web"))
    assert record.digest == virtualkey.digest(key)


async def test_a_team_that_is_named_is_found_or_made(admin: Admin) -> None:
    first = await a_key(admin, "one", team="design")
    second = await a_key(admin, "two", team=first["team_id"])
    (team,) = (await admin.ask("GET", TEAMS))["data"]
    assert (team["team_alias"], team["id"]) == ("design", first["team_id"]) == ("design", second["team_id"])
    assert (await a_key(admin, "three"))["team_id"] is None
    assert sorted(await aliases(admin, "?team=design")) == ["one", "two"]


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"team": 7}, ("invalid_type", "team")),
        ({"team": ""}, ("invalid_value", "team")),
        ({"team": "a\0b"}, ("invalid_value", "team")),
        ({"team": "sk-looks-like-a-key"}, ("invalid_value", "team")),
        ({"team": "team_" + "0" * 32}, ("invalid_value", "team")),
        ({"team": "a", "team_id": "team_" + "0" * 32}, ("mutually_exclusive_parameters", "team")),
        ({"team_id": "team_" + "0" * 32}, ("team_not_found", "team_id")),
        ({"maxbudget": 5}, ("unknown_parameter", "maxbudget")),
        ({"soft_budget": 9, "max_budget": 5}, ("invalid_value", "soft_budget")),
    ],
)
async def test_what_a_key_cannot_be_is_refused_by_its_field(
    admin: Admin, fields: dict[str, Any], refused: tuple[str, str]
) -> None:
    assert await admin.refusal("POST", KEYS, {"key_alias": "web", **fields}) == refused
    assert (await admin.ask("GET", KEYS))["data"] == (await admin.ask("GET", TEAMS))["data"] == []
    assert admin.changes == []


async def test_an_alias_is_needed_and_is_nobody_elses(admin: Admin) -> None:
    assert await admin.refusal("POST", KEYS, {}) == ("missing_required_parameter", "key_alias")
    await a_key(admin)
    assert await admin.refusal("POST", KEYS, {"key_alias": "web"}) == ("alias_in_use", "key_alias")


async def test_keys_are_listed_a_page_at_a_time(admin: Admin) -> None:
    for number in range(5):
        await a_key(admin, f"key {number}")
        admin.clock.advance(1)
    found: list[str] = []
    after = ""
    for size, more in ((2, True), (2, True), (1, False)):
        page = await admin.ask("GET", f"{KEYS}?limit=2{after}")
        assert (len(page["data"]), page["has_more"], page["object"]) == (size, more, "list")
        found += [each["key_alias"] for each in page["data"]]
        after = f"&after={page['last_id']}"
    assert found == [f"key {number}" for number in range(5)]
    assert (await admin.ask("GET", f"{KEYS}?limit=5"))["has_more"] is False
    empty = await admin.ask("GET", f"{KEYS}?alias=nobody")
    assert empty == {"object": "list", "data": [], "has_more": False, "last_id": None}


async def test_keys_are_found_by_a_part_of_their_alias_whatever_is_in_it(admin: Admin) -> None:
    for alias in ("100% web", "100 web", "a_b", "axb", "x'); DROP TABLE keys;--"):
        await a_key(admin, alias)
    assert await aliases(admin, "?alias=0%25 w") == ["100% web"]
    assert await aliases(admin, "?alias=a_b") == ["a_b"]
    assert await aliases(admin, "?alias=');%20drop") == ["x'); DROP TABLE keys;--"]


async def test_names_with_slashes_and_letters_of_any_kind_work_in_a_path(admin: Admin) -> None:
    for alias, quoted in (("a/b c", "a%2Fb%20c"), ("Zoë €", "Zo%C3%AB%20%E2%82%AC"), ("50%", "50%25")):
        made = await a_key(admin, alias)
        assert (await admin.ask("GET", f"{KEYS}/{quoted}"))["id"] == made["id"]
        assert (await admin.ask("POST", f"{KEYS}/{quoted}/revoke"))["revoked_at"] is not None


async def test_only_the_fields_that_are_given_change(admin: Admin) -> None:
    made = await a_key(admin, rpm_limit=5, max_budget=0.1, metadata={"a": [1, None]})
    made.pop("key")
    admin.clock.advance(1)
    changed = await admin.ask("PATCH", f"{KEYS}/web", {"rpm_limit": None, "team": "design", "blocked": True})
    assert changed.pop("team_id") is not None
    expected = {**made, "rpm_limit": None, "blocked": True, "revision": 2, "updated_at": admin.clock.wall()}
    expected.pop("team_id")
    assert changed == expected
    assert (await admin.ask("PATCH", f"{KEYS}/web", {"team": None}))["team_id"] is None


async def test_a_change_may_ask_that_nobody_was_faster(admin: Admin) -> None:
    made = await a_key(admin)
    await admin.ask("PATCH", f"{KEYS}/web", {"max_n": 2, "revision": made["revision"]})
    late = await admin.refusal("PATCH", f"{KEYS}/web", {"max_n": 3, "revision": made["revision"]})
    assert late == ("changed_meanwhile", "revision")
    assert await admin.refusal("PATCH", f"{KEYS}/web", {"revision": "1"}) == ("invalid_type", "revision")
    assert await admin.refusal("PATCH", f"{KEYS}/web", {"revision": True}) == ("invalid_type", "revision")
    await admin.ask("PATCH", f"{KEYS}/web", {"max_n": 3, "revision": None})


@pytest.mark.parametrize(("body", "grace_seconds"), [(None, 86_400), ({}, 86_400), ({"grace_seconds": 60}, 60)])
async def test_a_rotated_key_is_told_once_and_the_old_one_has_its_grace(
    admin: Admin, body: Any, grace_seconds: int
) -> None:
    made = await a_key(admin)
    rotated = await admin.ask("POST", f"{KEYS}/web/rotate", body)
    assert rotated["id"] == made["id"]
    assert virtualkey.is_wellformed(rotated["key"])
    assert rotated["key"] != made["key"]
    assert rotated["previous_until"] == admin.clock.wall() + grace_seconds


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"grace_seconds": -1}, ("invalid_value", "grace_seconds")),
        ({"grace_seconds": 1.5}, ("invalid_type", "grace_seconds")),
        ({"grace_seconds": True}, ("invalid_type", "grace_seconds")),
        ({"grace": 1}, ("unknown_parameter", "grace")),
    ],
)
async def test_a_grace_that_cannot_be_is_refused(admin: Admin, body: Any, refused: tuple[str, str]) -> None:
    await a_key(admin)
    assert await admin.refusal("POST", f"{KEYS}/web/rotate", body) == refused


@pytest.mark.parametrize(("method", "path"), [("DELETE", f"{KEYS}/web"), ("POST", f"{KEYS}/web/revoke")])
async def test_a_revoked_key_stays_so_and_stays_listed(admin: Admin, method: str, path: str) -> None:
    await a_key(admin)
    revoked = await admin.ask(method, path)
    assert revoked["revoked_at"] == admin.clock.wall()
    admin.clock.advance(1)
    assert await admin.ask(method, path) == revoked
    assert await aliases(admin) == ["web"]
    for change in (("PATCH", f"{KEYS}/web", {"blocked": False}), ("POST", f"{KEYS}/web/rotate", {})):
        assert await admin.refusal(*change) == ("key_revoked", None)


async def test_a_name_that_nobody_has_is_a_404(admin: Admin) -> None:
    for method, path in (
        ("GET", f"{KEYS}/nobody"),
        ("PATCH", f"{KEYS}/nobody"),
        ("DELETE", f"{KEYS}/nobody"),
        ("POST", f"{KEYS}/nobody/rotate"),
        ("POST", f"{KEYS}/nobody/revoke"),
    ):
        body: Any = {} if method == "PATCH" else None
        assert await admin.refusal(method, path, body, status=404) == ("key_not_found", None)
    assert await admin.refusal("GET", f"{KEYS}?team=nobody", status=404) == ("team_not_found", None)
    assert await admin.refusal("GET", f"{TEAMS}/nobody", status=404) == ("team_not_found", None)
    assert await admin.refusal("PATCH", f"{TEAMS}/nobody", {}, status=404) == ("team_not_found", None)
    await admin.refusal("GET", f"{AUDIT}?target=nobody", status=404)


async def test_teams_are_made_listed_and_changed(admin: Admin) -> None:
    made = await admin.ask("POST", TEAMS, {"team_alias": "design", "max_budget": "99.5"}, status=201)
    assert made["max_budget"] == 99.5
    admin.clock.advance(1)
    await admin.ask("POST", TEAMS, {"team_alias": "sales"}, status=201)
    page = await admin.ask("GET", f"{TEAMS}?limit=1")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([made["id"]], True)
    rest = await admin.ask("GET", f"{TEAMS}?limit=1&after={page['last_id']}")
    assert ([each["team_alias"] for each in rest["data"]], rest["has_more"]) == (["sales"], False)
    changed = await admin.ask("PATCH", f"{TEAMS}/design", {"team_alias": "art", "max_budget": None})
    assert (changed["team_alias"], changed["max_budget"]) == ("art", None)
    assert (await admin.ask("GET", f"{TEAMS}/{made['id']}")).items() >= changed.items()
    late = await admin.refusal("PATCH", f"{TEAMS}/art", {"revision": made["revision"]})
    assert late == ("changed_meanwhile", "revision")
    assert await admin.refusal("POST", TEAMS, {"team_alias": "art"}) == ("alias_in_use", "team_alias")
    assert await admin.refusal("POST", TEAMS, {"team_alias": "x", "rpm_limit": 1}) == ("unknown_parameter", "rpm_limit")


async def test_every_change_is_heard_of_before_it_is_answered(admin: Admin) -> None:
    await a_key(admin)
    await admin.ask("PATCH", f"{KEYS}/web", {"max_n": 1})
    await admin.ask("POST", f"{KEYS}/web/rotate")
    await admin.ask("POST", TEAMS, {"team_alias": "design"}, status=201)
    await admin.ask("PATCH", f"{TEAMS}/design", {"blocked": True})
    await admin.ask("DELETE", f"{KEYS}/web")
    assert len(admin.changes) == 6
    await admin.ask("GET", KEYS)
    await admin.refusal("PATCH", f"{KEYS}/web", {"max_n": 2})
    assert len(admin.changes) == 6


async def test_a_change_that_is_made_is_told_even_if_this_process_cannot_read_it_yet(
    tmp_path: Path, clock: ManualClock
) -> None:
    async def fails() -> None:
        raise DatabaseUnavailable("gone")

    database = BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    async with serving(settings_of(tmp_path), database, clock, fails) as admin:
        assert virtualkey.is_wellformed((await a_key(admin))["key"])


async def test_the_audit_log_has_every_change_the_newest_first(admin: Admin) -> None:
    made = await a_key(admin, team="design")
    await admin.ask("PATCH", f"{KEYS}/web", {"max_n": 1})
    await admin.ask("POST", f"{KEYS}/web/rotate")
    await admin.ask("DELETE", f"{KEYS}/web")
    lines = (await admin.ask("GET", AUDIT))["data"]
    told = [(line["action"], line["kind"]) for line in lines]
    assert told == [("revoke", "key"), ("rotate", "key"), ("update", "key"), ("create", "key"), ("create", "team")]
    assert {line["actor"] for line in lines} == {f"admin@{ADDRESS}"}
    assert (lines[2]["before"]["max_n"], lines[2]["after"]["max_n"]) == (None, 1)
    assert [line["target_id"] for line in (await admin.ask("GET", f"{AUDIT}?target=web"))["data"]] == [made["id"]] * 4


async def test_the_audit_log_is_read_a_page_at_a_time(admin: Admin) -> None:
    for number in range(5):
        await a_key(admin, f"key {number}")
    found: list[str] = []
    before = ""
    for more in (True, True, False):
        page = await admin.ask("GET", f"{AUDIT}?limit=2{before}")
        assert page["has_more"] is more
        found += [line["after"]["key_alias"] for line in page["data"]]
        before = f"&before={page['last_id']}"
    assert found == [f"key {number}" for number in reversed(range(5))]

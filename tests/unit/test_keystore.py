"""Keys and teams on real databases of either kind: what is changed is kept, told, and written down, once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from proxy import virtualkey
from proxy.database.engine import Database
from proxy.errors import DatabaseUnavailable, InvalidRequest, NotFound, RequestError
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.keystore import Changes, KeyStore
from tests.support.clock import ManualClock

pytest_plugins = ["tests.support.databases"]
ROOT = Path(__file__).parents[2]
ACTOR = "cli:root"
SQL = "Robert'); DROP TABLE keys;--"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(database: Database, clock: ManualClock) -> KeyStore:
    return KeyStore(database, clock)


def audit(database: Database) -> Sequence[dict[str, Any]]:
    with database.reading() as connection:
        rows = connection.execute(text("SELECT * FROM audit ORDER BY id")).mappings().all()
    return [{**row, **{side: _json(row[side]) for side in ("before", "after")}} for row in rows]


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def everything(database: Database) -> str:
    """All that is in the database, as text."""
    with database.reading() as connection:
        tables = ("keys", "teams", "audit", "revision")
        return str([connection.execute(text(f"SELECT * FROM {table}")).all() for table in tables])


def refusal(attempt: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        attempt()
    return caught.value


# Keys


def test_a_key_is_told_once_and_kept_as_its_digest(store: KeyStore, database: Database, clock: ManualClock) -> None:
    record, key = store.create_key({"key_alias": "web"}, ACTOR)
    assert virtualkey.is_wellformed(key)
    assert record.digest == virtualkey.digest(key)
    assert record.shown == virtualkey.shown(key)
    assert record.created_at == record.updated_at == clock.wall()
    assert store.get_key("web") == store.get_key(record.id) == record
    assert key not in everything(database) + repr(record)
    assert key[6:-4] not in everything(database)


def test_every_field_is_kept_as_it_was_given(store: KeyStore) -> None:
    team = store.create_team({"team_alias": "design"}, ACTOR)
    fields = {
        "key_alias": "Zoë €",
        "team_id": team.id,
        "models": ["gpt-image-2", SQL],
        "max_budget": "999999999",
        "soft_budget": 0.5,
        "budget_duration": "1mo",
        "rpm_limit": 2**31 - 1,
        "ipm_limit": 1,
        "max_parallel_requests": 2,
        "max_n": 3,
        "allowed_sizes": ["1024x1024", "auto"],
        "allowed_qualities": ["low"],
        "cache_scope": "key",
        "expires": "30d",
        "metadata": {"a": [1, None, "é\n'"], "b": {}},
        "blocked": True,
    }
    record, _ = store.create_key(fields, ACTOR)
    assert store.get_key(record.id) == record
    assert record.max_budget == 999_999_999 * 10**9
    assert record.models == ("gpt-image-2", SQL)
    assert record.metadata == fields["metadata"]
    shown = record.as_json()
    assert {name: shown[name] for name in fields} == {**fields, "max_budget": 999_999_999, "expires": record.expires}


def test_a_key_needs_a_name(store: KeyStore) -> None:
    error = refusal(lambda: store.create_key({}, ACTOR))
    assert (error.param, error.code) == ("key_alias", "missing_required_parameter")


def test_one_name_is_one_key(store: KeyStore, database: Database) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    other, _ = store.create_key({"key_alias": "app"}, ACTOR)
    before = everything(database)
    for attempt in (
        lambda: store.create_key({"key_alias": "web"}, ACTOR),
        lambda: store.update_key(other.id, {"key_alias": "web"}, ACTOR),
    ):
        error = refusal(attempt)
        assert (error.status, error.param, error.code) == (400, "key_alias", "alias_in_use")
    assert everything(database) == before


def test_metacharacters_of_sql_are_text(store: KeyStore) -> None:
    record, _ = store.create_key({"key_alias": SQL}, SQL, team=SQL)
    assert store.get_key(SQL) == record
    assert store.list_keys(team=SQL, alias_contains=SQL) == [record]
    assert store.list_keys(after=SQL) == [record]  # "R" comes before "k"


@pytest.mark.parametrize("name", ["nobody", "", "a\0b", "\ud800", "x" * 10_000_000, "%", "sk-ig-secret"])
def test_what_is_not_there_is_not_found_and_not_repeated(store: KeyStore, name: str) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    for attempt in (
        lambda: store.get_key(name),
        lambda: store.update_key(name, {}, ACTOR),
        lambda: store.rotate_key(name, 0, ACTOR),
        lambda: store.revoke_key(name, ACTOR),
        lambda: store.list_keys(team=name),
        lambda: store.get_team(name),
        lambda: store.update_team(name, {}, ACTOR),
    ):
        error = refusal(attempt)
        assert isinstance(error, NotFound)
        assert "secret" not in error.message


def test_an_update_changes_what_it_names_and_nothing_else(store: KeyStore, clock: ManualClock) -> None:
    before, _ = store.create_key({"key_alias": "web", "max_budget": 5, "rpm_limit": 7}, ACTOR)
    clock.advance(10)
    after = store.update_key("web", {"max_budget": None, "key_alias": "www"}, ACTOR)
    assert store.get_key("www") == after
    assert (after.max_budget, after.rpm_limit, after.digest) == (None, 7, before.digest)
    assert (after.created_at, after.updated_at) == (before.created_at, before.created_at + 10)
    assert after.revision > before.revision


def test_an_update_without_a_change_writes_nothing(store: KeyStore, database: Database, clock: ManualClock) -> None:
    record, _ = store.create_key({"key_alias": "web", "max_budget": 5}, ACTOR)
    before = everything(database)
    clock.advance(10)
    assert store.update_key("web", {"max_budget": 5.0, "key_alias": "web"}, ACTOR) == record
    assert everything(database) == before


def test_rules_between_fields_hold_after_an_update_too(store: KeyStore) -> None:
    store.create_key({"key_alias": "web", "max_budget": 5, "soft_budget": 4}, ACTOR)
    assert refusal(lambda: store.update_key("web", {"max_budget": 3}, ACTOR)).param == "soft_budget"
    assert store.update_key("web", {"max_budget": 3, "soft_budget": 2}, ACTOR).max_budget == 3 * 10**9


def test_an_update_of_what_somebody_else_has_changed_can_be_refused(store: KeyStore) -> None:
    read, _ = store.create_key({"key_alias": "web", "metadata": {"a": 1}}, ACTOR)
    store.update_key("web", {"metadata": {"a": 2}}, ACTOR, revision=read.revision)
    error = refusal(lambda: store.update_key("web", {"metadata": {"a": 3}}, ACTOR, revision=read.revision))
    assert error.code == "changed_meanwhile"
    assert store.get_key("web").metadata == {"a": 2}


def test_after_a_rotation_the_old_key_works_until_the_grace_is_over(store: KeyStore, clock: ManualClock) -> None:
    before, _ = store.create_key({"key_alias": "web"}, ACTOR)
    record, key = store.rotate_key("web", 3600, ACTOR)
    assert record.digest == virtualkey.digest(key)
    assert record.shown == virtualkey.shown(key)
    assert (record.previous_digest, record.previous_until) == (before.digest, clock.wall() + 3600)
    assert store.get_key("web") == record


def test_a_second_rotation_ends_the_oldest_key(store: KeyStore) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    second, _ = store.rotate_key("web", 3600, ACTOR)
    third, _ = store.rotate_key("web", 3600, ACTOR)
    assert third.previous_digest == second.digest


def test_a_rotation_without_grace_ends_the_old_key_at_once(store: KeyStore) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    store.rotate_key("web", 3600, ACTOR)
    record, _ = store.rotate_key("web", 0, ACTOR)
    assert (record.previous_digest, record.previous_until) == (None, None)


@pytest.mark.parametrize("seconds", [-1, 91 * 86_400, 10**400])
def test_a_grace_has_bounds(store: KeyStore, seconds: int) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    assert refusal(lambda: store.rotate_key("web", seconds, ACTOR)).param == "grace_seconds"


def test_what_is_revoked_stays_revoked(store: KeyStore, database: Database, clock: ManualClock) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    store.rotate_key("web", 3600, ACTOR)
    record = store.revoke_key("web", ACTOR)
    assert record.revoked_at == clock.wall()
    assert record.previous_digest is None
    before = everything(database)
    clock.advance(5)
    assert store.revoke_key("web", ACTOR) == record
    for attempt in (
        lambda: store.update_key("web", {"blocked": False}, ACTOR),
        lambda: store.rotate_key("web", 0, ACTOR),
    ):
        assert refusal(attempt).code == "key_revoked"
    assert refusal(lambda: store.create_key({"key_alias": "web"}, ACTOR)).code == "alias_in_use"
    assert everything(database) == before


# Teams


def test_a_missing_team_is_made_with_its_first_key(store: KeyStore, database: Database) -> None:
    first, _ = store.create_key({"key_alias": "a"}, ACTOR, team="design")
    second, _ = store.create_key({"key_alias": "b"}, ACTOR, team="design")
    third, _ = store.create_key({"key_alias": "c"}, ACTOR, team=first.team_id)
    team = store.get_team("design")
    assert first.team_id == second.team_id == third.team_id == team.id
    assert team.revision == first.revision  # one transaction, one step
    assert [row["kind"] for row in audit(database)] == ["team", "key", "key", "key"]


def test_a_team_is_not_made_for_a_key_that_is_refused(store: KeyStore) -> None:
    store.create_key({"key_alias": "a"}, ACTOR)
    refusal(lambda: store.create_key({"key_alias": "a"}, ACTOR, team="design"))
    assert store.list_teams() == []


def test_a_team_that_can_have_no_such_name_is_refused(store: KeyStore) -> None:
    for name in ("", "a\0b", "team_" + "0" * 32):
        error = refusal(lambda name=name: store.create_key({"key_alias": "a"}, ACTOR, team=name))  # type: ignore[misc]
        assert isinstance(error, InvalidRequest)


def test_a_team_that_is_not_there_cannot_have_keys(store: KeyStore) -> None:
    error = refusal(lambda: store.create_key({"key_alias": "a", "team_id": "team_" + "0" * 32}, ACTOR))
    assert (error.param, error.code) == ("team_id", "team_not_found")


def test_a_key_changes_its_team(store: KeyStore) -> None:
    store.create_key({"key_alias": "a"}, ACTOR, team="design")
    assert store.update_key("a", {}, ACTOR, team="sales").team_id == store.get_team("sales").id
    assert store.update_key("a", {"team_id": None}, ACTOR).team_id is None


def test_a_team_is_made_changed_and_found(store: KeyStore, clock: ManualClock) -> None:
    fields = {"team_alias": "design", "max_budget": 100, "budget_duration": "1mo", "metadata": {"a": 1}}
    before = store.create_team(fields, ACTOR)
    assert store.get_team("design") == store.get_team(before.id) == before
    clock.advance(1)
    after = store.update_team("design", {"team_alias": "art", "blocked": True}, ACTOR, revision=before.revision)
    assert store.get_team("art") == after
    assert (after.blocked, after.max_budget, after.updated_at) == (True, 100 * 10**9, clock.wall())
    assert refusal(lambda: store.update_team("art", {}, ACTOR, revision=before.revision)).code == "changed_meanwhile"
    assert refusal(lambda: store.create_team({"team_alias": "art"}, ACTOR)).code == "alias_in_use"
    assert refusal(lambda: store.create_team({}, ACTOR)).param == "team_alias"


# Lists


def test_pages_show_every_key_once_in_order_of_creation(store: KeyStore, clock: ManualClock) -> None:
    made = []
    for number in range(7):
        clock.advance(1)
        made.append(store.create_key({"key_alias": f"k{number}"}, ACTOR)[0])
    seen: list[KeyRecord] = []
    after: str | None = None
    while page := store.list_keys(limit=3, after=after):
        seen += page
        after = page[-1].id
    assert seen == made


def test_lists_are_narrowed_by_team_and_by_a_part_of_the_alias(store: KeyStore) -> None:
    for alias in ("100%", "1000", "a_b", "aXb", "c/d", "c\\d", "WEB"):
        store.create_key({"key_alias": alias}, ACTOR, team="x" if alias.startswith("a") else None)
    found = {
        part: {each.key_alias for each in store.list_keys(alias_contains=part)}
        for part in ("0%", "a_", "/", "\\", "eb", "_")
    }
    assert found == {"0%": {"100%"}, "a_": {"a_b"}, "/": {"c/d"}, "\\": {"c\\d"}, "eb": {"WEB"}, "_": {"a_b"}}
    assert {each.key_alias for each in store.list_keys(team="x")} == {"a_b", "aXb"}
    assert [each.team_alias for each in store.list_teams(alias_contains="X")] == ["x"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after": "\0"}, "after"),
        ({"alias_contains": "a\0"}, "alias"),
        ({"alias_contains": "\ud800"}, "alias"),
        ({"alias_contains": "x" * 1_000_000}, "alias"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_list_that_cannot_be_is_refused(store: KeyStore, options: dict[str, Any], param: str) -> None:
    for listing in (store.list_keys, store.list_teams):
        assert refusal(lambda listing=listing: listing(**options)).param == param  # type: ignore[misc]


# What running proxies are told


def test_a_proxy_is_told_of_each_change_and_of_nothing_else(store: KeyStore) -> None:
    a, _ = store.create_key({"key_alias": "a"}, ACTOR, team="t")
    b, _ = store.create_key({"key_alias": "b"}, ACTOR)
    start = store.all()
    assert start == Changes(b.revision, [a, b], [store.get_team("t")], is_complete=True)
    assert store.changes_since(start.revision) == Changes(start.revision, (), (), is_complete=False)
    revoked = store.revoke_key("b", ACTOR)
    told = store.changes_since(start.revision)
    assert told == Changes(revoked.revision, [revoked], [], is_complete=False)
    team = store.update_team("t", {"blocked": True}, ACTOR)
    assert store.changes_since(told.revision) == Changes(team.revision, [], [team], is_complete=False)
    assert store.all() == Changes(team.revision, [a], [team], is_complete=True)


def test_a_database_of_former_times_is_told_whole(store: KeyStore) -> None:
    record, _ = store.create_key({"key_alias": "a"}, ACTOR)
    assert store.changes_since(record.revision + 5) == store.all()


# The audit log


def test_every_change_is_written_down_with_who_and_what(
    store: KeyStore, database: Database, clock: ManualClock
) -> None:
    record, key = store.create_key({"key_alias": "a", "max_budget": 1.5}, "cli:ann", team="t")
    store.update_key("a", {"max_budget": 2}, "admin:bob")
    _, second = store.rotate_key("a", 60, "admin:bob")
    store.revoke_key("a", "admin:bob")
    lines = audit(database)
    assert [(line["actor"], line["action"], line["kind"]) for line in lines] == [
        ("cli:ann", "create", "team"),
        ("cli:ann", "create", "key"),
        ("admin:bob", "update", "key"),
        ("admin:bob", "rotate", "key"),
        ("admin:bob", "revoke", "key"),
    ]
    assert {line["at"] for line in lines} == {clock.wall()}
    assert {line["target_id"] for line in lines[1:]} == {record.id}
    assert (lines[1]["before"], lines[1]["after"]) == (None, record.as_json())
    assert (lines[2]["before"]["max_budget"], lines[2]["after"]["max_budget"]) == (1.5, 2)
    assert lines[4]["after"] == store.get_key("a").as_json()
    assert "digest" not in json.dumps([(line["before"], line["after"]) for line in lines])
    assert key not in str(lines) + everything(database)
    assert second not in str(lines) + everything(database)


def test_whoever_it_was_it_is_written_down(store: KeyStore, database: Database) -> None:
    store.create_key({"key_alias": "a"}, "ann\0\n\ud800" + "x" * 1_000_000)
    assert audit(database)[0]["actor"] == "ann???" + "x" * 122


def test_the_audit_log_is_read_from_its_newest_line_in_pages(store: KeyStore, database: Database) -> None:
    store.create_key({"key_alias": "a", "max_budget": 1.5}, "cli:ann", team="t")
    for number in range(1, 5):
        store.update_key("a", {"max_n": number}, "cli:bob")
    seen: list[dict[str, Any]] = []
    before: int | None = None
    while page := store.audit(limit=4, before=before):
        seen += (line._asdict() for line in page)
        before = page[-1].id
    assert seen == list(reversed(audit(database)))
    assert len(seen) == 6


def test_the_audit_log_is_narrowed_to_whatever_has_a_name(store: KeyStore) -> None:
    web, _ = store.create_key({"key_alias": "web"}, ACTOR, team="design")
    store.create_key({"key_alias": "app"}, ACTOR)
    team = store.create_team({"team_alias": "web"}, ACTOR)  # a key and a team may have one alias
    store.update_key("web", {"key_alias": "www"}, ACTOR)
    assert [line.action for line in store.audit(target=web.id)] == ["update", "create"]
    assert [line.target_id for line in store.audit(target="www")] == [web.id, web.id]
    assert [line.target_id for line in store.audit(target="web")] == [team.id]
    store.update_key("www", {"key_alias": "web"}, ACTOR)
    assert [line.target_id for line in store.audit(target="web")] == [web.id, web.id, team.id, web.id]


@pytest.mark.parametrize("name", ["nobody", "", "a\0b", "\ud800", SQL])
def test_the_audit_log_of_nothing_is_not_found(store: KeyStore, name: str) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    assert isinstance(refusal(lambda: store.audit(target=name)), NotFound)


@pytest.mark.parametrize(
    ("options", "param"),
    [({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"before": 0}, "before"), ({"before": 2**63}, "before")],
    ids=str,
)
def test_a_page_of_the_audit_log_that_cannot_be_is_refused(
    store: KeyStore, options: dict[str, Any], param: str
) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    assert refusal(lambda: store.audit(**options)).param == param
    assert len(store.audit(limit=1000, before=2**63 - 1)) == 1


# Many at once


def attempt(change: Callable[[], object]) -> str:
    try:
        change()
    except InvalidRequest as error:
        return str(error.code)
    return "done"


def test_of_many_that_want_one_name_exactly_one_gets_it(store: KeyStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        wanted = [
            threads.submit(attempt, lambda: store.create_key({"key_alias": "web"}, ACTOR, team="t")) for _ in range(8)
        ]
    assert sorted(each.result() for each in wanted) == ["alias_in_use"] * 7 + ["done"]
    assert len(store.all().keys) == len(store.all().teams) == 1


def test_no_update_is_lost(store: KeyStore) -> None:
    store.create_key({"key_alias": "web"}, ACTOR)
    changes = [
        {"rpm_limit": 5},
        {"ipm_limit": 6},
        {"max_n": 7},
        {"blocked": True},
        {"metadata": {"a": 1}},
        {"max_budget": 8},
    ]
    with ThreadPoolExecutor(len(changes)) as threads:
        list(threads.map(lambda change: store.update_key("web", change, ACTOR), changes))
    kept = store.get_key("web")
    assert (kept.rpm_limit, kept.ipm_limit, kept.max_n, kept.blocked) == (5, 6, 7, True)
    assert (kept.metadata, kept.max_budget) == ({"a": 1}, 8 * 10**9)


def test_of_many_who_read_the_same_exactly_one_may_change_it(store: KeyStore) -> None:
    read, _ = store.create_key({"key_alias": "web"}, ACTOR)

    def change(limit: int) -> str:
        return attempt(lambda: store.update_key("web", {"rpm_limit": limit}, ACTOR, revision=read.revision))

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(change, range(1, 7))) == ["changed_meanwhile"] * 5 + ["done"]


def by_id(told: Changes) -> dict[str, KeyRecord | TeamRecord]:
    return {**{key.id: key for key in told.keys}, **{team.id: team for team in told.teams}}


def test_a_proxy_that_polls_while_others_write_misses_nothing(store: KeyStore) -> None:
    def create(number: int) -> object:
        return store.create_key({"key_alias": f"k{number}"}, ACTOR, team=f"t{number % 3}")

    known: dict[str, KeyRecord | TeamRecord] = {}
    revision = 0
    with ThreadPoolExecutor(4) as threads:
        writing = [threads.submit(create, number) for number in range(24)]
        over = False
        while not over:
            over = all(each.done() for each in writing)
            told = store.changes_since(revision)
            known.update(by_id(told))
            assert all(key.team_id in known for key in told.keys)
            revision = told.revision
    whole = store.all()
    assert known == by_id(whole)
    assert whole.revision == revision == 24


CREATES_FOR_EVER = """
import sys
from proxy.clock import SystemClock
from proxy.database.engine import Database
from proxy.keystore import KeyStore
database = Database(sys.argv[1])
database.open()
store = KeyStore(database, SystemClock())
for number in range(100_000):
    record, _ = store.create_key({"key_alias": f"k{number}"}, "test", team=f"t{number}")
    print(record.id, flush=True)
"""


def test_a_process_killed_in_the_middle_leaves_only_whole_changes(empty_url: str, clock: ManualClock) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CREATES_FOR_EVER, empty_url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    told = [process.stdout.readline().strip() for _ in range(10)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().split("\n")[:-1]
    process.stdout.close()
    process.wait(60)
    database = Database(empty_url)
    database.open()
    store = KeyStore(database, clock)
    whole = store.all()
    assert {key.id for key in whole.keys} >= set(told)
    assert len(whole.keys) == len(whole.teams) == whole.revision
    assert len(audit(database)) == 2 * whole.revision
    store.create_key({"key_alias": "after"}, ACTOR)
    database.close()


def test_without_its_database_every_method_says_so(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite:///{tmp_path}/folder/imagegate.db")
    database.open()
    store = KeyStore(database, clock)
    store.create_key({"key_alias": "web"}, ACTOR)
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    for method in (
        lambda: store.create_key({"key_alias": "a"}, ACTOR),
        lambda: store.update_key("web", {"max_n": 1}, ACTOR),
        lambda: store.rotate_key("web", 0, ACTOR),
        lambda: store.revoke_key("web", ACTOR),
        lambda: store.get_key("web"),
        store.list_keys,
        store.audit,
        store.all,
        lambda: store.changes_since(1),
    ):
        with pytest.raises(DatabaseUnavailable):
            method()
    (tmp_path / "elsewhere").rename(tmp_path / "folder")
    assert store.get_key("web").max_n is None
    database.close()

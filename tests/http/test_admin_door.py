"""Who is let into the admin API: the token, guesses limited by address, and who the audit log says it was."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.admin.attempts import MOST_CLIENTS, MOST_FAILURES, Attempts
from proxy.database.background import BackgroundDatabase
from proxy.settings import AuthSection, ServerSection
from tests.support.admin import ADDRESS, TOKEN, Admin, serving, settings_of
from tests.support.application import RawCall
from tests.support.clock import ManualClock

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.support.adminfixtures"]

KEYS = "/admin/v1/keys"
RIGHT = f"Bearer {TOKEN}"


@asynccontextmanager
async def behind_a_proxy(tmp_path: Path, clock: ManualClock, *trusted: str) -> AsyncIterator[Admin]:
    settings = settings_of(tmp_path, server=ServerSection(trusted_proxies=trusted))
    async with serving(settings, BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db"), clock) as admin:
        yield admin


async def guess(client: httpx.AsyncClient, times: int = 1, forwarded: str | None = None) -> httpx.Response:
    """The last answer."""
    headers = {"authorization": "Bearer wrong", **({"x-forwarded-for": forwarded} if forwarded else {})}
    for _ in range(times):
        answer = await client.get(KEYS, headers=headers)
    return answer


@pytest.mark.parametrize("path", [KEYS, "/admin/v1/cache", "/v1/organization/costs?start_time=1"])
async def test_without_a_configured_token_everything_is_off_and_says_how_to_turn_it_on(
    tmp_path: Path, clock: ManualClock, path: str
) -> None:
    settings = settings_of(tmp_path, auth=AuthSection())
    async with serving(settings, BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db"), clock) as admin:
        for _ in range(MOST_FAILURES + 1):
            error = (await admin.ask("GET", path, status=403))["error"]
        assert error["code"] == "admin_api_off"
        assert "auth.admin_token" in error["message"]
        assert "IMAGEGATE_ADMIN_TOKEN" in error["message"]


@pytest.mark.parametrize(
    "credential", ["", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"]
)
async def test_any_other_credential_is_a_401(admin: Admin, credential: str) -> None:
    async with admin.at(ADDRESS, **({"authorization": credential} if credential else {})) as client:
        answer = await client.get(KEYS)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_admin_token"
    assert TOKEN not in answer.text
    assert admin.failures() == 1


async def test_the_scheme_may_be_written_in_any_case(admin: Admin) -> None:
    async with admin.at(ADDRESS, authorization=f"bearer  {TOKEN}") as client:
        assert (await client.get(KEYS)).status_code == 200


async def test_after_ten_failures_in_a_minute_even_the_right_token_has_to_wait(admin: Admin) -> None:
    async with admin.at("10.0.0.2") as client:
        assert (await guess(client, MOST_FAILURES)).status_code == 401
        admin.clock.advance(20.5)
        for credential in ("Bearer wrong", RIGHT):
            answer = await client.get(KEYS, headers={"authorization": credential})
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "too_many_attempts"
            assert answer.headers["retry-after"] == "40"
        admin.clock.jump(3600)  # the wall clock has nothing to say here
        assert (await client.get(KEYS, headers={"authorization": RIGHT})).status_code == 429
        admin.clock.advance(39.5)
        assert (await client.get(KEYS, headers={"authorization": RIGHT})).status_code == 200
    assert admin.failures() == MOST_FAILURES


async def test_failures_spread_over_more_than_a_minute_lock_nobody_out(admin: Admin) -> None:
    async with admin.at("10.0.0.2") as client:
        for _ in range(3 * MOST_FAILURES):
            assert (await guess(client)).status_code == 401
            admin.clock.advance(6.5)


@pytest.mark.parametrize("wrong_door", ["", "Bearer ", "Bearer sk-ig-somebodys"])
async def test_who_took_the_wrong_door_locks_nobody_out(admin: Admin, wrong_door: str) -> None:
    """No token at all, or a virtual key: told so, and no guess at the token."""
    async with admin.at("10.0.0.2") as client:
        for _ in range(MOST_FAILURES + 1):
            headers = {"authorization": wrong_door} if wrong_door else {}
            assert (await client.get(KEYS, headers=headers)).status_code == 401
        assert (await client.get(KEYS, headers={"authorization": RIGHT})).status_code == 200


async def test_an_entry_that_nobody_can_read_ends_what_is_believed(tmp_path: Path, clock: ManualClock) -> None:
    async with behind_a_proxy(tmp_path, clock, "10.1.0.0/16") as admin, admin.at("10.1.0.1") as client:
        for number in range(MOST_FAILURES):
            assert (await guess(client, forwarded=f"192.0.2.{number}, unknown")).status_code == 401
        assert (await guess(client, forwarded="192.0.2.99, unknown")).status_code == 429


async def test_other_addresses_are_not_affected(admin: Admin) -> None:
    async with admin.at("10.0.0.2") as client:
        assert (await guess(client, MOST_FAILURES + 1)).status_code == 429
    await admin.ask("GET", KEYS)


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.2", "10.0.0.2", True),
        ("::ffff:10.0.0.2", "::ffff:10.0.0.3", False),
    ],
)
async def test_addresses_that_one_customer_has_are_one(admin: Admin, one: str, other: str, are_same: bool) -> None:
    async with admin.at(one) as client:
        await guess(client, MOST_FAILURES)
    async with admin.at(other) as client:
        assert (await guess(client)).status_code == (429 if are_same else 401)


async def test_behind_a_trusted_proxy_it_is_the_forwarded_address_that_counts(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with behind_a_proxy(tmp_path, clock, "10.1.0.0/16") as admin, admin.at("10.1.0.1") as client:
        assert (await guess(client, MOST_FAILURES + 1, forwarded="192.0.2.1")).status_code == 429
        assert (await guess(client, forwarded="192.0.2.2, 10.1.0.9")).status_code == 401
        # What the client itself wrote stands to the left, and lets nobody escape.
        assert (await guess(client, forwarded="198.51.100.7, 192.0.2.1")).status_code == 429
        assert (await guess(client, forwarded="192.0.2.1:4711")).status_code == 429


async def test_without_a_trusted_proxy_nobody_escapes_by_a_header(admin: Admin) -> None:
    async with admin.at("10.0.0.2") as client:
        for number in range(MOST_FAILURES):
            assert (await guess(client, forwarded=f"192.0.2.{number}")).status_code == 401
        assert (await guess(client, forwarded="192.0.2.99")).status_code == 429


def test_the_table_of_failures_is_bounded_and_forgets_the_oldest(clock: ManualClock) -> None:
    attempts = Attempts(clock)
    for number in range(MOST_CLIENTS):
        for _ in range(MOST_FAILURES):
            attempts.failed(f"client-{number}")
    assert attempts.wait_seconds("client-0") > 0
    attempts.failed("one more")
    assert attempts.wait_seconds("client-0") == 0
    assert attempts.wait_seconds("client-1") > 0


@pytest.mark.parametrize(
    ("header", "actor"),
    [
        (None, f"admin@{ADDRESS}"),
        ("alice", f"admin:alice@{ADDRESS}"),
        ("Zoë".encode(), f"admin:Zoë@{ADDRESS}"),
        ("a" * 100, f"admin:{'a' * 64}@{ADDRESS}"),
        (b"a\x1b[31m\xff", f"admin:a?[31m\ufffd@{ADDRESS}"),
        ("root@192.0.2.1", f"admin:root@192.0.2.1@{ADDRESS}"),
    ],
)
async def test_the_audit_log_says_who_and_from_where(admin: Admin, header: str | bytes | None, actor: str) -> None:
    headers = {} if header is None else {"x-imagegate-actor": header}
    answer = await admin.client.post(KEYS, json={"key_alias": "web"}, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 201
    (line,) = (await admin.ask("GET", "/admin/v1/audit"))["data"]
    assert (line["actor"], line["action"], line["kind"]) == (actor, "create", "key")


async def test_a_peer_without_an_address_is_called_unknown(admin: Admin) -> None:
    call = RawCall(admin.app)
    headers = [(b"authorization", RIGHT.encode()), (b"content-length", b"19")]
    call.start(b'{"team_alias": "a"}', path="/admin/v1/teams", headers=headers, client=None)
    await call.over()
    assert call.status == 201
    assert (await admin.ask("GET", "/admin/v1/audit"))["data"][0]["actor"] == "admin@unknown"


# What cannot be reached, and what comes too slowly


async def test_a_database_that_hangs_is_a_503_and_holds_up_nobody_else(tmp_path: Path, clock: ManualClock) -> None:
    released = threading.Event()
    database = BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    async with serving(settings_of(tmp_path), database, clock) as admin:
        await admin.ask("GET", KEYS)
        await admin.ask("GET", "/admin/v1/usage")
        database._deadline_seconds = 0.05
        hanging = [asyncio.create_task(_hang(database, released)) for _ in range(4)]
        await asyncio.wait(hanging)
        try:
            for path in (KEYS, "/admin/v1/audit"):
                assert await admin.refusal("GET", path, status=503) == ("database_unavailable", None)
            purge = await admin.refusal("POST", "/admin/v1/cache/purge", {"all": True}, status=503)
            assert purge == ("database_unavailable", None)
            for path in ("/admin/v1/usage", "/v1/organization/costs?start_time=1"):
                await admin.ask("GET", path)  # reports have a thread of their own
        finally:
            released.set()


async def _hang(database: BackgroundDatabase, released: threading.Event) -> None:
    with pytest.raises(Exception, match="database"):
        await database.run(lambda opened: released.wait())


async def test_a_database_that_cannot_be_opened_is_a_503(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    async with serving(settings_of(tmp_path), BackgroundDatabase(f"sqlite:///{tmp_path}/file/x.db"), clock) as admin:
        assert await admin.refusal("POST", KEYS, {"key_alias": "web"}, status=503) == ("database_unavailable", None)
    assert admin.changes == []


async def test_a_body_that_does_not_arrive_is_a_408(tmp_path: Path, clock: ManualClock) -> None:
    settings = settings_of(tmp_path, server=ServerSection(receive_timeout_seconds=0.02))
    async with serving(settings, BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db"), clock) as admin:
        call = RawCall(admin.app)
        call.start(b'{"key_alias":', path=KEYS, headers=[(b"authorization", RIGHT.encode())], more_body=True)
        await call.over()
        assert call.status == 408
        assert json.loads(call.body)["error"]["code"] == "request_timeout"


async def test_a_client_that_leaves_before_its_body_is_there_changes_nothing(admin: Admin) -> None:
    call = RawCall(admin.app)
    call.start(b"{", path=KEYS, headers=[(b"authorization", RIGHT.encode())], more_body=True)
    call.leave()
    await call.over()
    assert call.status is None
    assert (await admin.ask("GET", KEYS))["data"] == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_a_413(tmp_path: Path, clock: ManualClock, announced: bool) -> None:
    settings = settings_of(tmp_path, server=ServerSection(max_json_bytes=2000))
    async with serving(settings, BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db"), clock) as admin:
        body: Any = json.dumps({"key_alias": "web", "metadata": {"note": "x" * 2000}}).encode()
        call = RawCall(admin.app)
        length = [(b"content-length", str(len(body)).encode())] if announced else []
        sent = b"" if announced else body
        call.start(sent, path=KEYS, headers=[(b"authorization", RIGHT.encode()), *length], more_body=True)
        await call.over()
        assert call.status == 413


async def test_no_body_is_read_before_the_token_is_seen(admin: Admin) -> None:
    call = RawCall(admin.app)
    call.start(b"", path=KEYS, more_body=True)
    await call.over()
    assert call.status == 401

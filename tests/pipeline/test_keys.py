"""Virtual keys on the request path: who may call, what they may ask for, and whose images they see."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from proxy import virtualkey
from proxy.settings import AuthSection, CacheSection
from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream
from tests.support.keyed import Keyed, keyed_gate

pytestmark = pytest.mark.anyio

DAY = 86_400


async def asked(keyed: Keyed, headers: Mapping[str, str], prompt: str = "a red fox", **more: Any) -> Any:
    return await keyed.gate.ask(prompt, headers=headers, **more)


async def test_a_key_buys_with_the_upstreams_key_and_never_travels(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key()
    answer = await asked(keyed, headers)
    assert answer.status_code == 200
    [call] = upstream.calls
    assert call.headers["authorization"] == "Bearer sk-of-upstream-1"
    assert headers["authorization"].removeprefix("Bearer ") not in str(call)


@pytest.mark.parametrize("header", ["authorization", "api-key", "x-api-key", "Authorization"])
async def test_a_key_may_come_in_any_of_three_headers(keyed: Keyed, header: str) -> None:
    text = (await keyed.key())["authorization"].removeprefix("Bearer ")
    value = f"bearer  {text}" if header.lower() == "authorization" else text
    assert (await asked(keyed, {header: value})).status_code == 200


async def test_of_two_headers_the_one_with_a_virtual_key_counts(keyed: Keyed) -> None:
    text = (await keyed.key())["authorization"].removeprefix("Bearer ")
    assert (await asked(keyed, {"authorization": "Bearer sk-proj-old", "api-key": text})).status_code == 200


@pytest.mark.parametrize("spoil", ["nothing", "unknown", "truncated", "checksum", "case", "longer", "latin"])
async def test_what_is_no_key_gets_401_in_openais_shape(keyed: Keyed, upstream: CountingUpstream, spoil: str) -> None:
    text = (await keyed.key())["authorization"].removeprefix("Bearer ")
    last = "A" if text[-1] != "A" else "B"
    wrong = {
        "nothing": "",
        "unknown": virtualkey.make(bytes(range(32))),
        "truncated": text[:-3],
        "checksum": text[:-1] + last,
        "case": text.swapcase(),
        "longer": text + "A",
        "latin": "sk-ig-é",
    }[spoil]
    headers: Any = {"authorization": f"Bearer {wrong}".encode("latin-1")} if wrong else {}
    answer = await asked(keyed, headers)
    if spoil == "latin":
        assert answer.status_code == 400  # no header of ours has such characters
        return
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("invalid_api_key", "invalid_request_error", None)
    assert text[6:-4] not in answer.text
    assert "x-imagegate-key-spend" not in answer.headers
    assert upstream.calls == []


@pytest.mark.parametrize("change", ["blocked", "expired", "revoked", "team"])
async def test_a_key_that_ends_stops_for_stored_images_too(keyed: Keyed, change: str) -> None:
    headers = await keyed.key(team="red", expires="1d")
    assert (await asked(keyed, headers)).headers["x-imagegate-cache"] == "MISS"
    match change:
        case "blocked":
            await keyed.update("alice", blocked=True)
        case "expired":
            keyed.gate.clock.advance(DAY)
        case "revoked":
            await to_thread.run_sync(lambda: keyed.store.revoke_key("alice", "tests"))
        case "team":
            await to_thread.run_sync(lambda: keyed.store.update_team("red", {"blocked": True}, "tests"))
    await keyed.poll()
    answer = await asked(keyed, headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_after_a_rotation_both_keys_work_until_the_grace_is_over(keyed: Keyed) -> None:
    old = await keyed.key()
    _, text = await to_thread.run_sync(lambda: keyed.store.rotate_key("alice", 3600, "tests"))
    await keyed.poll()
    new = {"authorization": f"Bearer {text}"}
    assert (await asked(keyed, old)).headers["x-imagegate-cache"] == "MISS"
    assert (await asked(keyed, new)).headers["x-imagegate-cache"] == "HIT"
    keyed.gate.clock.advance(3600)
    assert (await asked(keyed, old)).status_code == 401
    assert (await asked(keyed, new)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "body", "param", "code"),
    [
        ({"models": ["gpt-image-1*"]}, {}, "model", "model_not_found"),
        ({"max_n": 1}, {"n": 2}, "n", "not_allowed_by_key"),
        ({"allowed_sizes": ["1024x1024"]}, {"size": "1536x1024"}, "size", "not_allowed_by_key"),
        ({"allowed_sizes": ["1024x1024"]}, {}, "size", "not_allowed_by_key"),
        ({"allowed_qualities": ["low"]}, {"quality": "high"}, "quality", "not_allowed_by_key"),
    ],
)
async def test_what_a_key_may_not_ask_for_is_refused_before_it_costs(
    keyed: Keyed, upstream: CountingUpstream, fields: Any, body: Any, param: str, code: str
) -> None:
    answer = await asked(keyed, await keyed.key(**fields), **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (403, param, code)
    assert upstream.calls == []
    assert keyed.gate.total("imagegate_validation_rejections_total", param=param, reason=code) == 1


async def test_what_a_key_may_ask_for_passes(keyed: Keyed) -> None:
    fields: Any = {"models": ["gpt-image-2"], "max_n": 2, "allowed_sizes": ["1024x1024"], "allowed_qualities": ["low"]}
    headers = await keyed.key(**fields)
    assert (await asked(keyed, headers, size="1024x1024", quality="low")).status_code == 200


async def test_the_list_of_models_is_what_the_key_may_use(keyed: Keyed) -> None:
    headers = await keyed.key(models=["gpt-image-2*"])
    listed = (await keyed.gate.client.get("/v1/models", headers=headers)).json()["data"]
    assert listed
    assert all(model["id"].startswith("gpt-image-2") for model in listed)
    assert (await keyed.gate.client.get("/v1/models/gpt-image-2", headers=headers)).status_code == 200
    refused = await keyed.gate.client.get("/v1/models/gpt-image-1", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert (await keyed.gate.client.get("/v1/models")).status_code == 401


# --- whose images they see --------------------------------------------------------------------------------------------


async def caches(keyed: Keyed, *keys: Mapping[str, str]) -> list[str]:
    return [(await asked(keyed, key)).headers["x-imagegate-cache"] for key in keys]


async def test_a_team_shares_and_another_team_sees_nothing(keyed: Keyed, upstream: CountingUpstream) -> None:
    red, also_red = await keyed.key("a", team="red"), await keyed.key("b", team="red")
    blue, alone, lonely = await keyed.key("c", team="blue"), await keyed.key("d"), await keyed.key("e")
    assert await caches(keyed, red, also_red, blue, alone, lonely) == ["MISS", "HIT", "MISS", "MISS", "MISS"]
    assert len(upstream.calls) == 4


async def test_the_headers_of_two_teams_tell_nothing_of_each_other(keyed: Keyed) -> None:
    red, blue = await keyed.key("a", team="red"), await keyed.key("c", team="blue")
    first, second = await asked(keyed, red), await asked(keyed, blue)
    names = {"x-imagegate-cache-key", "x-request-id", "server-timing", "x-imagegate-upstream-request-id"}
    assert first.headers["x-imagegate-cache-key"] != second.headers["x-imagegate-cache-key"]
    assert {k: v for k, v in first.headers.items() if k not in names} == {
        k: v for k, v in second.headers.items() if k not in names
    }


async def test_two_teams_at_once_are_two_flights(keyed: Keyed, upstream: CountingUpstream) -> None:
    red, blue = await keyed.key("a", team="red"), await keyed.key("c", team="blue")
    upstream.hold()
    tasks = [keyed.gate.asking(headers=red), keyed.gate.asking(headers=blue)]
    await upstream.reached(2)
    upstream.release()
    assert [(await task).headers["x-imagegate-cache"] for task in tasks] == ["MISS", "MISS"]


async def test_a_key_with_a_scope_of_its_own_shares_with_nobody_or_everybody(keyed: Keyed) -> None:
    red, own = await keyed.key("a", team="red"), await keyed.key("b", team="red", cache_scope="key")
    assert await caches(keyed, red, own, own) == ["MISS", "MISS", "HIT"]


async def test_scope_org_shares_between_teams(tmp_path: Path, upstream: CountingUpstream) -> None:
    cache = CacheSection(directory=tmp_path / "cache", min_free_bytes=0, scope="org")
    async with keyed_gate(tmp_path, upstream, cache=cache) as keyed:
        red, blue = await keyed.key("a", team="red"), await keyed.key("c", team="blue")
        assert await caches(keyed, red, blue) == ["MISS", "HIT"]


async def test_a_key_that_is_rotated_keeps_its_share_of_the_cache(keyed: Keyed) -> None:
    old = await keyed.key()
    await asked(keyed, old)
    _, text = await to_thread.run_sync(lambda: keyed.store.rotate_key("alice", 0, "tests"))
    await keyed.poll()
    assert await caches(keyed, {"authorization": f"Bearer {text}"}) == ["HIT"]


# --- the database is gone ---------------------------------------------------------------------------------------------


async def test_without_a_database_at_the_start_every_call_is_503_until_it_is_there(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    async with keyed_gate(tmp_path / "made", upstream) as keyed:
        headers = await keyed.key()
    database = tmp_path / "made" / "imagegate.db"
    hidden = database.rename(database.with_suffix(".hidden"))
    database.mkdir()
    settings = settings_over(tmp_path / "made", upstream, auth=AuthSection(mode="keys"))
    object.__setattr__(settings.database, "url", f"sqlite:///{database}")
    async with gate(settings) as running:
        answer = await running.ask(headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
        assert answer.headers["retry-after"] == "5"
        ready = await running.client.get("/readyz")
        assert (ready.status_code, ready.json()["problems"]) == (503, ["the database cannot be used"])
        database.rmdir()
        hidden.rename(database)
        assert running.app.keyfeed is not None
        await running.app.keyfeed.poll()
        assert (await running.ask(headers=headers)).status_code == 200
        assert (await running.client.get("/readyz")).status_code == 200


async def test_keys_are_not_needed_in_other_modes(proxy: Gate) -> None:
    assert proxy.app.keyfeed is None
    assert (await proxy.ask()).headers.get("x-imagegate-key-spend") is None

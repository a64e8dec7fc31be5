"""The OpenAPI document and the admin API say the same: routes, parameters, bodies, statuses and the shape of answers."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from proxy import __version__, keyfields
from proxy import admin as admin_api
from proxy.admin import listing, schemas
from proxy.admin.cache import KEY_PATTERN
from proxy.database.background import BackgroundDatabase
from proxy.database.engine import Database
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.keystore import LONGEST_GRACE_SECONDS, MOST_LISTED
from proxy.usage import UsageSums
from tests.support.admin import ADDRESS, Admin, cached, serving, settings_of
from tests.support.clock import ManualClock
from tests.support.ledger import NOON, bought, tallied
from tests.support.schemas import problems, resolved

pytestmark = pytest.mark.anyio

DOCUMENT = "/admin/v1/openapi.json"
SHOWN = re.compile(r"{\w+}")


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    clock = ManualClock(NOON)
    database = BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    async with serving(settings_of(tmp_path), database, clock) as admin:
        yield admin


@pytest.fixture
async def document(admin: Admin) -> Any:
    return await admin.ask("GET", DOCUMENT)


def operations(document: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            yield method.upper(), path, told


async def test_the_document_takes_no_token_and_says_how_the_others_take_theirs(admin: Admin) -> None:
    async with admin.at(ADDRESS) as client:
        document = (await client.get(DOCUMENT)).json()
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", __version__)
    scheme = document["components"]["securitySchemes"]["adminToken"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["security"] == [{"adminToken": []}]
    assert [path for _, path, told in operations(document) if told.get("security") == []] == [DOCUMENT]


async def test_every_route_that_is_served_is_told_and_every_one_that_is_told_is_served(
    admin: Admin, document: Any
) -> None:
    served = {route.path.replace(":path", "") for route in admin_api.routes(admin.parts)}
    assert served == set(document["paths"])
    for path, methods in document["paths"].items():
        allowed = {method.upper() for method in methods} | ({"HEAD"} if "get" in methods else set())
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            answer = await admin.client.request(method, SHOWN.sub("0123456789", path))
            assert (answer.status_code != 405) == (method in allowed), (method, path)
            if answer.status_code == 405:
                assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed
            elif answer.status_code == 404:
                assert method == "HEAD" or answer.json()["error"]["code"] != "not_found", (method, path)


async def test_every_route_but_the_document_wants_the_token(admin: Admin, document: Any) -> None:
    for method, path, told in operations(document):
        async with admin.at(f"10.9.9.{len(path)}") as client:
            answer = await client.request(method, SHOWN.sub("x", path))
        assert answer.status_code == (200 if told.get("security") == [] else 401), path


async def test_anything_else_below_is_a_404_in_openais_shape(admin: Admin) -> None:
    for path in ("/admin/v1", "/admin/v1/nobody", "/admin/v1/keys/a%0Ab", "/v1/organization"):
        assert await admin.refusal("GET", path, status=404) == ("not_found", None)


# Every operation, as somebody would use it


async def test_every_answer_is_as_its_schema_says(admin: Admin, document: Any, tmp_path: Path) -> None:
    key, _ = cached(tmp_path / "cache", admin.clock, "a red fox", "a marked fox")
    await admin.parts.database.run(_spend)
    full = {
        "key_alias": "web",
        "team": "design",
        "models": ["gpt-image-2"],
        "max_budget": 1.5,
        "soft_budget": 1,
        "budget_duration": "30d",
        "rpm_limit": 1,
        "ipm_limit": 2,
        "max_parallel_requests": 3,
        "max_n": 4,
        "allowed_sizes": ["auto", "1024x1024"],
        "allowed_qualities": ["low"],
        "cache_scope": "key",
        "expires": "30d",
        "metadata": {"a": None},
        "blocked": True,
    }
    calls: list[tuple[str, str, str, Any]] = [
        ("POST", "/admin/v1/keys", "", full),
        ("POST", "/admin/v1/keys", "", {"key_alias": "bare"}),
        ("GET", "/admin/v1/keys", "?limit=1", None),
        ("GET", "/admin/v1/keys", "?alias=nobody", None),
        ("GET", "/admin/v1/keys/{name}", "web", None),
        ("PATCH", "/admin/v1/keys/{name}", "web", {"max_budget": "2.25", "revision": None}),
        ("POST", "/admin/v1/keys/{name}/rotate", "web", {"grace_seconds": 5}),
        ("POST", "/admin/v1/keys/{name}/revoke", "web", {}),
        ("DELETE", "/admin/v1/keys/{name}", "bare", None),
        ("POST", "/admin/v1/teams", "", {"team_alias": "art", "max_budget": 5}),
        ("GET", "/admin/v1/teams", "?limit=1", None),
        ("GET", "/admin/v1/teams/{name}", "design", None),
        ("PATCH", "/admin/v1/teams/{name}", "design", {"blocked": True}),
        ("GET", "/admin/v1/cache", "", None),
        ("GET", "/admin/v1/cache/entries", "?limit=1", None),
        ("GET", "/admin/v1/cache/entries/{key}", key, None),
        ("POST", "/admin/v1/cache/purge", "", {"all": True}),
        ("GET", "/admin/v1/cache", "", None),
        ("GET", "/admin/v1/audit", "?limit=3", None),
        ("GET", "/admin/v1/audit", "?target=web", None),
        ("GET", "/admin/v1/usage", "?by=day,hour,key,team,model,size,quality,operation", None),
        ("GET", "/v1/organization/usage/images", "?start_time=1795000000&group_by=model&group_by=source", None),
        ("GET", "/v1/organization/costs", "?start_time=1795000000&group_by=line_item&limit=31", None),
        ("GET", DOCUMENT, "", None),
    ]
    for method, path, rest, body in calls:
        if body is not None:
            sent = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
            assert list(problems(body, sent, document)) == [], (path, body)
        target = SHOWN.sub(rest, path) if "{" in path else path + rest
        answer = await admin.client.request(method, target, **({} if body is None else {"json": body}))
        assert_told(document, method, path, answer)
        assert answer.status_code < 300, (target, answer.text)
    assert {(method, path) for method, path, *_ in calls} == {
        (method, path) for method, path, _ in operations(document)
    }


def _spend(database: Database) -> None:
    bought(database, key_id="key_" + "0" * 32, team_id="team_" + "0" * 32)
    bought(database, operation="image_edit", cost=None, estimate=None)
    tallied(database)


@pytest.mark.parametrize(
    ("method", "path", "rest", "body"),
    [
        ("POST", "/admin/v1/keys", "", {}),
        ("GET", "/admin/v1/keys", "?limit=0", None),
        ("GET", "/admin/v1/keys", "?team=nobody", None),
        ("GET", "/admin/v1/keys/{name}", "nobody", None),
        ("GET", "/admin/v1/audit", "?target=nobody", None),
        ("GET", "/admin/v1/usage", "?key=nobody", None),
        ("GET", "/admin/v1/cache", "", None),
        ("GET", "/admin/v1/cache/entries/{key}", "nobody", None),
        ("GET", "/v1/organization/costs", "", None),
    ],
)
async def test_every_refusal_is_as_its_schema_says(
    admin: Admin, document: Any, method: str, path: str, rest: str, body: Any
) -> None:
    target = SHOWN.sub(rest, path) if "{" in path else path + rest
    answer = await admin.client.request(method, target, **({} if body is None else {"json": body}))
    assert answer.status_code >= 400
    assert_told(document, method, path, answer)


def assert_told(document: Any, method: str, path: str, answer: Any) -> None:
    told = document["paths"][path][method.lower()]["responses"][str(answer.status_code)]
    schema = told["content"][answer.headers["content-type"]]["schema"]
    assert list(problems(answer.json(), schema, document)) == [], (method, path)


# Parameters and fields


async def test_the_parameters_in_a_path_are_told(document: Any) -> None:
    for _, path, told in operations(document):
        in_path = [each["name"] for each in told["parameters"] if each["in"] == "path"]
        assert in_path == re.findall(r"{(\w+)}", path)
        assert all(each["required"] for each in told["parameters"] if each["in"] == "path")


async def test_every_parameter_that_is_told_is_known_and_no_other(admin: Admin, document: Any) -> None:
    for method, path, told in operations(document):
        target = SHOWN.sub("0123456789", path)
        body: dict[str, Any] = {"json": {}} if "requestBody" in told else {}
        for each in told["parameters"]:
            if each["in"] != "query":
                continue
            answer = await admin.client.request(method, target, params={each["name"]: "1"}, **body)
            assert answer.status_code != 400 or answer.json()["error"]["code"] != "unknown_parameter", (path, each)
        answer = await admin.client.request(method, target, params={"nobody": "1"}, **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter"), path


def test_the_fields_that_may_be_sent_are_those_that_are_read() -> None:
    of_keys, of_teams = set(keyfields._KEY_FIELDS), set(keyfields._TEAM_FIELDS)
    assert _properties("KeyFields") == of_keys | {"team"}
    assert _properties("KeyChanges") == of_keys | {"team", "revision"}
    assert _properties("TeamFields") == of_teams
    assert _properties("TeamChanges") == of_teams | {"revision"}


def test_the_fields_that_are_told_are_those_of_the_records() -> None:
    assert _properties("Key") == {each.name for each in fields(KeyRecord) if not each.name.endswith("digest")}
    assert _properties("NewKey") == _properties("Key") | {"key"}
    assert _properties("Team") == {each.name for each in fields(TeamRecord)}
    assert {each.name for each in fields(UsageSums)} <= _properties("UsageRow")


def test_the_limits_that_are_told_are_those_that_hold() -> None:
    assert schemas.SCHEMAS["Rotation"]["properties"]["grace_seconds"]["maximum"] == LONGEST_GRACE_SECONDS
    assert schemas.SCHEMAS["Purge"]["properties"]["key"]["pattern"] == KEY_PATTERN
    assert listing.MOST == MOST_LISTED


async def test_every_schema_is_used_and_every_reference_leads_somewhere(document: Any) -> None:
    used = {reference.rpartition("/")[2] for reference in _references(document)}
    assert used == set(document["components"]["schemas"])
    for reference in _references(document):
        assert resolved(reference, document)


async def test_every_object_schema_is_closed_or_free(document: Any) -> None:
    """What is told with properties has no others: a new field cannot go untold."""
    for name, schema in document["components"]["schemas"].items():
        if "properties" in schema and name != "Document":
            assert schema["additionalProperties"] is False, name


async def test_no_two_operations_have_one_name(document: Any) -> None:
    names = [told["operationId"] for _, _, told in operations(document)]
    assert len(names) == len(set(names))


def _properties(name: str) -> set[str]:
    return set(schemas.SCHEMAS[name]["properties"])


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name == "$ref":
                yield each
            else:
                yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)

"""Whatever is sent to the admin API, in every field and every parameter: a clean refusal or an answer, never a 500."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy import admin as admin_api
from proxy.admin.intake import pairs_of, query_of
from proxy.admin.operation import Operation, Parameter
from proxy.admin.schemas import SCHEMAS
from proxy.errors import InvalidRequest
from tests.support.admin import ADDRESS, TOKEN, Admin, cached

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.support.adminfixtures"]

KEYS = "/admin/v1/keys"
JSON = {"content-type": "application/json"}
HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\n",
    "'; DROP TABLE keys;--",
    '" OR ""="',
    "%",
    "_",
    "\\",
    "%' ESCAPE '",
    "\u202e\u2066",
    "\ufffd\uffff",
    "😀" * 40,
    "x" * 5000,
    "-1",
    "9" * 30,
    "1e999",
    "NaN",
    "null",
    "../../etc/passwd",
    "${jndi:ldap://x}",
    "=1+1",
    "sk-ig-secret",
    "page_AAAA",
)
HOSTILE_JSON = (
    *("null", "true", "false", "0", "-1", "1", "1.5", "-0.0", "1e308", "9" * 90, "-" + "9" * 90, "1e-320"),
    *('""', '" "', '"\\u0000"', '"a\\u0000b"', '"\\n"', '"x; DROP TABLE keys;--"', '"%_\\\\"', '"\\u202e"'),
    *('"' + "x" * 5000 + '"', '"1d"', '"9999999999d"', '"-1"', '"NaN"', '"\\uD83D\\uDE00"'),
    *("[]", "[[]]", "[null]", "[1]", '["\\u0000"]', '[""]', "[" + ",".join(['"x"'] * 5000) + "]"),
    *("{}", '{"": ""}', '{"a\\u0000": 1}', '{"a": "\\u0000"}', '{"a": [{"b": null}]}'),
)
MALFORMED = (
    b"",
    b" ",
    b"{",
    b"[]",
    b"null",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{}",
    b'{"key_alias": "\xff"}',
    b'{"key_alias": NaN}',
    b'{"key_alias": 1e999}',
    b'{"key_alias": "a", "key_alias": "b"}',
    b'{"metadata": {"a": 1, "a": 2}}',
    b'{"key_alias": "\\ud800"}',
    b'{"\\udfff": 1}',
    b'{"metadata": {"a": "\\udbff x"}}',
    b'{"max_n": ' + b"9" * 200 + b"}",
    b'{"metadata": ' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    b'{"key_alias": "a"} x',
)


def operations(admin: Admin, *, with_body: bool) -> list[Operation]:
    return [each for each in admin_api.operations(admin.parts) if (each.body is not None) == with_body]


def targets(operation: Operation) -> Iterator[str]:
    yield operation.path.replace("{name}", "web").replace("{key}", "0123456789ab")


async def prepared(admin: Admin) -> None:
    cached(admin.parts.settings.cache.directory, admin.clock, "a red fox")
    await admin.ask("POST", KEYS, {"key_alias": "web", "team": "web"}, status=201)


def assert_clean(answer: Any, *about: object) -> None:
    assert answer.status_code < 500, (*about, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}, about


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: ascii(body[:24]))
async def test_what_is_no_strict_json_object_is_refused_everywhere(admin: Admin, body: bytes) -> None:
    await prepared(admin)
    for operation in operations(admin, with_body=True):
        (target,) = targets(operation)
        answer = await admin.client.request(operation.method, target, content=body, headers=JSON)
        if body or operation.needs_body:
            assert answer.status_code == 400, (operation.name, answer.text)
        assert_clean(answer, operation.name)


@pytest.mark.parametrize("schema", ["KeyFields", "KeyChanges", "TeamFields", "TeamChanges", "Rotation", "Purge"])
async def test_every_field_takes_any_json_without_breaking(admin: Admin, schema: str) -> None:
    await prepared(admin)
    (operation,) = (each for each in operations(admin, with_body=True) if each.body == schema)
    (target,) = targets(operation)
    needed = dict.fromkeys(SCHEMAS[schema].get("required", ()), "another")
    for field in SCHEMAS[schema]["properties"]:
        for text in HOSTILE_JSON:
            others = {name: value for name, value in needed.items() if name != field}
            body = "{" + ",".join(
                [*(json.dumps(k) + ":" + json.dumps(v) for k, v in others.items()), f'"{field}":{text}']
            )
            answer = await admin.client.request(operation.method, target, content=(body + "}").encode(), headers=JSON)
            assert_clean(answer, schema, field, text)


async def test_every_parameter_takes_any_text_without_breaking(admin: Admin) -> None:
    await prepared(admin)
    for operation in operations(admin, with_body=False):
        (target,) = targets(operation)
        if operation.method != "GET":
            continue
        standing = "start_time=1795000000&" if operation.reads_pairs else ""
        for parameter in operation.query:
            for text in HOSTILE_TEXTS:
                answer = await admin.client.get(f"{target}?{standing}{parameter.name}={quote(text, safe='')}")
                assert_clean(answer, operation.name, parameter.name, text)


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: ascii(text[:12]))
async def test_every_name_in_a_path_takes_any_text_without_breaking(admin: Admin, text: str) -> None:
    await prepared(admin)
    for operation in admin_api.operations(admin.parts):
        if "{" not in operation.path:
            continue
        target = operation.path.replace("{name}", "{}").replace("{key}", "{}").format(quote(text, safe=""))
        body: dict[str, Any] = {"json": {}} if operation.body else {}
        answer = await admin.client.request(operation.method, target, **body)
        assert answer.status_code in (400, 404, 405), (operation.name, answer.text)
        assert_clean(answer, operation.name)


@pytest.mark.parametrize("query", ["%ff", "a=%ed%a0%80", "limit=%C3%28", "&".join(["a=1"] * 2000), "%00=%00", "="])
async def test_a_query_that_is_no_text_is_refused(admin: Admin, query: str) -> None:
    for operation in operations(admin, with_body=False):
        (target,) = targets(operation)
        answer = await admin.client.request(operation.method, f"{target}?{query}")
        assert answer.status_code == 400, operation.name
        assert_clean(answer, operation.name)


async def test_ten_megabytes_are_a_413_everywhere(admin: Admin) -> None:
    body = json.dumps({"key_alias": "web", "metadata": {"note": "x" * 10**7}}).encode()
    for operation in operations(admin, with_body=True):
        (target,) = targets(operation)
        answer = await admin.client.request(operation.method, target, content=body, headers=JSON)
        assert answer.status_code == 413


async def test_metadata_of_a_megabyte_is_refused_for_what_it_is(admin: Admin) -> None:
    body = {"key_alias": "web", "metadata": {"note": "x" * 900_000}}
    assert await admin.refusal("POST", KEYS, body) == ("invalid_value", "metadata")


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/plain"}, {"content-type": ""}, {**JSON, "content-encoding": "gzip"}]
)
async def test_a_body_that_is_not_plain_json_is_a_415(admin: Admin, headers: dict[str, str]) -> None:
    for operation in operations(admin, with_body=True):
        (target,) = targets(operation)
        answer = await admin.client.request(operation.method, target, content=b"{}", headers=headers)
        assert answer.status_code == 415, operation.name


async def test_no_refusal_repeats_what_may_be_a_secret(admin: Admin) -> None:
    secret = "sk-ig-marked-secret"
    for field in SCHEMAS["KeyFields"]["properties"]:
        body = {"key_alias": "web", field: secret} if field != "metadata" else {"metadata": secret}
        assert "marked" not in (await admin.client.post(KEYS, json=body)).text
    async with admin.at(ADDRESS, authorization="Bearer marked-guess") as client:
        text = (await client.get(KEYS)).text
    assert "marked" not in text
    assert TOKEN not in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200))
def test_any_query_string_is_read_or_refused(query: bytes) -> None:
    parameters = (Parameter("limit", "", {"type": "integer"}), Parameter("alias", "", {"type": "string"}))
    try:
        query_of(pairs_of(query), parameters)
    except InvalidRequest as error:
        json.dumps(error.body()).encode()

"""docs/admin.md says what the admin API serves: routes, parameters, and examples that it takes."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy import admin as admin_api
from proxy.admin import listing, usage
from proxy.admin.attempts import MOST_FAILURES
from proxy.database.background import BackgroundDatabase
from tests.support.admin import Admin, serving, settings_of
from tests.support.clock import ManualClock
from tests.support.schemas import problems

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "admin.md").read_text("utf-8")


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    database = BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    async with serving(settings_of(tmp_path), database, ManualClock()) as admin:
        yield admin


async def test_every_route_has_a_row_and_every_row_a_route(admin: Admin) -> None:
    told = re.findall(r"^\| `([A-Z]+) (/\S+)` \|", PAGE, re.MULTILINE)
    assert sorted(told) == sorted((each.method, each.path) for each in admin_api.operations(admin.parts))


async def test_every_parameter_of_ours_is_in_its_row(admin: Admin) -> None:
    for each in admin_api.operations(admin.parts):
        if each.query and not each.reads_pairs:
            (row,) = re.findall(rf"^\| `{each.method} {re.escape(each.path)}` \|(.*)$", PAGE, re.MULTILINE)
            assert {parameter.name for parameter in each.query} <= set(re.findall(r"`(\w+)`", row)), each.path


async def test_every_example_asks_for_what_is_served(admin: Admin) -> None:
    document: Any = await admin.ask("GET", "/admin/v1/openapi.json")
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    commands = [line for line in shell.splitlines() if line.startswith("curl")]
    assert len(commands) >= 5
    await admin.ask("POST", "/admin/v1/teams", {"team_alias": "design"}, status=201)
    for command in commands:
        assert 'Authorization: Bearer $IMAGEGATE_ADMIN_TOKEN"' in command
        method = (re.search(r"-X (\w+)", command) or ["", "GET"])[1]
        (path,) = re.findall(r"http://127\.0\.0\.1:8080(/[^\s']*)", command)
        body = json.loads(re.findall(r"-d '(.*?)'", command)[0]) if "-d " in command else None
        if body is not None:
            template = re.sub(r"/keys/\w+", "/keys/{name}", path)
            sent = document["paths"][template][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
            assert list(problems(body, sent, document)) == []
        answer = await admin.client.request(method, path, **({} if body is None else {"json": body}))
        code = answer.json()["error"]["code"] if answer.status_code >= 400 else None
        # The revision is an example's, and there is no cache here.
        assert code in (None, "changed_meanwhile", "cache_unavailable"), (command, answer.text)


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"`limit` is {listing.USUAL}\nunless given, at most {listing.MOST:,}" in PAGE
    assert MOST_FAILURES == 10
    assert "ten of those within a minute" in PAGE
    assert f"any of {', '.join(usage.DIMENSIONS[:-1])} and {usage.DIMENSIONS[-1]}" in PAGE

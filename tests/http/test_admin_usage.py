"""What was spent, over HTTP: our own report as JSON and CSV, and the two pages of OpenAI's usage API."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from proxy.admin import usage
from proxy.database.background import BackgroundDatabase
from proxy.database.engine import Database
from proxy.keystore import KeyStore
from proxy.usage import DIMENSIONS
from tests.support.admin import TOKEN, Admin, serving, settings_of
from tests.support.clock import ManualClock
from tests.support.ledger import NOON, bought, tallied

pytestmark = pytest.mark.anyio

USAGE, IMAGES, COSTS = "/admin/v1/usage", "/v1/organization/usage/images", "/v1/organization/costs"
HOUR, DAY = 3600, 86_400
MIDNIGHT = int(NOON) - 12 * HOUR


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    database = BackgroundDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    async with serving(settings_of(tmp_path), database, ManualClock(NOON)) as admin:
        await database.run(_fill)
        yield admin


def _fill(database: Database) -> None:
    """Today: two purchases of the key `web` and a hit; yesterday: one of nobody."""
    key, _ = KeyStore(database, ManualClock(NOON)).create_key({"key_alias": "web"}, "test", team="design")
    mine: dict[str, Any] = {"key_id": key.id, "team_id": key.team_id}
    bought(database, **mine)
    bought(database, NOON - HOUR, images=2, cost=7, model="=cmd|' /C calc'!A0", **mine)
    bought(database, NOON - DAY)
    tallied(database, **mine)


async def rows(admin: Admin, query: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = (await admin.ask("GET", f"{USAGE}?{query}"))["data"]
    return data


def test_the_document_names_the_dimensions_that_there_are() -> None:
    assert usage.DIMENSIONS == DIMENSIONS


async def test_without_a_question_everything_of_thirty_days_is_one_row(admin: Admin) -> None:
    report = await admin.ask("GET", USAGE)
    (row,) = report["data"]
    assert (row["calls"], row["images"], row["hits"], row["cost_usd"]) == (3, 4, 1, 0.100000007)
    assert (report["by"], report["since"], report["until"]) == ([], NOON - 30 * DAY, NOON + HOUR)


async def test_a_report_is_grouped_and_narrowed(admin: Admin) -> None:
    by_day = await rows(admin, "by=day,key")
    assert [(row["day"], row["key"], row["calls"]) for row in by_day] == [
        ("2026-11-21", None, 1),
        ("2026-11-22", "web", 2),
    ]
    assert [row["model"] for row in await rows(admin, "by=model&key=web&model=gpt-image-2")] == ["gpt-image-2"]
    assert [row["calls"] for row in await rows(admin, "team=design")] == [2]
    assert [row["calls"] for row in await rows(admin, "by=key,%20key&key=web")] == [2]


@pytest.mark.parametrize(
    ("query", "calls"),
    [
        ("since=1d", 3),
        ("since=12h", 2),
        ("since=2026-11-22", 2),
        ("since=2026-11-22T11:30:00Z", 1),
        ("since=2026-11-22T12:30:00%2B01:00", 1),
        (f"since={MIDNIGHT}", 2),
        ("until=2026-11-22", 1),
        ("since=2026-11-21&until=2026-11-22", 1),
        ("since=1000w&until=30d", 0),
        ("since=0&until=9999999999999", 3),
    ],
)
async def test_moments_are_read_in_every_form(admin: Admin, query: str, calls: int) -> None:
    assert [row["calls"] for row in await rows(admin, query.replace("1000w", "500w"))] == [calls]


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("by=nobody", ("invalid_value", "by")),
        ("by=", ("invalid_value", "by")),
        ("since=yesterday", ("invalid_value", "since")),
        ("since=1mo", ("invalid_value", "since")),
        ("since=2026-02-30", ("invalid_value", "since")),
        ("since=2026-11-22T11:30:00", ("invalid_value", "since")),
        ("until=", ("invalid_value", "until")),
        ("since=1d&until=2d", ("invalid_value", "until")),
        ("format=xml", ("invalid_value", "format")),
        ("unknown=1", ("unknown_parameter", "unknown")),
        ("by=day&by=key", ("duplicate_parameter", "by")),
        ("model=a%00b", ("invalid_value", "model")),
    ],
)
async def test_a_question_that_cannot_be_is_refused_by_its_parameter(
    admin: Admin, query: str, refused: tuple[str, str]
) -> None:
    assert await admin.refusal("GET", f"{USAGE}?{query}") == refused


async def test_a_report_as_csv_has_exact_money_and_no_formulas(admin: Admin) -> None:
    answer = await admin.client.get(f"{USAGE}?by=model,key&format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(table[0])[:3] == ["model", "key", "key_id"]
    found = {(row["model"], row["key"]): row["cost_usd"] for row in table}
    assert found == {
        ("'=cmd|' /C calc'!A0", "web"): "0.000000007",
        ("gpt-image-2", "web"): "0.05",
        ("gpt-image-2", ""): "0.05",
    }


async def test_a_csv_of_nothing_has_its_head(admin: Admin) -> None:
    head, *rest = (await admin.client.get(f"{USAGE}?by=team&until=2020-01-01&since=0&format=csv")).text.splitlines()
    assert (head.split(",")[:3], rest) == (["team", "team_id", "calls"], [])


async def test_images_come_in_openais_buckets(admin: Admin) -> None:
    page = await admin.ask("GET", f"{IMAGES}?start_time={MIDNIGHT - DAY}&group_by[]=model")
    found = [
        (bucket["start_time"], result["model"], result["images"])
        for bucket in page["data"]
        for result in bucket["results"]
    ]
    assert found == [
        (MIDNIGHT - DAY, "gpt-image-2", 1),
        (MIDNIGHT, "=cmd|' /C calc'!A0", 2),
        (MIDNIGHT, "gpt-image-2", 1),
    ]


async def test_costs_come_in_openais_buckets(admin: Admin) -> None:
    page = await admin.ask("GET", f"{COSTS}?start_time={MIDNIGHT - DAY}&limit=1")
    (bucket,) = page["data"]
    assert [result["amount"] for result in bucket["results"]] == [{"value": 0.05, "currency": "usd"}]
    rest = await admin.ask("GET", f"{COSTS}?start_time={MIDNIGHT - DAY}&limit=1&page={page['next_page']}")
    assert (rest["data"][0]["results"][0]["amount"]["value"], rest["has_more"]) == (0.050000007, False)


@pytest.mark.parametrize("path", [IMAGES, COSTS])
@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("", ("missing_required_parameter", "start_time")),
        ("start_time=x", ("invalid_type", "start_time")),
        ("start_time=1&limit=0", ("integer_below_min_value", "limit")),
        ("start_time=1&page=page_AAAA", ("invalid_value", "page")),
        ("start_time=1&nobody=1", ("unknown_parameter", "nobody")),
        ("start_time=1&project_ids=a%00b", ("invalid_value", "project_ids")),
    ],
)
async def test_openais_pages_refuse_as_theirs_do(admin: Admin, path: str, query: str, refused: tuple[str, str]) -> None:
    assert await admin.refusal("GET", f"{path}?{query}") == refused


async def test_openais_own_client_reads_them(admin: Admin) -> None:
    transport = httpx2.ASGITransport(admin.app)
    async with openai.AsyncOpenAI(
        api_key="unused",
        admin_api_key=TOKEN,
        base_url="http://gate.test/v1",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    ) as client:
        groups: Any = ["model", "api_key_id"]
        images = await client.admin.organization.usage.images(start_time=MIDNIGHT, group_by=groups)
        results: list[Any] = [result for bucket in images.data for result in bucket.results]
        assert sorted(result.images for result in results) == [1, 2]
        costs = await client.admin.organization.usage.costs(start_time=MIDNIGHT, group_by=["line_item"])
        assert len(costs.data[0].results) == 2

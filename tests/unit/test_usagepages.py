"""OpenAI's usage and costs: what may be asked, what is answered, and pages that follow each other to the end."""

from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.admin.organization import UsageCostsResponse, UsageImagesResponse
from openai.types.admin.organization.usage_costs_response import DataResultOrganizationCostsResult
from openai.types.admin.organization.usage_images_response import DataResultOrganizationUsageImagesResult

from proxy.errors import InvalidRequest
from proxy.usagepages import BucketQuery, BucketSum, costs_page, costs_query, images_page, images_query

NOW = 1_795_348_800 + 20.5
"""2026-11-22 12:00:20.5Z."""
MIDNIGHT = 1_795_305_600
HOUR, DAY = 3600, 86_400


def images(query: str, now: float = NOW) -> BucketQuery:
    return images_query(parse_qsl(query, keep_blank_values=True), now)


def costs(query: str, now: float = NOW) -> BucketQuery:
    return costs_query(parse_qsl(query, keep_blank_values=True), now)


def refused(query: str, read: Any = images) -> tuple[str, str | None, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        read(query)
    assert caught.value.status == 400
    return caught.value.message, caught.value.param, caught.value.code


def spans(query: BucketQuery) -> list[tuple[int, int]]:
    return [(bucket["start_time"], bucket["end_time"]) for bucket in images_page(query, ())["data"]]


# What may be asked


def test_the_default_is_a_week_of_days() -> None:
    start = MIDNIGHT - 30 * DAY
    for query in (images(f"start_time={start}"), costs(f"start_time={start}")):
        assert (query.start, query.end, query.width_seconds) == (start, start + 7 * DAY, DAY)
        assert query.next_page is not None
        assert (query.models, query.sizes, query.operations, query.project_ids, query.api_key_ids) == (None,) * 5
        assert not query.is_of_users


@pytest.mark.parametrize(
    ("width", "seconds", "default", "most"), [("1m", 60, 60, 1440), ("1h", 3600, 24, 168), ("1d", DAY, 7, 31)]
)
def test_each_width_has_its_own_number_of_buckets(width: str, seconds: int, default: int, most: int) -> None:
    asked = f"start_time=86400&bucket_width={width}"
    assert len(spans(images(asked))) == default
    assert len(spans(images(f"{asked}&limit={most}"))) == most
    assert {end - start for start, end in spans(images(asked))} == {seconds}
    message = f"Invalid 'limit': integer above maximum value. Expected a value <= {most}, but got {most + 1} instead."
    assert refused(f"{asked}&limit={most + 1}") == (message, "limit", "integer_above_max_value")


def test_costs_come_in_days_and_up_to_180_of_them() -> None:
    assert len(costs_page(costs("start_time=0&limit=180"), ())["data"]) == 180
    assert refused("start_time=0&limit=181", costs)[1:] == ("limit", "integer_above_max_value")
    message = "Invalid value: '1h'. Supported values are: '1d'."
    assert refused("start_time=0&bucket_width=1h", costs) == (message, "bucket_width", "invalid_value")


@pytest.mark.parametrize(
    ("query", "message", "param", "code"),
    [
        ("", "Missing required parameter: 'start_time'.", "start_time", "missing_required_parameter"),
        (
            "start_time=today",
            "Invalid type for 'start_time': expected an integer, but got a string value that could not be converted into"
            " an integer.",
            "start_time",
            "invalid_type",
        ),
        (
            "start_time=-1",
            "Invalid 'start_time': integer below minimum value. Expected a value >= 0, but got -1 instead.",
            "start_time",
            "integer_below_min_value",
        ),
        ("start_time=5&end_time=5", "Invalid 'end_time': must be after 'start_time'.", "end_time", "invalid_value"),
        (
            "start_time=5&limit=0",
            "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead.",
            "limit",
            "integer_below_min_value",
        ),
        (
            "start_time=5&bucket_width=2d",
            "Invalid value: '2d'. Supported values are: '1m', '1h', and '1d'.",
            "bucket_width",
            "invalid_value",
        ),
        (
            "start_time=5&group_by[]=model&group_by[]=prompt",
            "Invalid value: 'prompt'. Supported values are: 'project_id', 'user_id', 'api_key_id', 'model', 'size', and"
            " 'source'.",
            "group_by",
            "invalid_value",
        ),
        (
            "start_time=5&sources=image.painting",
            "Invalid value: 'image.painting'. Supported values are: 'image.generation', 'image.edit', and"
            " 'image.variation'.",
            "sources",
            "invalid_value",
        ),
        (
            "start_time=5&start_time=6",
            "Invalid 'start_time': expected one value, but got several.",
            "start_time",
            "invalid_value",
        ),
        ("start_time=5&line_items=a", "Unknown parameter: 'line_items'.", "line_items", "unknown_parameter"),
        ("start_time[]=5", "Unknown parameter: 'start_time[]'.", "start_time[]", "unknown_parameter"),
        (
            "start_time=5&models=",
            "Invalid 'models': expected texts of 1 to 256 printable characters.",
            "models",
            "invalid_value",
        ),
    ],
)
def test_what_is_wrong_is_said_in_openais_words(query: str, message: str, param: str, code: str) -> None:
    assert refused(query) == (message, param, code)


@pytest.mark.parametrize(
    "query",
    [
        "start_time=" + "9" * 5000,
        "start_time=1.5",
        "start_time=٣",
        "start_time=99999999999999",
        "start_time=5&models[]=a%00b",
        "start_time=5&models[]=" + "a" * 257,
        "start_time=5" + "&models[]=a" * 101,
        "start_time=5&page=",
        "start_time=5&page=page_" + "A" * 9999,
        "start_time=5&page=page_A",
        "start_time=5&page=page_" + "_" * 28,
    ],
    ids=lambda query: query[:30],
)
def test_nonsense_is_refused(query: str) -> None:
    refused(query)


@given(
    st.lists(
        st.tuples(st.sampled_from(["start_time", "end_time", "limit", "page", "group_by[]", "models", "x"]), st.text())
    )
)
def test_any_query_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    for read in (images_query, costs_query):
        try:
            query = read(pairs, NOW)
        except InvalidRequest:
            continue
        assert query.start >= 0


@pytest.mark.parametrize("name", ["models", "models[]"])
def test_lists_are_written_in_either_style(name: str) -> None:
    query = images(f"start_time=5&{name}=b&{name}=a&{name}=b&group_by=size&group_by[]=model")
    assert query.models == ("a", "b")
    assert query.group_by == {"size", "model"}


def test_filters_are_in_our_words() -> None:
    query = images("start_time=5&sizes=1536x1024&sources=image.edit&project_ids=team_1&api_key_ids=key_1")
    assert (query.sizes, query.operations) == (("1536x1024",), ("image_edit",))
    assert (query.project_ids, query.api_key_ids) == (("team_1",), ("key_1",))
    assert images("start_time=5&sources=image.variation").operations == ()
    assert images("start_time=5&user_ids=user_1").is_of_users
    assert costs("start_time=5&line_items=gpt-image-2").models == ("gpt-image-2",)


# Buckets


def test_the_first_bucket_begins_and_the_last_one_ends_where_asked() -> None:
    start, end = MIDNIGHT - 2 * DAY + 100, MIDNIGHT - 50
    assert spans(images(f"start_time={start}&end_time={end}")) == [(start, MIDNIGHT - DAY), (MIDNIGHT - DAY, end)]


def test_the_last_bucket_is_the_one_of_now() -> None:
    for end in ("", f"&end_time={MIDNIGHT + 300 * DAY}"):
        query = images(f"start_time={MIDNIGHT - DAY}{end}")
        assert spans(query) == [(MIDNIGHT - DAY, MIDNIGHT), (MIDNIGHT, MIDNIGHT + DAY)]
        assert query.next_page is None


def test_the_future_is_empty() -> None:
    query = images(f"start_time={MIDNIGHT + 5 * DAY}")
    page = images_page(query, ())
    assert page == {"object": "page", "data": [], "has_more": False, "next_page": None}


def test_sums_lie_in_their_buckets_and_others_are_empty() -> None:
    query = images(f"start_time={MIDNIGHT + 10}&bucket_width=1h&limit=3")
    page = images_page(query, [BucketSum(bucket=MIDNIGHT, images=2, calls=1), BucketSum(bucket=MIDNIGHT + 2 * HOUR)])
    assert [(each["object"], each["start_time"], len(each["results"])) for each in page["data"]] == [
        ("bucket", MIDNIGHT + 10, 1),
        ("bucket", MIDNIGHT + HOUR, 0),
        ("bucket", MIDNIGHT + 2 * HOUR, 1),
    ]


# Pages


def test_pages_follow_each_other_without_a_gap_to_the_present() -> None:
    start = MIDNIGHT - 100 * DAY + 77
    asked = f"start_time={start}&bucket_width=1h&limit=100&group_by[]=model"
    query, found = images(asked), []
    for _ in range(1000):
        found += spans(query)
        assert len(spans(query)) <= 100
        if query.next_page is None:
            break
        assert images_page(query, ())["has_more"] is True
        # Lists may be in another order, and a name in the other style.
        query = images(f"group_by=model&{asked.removesuffix('&group_by[]=model')}&page={query.next_page}")
    assert found[0][0] == start
    assert found[-1][1] == MIDNIGHT + 13 * HOUR
    assert all(before[1] == after[0] for before, after in pairwise(found))


@given(start=st.integers(0, 4 * 10**9), length=st.integers(1, 40 * DAY), limit=st.integers(1, 31))
def test_any_range_is_covered_once(start: int, length: int, limit: int) -> None:
    asked = f"start_time={start}&end_time={start + length}&limit={limit}"
    query, found = images(asked, now=5e9), []
    while True:
        found += spans(query)
        if query.next_page is None:
            break
        query = images(f"{asked}&page={query.next_page}", now=5e9)
    assert (found[0][0], found[-1][1]) == (start, start + length)
    assert all(before[1] == after[0] for before, after in pairwise(found))


@pytest.mark.parametrize(
    "other",
    [
        "start_time=1&limit=5",
        "start_time=0&limit=6",
        "start_time=0&limit=5&end_time=1000000000",
        "start_time=0&limit=5&bucket_width=1h",
        "start_time=0&limit=5&group_by[]=model",
        "start_time=0&limit=5&models[]=gpt-image-2",
        "start_time=0&limit=5&user_ids[]=me",
    ],
)
def test_a_page_of_another_query_is_refused(other: str) -> None:
    page = images("start_time=0&limit=5").next_page
    assert images(f"start_time=0&limit=5&page={page}").start == 5 * DAY
    message = "Invalid 'page': is no 'next_page' of this query; every other parameter must stay as it was."
    assert refused(f"{other}&page={page}") == (message, "page", "invalid_value")


def test_a_page_of_costs_is_none_of_usage() -> None:
    page = costs("start_time=0&limit=5").next_page
    assert costs(f"start_time=0&limit=5&page={page}").start == 5 * DAY
    assert refused(f"start_time=0&limit=5&page={page}")[1] == "page"


def test_a_page_that_was_changed_is_refused() -> None:
    page = images("start_time=0&limit=5").next_page or ""
    for place in range(5, len(page)):
        changed = page[:place] + ("A" if page[place] != "A" else "B") + page[place + 1 :]
        try:
            query = images(f"start_time=0&limit=5&page={changed}")
        except InvalidRequest:
            continue
        assert query.start % DAY == 0  # the digest is of the query: a place among its buckets can be made up


# OpenAI's own types

EVERYTHING = BucketSum(
    bucket=MIDNIGHT,
    project_id="team_1",
    api_key_id="key_1",
    model="gpt-image-2",
    size="1024x1024",
    operation="image_edit",
    images=3,
    calls=2,
    cost=123_456_789,
)


def test_an_images_page_is_what_the_sdk_expects() -> None:
    groups = "".join(f"&group_by={name}" for name in ("project_id", "user_id", "api_key_id", "model", "size", "source"))
    page = images_page(images(f"start_time={MIDNIGHT - DAY}&limit=2{groups}"), [EVERYTHING])
    (result,) = page["data"][1]["results"]
    assert result == {
        "object": "organization.usage.images.result",
        "images": 3,
        "num_model_requests": 2,
        "size": "1024x1024",
        "source": "image.edit",
        "project_id": "team_1",
        "user_id": None,
        "api_key_id": "key_1",
        "model": "gpt-image-2",
    }
    assert set(result) == set(DataResultOrganizationUsageImagesResult.model_fields)
    read = UsageImagesResponse.model_validate(page, strict=True)
    assert isinstance(read.data[1].results[0], DataResultOrganizationUsageImagesResult)
    assert read.model_dump() == page


def test_a_costs_page_is_what_the_sdk_expects() -> None:
    groups = "&group_by=project_id&group_by=line_item&group_by=api_key_id&group_by=api_source"
    page = costs_page(costs(f"start_time={MIDNIGHT - DAY}&limit=1{groups}"), [BucketSum(bucket=MIDNIGHT - DAY)])
    assert page["next_page"].startswith("page_")
    page = costs_page(costs(f"start_time={MIDNIGHT}&limit=1{groups}"), [EVERYTHING])
    (result,) = page["data"][0]["results"]
    assert result == {
        "object": "organization.costs.result",
        "amount": {"value": 0.123456789, "currency": "usd"},
        "line_item": "gpt-image-2",
        "project_id": "team_1",
        "user_id": None,
        "api_key_id": "key_1",
        "api_source": "unlabeled",
        "quantity": None,
        "quantity_unit": None,
    }
    assert set(result) == set(DataResultOrganizationCostsResult.model_fields)
    read = UsageCostsResponse.model_validate(page, strict=True)
    assert isinstance(read.data[0].results[0], DataResultOrganizationCostsResult)
    assert read.model_dump() == page


def test_what_was_not_grouped_by_is_null() -> None:
    query = costs(f"start_time={MIDNIGHT}")
    (result,) = costs_page(query, [BucketSum(bucket=MIDNIGHT, cost=1)])["data"][0]["results"]
    assert {name for name, value in result.items() if value is None} == set(result) - {"object", "amount"}


def test_the_sdk_asks_in_words_that_are_read() -> None:
    seen: list[BucketQuery] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        pairs = parse_qsl(request.url.query.decode(), keep_blank_values=True)
        is_costs = request.url.path.endswith("/organization/costs")
        seen.append((costs_query if is_costs else images_query)(pairs, NOW))
        return httpx2.Response(200, json=(costs_page if is_costs else images_page)(seen[-1], [EVERYTHING]))

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        usage = openai.OpenAI(
            admin_api_key="sk-test", base_url="http://test/v1", http_client=http
        ).admin.organization.usage
        told = usage.images(
            start_time=MIDNIGHT - DAY,
            bucket_width="1d",
            limit=2,
            group_by=["model", "size"],
            models=["gpt-image-2"],
            sources=["image.edit", "image.generation"],
        )
        assert told.data[1].results[0].object == "organization.usage.images.result"
        assert not told.has_more
        usage.costs(start_time=MIDNIGHT, group_by=["line_item"], api_key_ids=["key_1"], project_ids=["team_1"])
    assert seen[0].group_by == {"model", "size"}
    assert (seen[0].models, seen[0].operations) == (("gpt-image-2",), ("image_edit", "image_generation"))
    assert (seen[1].api_key_ids, seen[1].project_ids) == (("key_1",), ("team_1",))
    assert seen[1].group_by == {"line_item"}

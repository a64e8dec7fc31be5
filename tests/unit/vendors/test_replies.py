"""What of a vendor's reply is not as OpenAI's: a refusal that says 200, a price, a missing `created`."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import vendors

BLOCKED = {"url": None, "b64_json": None, "respect_moderation": False}
PICTURE = {"b64_json": "…", "respect_moderation": True, "mime_type": "image/jpeg"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["data", "respect_moderation", "x"]), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("items", [[BLOCKED], [BLOCKED, BLOCKED], [PICTURE, BLOCKED], [{**PICTURE, **BLOCKED}]])
def test_what_xai_blocked_is_a_refusal_in_openai_s_shape(items: list[Any]) -> None:
    refusal = vendors.of("xai").refusal_in({"data": items, "usage": {"cost_in_usd_ticks": 0}})
    assert refusal is not None
    status, error = refusal
    assert status == 400
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("image_generation_user_error", "moderation_blocked")


@pytest.mark.parametrize(
    "document",
    [
        {"data": [PICTURE]},
        {"data": [{"b64_json": "…"}]},
        {"data": [{"respect_moderation": None}]},
        {"data": [{"respect_moderation": 0}]},
        {"data": []},
        {"data": None},
        {"error": {"message": "no"}},
        {},
    ],
)
def test_anything_else_is_no_refusal(document: dict[str, Any]) -> None:
    assert vendors.of("xai").refusal_in(document) is None


@given(st.sampled_from(["openai", "azure", "xai", "together", "generic"]), st.dictionaries(st.text(max_size=4), JSON))
def test_any_document_can_be_looked_at(name: str, document: dict[str, Any]) -> None:
    found = vendors.of(name).refusal_in(document)
    assert found is None or name == "xai"
    vendors.of(name).cost_of(document)


def test_the_others_refuse_with_a_status() -> None:
    for name in ("openai", "apiyi", "azure", "together", "generic", "my-own"):
        assert vendors.of(name).refusal_in({"data": [BLOCKED]}) is None


@pytest.mark.parametrize(
    ("ticks", "usd"),
    [
        (200_000_000, "0.02"),  # docs.x.ai, "Cost Tracking": an image
        (37_756_000, "0.0037756"),  # the same page: a chat
        (0, "0"),
        (1, "0.0000000001"),
    ],
)
def test_xai_says_what_a_call_cost(ticks: int, usd: str) -> None:
    assert vendors.of("xai").cost_of({"cost_in_usd_ticks": ticks}) == Decimal(usd)


@pytest.mark.parametrize("usage", [{}, *({"cost_in_usd_ticks": bad} for bad in (None, -1, True, 1.5, "1", [1]))])
def test_a_cost_that_is_no_count_of_ticks_is_none(usage: dict[str, Any]) -> None:
    assert vendors.of("xai").cost_of(usage) is None


def test_only_xai_says_what_a_call_cost() -> None:
    for name in ("openai", "apiyi", "azure", "together", "generic", "my-own"):
        assert vendors.of(name).cost_of({"cost_in_usd_ticks": 200_000_000}) is None


def test_replies_of_some_vendors_may_lack_created() -> None:
    names = ("openai", "apiyi", "azure", "xai", "together", "generic", "my-own")
    assert [name for name in names if vendors.of(name).adds_created] == ["xai", "together", "generic"]

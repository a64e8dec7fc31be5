"""What a key may ask for: every limit holds, and says what is allowed instead."""

from typing import Any

import pytest

from proxy import allowance
from proxy.errors import NotAllowedByKey
from proxy.keyrecord import CacheScope, KeyRecord, TeamRecord
from proxy.model import Holder, ImageRequest, Operation
from tests.support.door import candidate

TEAM = TeamRecord(id="team_1", team_alias="design", created_at=1.0, updated_at=1.0, revision=1)


def holder(**fields: Any) -> Holder:
    given: dict[str, Any] = {
        "id": "key_1",
        "digest": b"d",
        "shown": "sk-ig-…Ab3x",
        "key_alias": "web",
        "created_at": 1.0,
        "updated_at": 1.0,
        "revision": 1,
    }
    key = KeyRecord(**{**given, **fields})
    return Holder(key, TEAM if key.team_id else None)


def request(**fields: Any) -> ImageRequest:
    return candidate("a", **fields).request


def refusal(limits: Holder, asked: ImageRequest) -> NotAllowedByKey:
    with pytest.raises(NotAllowedByKey) as caught:
        allowance.check(limits, asked)
    assert (caught.value.status, caught.value.type) == (403, "invalid_request_error")
    return caught.value


def test_a_key_without_limits_may_ask_for_anything() -> None:
    allowance.check(holder(), request(model="x", n=10, size="9x9", quality="high", operation=Operation.EDIT))


def test_a_key_may_ask_for_all_that_it_allows() -> None:
    limits = holder(models=("gpt-image-2",), max_n=2, allowed_sizes=("auto", "1024x1024"), allowed_qualities=("low",))
    allowance.check(limits, request(n=2, size="1024x1024", quality="low"))
    allowance.check(limits, request(n=1, size="auto", quality="low"))


# Models


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        (("gpt-image-2",), "gpt-image-2", True),
        (("gpt-image-*",), "gpt-image-2", True),
        (("dall-e-[23]", "flux-?"), "flux-1", True),
        (("gpt-image-2",), "gpt-image-2-mini", False),
        (("gpt-image-2",), "xgpt-image-2", False),
        (("GPT-image-2",), "gpt-image-2", False),
        (("gpt-image-*",), "", False),
    ],
)
def test_a_model_is_named_by_a_pattern(patterns: tuple[str, ...], model: str, may: bool) -> None:
    assert allowance.may_use(holder(models=patterns), model) is may


def test_without_patterns_every_model_may_be_used() -> None:
    assert allowance.may_use(holder(), "anything")


def test_a_model_that_is_not_allowed_is_as_if_it_were_not_there() -> None:
    error = refusal(holder(models=("gpt-image-2",)), request(model="flux-1", asked_model="flux-1"))
    assert (error.param, error.code) == ("model", "model_not_found")
    assert error.message == "The model 'flux-1' does not exist or this key has no access to it."


@pytest.mark.parametrize("pattern", ["dall-e-3", "gpt-image-2"])
def test_of_an_alias_either_name_is_enough(pattern: str) -> None:
    allowance.check(holder(models=(pattern,)), request(model="gpt-image-2", asked_model="dall-e-3"))


def test_a_refused_alias_is_told_by_the_name_that_was_asked_for() -> None:
    error = refusal(holder(models=("flux-*",)), request(model="gpt-image-2", asked_model="dall-e-3"))
    assert "'dall-e-3'" in error.message
    assert "gpt-image-2" not in error.message


def test_a_very_long_name_is_not_repeated_in_full() -> None:
    error = refusal(holder(models=("a",)), request(model="x" * 10_000, asked_model="x" * 10_000))
    assert len(error.message) < 300


# Numbers, sizes, qualities


@pytest.mark.parametrize(("most", "words"), [(1, "1 image"), (2, "2 images")])
def test_more_images_than_the_key_may_have_at_a_time(most: int, words: str) -> None:
    error = refusal(holder(max_n=most), request(n=most + 1))
    assert (error.param, error.code) == ("n", "not_allowed_by_key")
    assert error.message == f"This key may ask for at most {words} at a time."


def test_a_size_that_is_not_allowed() -> None:
    error = refusal(holder(allowed_sizes=("1024x1024", "1536x1024")), request(size="2048x2048"))
    assert (error.param, error.code) == ("size", "not_allowed_by_key")
    assert error.message == "This key may ask for sizes 1024x1024, 1536x1024."


def test_a_quality_that_is_not_allowed() -> None:
    error = refusal(holder(allowed_qualities=("low",)), request(quality="high"))
    assert (error.param, error.code) == ("quality", "not_allowed_by_key")
    assert error.message == "This key may ask for quality low."


@pytest.mark.parametrize(("param", "limit"), [("size", "allowed_sizes"), ("quality", "allowed_qualities")])
def test_who_left_it_out_where_auto_is_not_allowed_learns_to_say_it(param: str, limit: str) -> None:
    error = refusal(holder(**{limit: ("a",)}), request(**{param: "auto"}))
    assert error.message == f"This key may ask for {param} a. Set '{param}'; without it, it is auto."


# The share of the cache


@pytest.mark.parametrize(
    ("own", "default", "team_id", "parts"),
    [
        (None, "team", "team_1", ("team", "team_1")),
        (None, "team", None, ("key", "key_1")),
        (None, "key", "team_1", ("key", "key_1")),
        (None, "org", None, ("org",)),
        ("key", "org", "team_1", ("key", "key_1")),
        ("team", "org", "team_1", ("team", "team_1")),
        ("team", "org", None, ("key", "key_1")),
        ("org", "key", "team_1", ("org",)),
    ],
)
def test_the_share_of_the_cache_is_the_keys_own_choice_or_the_default(
    own: CacheScope | None, default: CacheScope, team_id: str | None, parts: tuple[str, ...]
) -> None:
    assert allowance.scope_parts(holder(cache_scope=own, team_id=team_id), default) == parts

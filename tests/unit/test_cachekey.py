"""The cache key: everything that shapes an answer is in it, and nothing else."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.cachekey import cache_key
from proxy.catalogue import load
from proxy.model import Document, ImageRequest, Operation
from proxy.settings import RulesSection
from proxy.validation import Validator

VALIDATOR = Validator(load(), RulesSection(extra_parameters=("intricacy",)))
BASE: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a lighthouse", "size": "1024x1024", "quality": "low", "n": 2}


def ask(**fields: Any) -> ImageRequest:
    document = {name: value for name, value in {**BASE, **fields}.items() if value is not ...}
    return VALIDATOR.validate(Document(document), Operation.GENERATION, "openai")


def key(request: ImageRequest | None = None, *, scope: str = "s", group: str = "openai", beta: str = "") -> str:
    return cache_key(request or ask(), scope=scope, cache_group=group, openai_beta=beta)


def test_a_key_is_sixty_four_hex_digits_and_repeatable() -> None:
    assert key() == key()
    assert len(key()) == 64
    assert set(key()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a lighthouse "},
        {"prompt": "A lighthouse"},
        {"model": "gpt-image-1.5"},
        {"size": "1536x1024"},
        {"quality": "high"},
        {"quality": ...},
        {"n": 3},
        {"n": ...},
        {"background": "opaque"},
        {"output_format": "webp"},
        {"output_format": "jpeg", "output_compression": 50},
        {"moderation": "low"},
        {"imagegate_variant": "b"},
        {"intricacy": 1},
    ],
)
def test_whatever_shapes_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert key(ask(**change)) != key()


def test_composed_and_decomposed_characters_are_two_prompts() -> None:
    assert key(ask(prompt="caf\u00e9")) != key(ask(prompt="cafe\u0301"))


@pytest.mark.parametrize(
    "change",
    [
        {"user": "somebody"},
        {"safety_identifier": "somebody"},
        {"moderation": "auto"},
        {"moderation": None},
        {"background": None},
    ],
)
def test_what_does_not_shape_the_answer_leaves_the_key_alone(change: dict[str, Any]) -> None:
    assert key(ask(**change)) == key()


def test_the_response_format_leaves_the_key_alone() -> None:
    document = {"model": "gpt-image-2-all", "prompt": "a lighthouse"}
    keys = {
        key(VALIDATOR.validate(Document({**document, **more}), Operation.GENERATION, "apiyi"))
        for more in ({}, {"response_format": "url"}, {"response_format": "b64_json"})
    }
    assert len(keys) == 1


def test_a_changed_table_of_defaults_is_a_changed_answer() -> None:
    assert key(replace(ask(), table_digest="0")) != key(replace(ask(), table_digest="1"))


fields = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None)
@given(st.tuples(fields, fields, fields, fields), st.tuples(fields, fields, fields, fields))
def test_different_fields_give_different_keys(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assume(one != other)
    keys = {
        cache_key(replace(ask(), table_digest=digest), scope=scope, cache_group=group, openai_beta=beta)
        for digest, scope, group, beta in (one, other)
    }
    assert len(keys) == 2


@settings(deadline=None)
@given(fields, st.integers(0, 12), st.integers(0, 12))
def test_text_that_moves_from_one_field_to_the_next_changes_the_key(text: str, one: int, other: int) -> None:
    one, other = min(one, len(text)), min(other, len(text))
    assume(one != other)
    assert key(scope=text[:one], group=text[one:]) != key(scope=text[:other], group=text[other:])


scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.text(max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), scalars, max_size=3), st.data())
def test_the_order_and_spelling_of_members_leave_the_key_alone(inner: dict[str, Any], data: st.DataObject) -> None:
    document = {**BASE, "intricacy": inner}
    shuffled = dict(data.draw(st.permutations(list(document.items()))))
    spelled = json.loads(json.dumps(shuffled, ensure_ascii=data.draw(st.booleans()), indent=3))
    assert key(VALIDATOR.validate(Document(spelled), Operation.GENERATION, "openai")) == key(ask(intricacy=inner))

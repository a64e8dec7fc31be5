"""The members of a call as each vendor spells them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import vendors

NAMES = ("openai", "apiyi", "azure", "xai", "together", "generic", "my-own")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
MEMBERS = st.dictionaries(st.text(max_size=5), JSON, max_size=3) | st.fixed_dictionaries(
    {"model": st.text(), "prompt": st.text()},
    optional={
        "size": st.sampled_from(["auto", "1024x768", "0x1", "1x", "9" * 50 + "x1"]) | JSON,
        "width": JSON,
        "response_format": st.sampled_from(["b64_json", "url"]) | JSON,
    },
)


@pytest.mark.parametrize(
    ("given_members", "expected"),
    [
        ({"size": "1024x768"}, {"width": 1024, "height": 768}),
        ({"size": "auto"}, {}),
        ({"size": "large"}, {"size": "large"}),
        ({"size": "1024x768", "width": 512}, {"size": "1024x768", "width": 512}),
        ({"size": 1024}, {"size": 1024}),
        ({"width": 512, "height": 256, "steps": 4}, {"width": 512, "height": 256, "steps": 4}),
        ({"response_format": "b64_json"}, {"response_format": "base64"}),
        ({"response_format": "url"}, {"response_format": "url"}),
        ({"n": 2, "output_format": "png", "user": "u"}, {"n": 2, "output_format": "png", "user": "u"}),
    ],
)
def test_together_has_its_own_words(given_members: dict[str, Any], expected: dict[str, Any]) -> None:
    head = {"model": "black-forest-labs/FLUX.1-schnell", "prompt": "a fox"}
    assert vendors.of("together").members({**head, **given_members}) == {**head, **expected}


@given(st.sampled_from(NAMES), MEMBERS)
def test_any_members_can_be_spelled_and_none_is_changed_in_its_place(name: str, members: dict[str, Any]) -> None:
    before = dict(members)
    spelled = vendors.of(name).members(members)
    assert members == before
    assert spelled is not members
    if vendors.of(name).is_plain:
        assert spelled == members
    assert vendors.of(name).members(spelled) == spelled


def test_only_together_s_members_are_not_ours() -> None:
    assert [name for name in NAMES if not vendors.of(name).is_plain] == ["together"]

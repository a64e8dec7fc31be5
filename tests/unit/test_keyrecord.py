"""Keys and teams as they are kept: what of them may be seen."""

import json

from hypothesis import given
from hypothesis import strategies as st

from proxy.keyfields import team_fields
from proxy.keyrecord import KeyRecord, TeamRecord

KEY = KeyRecord(
    id="key_1",
    digest=b"the digest",
    previous_digest=b"the older digest",
    previous_until=3.0,
    shown="sk-ig-…Ab3x",
    key_alias="web",
    models=("gpt-image-2",),
    max_budget=25_500_000_000,
    created_at=1.0,
    updated_at=2.0,
    revision=7,
)


def test_no_digest_is_shown() -> None:
    assert "digest" not in repr(KEY)
    assert "digest" not in json.dumps(KEY.as_json())


def test_as_json_it_has_dollars_and_lists() -> None:
    shown = KEY.as_json()
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["max_budget"], shown["soft_budget"], shown["models"]) == (25.5, None, ["gpt-image-2"])


def team(max_budget: int) -> TeamRecord:
    return TeamRecord(id="team_1", team_alias="a", max_budget=max_budget, created_at=1.0, updated_at=1.0, revision=1)


def test_whole_dollars_are_written_as_whole_numbers() -> None:
    assert json.dumps(team(25 * 10**9).as_json()["max_budget"]) == "25"


@given(st.integers(0, 999_999_999_000_000))
def test_every_amount_that_may_be_set_is_read_back_as_it_was(millionths: int) -> None:
    record = team(millionths * 1000)
    written = json.loads(json.dumps(record.as_json()))["max_budget"]
    assert team_fields({"max_budget": written}, 0.0) == {"max_budget": record.max_budget}

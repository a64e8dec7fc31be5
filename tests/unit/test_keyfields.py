"""What may be said of keys and teams, and how everything else is refused: by name, and without repeating it."""

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.keyfields import MOST_METADATA_BYTES, check_together, is_name, key_fields, team_fields
from proxy.keyrecord import TeamRecord

NOW = 1_795_000_000.0
NAMES = (
    *("key_alias", "team_id", "models", "max_budget", "soft_budget", "budget_duration", "rpm_limit", "ipm_limit"),
    *("max_parallel_requests", "max_n", "allowed_sizes", "allowed_qualities", "cache_scope", "expires", "metadata"),
    "blocked",
)
NEVER_NULL = ("key_alias", "blocked")
COUNTS = ("rpm_limit", "ipm_limit", "max_parallel_requests", "max_n")
SQL = "Robert'); DROP TABLE keys;-- %_\\"


def shortened(value: object) -> str:
    """A test's name is no place for 10 MB."""
    return ascii(value)[:30]


def read(name: str, value: Any) -> Any:
    return key_fields({name: value}, NOW)[name]


def refused(name: str, value: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(name, value)
    assert caught.value.param == name
    assert f"'{name}'" in caught.value.message
    assert len(caught.value.message) < 300
    return caught.value


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("key_alias", "Zoë's key, 2nd", "Zoë's key, 2nd"),
        ("key_alias", SQL, SQL),
        ("key_alias", "x" * 128, "x" * 128),
        ("team_id", "team_" + "0" * 32, "team_" + "0" * 32),
        ("models", ["b", "a", "b"], ("b", "a")),
        ("models", [SQL], (SQL,)),
        ("max_budget", 25, 25 * 10**9),
        ("max_budget", 0, 0),
        ("max_budget", -0.0, 0),
        ("max_budget", 0.1 + 0.2, 300_000_000),
        ("max_budget", "0.000001", 1000),
        ("max_budget", Decimal("12.50"), 12_500_000_000),
        ("soft_budget", 999_999_999, 999_999_999 * 10**9),
        ("budget_duration", " 1mo", "1mo"),
        ("rpm_limit", 1, 1),
        ("max_n", 2**31 - 1, 2**31 - 1),
        ("allowed_sizes", ["auto", "1024x1536"], ("auto", "1024x1536")),
        ("allowed_qualities", ["low"], ("low",)),
        ("cache_scope", "org", "org"),
        ("blocked", True, True),
        ("metadata", {"a": [1, {"b": "\n€"}]}, {"a": [1, {"b": "\n€"}]}),
        ("metadata", {SQL: SQL}, {SQL: SQL}),
        ("metadata", None, {}),
        ("metadata", {"a": "\\u0000"}, {"a": "\\u0000"}),
    ],
)
def test_what_is_right_is_kept(name: str, value: Any, kept: Any) -> None:
    assert read(name, value) == kept


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*NEVER_NULL, "metadata")])
def test_null_takes_a_limit_away(name: str) -> None:
    assert read(name, None) is None


@pytest.mark.parametrize("name", NEVER_NULL)
def test_null_is_no_name_and_no_yes_or_no(name: str) -> None:
    assert refused(name, None).code == "invalid_type"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key_alias", ""),
        ("key_alias", "x" * 129),
        ("key_alias", " x"),
        ("key_alias", "a\0b"),
        ("key_alias", "a\nb"),
        ("key_alias", "a\u202eb"),
        ("key_alias", "\ud800"),
        ("key_alias", "key_" + "0" * 32),
        ("key_alias", "team_" + "f" * 32),
        ("key_alias", "sk-ig-0123"),
        ("key_alias", 5),
        ("team_id", "marketing"),
        ("team_id", "key_" + "0" * 32),
        ("models", []),
        ("models", "gpt-image-2"),
        ("models", ["a", 1]),
        ("models", ["a\0"]),
        ("models", ["a"] * 101),
        ("max_budget", -1),
        ("max_budget", -1e-300),
        ("max_budget", math.nan),
        ("max_budget", math.inf),
        ("max_budget", Decimal("NaN")),
        ("max_budget", Decimal("sNaN")),
        ("max_budget", Decimal("-Infinity")),
        ("max_budget", Decimal("1E+999999")),
        ("max_budget", Decimal("1E-999999")),
        ("max_budget", 1e308),
        ("max_budget", 10**4000),
        ("max_budget", "0.0000001"),
        ("max_budget", "NaN"),
        ("max_budget", "1e3"),
        ("max_budget", "٣"),
        ("max_budget", ""),
        ("max_budget", True),
        ("max_budget", [1]),
        ("budget_duration", "1y"),
        ("budget_duration", "0d"),
        ("budget_duration", 30),
        ("budget_duration", "1d\0"),
        *((name, value) for name in COUNTS for value in (0, -1, 2**31, 10**4000, 1.0, True, "5", math.nan)),
        ("allowed_sizes", ["1024"]),
        ("allowed_sizes", ["1024x1024\n"]),
        ("allowed_sizes", ["0x0"]),
        ("allowed_qualities", "low"),
        ("cache_scope", "everybody"),
        ("cache_scope", ["org"]),
        ("expires", NOW),
        ("expires", NOW - 1),
        ("expires", 1e300),
        ("expires", 10**400),
        ("expires", math.nan),
        ("expires", True),
        ("expires", ""),
        ("expires", "2030-12-31T12:00:00"),
        ("expires", "2030-13-31"),
        ("expires", "1999-12-31"),
        ("expires", "0001-01-01T00:00:00+14:00"),
        ("expires", "soon"),
        ("expires", "0d"),
        ("metadata", "text"),
        ("metadata", {"a": math.nan}),
        ("metadata", {"a": "\0"}),
        ("metadata", {"\0": 1}),
        ("metadata", {"a": "\ud800"}),
        ("metadata", {"a": b"x"}),
        ("metadata", {1: 2}),
        ("metadata", {"a": "x" * MOST_METADATA_BYTES}),
        ("metadata", {"a": "x" * 10_000_000}),
        ("blocked", 1),
        ("blocked", "yes"),
    ],
    ids=shortened,
)
def test_what_is_wrong_is_refused_by_name(name: str, value: Any) -> None:
    error = refused(name, value)
    assert error.status == 400
    assert error.code in {"invalid_type", "invalid_value"}


def test_a_number_that_python_itself_would_not_write_is_refused() -> None:
    refused("metadata", {"a": 10**5000})
    refused("max_budget", 10**5000)
    refused("rpm_limit", 10**5000)


def test_metadata_without_a_bottom_is_refused() -> None:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    refused("metadata", value)


def test_metadata_may_be_exactly_as_large_as_it_may_be() -> None:
    room = MOST_METADATA_BYTES - len(json.dumps({"a": ""}))
    assert read("metadata", {"a": "x" * room}) == {"a": "x" * room}
    refused("metadata", {"a": "x" * (room + 1)})
    refused("metadata", {"a": "é" * (room // 2 + 1)})


def test_metadata_is_kept_as_it_was_when_it_was_read() -> None:
    given_metadata: dict[str, Any] = {"a": [1]}
    kept = read("metadata", given_metadata)
    given_metadata["a"].append(2)
    assert kept == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", datetime.fromtimestamp(NOW + 30 * 86_400, UTC)),
        ("2030-12-31", datetime(2030, 12, 31, tzinfo=UTC)),
        ("2030-12-31T12:00:00Z", datetime(2030, 12, 31, 12, tzinfo=UTC)),
        ("2030-12-31T12:00:00+02:00", datetime(2030, 12, 31, 10, tzinfo=UTC)),
        (1_900_000_000, datetime.fromtimestamp(1_900_000_000, UTC)),
    ],
)
def test_an_end_is_a_period_a_date_or_a_time(text: str | int, moment: datetime) -> None:
    assert read("expires", text) == moment.timestamp()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_buget", "Unknown parameter: 'max_buget'. Did you mean max_budget?"),
        ("alias", "Unknown parameter: 'alias'. Did you mean key_alias?"),
        ("tpm", "Unknown parameter: 'tpm'."),
        ("digest", "Unknown parameter: 'digest'."),
        ("revoked_at", "Unknown parameter: 'revoked_at'."),
        ("a\0\n'; DROP", "Unknown parameter: 'a??'; DROP'."),
    ],
)
def test_an_unknown_field_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        key_fields({name: 1}, NOW)
    assert (caught.value.message, caught.value.code) == (message, "unknown_parameter")


def test_a_very_long_unknown_name_is_cut() -> None:
    with pytest.raises(InvalidRequest) as caught:
        key_fields({"x" * 10_000_000: 1}, NOW)
    assert len(caught.value.message) < 200


def test_a_team_has_no_limits_of_keys() -> None:
    assert team_fields({"team_alias": "a", "max_budget": 1, "metadata": {}}, NOW)
    with pytest.raises(InvalidRequest, match="rpm_limit"):
        team_fields({"rpm_limit": 1}, NOW)


def test_a_warning_comes_before_the_end() -> None:
    team = TeamRecord(id="t", team_alias="a", max_budget=1, soft_budget=2, created_at=NOW, updated_at=NOW, revision=1)
    with pytest.raises(InvalidRequest) as caught:
        check_together(team)
    assert caught.value.param == "soft_budget"


SECRET_LOOKING = "sk-ig-SECRETSECRETSECRET"


@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_is_never_repeated(name: str) -> None:
    if name == "allowed_qualities":
        return
    for value in (SECRET_LOOKING, [SECRET_LOOKING + "\0"], {SECRET_LOOKING: "\0"}, SECRET_LOOKING + "\0"):
        assert "SECRET" not in refused(name, value).message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(NAMES), JSON)
def test_any_json_is_either_kept_or_refused_with_the_name(name: str, value: Any) -> None:
    try:
        kept = read(name, value)
    except InvalidRequest as error:
        assert error.param == name
    else:
        written = list(kept) if isinstance(kept, tuple) else kept
        assert "\0" not in repr(written)
        json.dumps(written, allow_nan=False).encode("utf-8")


@given(st.text())
def test_a_name_that_is_kept_can_be_looked_for(text: str) -> None:
    try:
        alias = read("key_alias", text)
    except InvalidRequest:
        return
    assert alias == text
    assert is_name(text)

"""Lengths of time as administrators write them, and where they end."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.period import Period, parse_period


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("45s", Period(seconds=45)),
        ("10m", Period(seconds=600)),
        ("1h", Period(seconds=3600)),
        ("1d", Period(seconds=86_400)),
        (" 30d ", Period(seconds=30 * 86_400)),
        ("2w", Period(seconds=14 * 86_400)),
        ("1mo", Period(months=1)),
        ("120mo", Period(months=120)),
    ],
)
def test_a_number_and_a_unit(text: str, period: Period) -> None:
    assert parse_period(text) == period


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "d",
        "-1d",
        "1.5h",
        "1 d",
        "1y",
        "1M",
        "1D",
        "0d",
        "0mo",
        "121mo",
        "3661d",
        "٣d",
        "1d1h",
        "9" * 5000 + "d",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be "):
        parse_period(text)


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    try:
        period = parse_period(text)
    except ValueError:
        return
    assert bool(period.seconds) != bool(period.months)


@pytest.mark.parametrize(
    ("start", "text", "end"),
    [
        ("2026-01-31T12:30:00Z", "1mo", "2026-02-28T12:30:00Z"),
        ("2028-01-31T12:30:00Z", "1mo", "2028-02-29T12:30:00Z"),
        ("2026-11-15T00:00:00Z", "2mo", "2027-01-15T00:00:00Z"),
        ("2026-12-31T23:59:59Z", "12mo", "2027-12-31T23:59:59Z"),
        ("2026-03-28T12:00:00Z", "1d", "2026-03-29T12:00:00Z"),
    ],
)
def test_months_follow_the_calendar(start: str, text: str, end: str) -> None:
    begin = datetime.fromisoformat(start).timestamp()
    assert datetime.fromtimestamp(parse_period(text).after(begin), UTC) == datetime.fromisoformat(end)


@given(st.floats(0, 200_000_000_000), st.integers(1, 120))
def test_later_is_always_later(at: float, months: int) -> None:
    assert Period(months=months).after(at) > at

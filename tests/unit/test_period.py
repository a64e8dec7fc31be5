"""Lengths of time as administrators write them, and where they end."""

import math
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


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


ANCHOR = at("2026-11-15T09:30:00.250Z")


@pytest.mark.parametrize(
    ("text", "moment", "start", "end"),
    [
        ("1h", "2026-11-22T12:59:59.999999Z", "2026-11-22T12:00:00Z", "2026-11-22T13:00:00Z"),
        ("1h", "2026-11-22T13:00:00Z", "2026-11-22T13:00:00Z", "2026-11-22T14:00:00Z"),
        ("1d", "2026-11-22T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
        ("24h", "2026-11-22T23:59:59Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
        ("7h", "1970-01-01T06:59:59Z", "1970-01-01T00:00:00Z", "1970-01-01T07:00:00Z"),
        ("7h", "1970-01-02T00:00:00Z", "1970-01-01T21:00:00Z", "1970-01-02T04:00:00Z"),
        ("30d", "2026-11-15T09:30:00.250Z", "2026-11-15T09:30:00.250Z", "2026-12-15T09:30:00.250Z"),
        ("30d", "2026-12-15T09:30:00.249Z", "2026-11-15T09:30:00.250Z", "2026-12-15T09:30:00.250Z"),
        ("30d", "2026-12-15T09:30:00.250Z", "2026-12-15T09:30:00.250Z", "2027-01-14T09:30:00.250Z"),
        ("30d", "2026-11-15T09:30:00.249Z", "2026-10-16T09:30:00.250Z", "2026-11-15T09:30:00.250Z"),
        ("25h", "2026-11-15T09:30:01Z", "2026-11-15T09:30:00.250Z", "2026-11-16T10:30:00.250Z"),
        ("1w", "2026-11-22T12:00:00Z", "2026-11-22T09:30:00.250Z", "2026-11-29T09:30:00.250Z"),
        ("1mo", "2028-02-29T23:59:59.999999Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ("1mo", "2026-02-28T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("1mo", "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ("1mo", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("3mo", "2026-11-22T12:00:00Z", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("3mo", "2026-03-31T12:00:00Z", "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ("12mo", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("12mo", "2028-12-31T23:59:59Z", "2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z"),
    ],
)
def test_a_window_begins_and_ends_where_people_expect(text: str, moment: str, start: str, end: str) -> None:
    assert parse_period(text).window(ANCHOR, at(moment)) == (at(start), at(end))


def test_the_last_instant_of_a_month_belongs_to_it() -> None:
    december = at("2026-12-01T00:00:00Z")
    last = math.nextafter(december, 0)
    assert parse_period("1mo").window(0, last) == (at("2026-11-01T00:00:00Z"), december)


periods = st.one_of(
    st.builds(Period, seconds=st.integers(1, 3660 * 86_400)), st.builds(Period, months=st.integers(1, 120))
)
moments = st.floats(2.0**30, 1.8 * 10**9)
"""From 2004 until the last window is over, in 2038, a float tells a quarter of a microsecond, and sums are exact."""


@given(periods, moments, moments)
def test_a_window_holds_its_moment_and_windows_tile(period: Period, anchor: float, moment: float) -> None:
    start, end = period.window(anchor, moment)
    assert start <= moment < end
    assert period.window(anchor, start) == (start, end)
    assert period.window(anchor, end)[0] == end
    assert period.window(anchor, math.nextafter(end, 0)) == (start, end)
    assert period.window(anchor, math.nextafter(start, 0))[1] == start


@given(periods, st.floats(0, 200_000_000_000), st.floats(0, 200_000_000_000))
def test_no_clock_breaks_a_window(period: Period, anchor: float, moment: float) -> None:
    start, end = period.window(anchor, moment)
    assert start < end
    assert start - 0.001 <= moment <= end + 0.001

"""A length of time as administrators write it: `1h`, `30d`, or months of the calendar, `1mo`. Pure."""

import calendar
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_DAY = 86_400
_SECOND_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PERIOD = re.compile(r"\s*(\d{1,9})(s|m|h|d|w|mo)\s*", re.ASCII)
_MOST_SECONDS = 3660 * 86_400
_MOST_MONTHS = 120


@dataclass(frozen=True, slots=True)
class Period:
    """So many seconds, or so many months of the calendar: one of the two is 0."""

    seconds: int = 0
    months: int = 0

    def after(self, at: float) -> float:
        """The moment this long after `at`, UTC. A month after 31 January is the last day of February, same time.

        Raises ValueError or OverflowError for a moment outside the calendar.
        """
        if not self.months:
            return at + self.seconds
        start = datetime.fromtimestamp(at, UTC)
        years, month = divmod(start.month - 1 + self.months, 12)
        year, month = start.year + years, month + 1
        day = min(start.day, calendar.monthrange(year, month)[1])
        return start.replace(year=year, month=month, day=day).timestamp()

    def window(self, anchor: float, at: float) -> tuple[float, float]:
        """The window of this length that `at` lies in, [start, end).

        Months are the calendar's, UTC, counted from January (`3mo` is the quarter); what is no longer than a day is
        counted from the epoch, so that days and hours begin when they do in UTC; everything else from `anchor`.
        """
        if not self.months:
            first = 0.0 if self.seconds <= _DAY else anchor
            number = (at - first) // self.seconds
            # Each boundary by itself, and not from its neighbour: so both windows beside it round it alike.
            return first + number * self.seconds, first + (number + 1) * self.seconds
        day = datetime.fromtimestamp(math.floor(at), UTC)  # which would round the last instant of a month up
        number = (day.year * 12 + day.month - 1) // self.months * self.months
        return _first_of_month(number), _first_of_month(number + self.months)


def _first_of_month(number: int) -> float:
    """Of the month that is so many after January of the year 0."""
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()


def parse_period(text: str) -> Period:
    """`30d`, `12h`, `10m`, `45s`, `2w`, `1mo`, up to ten years. Raises ValueError. `m` is a minute, `mo` a month."""
    match = _PERIOD.fullmatch(text)
    if match is None:
        raise ValueError("must be a period such as 1h, 1d, 30d or 1mo (m is minutes, mo is months)")
    count = int(match[1])
    period = Period(months=count) if match[2] == "mo" else Period(seconds=count * _SECOND_UNITS[match[2]])
    if not count:
        raise ValueError("must be longer than nothing")
    if period.seconds > _MOST_SECONDS or period.months > _MOST_MONTHS:
        raise ValueError("must be at most ten years")
    return period

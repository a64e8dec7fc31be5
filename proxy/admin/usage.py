"""`/admin/v1/usage`, and OpenAI's usage and costs of an organization: what was bought and what the cache saved."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from proxy import usagepages
from proxy.admin import listing
from proxy.admin.desk import Desk
from proxy.admin.operation import Asked, Operation, Parameter, Reply, encoded
from proxy.clock import Clock
from proxy.errors import InvalidRequest
from proxy.money import dollars
from proxy.period import parse_period

if TYPE_CHECKING:
    from proxy.database.engine import Database
    from proxy.usage import UsageRow

DIMENSIONS = ("day", "hour", "key", "team", "model", "size", "quality", "operation")
"""Those of `proxy.usage`, which is not read at the start."""
_USUAL = "30d"
_MOST_ROWS = 10_000
_HOUR_SECONDS = 3600
_MOMENT = "a date (UTC), a time with its zone, seconds since the epoch, or how long ago, such as 7d, to the hour"
_QUERY = (
    Parameter(
        "by",
        f"what to group by, with commas between: {', '.join(DIMENSIONS)}; without it, one row",
        {"type": "string", "examples": ["day,key"]},
    ),
    Parameter("since", f"from when on: {_MOMENT}", {"type": "string", "default": _USUAL}),
    Parameter("until", f"up to when: {_MOMENT}; to the end of this hour unless given", {"type": "string"}),
    listing.text("key", "of this key: its id or alias"),
    listing.text("team", "of this team: its id or alias"),
    listing.text("model", "of this model"),
    Parameter("format", "what to reply", {"type": "string", "enum": ["json", "csv"], "default": "json"}),
)
_LIST = {"type": "array", "items": {"type": "string"}}
_TIMES = (
    Parameter("start_time", "seconds since the epoch", {"type": "integer"}, is_needed=True),
    Parameter("end_time", "seconds since the epoch", {"type": "integer"}),
)
_PAGES = (
    Parameter("group_by", "may be given several times, also as group_by[]", _LIST),
    Parameter("limit", "buckets on a page", {"type": "integer", "minimum": 1}),
    Parameter("page", "`next_page` of the page before", {"type": "string"}),
    Parameter("project_ids", "ids of teams", _LIST),
    Parameter("api_key_ids", "ids of keys", _LIST),
    Parameter("user_ids", "nobody is known by one: nothing is found", _LIST),
)
_LAST_MOMENT = 253_402_300_799.0  # the end of the year 9999
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def operations(desk: Desk, clock: Clock) -> Sequence[Operation]:
    usage = _Usage(desk, clock)
    return (
        Operation(
            name="get_usage",
            method="GET",
            path="/admin/v1/usage",
            summary="What was bought and what the cache saved, added up.",
            handle=usage.report,
            query=_QUERY,
            answer="UsageList",
            media_types=("application/json", "text/csv"),
        ),
        Operation(
            name="get_organization_images",
            method="GET",
            path="/v1/organization/usage/images",
            summary="Images bought, in buckets, as OpenAI's API of this path tells them.",
            handle=usage.images,
            query=(
                *_TIMES,
                Parameter("bucket_width", "1d unless given", {"type": "string", "enum": ["1m", "1h", "1d"]}),
                *_PAGES,
                Parameter("models", "of these models", _LIST),
                Parameter("sizes", "of these sizes", _LIST),
                Parameter("sources", "image.generation, image.edit", _LIST),
            ),
            reads_pairs=True,
            answer="ImagesPage",
        ),
        Operation(
            name="get_organization_costs",
            method="GET",
            path="/v1/organization/costs",
            summary="Dollars spent, by the day, as OpenAI's API of this path tells them.",
            handle=usage.costs,
            query=(
                *_TIMES,
                Parameter("bucket_width", "1d", {"type": "string", "enum": ["1d"]}),
                *_PAGES,
                Parameter("line_items", "of these models", _LIST),
            ),
            reads_pairs=True,
            answer="CostsPage",
        ),
    )


class _Usage:
    def __init__(self, desk: Desk, clock: Clock) -> None:
        self._desk = desk
        self._clock = clock

    async def report(self, asked: Asked) -> Reply:
        query, now = asked.query, self._clock.wall()
        by = tuple(dict.fromkeys(name.strip() for name in query["by"].split(","))) if "by" in query else ()
        since = _moment("since", query.get("since", _USUAL), now)
        # What is bought in this moment counts, and answers that cost nothing are counted by the hour.
        until = _moment("until", query["until"], now) if "until" in query else _hour(now) + _HOUR_SECONDS
        if until <= since:
            raise _invalid("until", "must be after 'since'")
        is_csv = query.get("format") == "csv"

        def work(database: "Database") -> bytes:
            from proxy.usage import Filter, Usage  # with SQLAlchemy, in the thread that needs it

            narrowed = Filter(key=query.get("key"), team=query.get("team"), model=query.get("model"))
            rows = Usage(database).report(by, since, until, narrowed, most_rows=_MOST_ROWS)
            if is_csv:
                return _csv(by, rows)
            data = [row.as_json() for row in rows]
            return encoded({"object": "list", "by": by, "since": since, "until": until, "data": data})

        return Reply(await self._desk.report(work), "text/csv; charset=utf-8" if is_csv else "application/json")

    async def images(self, asked: Asked) -> Reply:
        query = usagepages.images_query(asked.pairs, self._clock.wall())

        def work(database: "Database") -> bytes:
            from proxy.usage import Usage

            return encoded(usagepages.images_page(query, Usage(database).image_buckets(query)))

        return Reply(await self._desk.report(work))

    async def costs(self, asked: Asked) -> Reply:
        query = usagepages.costs_query(asked.pairs, self._clock.wall())

        def work(database: "Database") -> bytes:
            from proxy.usage import Usage

            return encoded(usagepages.costs_page(query, Usage(database).cost_buckets(query)))

        return Reply(await self._desk.report(work))


def _csv(by: Sequence[str], rows: "Sequence[UsageRow]") -> bytes:
    """With a head, even if there is nothing below it (RFC 4180)."""
    from proxy.usage import UsageSums

    counted = [each.name for each in fields(UsageSums)]
    dimensions = [column for name in by for column in ((name, f"{name}_id") if name in ("key", "team") else (name,))]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*dimensions, *counted])
    for row in rows:
        sums = (getattr(row.sums, name) for name in counted)
        writer.writerow([*(_cell(row.dimensions[name]) for name in dimensions), *map(_plain, sums)])
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> str:
    """Callers choose the names of models: no spreadsheet shall take one for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, int) else dollars(value)


def _moment(name: str, text: str, now: float) -> float:
    """Seconds since the epoch. Raises InvalidRequest."""
    try:
        if text.isascii() and text.isdigit():
            return min(float(text), _LAST_MOMENT)
        if text[-1].isalpha() and text[-1] != "Z":
            return max(0, _hour(now - _seconds_of(text)))
        if len(text) == len("2030-12-31"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise _invalid(name, f"must be {_MOMENT}") from None
    if moment.tzinfo is None:
        raise _invalid(name, "must say its zone, such as 2030-12-31T12:00:00Z")
    return moment.timestamp()


def _hour(at: float) -> float:
    """When its hour began."""
    return at // _HOUR_SECONDS * _HOUR_SECONDS


def _seconds_of(text: str) -> int:
    period = parse_period(text)
    if period.months:
        raise ValueError("months have no length")
    return period.seconds


def _invalid(name: str, fault: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{name}': {fault}.", param=name, code="invalid_value")

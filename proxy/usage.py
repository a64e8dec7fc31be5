"""What was bought and what the cache saved: the ledger's rows added up, paged out, or put into OpenAI's buckets.

The law: money is added up as integers of nano-dollars, so that sums are exact; what was certainly not billed counts as
`failed` and as nothing else. Blocking: for worker threads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from proxy.database import ledgerrows
from proxy.database.engine import Connection, Database
from proxy.database.keyrows import KEY_ROWS, TEAM_ROWS
from proxy.database.ledgerrows import HOUR_SECONDS, Place, Selection, Sum
from proxy.errors import InvalidRequest
from proxy.keychange import find
from proxy.purchase import usd
from proxy.usagepages import BucketQuery, BucketSum

DIMENSIONS = ("day", "hour", "key", "team", "model", "size", "quality", "operation")
"""What a report may be grouped by."""
_DAY_SECONDS = 86_400
_PAGE_ROWS = 500
_COLUMN_OF = {"key": "key_id", "team": "team_id"}
_TIMES = {"day": "%Y-%m-%d", "hour": "%Y-%m-%d %H:%MZ"}
_MONEY = frozenset({"cost", "estimated", "unknown", "saved", "reserved", "estimate"})
"""Sums and columns that are told as `…_usd`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Ids or aliases of one key and of one team, a model. None lets everything pass."""

    key: str | None = None
    team: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSums:
    """What is counted. Money in USD, exact.

    The token classes are those of `proxy.model.Usage`, of purchases that were billed: the cached ones are parts of those
    beside them.
    """

    calls: int = 0
    """To upstreams, that were billed or may have been."""
    images: int = 0
    """Bought."""
    hits: int = 0
    coalesced: int = 0
    cached_images: int = 0
    """Delivered by hits and coalesced answers."""
    text_in: int = 0
    cached_text_in: int = 0
    image_in: int = 0
    cached_image_in: int = 0
    unknown_in: int = 0
    text_out: int = 0
    image_out: int = 0
    saved_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)
    """The part of `cost_usd` that stands for replies without usage."""
    unknown_usd: Decimal = Decimal(0)
    """Of calls of which nobody knows whether they were billed; no part of `cost_usd`."""
    saved_usd: Decimal = Decimal(0)
    unpriced_calls: int = 0
    failed: int = 0
    """Certainly not billed."""
    open_calls: int = 0
    """On their way now, and what is reserved for them."""
    reserved_usd: Decimal = Decimal(0)

    def __add__(self, other: "UsageSums") -> "UsageSums":
        names = [each.name for each in fields(self)]
        return UsageSums(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def as_json(self) -> dict[str, int | float]:
        """Money as numbers that are exact to the nano-dollar up to eight million dollars."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: float(value) if isinstance(value, Decimal) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One group. `dimensions` are those that were asked for, in that order, a key and a team with their `…_id` behind.

    A key without an alias is one that is not in the database; what has no key or team has None.
    """

    dimensions: Mapping[str, str | None]
    sums: UsageSums

    def as_json(self) -> dict[str, Any]:
        return {**self.dimensions, **self.sums.as_json()}


class Usage:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(
        self,
        by: Sequence[str],
        since: float,
        until: float,
        narrowed: Filter | None = None,
        *,
        most_rows: int | None = None,
    ) -> Sequence[UsageRow]:
        """Of what was bought in [since, until), in order of the dimensions; `by` nothing, one row of everything.

        Answers that cost nothing are kept by the hour: the hour in which `since` falls counts whole.
        Raises InvalidRequest for a dimension or a model that there cannot be, and for more than `most_rows`; NotFound for
        a key or a team.
        """
        limit = None if most_rows is None else most_rows + 1
        by = list(dict.fromkeys(by))
        for name in by:
            if name not in DIMENSIONS:
                message = f"Invalid 'by': there is no {name!r}. Supported values are: {', '.join(DIMENSIONS)}."
                raise InvalidRequest(message, param="by", code="invalid_value")
        columns = [_COLUMN_OF.get(name, name) for name in by if name not in ("day", "hour")]
        width = HOUR_SECONDS if "hour" in by else _DAY_SECONDS if "day" in by else None
        with self._database.reading() as connection:
            selection = _selection(connection, since, until, narrowed)
            groups = _together(
                *ledgerrows.purchase_sums(connection, selection, columns, width, limit),
                *ledgerrows.tally_sums(connection, selection, columns, width, limit),
            )
            if most_rows is not None and len(groups) > most_rows:
                message = (
                    f"Invalid 'by': there are more than {most_rows:,} rows. Ask for less time, or fewer dimensions."
                )
                raise InvalidRequest(message, param="by", code="too_many_rows")
            named = _Names(connection, [dict(zip(columns, each.dimensions, strict=True)) for each in groups])
        rows = []
        for each in groups:
            values = dict(zip(columns, each.dimensions, strict=True))
            rows.append(UsageRow(_dimensions(by, each.bucket, values, named), _usage_sums(each.sums)))
        return sorted(rows, key=lambda row: [(value is None, value or "") for value in row.dimensions.values()])

    def export(self, since: float, until: float, narrowed: Filter | None = None) -> Iterator[dict[str, Any]]:
        """Every purchase that was opened in [since, until), in that order, open and failed ones too.

        The ledger's columns, with money as USD, and `key` and `team` as aliases. A page of rows is in memory at a time,
        and no transaction is open between two. Raises InvalidRequest and NotFound, before the first row.
        """
        with self._database.reading() as connection:
            return self._exported(_selection(connection, since, until, narrowed))

    def _exported(self, selection: Selection) -> Iterator[dict[str, Any]]:
        after: Place | None = None
        while True:
            with self._database.reading() as connection:
                page = ledgerrows.purchases(connection, selection, after, _PAGE_ROWS)
                named = _Names(connection, page)
            yield from (_exported(row, named) for row in page)
            if len(page) < _PAGE_ROWS:
                return
            after = Place(page[-1]["opened_at"], page[-1]["id"])

    def image_buckets(self, query: BucketQuery) -> Sequence[BucketSum]:
        """What was bought: hits are no requests to a model."""
        columns = _columns(query, {"model": "model", "size": "size", "source": "operation"})
        return [
            replace(bucket, images=sums["images"], calls=sums["calls"])
            for bucket, sums in self._buckets(query, columns)
            if sums["calls"]
        ]

    def cost_buckets(self, query: BucketQuery) -> Sequence[BucketSum]:
        """What is known to be spent; neither what nobody knows of nor what has no price."""
        columns = _columns(query, {"line_item": "model"})
        return [
            replace(bucket, cost=sums["cost"]) for bucket, sums in self._buckets(query, columns) if sums["priced_calls"]
        ]

    def _buckets(self, query: BucketQuery, columns: Sequence[str]) -> Iterator[tuple[BucketSum, Mapping[str, int]]]:
        if query.is_of_users or query.end <= query.start:
            return
        selection = Selection(
            since=query.start,
            until=query.end,
            key_id=query.api_key_ids,
            team_id=query.project_ids,
            model=query.models,
            size=query.sizes,
            operation=query.operations,
        )
        with self._database.reading() as connection:
            found = list(ledgerrows.purchase_sums(connection, selection, columns, query.width_seconds))
        for each in found:
            values = dict(zip(columns, each.dimensions, strict=True))
            bucket = BucketSum(
                bucket=each.bucket or 0,
                project_id=values.get("team_id"),
                api_key_id=values.get("key_id"),
                model=values.get("model"),
                size=values.get("size"),
                operation=values.get("operation"),
            )
            yield bucket, each.sums


class _Names:
    """The present aliases of the keys and teams of some rows."""

    def __init__(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        self._keys = ledgerrows.key_aliases(connection, (row.get("key_id") for row in rows))
        self._teams = ledgerrows.team_aliases(connection, (row.get("team_id") for row in rows))

    def of(self, dimension: str, id_: str | None) -> str | None:
        return (self._keys if dimension == "key" else self._teams).get(id_ or "")


def _selection(connection: Connection, since: float, until: float, narrowed: Filter | None) -> Selection:
    narrowed = narrowed or Filter()
    if narrowed.model is not None and not narrowed.model.isprintable():
        raise InvalidRequest("Invalid 'model': holds what no model has.", param="model", code="invalid_value")
    return Selection(
        since=since,
        until=until,
        key_id=None if narrowed.key is None else (find(connection, KEY_ROWS, narrowed.key).id,),
        team_id=None if narrowed.team is None else (find(connection, TEAM_ROWS, narrowed.team).id,),
        model=None if narrowed.model is None else (narrowed.model,),
    )


def _together(*sums: Sum) -> Sequence[Sum]:
    """One for each group, with all that is known of it."""
    groups: dict[tuple[Any, ...], dict[str, int]] = {}
    for each in sums:
        group = groups.setdefault((each.bucket, each.dimensions), {})
        for name, value in each.sums.items():
            group[name] = group.get(name, 0) + value
    return [Sum(bucket, dimensions, found) for (bucket, dimensions), found in groups.items()]


def _dimensions(
    by: Sequence[str], bucket: int | None, values: Mapping[str, str | None], named: _Names
) -> dict[str, str | None]:
    told: dict[str, str | None] = {}
    for name in by:
        if name in ("day", "hour"):
            told[name] = datetime.fromtimestamp(bucket or 0, UTC).strftime(_TIMES[name])
        elif name in _COLUMN_OF:
            id_ = values[_COLUMN_OF[name]]
            told |= {name: named.of(name, id_), f"{name}_id": id_}
        else:
            told[name] = values[name]
    return told


def _usage_sums(sums: Mapping[str, int]) -> UsageSums:
    told: dict[str, Any] = {}
    for name, value in sums.items():
        told |= {f"{name}_usd": usd(value)} if name in _MONEY else {name: value}
    names = {each.name for each in fields(UsageSums)}
    return UsageSums(**{name: value for name, value in told.items() if name in names})


def _exported(row: Mapping[str, Any], named: _Names) -> dict[str, Any]:
    told = {shown: row[column] for shown, column in _EXPORTED.items()}
    for dimension in _COLUMN_OF:
        told[dimension] = named.of(dimension, told[dimension])
    for name in ("estimate_usd", "cost_usd"):
        told[name] = None if told[name] is None else usd(told[name])
    return told


def _shown_as(column: str) -> tuple[str, ...]:
    if column in _MONEY:
        return (f"{column}_usd",)
    dimension = column.removesuffix("_id")
    return (dimension, column) if dimension in _COLUMN_OF else (column,)


def _columns(query: BucketQuery, of_groups: Mapping[str, str]) -> Sequence[str]:
    columns = {"project_id": "team_id", "api_key_id": "key_id", **of_groups}
    return [column for group, column in columns.items() if group in query.group_by]


_EXPORTED = {shown: column for column in ledgerrows.PURCHASE_COLUMNS for shown in _shown_as(column)}
EXPORT_COLUMNS = tuple(_EXPORTED)
"""What a row of `Usage.export` holds, in that order."""

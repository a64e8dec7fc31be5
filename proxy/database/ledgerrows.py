"""What the ledger adds up to: statements that read PURCHASES and TALLIES, inside somebody's transaction.

The law: sums are of integers, so they are exact; a purchase belongs to the moment it was opened, a tally to its hour.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    case,
    cast,
    func,
    literal_column,
    select,
)

from proxy.database.tables import KEYS, PURCHASES, TALLIES, TEAMS, TOKEN_COLUMNS

DIMENSIONS = ("key_id", "team_id", "model", "size", "quality", "operation")
"""What sums may be grouped by, besides time."""
PURCHASE_SUMS = (
    "calls",
    "images",
    *TOKEN_COLUMNS,
    "cost",
    "estimated",
    "unknown",
    "unpriced_calls",
    "priced_calls",
    "failed",
    "open_calls",
    "reserved",
)
"""`calls` may have been billed, `failed` were certainly not; `cost` is what is known to be spent, and `estimated` the part
of it that a reply without usage stands for; `unknown` may have been spent; `reserved` is what open ones are expected to
cost. Money in nano-dollars."""
PURCHASE_COLUMNS = tuple(column.name for column in PURCHASES.c)
TALLY_SUMS = ("hits", "coalesced", "cached_images", "saved_tokens", "saved")
HOUR_SECONDS = 3600
_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows: those of [since, until), seconds since the epoch, that are any of what is named. None is whatever."""

    since: float
    until: float
    key_id: Sequence[str] | None = None
    team_id: Sequence[str] | None = None
    model: Sequence[str] | None = None
    size: Sequence[str] | None = None
    operation: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """One group: where its time begins (None if time was not grouped by), its dimensions as asked for, its sums."""

    bucket: int | None
    dimensions: tuple[str | None, ...]
    sums: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order of purchases."""

    opened_at: float
    id: str


def purchase_sums(
    connection: Connection,
    selection: Selection,
    by: Sequence[str],
    bucket_seconds: int | None = None,
    limit: int | None = None,
) -> Iterator[Sum]:
    """`by` are of DIMENSIONS, the sums PURCHASE_SUMS. Buckets are multiples of `bucket_seconds` since the epoch. Of more
    groups than `limit` any so many.
    """
    at = PURCHASES.c.opened_at
    wanted = select(*_groups(PURCHASES, by, _whole(at), bucket_seconds), *_purchase_sums())
    wanted = wanted.where(at >= selection.since, at < selection.until, *_narrowed(PURCHASES, selection))
    return _sums(connection, wanted.limit(limit), by, bucket_seconds, PURCHASE_SUMS)


def tally_sums(
    connection: Connection,
    selection: Selection,
    by: Sequence[str],
    bucket_seconds: int | None = None,
    limit: int | None = None,
) -> Iterator[Sum]:
    """The same with TALLY_SUMS. The hour in which `since` falls counts whole: no more is known of it."""
    hour = TALLIES.c.hour
    wanted = select(*_groups(TALLIES, by, hour, bucket_seconds), *_tally_sums())
    first = int(selection.since // HOUR_SECONDS) * HOUR_SECONDS
    wanted = wanted.where(hour >= first, hour < math.ceil(selection.until), *_narrowed(TALLIES, selection))
    return _sums(connection, wanted.limit(limit), by, bucket_seconds, TALLY_SUMS)


def purchases(
    connection: Connection, selection: Selection, after: Place | None, limit: int
) -> Sequence[Mapping[str, Any]]:
    """In order of `opened_at`, then of id: the next rows behind `after`, open and released ones too."""
    at, id_ = PURCHASES.c.opened_at, PURCHASES.c.id
    # One lower bound: of two, the database might search its index by the wrong one and read all from the beginning.
    first = selection.since if after is None else after.opened_at
    wanted = select(PURCHASES).where(at >= first, at < selection.until, *_narrowed(PURCHASES, selection))
    if after is not None:
        wanted = wanted.where((at > after.opened_at) | (id_ > after.id))
    return [dict(row) for row in connection.execute(wanted.order_by(at, id_).limit(limit)).mappings()]


def key_aliases(connection: Connection, ids: Iterable[str | None]) -> Mapping[str, str]:
    """The present alias of each that is there."""
    return _aliases(connection, KEYS.c.id, KEYS.c.key_alias, ids)


def team_aliases(connection: Connection, ids: Iterable[str | None]) -> Mapping[str, str]:
    return _aliases(connection, TEAMS.c.id, TEAMS.c.team_alias, ids)


def _groups(
    table: Table, by: Sequence[str], seconds: ColumnElement[int], bucket_seconds: int | None
) -> list[ColumnElement[Any]]:
    groups: list[ColumnElement[Any]] = [table.c[name] for name in by]
    if bucket_seconds is not None:
        # As a literal: PostgreSQL does not see that two parameters are the same.
        width: ColumnElement[int] = literal_column(str(int(bucket_seconds)), BigInteger)
        groups.insert(0, ((seconds // width) * width).label("bucket"))
    return groups


def _whole(seconds: Column[float]) -> ColumnElement[int]:
    """Rounded down. A cast alone rounds to the nearest on PostgreSQL and to zero on SQLite, which may have no floor()."""
    rounded = cast(seconds, BigInteger)
    return rounded - case((rounded > seconds, literal_column("1")), else_=literal_column("0"))


def _purchase_sums() -> list[ColumnElement[Any]]:
    """In the order of PURCHASE_SUMS."""
    row = PURCHASES.c
    is_known = row.outcome.in_(("settled", "estimated"))
    is_call = row.outcome.in_(("settled", "estimated", "unknown"))
    is_open = row.outcome == "open"
    return [
        func.count().filter(is_call),
        func.sum(row.images).filter(is_call),
        *(func.sum(row[name]).filter(is_known) for name in TOKEN_COLUMNS),
        func.sum(row.cost).filter(is_known),
        func.sum(row.cost).filter(row.outcome == "estimated"),
        func.sum(row.cost).filter(row.outcome == "unknown"),
        func.count().filter(is_call, row.cost.is_(None)),
        func.count().filter(is_known, row.cost.is_not(None)),
        func.count().filter(row.outcome == "released"),
        func.count().filter(is_open),
        func.sum(row.estimate).filter(is_open),
    ]


def _tally_sums() -> list[ColumnElement[Any]]:
    """In the order of TALLY_SUMS."""
    row = TALLIES.c
    return [
        func.sum(row.answers).filter(row.how == "hit"),
        func.sum(row.answers).filter(row.how == "coalesced"),
        func.sum(row.images),
        func.sum(row.tokens),
        func.sum(row.saved),
    ]


def _narrowed(table: Table, selection: Selection) -> Iterator[ColumnElement[bool]]:
    for name in ("key_id", "team_id", "model", "size", "operation"):
        any_of: Sequence[str] | None = getattr(selection, name)
        if any_of is not None:
            yield table.c[name].in_(any_of)


def _sums(
    connection: Connection, wanted: Select[Any], by: Sequence[str], bucket_seconds: int | None, names: Sequence[str]
) -> Iterator[Sum]:
    by_time = bucket_seconds is not None
    grouped = wanted.group_by(*(["bucket"] if by_time else []), *by)
    for row in connection.execute(grouped):
        groups, sums = row[: -len(names)], row[-len(names) :]
        # PostgreSQL's sums of BIGINT are NUMERIC; nothing to add up is NULL; a tally without a key has an empty one.
        dimensions = tuple(value or None for value in groups[by_time:])
        yield Sum(
            int(groups[0]) if by_time else None,
            dimensions,
            {name: int(value or 0) for name, value in zip(names, sums, strict=True)},
        )


def _aliases(
    connection: Connection, id_: Column[str], alias: Column[str], ids: Iterable[str | None]
) -> Mapping[str, str]:
    wanted = sorted({each for each in ids if each})
    found: dict[str, str] = {}
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        some = select(id_, alias).where(id_.in_(wanted[start : start + _IDS_AT_ONCE]))
        found.update((row[0], row[1]) for row in connection.execute(some))
    return found

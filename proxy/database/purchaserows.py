"""The rows of purchases, of what was spent, and of tallies: statements, one a function, inside somebody's transaction."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from proxy.database.tables import PURCHASES, REVISION, SPENDS, TALLIES, TALLY_COLUMNS, TEAMS, TOKEN_COLUMNS
from proxy.purchase import Closing, Ending, OpenPurchase, Order, Spend, Tallied, Tallies

OPEN = "open"
_NO_TOKENS = dict.fromkeys(TOKEN_COLUMNS, 0)
_MOST_RECOVERED = 100
_MOST_FORGOTTEN = 1000
_MOST_HOURS_FORGOTTEN = 24
_HOUR_SECONDS = 3600


class Written(NamedTuple):
    """Of the row of a purchase what its closing goes by."""

    outcome: str
    opened_at: float
    key_id: str | None
    team_id: str | None
    estimate: int | None
    cost: int | None


# The statements of every purchase are made once: making one takes SQLAlchemy two or three times as long as running it.
_SPENDS = select(*(SPENDS.c[each.name] for each in fields(Spend)))
_MARK = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
# `age` and not a comparison: transaction ids of rows have 32 bits and begin again.
_CHANGED = _SPENDS.where(text("age(xmin) <= age(CAST(:since AS xid))"))
_LOCK_SPEND = _SPENDS.where(SPENDS.c.holder_id == bindparam("holder")).with_for_update()
_LOCK_BOTH = (
    _SPENDS.where(or_(SPENDS.c.holder_id == bindparam("key"), SPENDS.c.holder_id == bindparam("team")))
    .order_by(SPENDS.c.holder_id == bindparam("team"))  # rows are locked in this order: the key, then its team
    .with_for_update()
)
_NEW_SPEND = text(
    "INSERT INTO spends (holder_id, window_start, settled, reserved) VALUES (:holder, -1, 0, 0)"
    " ON CONFLICT (holder_id) DO NOTHING"
)
_WRITE_SPEND = (
    update(SPENDS)
    .where(SPENDS.c.holder_id == bindparam("holder"))
    .values({name: bindparam(name) for name in ("window_start", "settled", "reserved")})
)
_INSERT = insert(PURCHASES)
_LOCK_PURCHASE = (
    select(*(PURCHASES.c[name] for name in Written._fields))
    .where(PURCHASES.c.id == bindparam("wanted"))
    .with_for_update()
)
_CLOSE = update(PURCHASES).where(PURCHASES.c.id == bindparam("wanted"))


def insert_open(connection: Connection, order: Order, now: float) -> None:
    connection.execute(_INSERT, _row_of(order, now))


def insert_closed(connection: Connection, order: Order, closing: Closing, opened_at: float, now: float) -> None:
    """For a purchase that nobody's budget waits for: both in one row."""
    row = _row_of(order, opened_at)
    connection.execute(_INSERT, {**row, **_closed(closing, row["estimate"], now)})


def find(connection: Connection, purchase_id: str) -> Written | None:
    """Locked until the transaction is over."""
    row = connection.execute(_LOCK_PURCHASE, {"wanted": purchase_id}).one_or_none()
    return None if row is None else Written(*row)


def close(connection: Connection, written: Written, closing: Closing, now: float) -> int:
    """What it counts with in a budget from now on."""
    changes = _closed(closing, written.estimate, now)
    connection.execute(_CLOSE, {"wanted": closing.id, **changes})
    cost: int | None = changes["cost"]
    return cost or 0


def open_among(connection: Connection, purchase_ids: Sequence[str]) -> Sequence[str]:
    wanted = select(PURCHASES.c.id).where(PURCHASES.c.id.in_(purchase_ids), PURCHASES.c.outcome == OPEN)
    return connection.execute(wanted).scalars().all()


def renew(connection: Connection, purchase_ids: Sequence[str], until: float) -> None:
    ours = PURCHASES.c.id.in_(purchase_ids) & (PURCHASES.c.outcome == OPEN)
    connection.execute(update(PURCHASES).where(ours).values(lease_until=until))


def expired(connection: Connection, now: float) -> Sequence[OpenPurchase]:
    """The oldest of those whose lease has run out."""
    wanted = (
        select(PURCHASES, TEAMS.c.team_alias)
        .outerjoin(TEAMS, TEAMS.c.id == PURCHASES.c.team_id)
        .where(PURCHASES.c.outcome == OPEN, PURCHASES.c.lease_until < now)
        .order_by(PURCHASES.c.lease_until)
        .limit(_MOST_RECOVERED)
    )
    return [
        OpenPurchase(
            each.id, each.lease_until, tuple(each.cache_keys), each.model, each.team_alias or "none", each.estimate
        )
        for each in connection.execute(wanted)
    ]


def take(connection: Connection, holder_id: str) -> Spend:
    """What a holder has spent, in whichever window, locked until the transaction is over: who decides by it decides
    alone, and what is read after this was not changed while we waited.
    """
    holder = {"holder": holder_id}
    row = connection.execute(_LOCK_SPEND, holder).one_or_none()
    if row is None:
        connection.execute(_NEW_SPEND, holder)
        row = connection.execute(_LOCK_SPEND, holder).one()
    return Spend(*row)


def present(connection: Connection, taken: Spend, window_start: float) -> Spend:
    """The same, of the window that began then.

    A new window, one whose length was changed, or a clock that was set back: counted anew from the purchases. Not written.
    """
    return taken if taken.window_start == window_start else counted(connection, taken.holder_id, window_start)


def standing(connection: Connection, holder_id: str, window_start: float) -> Spend:
    """What has been spent in the window that began then, for who only looks: nothing is locked, nothing written."""
    row = connection.execute(_SPENDS.where(SPENDS.c.holder_id == holder_id)).one_or_none()
    if row is not None and row.window_start == window_start:
        return Spend(*row)
    return counted(connection, holder_id, window_start)


def write_spends(connection: Connection, changed: Sequence[Spend]) -> None:
    rows = [
        {
            "holder": each.holder_id,
            "window_start": each.window_start,
            "settled": each.settled,
            "reserved": each.reserved,
        }
        for each in changed
    ]
    if rows:  # of no rows SQLAlchemy makes one without values
        connection.execute(_WRITE_SPEND, rows)


def spent(connection: Connection, key_id: str | None, team_id: str | None) -> Mapping[str, Spend]:
    """What each of both has spent, by its id, locked until the transaction is over; without one that never bought."""
    rows = connection.execute(_LOCK_BOTH, {"key": key_id, "team": team_id})
    return {row[0]: Spend(*row) for row in rows}


def spends(connection: Connection) -> Sequence[Spend]:
    return [Spend(*row) for row in connection.execute(_SPENDS)]


def spends_since(connection: Connection, mark: int | None) -> tuple[Sequence[Spend], int | None]:
    """What was committed since an earlier call gave this mark, and perhaps more; all without one. And the next mark.

    The mark is the oldest transaction that was open then: whatever it or a later one wrote may not have been seen, however
    late it is committed. SQLite has no such thing, and is read whole.
    """
    if connection.dialect.name != "postgresql":
        return spends(connection), None
    # First the mark, then the rows: what is committed in between is read twice, and never not at all.
    next_mark: int = connection.execute(_MARK).scalar_one()
    if mark is None or next_mark < mark:  # another server, which counts its own
        return spends(connection), next_mark
    changed = connection.execute(_CHANGED, {"since": str(mark & 0xFFFF_FFFF)})
    return [Spend(*row) for row in changed], next_mark


def probe(connection: Connection) -> None:
    """Writes, and changes nothing. There and back: what stays as it is SQLite does not write at all."""
    for step in (1, -1):
        connection.execute(update(REVISION).values(value=REVISION.c.value + step))


def add_tallies(connection: Connection, tallies: Tallies) -> None:
    """Added to what is there."""
    names = ("hour", *TALLY_COLUMNS)
    counts = ("answers", "images", "tokens", "saved")
    statement = text(
        f"INSERT INTO tallies ({', '.join((*names, *counts))})"  # noqa: S608  # names of ours
        f" VALUES ({', '.join(f':{name}' for name in (*names, *counts))})"
        f" ON CONFLICT ({', '.join(names)}) DO UPDATE SET "
        + ", ".join(f"{name} = tallies.{name} + excluded.{name}" for name in counts)
    )
    rows = [
        {**_tallied(by), "answers": each.answers, "images": each.images, "tokens": each.tokens, "saved": each.saved}
        for by, each in tallies.items()
    ]
    # In one order everywhere: two processes that add to the same rows must not wait for each other.
    connection.execute(statement, sorted(rows, key=lambda row: [str(row[name]) for name in names]))


def forget(connection: Connection, before: float) -> int:
    """Purchases that were closed, and tallies, of the time before; how many.

    So few at once that nobody who buys has to wait for it.
    """
    ids = select(PURCHASES.c.id).where(PURCHASES.c.opened_at < before, PURCHASES.c.outcome != OPEN)
    oldest = ids.order_by(PURCHASES.c.opened_at).limit(_MOST_FORGOTTEN)
    purchases = connection.execute(delete(PURCHASES).where(PURCHASES.c.id.in_(oldest))).rowcount
    hours = select(TALLIES.c.hour).where(TALLIES.c.hour <= math.floor(before) - _HOUR_SECONDS)
    oldest_hours = hours.distinct().order_by(TALLIES.c.hour).limit(_MOST_HOURS_FORGOTTEN)
    return purchases + connection.execute(delete(TALLIES).where(TALLIES.c.hour.in_(oldest_hours))).rowcount


def counted(connection: Connection, holder_id: str, window_start: float) -> Spend:
    """What the purchases of a window come to, whatever is kept of it."""
    holder: Column[Any] = PURCHASES.c.team_id if holder_id.startswith("team_") else PURCHASES.c.key_id
    is_open = PURCHASES.c.outcome == OPEN
    settled = func.coalesce(func.sum(case((is_open, 0), else_=func.coalesce(PURCHASES.c.cost, 0))), 0)
    reserved = func.coalesce(func.sum(case((is_open, func.coalesce(PURCHASES.c.estimate, 0)), else_=0)), 0)
    wanted = select(settled, reserved).where(holder == holder_id, PURCHASES.c.opened_at >= window_start)
    sums = connection.execute(wanted).one()
    return Spend(holder_id, window_start, int(sums[0]), int(sums[1]))


def _row_of(order: Order, now: float) -> dict[str, Any]:
    return {
        "id": order.id,
        "outcome": OPEN,
        "opened_at": now,
        "lease_until": now + order.lease_seconds,
        "instance": order.instance,
        "key_id": order.key_id,
        "team_id": order.team_id,
        "operation": order.operation,
        "model": order.model,
        "upstream": order.upstream,
        "size": order.size,
        "quality": order.quality,
        "n": order.n,
        "images": 0,
        "cache_keys": list(order.cache_keys),
        "request_id": order.request_id,
        **_NO_TOKENS,
        "estimate": order.estimate,
        "price_version": order.price_version,
        "tags": list(order.tags),
    }


def _closed(closing: Closing, estimate: int | None, now: float) -> dict[str, Any]:
    usage = closing.usage
    told = {"upstream": closing.upstream, "price_version": closing.price_version}
    cost = 0 if closing.ending is Ending.RELEASED else estimate if closing.cost is None else closing.cost
    return {
        "outcome": closing.ending.value,
        "closed_at": now,
        "cost": cost,
        "images": closing.images,
        **({name: getattr(usage, name) for name in TOKEN_COLUMNS} if usage is not None else {}),
        "upstream_request_id": closing.upstream_request_id,
        **{name: value for name, value in told.items() if value is not None},
        "seconds": closing.seconds,
        "error": closing.error,
    }


def _tallied(by: Tallied) -> Mapping[str, Any]:
    return {"hour": by.hour, **{name: getattr(by, name) for name in TALLY_COLUMNS}}

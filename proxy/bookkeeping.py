"""The books: purchases opened and closed in transactions that hold budgets. Blocking: for worker threads.

The laws:

1. A purchase is opened, with its estimate reserved, before a byte of it goes upstream; in the same transaction its payer's
   key is judged as it stands now, and every budget that it touches.
2. A purchase is closed once. Closing it again changes nothing; only an `unknown` one may still become what it was.
3. What a budget counts is the sum of its window's purchases: reserved while they are open, then what they cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from proxy import budget
from proxy.clock import Clock
from proxy.database import purchaserows
from proxy.database.engine import Connection, Database
from proxy.database.keyrows import KEY_ROWS, TEAM_ROWS
from proxy.database.purchaserows import Written
from proxy.errors import DatabaseUnavailable, KeyWithdrawn
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.purchase import Closing, Ending, OpenPurchase, Order, Spend, Tallies

Record = KeyRecord | TeamRecord


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closing did. `overshoot` is in nano-dollars, by the kind of whose budget it went beyond."""

    spends: Sequence[Spend] = ()
    overshoot: Sequence[tuple[str, int]] = ()
    was_found: bool = True


class Books:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database, clock: Clock, *, allow_unpriced: bool = False) -> None:
        self._database = database
        self._clock = clock
        self._allow_unpriced = allow_unpriced

    def open(self, order: Order, is_wanted: Callable[[], bool] = lambda: True) -> Sequence[Spend]:
        """What the key and its team have spent, this one reserved. Raises PayerRefusal, and then nothing is written.

        `is_wanted` is asked last: nobody may be waiting for it any more.
        """
        now = self._clock.wall()
        with self._database.writing() as connection:
            spends: list[Spend] = []
            # The key, then its team: everywhere in this order, so that nobody waits in a circle.
            if order.key_id is not None:
                taken = purchaserows.take(connection, order.key_id)
                key = _key(connection, order.key_id, now)
                spends.append(self._reserve(connection, key, taken, order, now))
                if order.team_id != key.team_id:
                    order = replace(order, team_id=key.team_id)
            if order.team_id is not None:
                taken = purchaserows.take(connection, order.team_id)
                spends.append(self._reserve(connection, _team(connection, order.team_id), taken, order, now))
            purchaserows.write_spends(connection, spends)
            purchaserows.insert_open(connection, order, now)
            if not is_wanted():
                raise DatabaseUnavailable("it answered too late")
        return spends

    def close(self, closing: Closing) -> Closed:
        now = self._clock.wall()
        with self._database.writing() as connection:
            written = purchaserows.find(connection, closing.id)
            if written is None:
                return Closed(was_found=False)
            if written.outcome not in (purchaserows.OPEN, Ending.UNKNOWN):
                return Closed()
            after = purchaserows.close(connection, written, closing, now)
            return _counted(connection, written, after)

    def record(self, order: Order, closing: Closing, opened_at: float) -> None:
        """A purchase that no budget waited for, after the fact. Doing it twice is no error."""
        with self._database.writing() as connection:
            if purchaserows.find(connection, order.id) is None:
                purchaserows.insert_closed(connection, order, closing, opened_at, self._clock.wall())

    def open_among(self, purchase_ids: Sequence[str]) -> Sequence[str]:
        """Those that were written, and are open."""
        with self._database.reading() as connection:
            return purchaserows.open_among(connection, purchase_ids)

    def renew(self, purchase_ids: Sequence[str], lease_seconds: float) -> None:
        with self._database.writing() as connection:
            purchaserows.renew(connection, purchase_ids, self._clock.wall() + lease_seconds)

    def expired(self) -> Sequence[OpenPurchase]:
        with self._database.reading() as connection:
            return purchaserows.expired(connection, self._clock.wall())

    def probe(self) -> None:
        """Raises DatabaseUnavailable if nothing can be written."""
        with self._database.writing() as connection:
            purchaserows.probe(connection)

    def spends_since(self, mark: int | None) -> tuple[Sequence[Spend], int | None]:
        """See `purchaserows.spends_since`."""
        with self._database.reading() as connection:
            return purchaserows.spends_since(connection, mark)

    def add(self, tallies: Tallies, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """`is_wanted` is asked last: they may have been taken back, to be added another time."""
        with self._database.writing() as connection:
            purchaserows.add_tallies(connection, tallies)
            if not is_wanted():
                raise DatabaseUnavailable("it answered too late")

    def forget(self, older_than_seconds: float) -> int:
        """Deletes some of what the retention setting says, the oldest first; how many rows: 0 when nothing is left."""
        with self._database.writing() as connection:
            return purchaserows.forget(connection, self._clock.wall() - older_than_seconds)

    def _reserve(self, connection: Connection, record: Record, taken: Spend, order: Order, now: float) -> Spend:
        estimate = order.estimate
        if estimate is None and not self._allow_unpriced:
            budget.refuse_unpriced(record)
        spend = purchaserows.present(connection, taken, budget.window(record, now)[0])
        budget.refuse_without_room(record, spend, estimate or 0, now)
        return replace(spend, reserved=spend.reserved + (estimate or 0))


def _key(connection: Connection, key_id: str, now: float) -> KeyRecord:
    """As it stands now, whatever it was when the call came in. Raises KeyWithdrawn."""
    key = KEY_ROWS.of_id(connection, key_id)
    if key is None or key.revoked_at is not None or key.blocked:
        raise KeyWithdrawn("Your API key has been blocked or revoked.")
    if key.expires is not None and key.expires <= now:
        raise KeyWithdrawn("Your API key has expired.")
    return key


def _team(connection: Connection, team_id: str) -> TeamRecord:
    """Raises KeyWithdrawn if it is blocked."""
    team = TEAM_ROWS.of_id(connection, team_id)
    if team is None or team.blocked:
        raise KeyWithdrawn("The team of your API key has been blocked.")
    return team


def _counted(connection: Connection, written: Written, after: int) -> Closed:
    """The budgets of a purchase that was closed: no longer reserved, or no longer unknown, but what it cost."""
    before = written.cost or 0
    reserved = written.estimate or 0 if written.outcome == purchaserows.OPEN else 0
    held = purchaserows.spent(connection, written.key_id, written.team_id)
    spends: list[Spend] = []
    overshoot: list[tuple[str, int]] = []
    for rows, holder_id in ((KEY_ROWS, written.key_id), (TEAM_ROWS, written.team_id)):
        spend = held.get(holder_id) if holder_id else None
        if spend is None or written.opened_at < spend.window_start:
            continue  # it belongs to a window that is over
        settled = spend.settled - before + after
        spends.append(replace(spend, settled=settled, reserved=spend.reserved - reserved))
        record = rows.of_id(connection, spend.holder_id)
        if record is not None and (excess := budget.overshoot(record, spend.settled, settled)):
            overshoot.append((record.KIND, excess))
    purchaserows.write_spends(connection, spends)
    return Closed(spends, overshoot)

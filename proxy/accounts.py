"""What every key and team has spent, as far as this process knows: for headers, gauges and warnings, never for a decision.

Decisions are made in the database, where all processes meet. Learnt from each purchase of this process, and every few
seconds from the others'.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from proxy import budget
from proxy.clock import Clock
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.model import Holder, Standing
from proxy.purchase import Spend, usd

logger = logging.getLogger("imagegate")

Record = KeyRecord | TeamRecord
_NOTHING = Decimal(0)


class Budget(NamedTuple):
    """One budget; money in USD."""

    scope: str
    """`key` or `team`."""
    name: str
    limit: Decimal
    remaining: Decimal
    """What is reserved is taken off; below 0 where a purchase cost more than was estimated."""
    resets_at: float | None


class _Window(NamedTuple):
    """Of a budget, [start, end), for as long as its record is this one."""

    record: Record
    start: float
    end: float


@dataclass(slots=True)
class Accounts:
    """`past_soft_budget` is told of each purchase that was settled beyond one, with `key` or `team`."""

    clock: Clock
    past_soft_budget: Callable[[str], None]
    _spends: dict[str, Spend] = field(default_factory=dict, init=False)
    _windows: dict[str, "_Window"] = field(default_factory=dict, init=False)
    """The window last asked for, by the holder's id."""
    _warned: dict[str, float] = field(default_factory=dict, init=False)
    """The window in which a holder's soft budget was last told of in the log."""

    def learn(self, spends: Sequence[Spend]) -> None:
        self._spends.update({spend.holder_id: spend for spend in spends})

    def spent(self, record: Record) -> Decimal:
        """USD in its present window."""
        spend = self._present(record)
        return usd(spend.settled) if spend is not None else _NOTHING

    def standing(self, holder: Holder, limits: Mapping[str, str]) -> Standing:
        """What a caller is told of its key; `limits` are headers of the limits in time."""
        key = holder.key
        is_past = self._is_past_soft_budget(key) or (holder.team is not None and self._is_past_soft_budget(holder.team))
        return Standing(self.spent(key), None if key.max_budget is None else usd(key.max_budget), is_past, limits)

    def settled(self, holder: Holder | None) -> None:
        """A purchase of this holder was settled. Of soft budgets: a count for each purchase, a line for each window."""
        for record in filter(self._is_past_soft_budget, _records(holder)):
            self.past_soft_budget(record.KIND)
            spend = self._spends[record.id]
            if self._warned.get(record.id) != spend.window_start:
                self._warned[record.id] = spend.window_start
                told = {record.KIND: _alias(record), "spent_usd": str(usd(spend.settled))}
                logger.warning("a soft budget is used up", extra=told)

    def budgets(self, records: Iterable[Record]) -> Iterable[Budget]:
        """Those that have one. Called from a scrape's thread, too."""
        now = self.clock.wall()
        for record in records:
            if record.max_budget is not None:
                spend = self._present(record)
                taken = spend.settled + spend.reserved if spend is not None else 0
                limit, end = record.max_budget, budget.window(record, now)[1]
                yield Budget(record.KIND, _alias(record), usd(limit), usd(limit - taken), end)

    def _present(self, record: Record) -> Spend | None:
        """None if nothing is known of the present window."""
        spend = self._spends.get(record.id)
        if spend is None or spend.window_start != self._window_start(record):
            return None
        return spend

    def _window_start(self, record: Record) -> float:
        now, known = self.clock.wall(), self._windows.get(record.id)
        if known is None or known.record is not record or not known.start <= now < known.end:
            start, end = budget.window(record, now)
            known = self._windows[record.id] = _Window(record, start, math.inf if end is None else end)
        return known.start

    def _is_past_soft_budget(self, record: Record) -> bool:
        if record.soft_budget is None:
            return False
        spend = self._present(record)
        return spend is not None and spend.settled > record.soft_budget


def _records(holder: Holder | None) -> Sequence[Record]:
    return () if holder is None else holder.records


def _alias(record: Record) -> str:
    return record.key_alias if isinstance(record, KeyRecord) else record.team_alias

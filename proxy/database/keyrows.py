"""The rows of keys, teams, the revision and the audit log: statements, one a method, inside somebody's transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Column, Connection, RowMapping, Select, Table, bindparam, insert, or_, select, update

from proxy.database.tables import AUDIT, KEYS, REVISION, TEAMS
from proxy.keyrecord import KeyRecord, TeamRecord

_LISTS = frozenset({"models", "allowed_sizes", "allowed_qualities"})
_Record = TypeVar("_Record", KeyRecord, TeamRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which rows of a list: `limit` of them whose id follows `after`."""

    limit: int
    after: str = ""
    alias_contains: str = ""
    """Any text; case makes no difference in ASCII."""
    team_id: str | None = None
    """For keys: those of one team."""


class AuditLine(NamedTuple):
    """One change: `before` and `after` are the record as JSON; of what was created there is no `before`."""

    id: int
    at: float
    actor: str
    action: str
    kind: str
    target_id: str
    before: dict[str, Any] | None
    after: dict[str, Any]


class Rows(Generic[_Record]):
    """One table of records, named by id or by alias."""

    def __init__(self, table: Table, record: type[_Record]) -> None:
        self.kind = record.KIND
        self._table = table
        self._id: Column[str] = table.c.id
        self._alias: Column[str] = table.c[f"{record.KIND}_alias"]
        self._record: type[_Record] = record
        self._by_id = select(table).where(self._id == bindparam("wanted"))

    def find(self, connection: Connection, name: str) -> _Record | None:
        rows = self._read(connection, select(self._table).where(or_(self._id == name, self._alias == name)))
        return rows[0] if rows else None

    def of_id(self, connection: Connection, record_id: str) -> _Record | None:
        row = connection.execute(self._by_id, {"wanted": record_id}).mappings().one_or_none()
        return None if row is None else self._record(**_fields_of(row))

    def page(self, connection: Connection, page: Page) -> Sequence[_Record]:
        wanted = select(self._table).where(self._id > page.after).order_by(self._id).limit(page.limit)
        if page.alias_contains:
            wanted = wanted.where(self._alias.icontains(page.alias_contains, autoescape=True))
        if page.team_id is not None:
            wanted = wanted.where(self._table.c.team_id == page.team_id)
        return self._read(connection, wanted)

    def since(self, connection: Connection, revision: int) -> Sequence[_Record]:
        """Those changed after `revision`."""
        return self._read(connection, select(self._table).where(self._table.c.revision > revision))

    def all(self, connection: Connection) -> Sequence[_Record]:
        """But for what was revoked: that never comes back."""
        wanted = select(self._table)
        if "revoked_at" in self._table.c:
            wanted = wanted.where(self._table.c.revoked_at.is_(None))
        return self._read(connection, wanted)

    def insert(self, connection: Connection, record: _Record) -> None:
        connection.execute(insert(self._table), _row_of(record))

    def update(self, connection: Connection, record: _Record) -> None:
        connection.execute(update(self._table).where(self._id == record.id), _row_of(record))

    def _read(self, connection: Connection, wanted: Select[Any]) -> Sequence[_Record]:
        return [self._record(**_fields_of(row)) for row in connection.execute(wanted).mappings()]


KEY_ROWS = Rows(KEYS, KeyRecord)
TEAM_ROWS = Rows(TEAMS, TeamRecord)


def revision(connection: Connection) -> int:
    value: int = connection.execute(select(REVISION.c.value)).scalar_one()
    return value


def wait_for_turn(connection: Connection) -> None:
    """Until the transaction is over nobody else changes keys or teams, so what is read now stays true.

    SQLite's writing transactions are alone anyway.
    """
    connection.execute(select(REVISION.c.value).with_for_update()).scalar_one()


def raise_revision(connection: Connection) -> int:
    raised = update(REVISION).values(value=REVISION.c.value + 1).returning(REVISION.c.value)
    value: int = connection.execute(raised).scalar_one()
    return value


def add_audit(connection: Connection, row: Mapping[str, Any]) -> None:
    connection.execute(insert(AUDIT), dict(row))


def audit(
    connection: Connection, limit: int, before: int | None, targets: Collection[str] | None
) -> Sequence[AuditLine]:
    """The newest first: those whose id is below `before`, of these targets' ids."""
    wanted = select(*(AUDIT.c[name] for name in AuditLine._fields)).order_by(AUDIT.c.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(AUDIT.c.id < before)
    if targets is not None:
        wanted = wanted.where(AUDIT.c.target_id.in_(targets))
    return [AuditLine(*row) for row in connection.execute(wanted)]


def _row_of(record: KeyRecord | TeamRecord) -> dict[str, Any]:
    return {each.name: _kept(getattr(record, each.name)) for each in fields(record)}


def _kept(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fields_of(row: RowMapping) -> dict[str, Any]:
    return {name: tuple(value) if name in _LISTS and value is not None else value for name, value in row.items()}

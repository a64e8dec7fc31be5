"""One change to keys or teams in its transaction: what it is judged by, what is written, what the audit log is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from proxy import faults, ids, keyfields
from proxy.database import keyrows
from proxy.database.engine import Connection
from proxy.database.keyrows import KEY_ROWS, TEAM_ROWS, Rows
from proxy.errors import InvalidRequest, NotFound
from proxy.keyrecord import KeyRecord, TeamRecord

_MOST_ACTOR_CHARACTERS = 128
_Record = TypeVar("_Record", KeyRecord, TeamRecord)


@dataclass(slots=True)
class Change:
    """A transaction that has its turn. `actor` is anybody's text: what a terminal or a database might obey becomes `?`."""

    connection: Connection
    now: float
    actor: str
    _revision: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        keyrows.wait_for_turn(self.connection)

    def times(self) -> dict[str, Any]:
        return {"created_at": self.now, "updated_at": self.now, "revision": self._next_revision()}

    def find(self, rows: Rows[_Record], name: str, revision: int | None = None) -> _Record:
        record = find(self.connection, rows, name)
        if revision is not None and record.revision != revision:
            raise InvalidRequest(
                "Somebody else has changed this meanwhile. Read it again.", param="revision", code="changed_meanwhile"
            )
        return record

    def live_key(self, name: str, revision: int | None = None) -> KeyRecord:
        record = self.find(KEY_ROWS, name, revision)
        if record.revoked_at is not None:
            raise InvalidRequest("This key is revoked, and stays as it is.", code="key_revoked")
        return record

    def with_team(self, fields: dict[str, Any], team: str | None) -> dict[str, Any]:
        """The fields with the id of the team, which is created if it is missing and named by alias."""
        if team is not None:
            found = TEAM_ROWS.find(self.connection, team) if keyfields.is_name(team) else None
            found = found or self.create_team(keyfields.team_fields({"team_alias": team}, self.now))
            return {**fields, "team_id": found.id}
        given = fields.get("team_id")
        if given is not None and TEAM_ROWS.find(self.connection, given) is None:
            raise InvalidRequest("Invalid 'team_id': there is no such team.", param="team_id", code="team_not_found")
        return fields

    def create_team(self, read: dict[str, Any]) -> TeamRecord:
        alias = read.pop("team_alias", "")
        record = TeamRecord(id=ids.record_id("team", self.now), team_alias=alias, **self.times(), **read)
        return self.create(TEAM_ROWS, record)

    def create(self, rows: Rows[_Record], record: _Record) -> _Record:
        self._check(rows, record)
        rows.insert(self.connection, record)
        self._tell("create", None, record)
        return record

    def update(self, rows: Rows[_Record], before: _Record, fields: Mapping[str, Any], action: str) -> _Record:
        """Nothing is written where nothing changes."""
        if replace(before, **fields) == before:
            return before
        after = replace(before, **fields, updated_at=self.now, revision=self._next_revision())
        self._check(rows, after)
        rows.update(self.connection, after)
        self._tell(action, before, after)
        return after

    def _check(self, rows: Rows[_Record], record: _Record) -> None:
        name = f"{rows.kind}_alias"
        alias = getattr(record, name)
        if not alias:
            raise faults.missing(name)
        keyfields.check_together(record)
        holder = rows.find(self.connection, alias)
        if holder is not None and holder.id != record.id:
            message = f"Invalid '{name}': there is a {rows.kind} of this alias already."
            raise InvalidRequest(message, param=name, code="alias_in_use")

    def _next_revision(self) -> int:
        """One step, however much the transaction changes."""
        self._revision = self._revision or keyrows.raise_revision(self.connection)
        return self._revision

    def note(
        self, action: str, kind: str, target_id: str, before: Mapping[str, Any] | None, after: Mapping[str, Any]
    ) -> None:
        """A line of the audit log."""
        row = {
            "at": self.now,
            "actor": "".join(each if each.isprintable() else "?" for each in self.actor[:_MOST_ACTOR_CHARACTERS]),
            "action": action,
            "kind": kind,
            "target_id": target_id,
            "before": before,
            "after": after,
        }
        keyrows.add_audit(self.connection, row)

    def _tell(self, action: str, before: KeyRecord | TeamRecord | None, after: KeyRecord | TeamRecord) -> None:
        self.note(action, after.KIND, after.id, before.as_json() if before else None, after.as_json())


def find(connection: Connection, rows: Rows[_Record], name: str) -> _Record:
    record = rows.find(connection, name) if keyfields.is_name(name) else None
    if record is None:
        raise NotFound(f"There is no {rows.kind} of this id or alias.", code=f"{rows.kind}_not_found")
    return record

"""Keys and teams: created, changed, rotated, revoked and listed, each change with its line in the audit log.

The law: one transaction is one change, its audit line, and one step of the revision; changes queue, so that what a change
was judged by is still true when it is written, and revisions become visible in order. Blocking: for worker threads.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from proxy import budget, ids, keyfields, virtualkey
from proxy.clock import Clock
from proxy.database import keyrows, purchaserows
from proxy.database.engine import Connection, Database
from proxy.database.keyrows import KEY_ROWS, TEAM_ROWS, AuditLine, Page
from proxy.errors import InvalidRequest, NotFound
from proxy.keychange import Change, find
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.purchase import usd

LONGEST_GRACE_SECONDS = 90 * 86_400
MOST_LISTED = 1000
_LAST_LINE = 2**63 - 1


class Changes(NamedTuple):
    """What a running proxy needs to know of. With `is_complete` it replaces all that was known; else it adds to it."""

    revision: int
    keys: Sequence[KeyRecord]
    teams: Sequence[TeamRecord]
    is_complete: bool


class KeyStore:
    """`actor` is who changes something, for the audit log. A `name` is an id or an alias.

    Every method raises DatabaseUnavailable; those that change something InvalidRequest, with the field as `param`; those
    that take a name NotFound.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create_key(self, fields: Mapping[str, Any], actor: str, *, team: str | None = None) -> tuple[KeyRecord, str]:
        """The key as it is kept, and the key itself, which nobody can tell again. A missing `team` is created."""
        now = self._clock.wall()
        read = keyfields.key_fields(fields, now)
        text = _fresh_key()
        with self._database.writing() as connection:
            change = Change(connection, now, actor)
            read = change.with_team(read, team)
            record = KeyRecord(
                id=ids.record_id("key", now),
                digest=virtualkey.digest(text),
                shown=virtualkey.shown(text),
                key_alias=read.pop("key_alias", ""),
                **change.times(),
                **read,
            )
            return change.create(KEY_ROWS, record), text

    def update_key(
        self,
        name: str,
        changes: Mapping[str, Any],
        actor: str,
        *,
        team: str | None = None,
        revision: int | None = None,
    ) -> KeyRecord:
        """Fields not in `changes` stay. With `revision`: only if the key is still as it was read then."""
        now = self._clock.wall()
        read = keyfields.key_fields(changes, now)
        with self._database.writing() as connection:
            change = Change(connection, now, actor)
            before = change.live_key(name, revision)
            return change.update(KEY_ROWS, before, change.with_team(read, team), "update")

    def rotate_key(self, name: str, grace_seconds: int, actor: str) -> tuple[KeyRecord, str]:
        """A new key in the old one's place; the old one works for `grace_seconds` more, and one older still no longer."""
        if not 0 <= grace_seconds <= LONGEST_GRACE_SECONDS:
            fault = f"Invalid 'grace_seconds': must be from 0 to {LONGEST_GRACE_SECONDS:,} (90 days)."
            raise InvalidRequest(fault, param="grace_seconds", code="invalid_value")
        now = self._clock.wall()
        text = _fresh_key()
        with self._database.writing() as connection:
            change = Change(connection, now, actor)
            before = change.live_key(name)
            fields = {
                "digest": virtualkey.digest(text),
                "shown": virtualkey.shown(text),
                "previous_digest": before.digest if grace_seconds else None,
                "previous_until": now + grace_seconds if grace_seconds else None,
            }
            return change.update(KEY_ROWS, before, fields, "rotate"), text

    def revoke_key(self, name: str, actor: str) -> KeyRecord:
        """For good. Its alias stays taken, so that the audit log and the ledger stay true. Doing it twice is no error."""
        now = self._clock.wall()
        with self._database.writing() as connection:
            change = Change(connection, now, actor)
            before = change.find(KEY_ROWS, name)
            if before.revoked_at is not None:
                return before
            fields = {"revoked_at": now, "previous_digest": None, "previous_until": None}
            return change.update(KEY_ROWS, before, fields, "revoke")

    def get_key(self, name: str) -> KeyRecord:
        with self._database.reading() as connection:
            return find(connection, KEY_ROWS, name)

    def list_keys(
        self, *, limit: int = 100, after: str | None = None, team: str | None = None, alias_contains: str = ""
    ) -> Sequence[KeyRecord]:
        """In order of creation; the last one's id is `after` of the next page. `team` is a team's name."""
        page = _page(limit, after, alias_contains)
        with self._database.reading() as connection:
            if team is not None:
                page = replace(page, team_id=find(connection, TEAM_ROWS, team).id)
            return KEY_ROWS.page(connection, page)

    def create_team(self, fields: Mapping[str, Any], actor: str) -> TeamRecord:
        now = self._clock.wall()
        read = keyfields.team_fields(fields, now)
        with self._database.writing() as connection:
            return Change(connection, now, actor).create_team(read)

    def update_team(
        self, name: str, changes: Mapping[str, Any], actor: str, *, revision: int | None = None
    ) -> TeamRecord:
        """Fields not in `changes` stay. With `revision`: only if the team is still as it was read then."""
        now = self._clock.wall()
        read = keyfields.team_fields(changes, now)
        with self._database.writing() as connection:
            change = Change(connection, now, actor)
            return change.update(TEAM_ROWS, change.find(TEAM_ROWS, name, revision), read, "update")

    def get_team(self, name: str) -> TeamRecord:
        with self._database.reading() as connection:
            return find(connection, TEAM_ROWS, name)

    def list_teams(
        self, *, limit: int = 100, after: str | None = None, alias_contains: str = ""
    ) -> Sequence[TeamRecord]:
        with self._database.reading() as connection:
            return TEAM_ROWS.page(connection, _page(limit, after, alias_contains))

    def audit(self, *, limit: int = 100, before: int | None = None, target: str | None = None) -> Sequence[AuditLine]:
        """The newest change first; the last one's id is `before` of the next page. `target` is a key's or a team's name."""
        _check_limit(limit)
        if before is not None and not 1 <= before <= _LAST_LINE:
            raise InvalidRequest("Invalid 'before': no change has this id.", param="before", code="invalid_value")
        with self._database.reading() as connection:
            return keyrows.audit(connection, limit, before, None if target is None else _named(connection, target))

    def note(self, actor: str, action: str, kind: str, target_id: str, after: Mapping[str, Any]) -> None:
        """A line in the audit log, for what somebody does to something that is kept elsewhere."""
        with self._database.writing() as connection:
            Change(connection, self._clock.wall(), actor).note(action, kind, target_id, None, after)

    def standing(self, record: KeyRecord | TeamRecord) -> dict[str, Any]:
        """What it has spent in the present window of its budget, in dollars, and when the next one begins."""
        start, end = budget.window(record, self._clock.wall())
        with self._database.reading() as connection:
            spend = purchaserows.standing(connection, record.id, start)
        left = None if record.max_budget is None else record.max_budget - spend.settled - spend.reserved
        return {
            "spent_usd": float(usd(spend.settled)),
            "reserved_usd": float(usd(spend.reserved)),
            "remaining_usd": None if left is None else float(usd(left)),
            "budget_resets_at": end,
        }

    def all(self) -> Changes:
        """Every team, and every key that was not revoked."""
        with self._database.reading() as connection:
            return _all(connection)

    def changes_since(self, revision: int) -> Changes:
        """What changed after `revision`, revoked keys too. One small statement if nothing did.

        A database that is behind `revision` is another one, or a copy of former times: all of it is told.
        """
        with self._database.reading() as connection:
            current = keyrows.revision(connection)
            if current == revision:
                return Changes(current, (), (), is_complete=False)
            if current < revision:
                return _all(connection)
            # The revision first and teams last: what comes in between is told now or again, and never without its team.
            keys = KEY_ROWS.since(connection, revision)
            return Changes(current, keys, TEAM_ROWS.since(connection, revision), is_complete=False)


def _all(connection: Connection) -> Changes:
    current = keyrows.revision(connection)
    keys = KEY_ROWS.all(connection)
    return Changes(current, keys, TEAM_ROWS.all(connection), is_complete=True)


def _page(limit: int, after: str | None, alias_contains: str) -> Page:
    _check_limit(limit)
    for name, text in (("after", after), ("alias", alias_contains)):
        if text and not keyfields.is_name(text):
            raise InvalidRequest(f"Invalid '{name}': holds what no {name} has.", param=name, code="invalid_value")
    return Page(limit=limit, after=after or "", alias_contains=alias_contains)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MOST_LISTED:
        raise InvalidRequest(f"Invalid 'limit': must be from 1 to {MOST_LISTED}.", param="limit", code="invalid_value")


def _named(connection: Connection, name: str) -> Sequence[str]:
    """The ids of the key and of the team of this name: an alias may be both."""
    read = (KEY_ROWS.find, TEAM_ROWS.find) if keyfields.is_name(name) else ()
    found = [record.id for find_in in read if (record := find_in(connection, name)) is not None]
    if not found:
        raise NotFound("There is no key and no team of this id or alias.")
    return found


def _fresh_key() -> str:
    return virtualkey.make(secrets.token_bytes(virtualkey.RANDOM_BYTES))

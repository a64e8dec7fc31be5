"""Every key that may be presented, by digest, in memory: who holds it, and whether it works now. Pure.

The look-up is by SHA-256 digest, never by the key's own characters: how long it takes says nothing about how much of a
guess was right, and to steer a digest one would have to invert SHA-256. Whether a text is well formed is asked only after
it was found to be nobody's.

Belongs to one thread (the event loop's): every method is done before the next one begins.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from proxy import virtualkey
from proxy.errors import Unauthenticated
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.model import Holder

Reason = Literal["malformed", "unknown", "expired", "blocked"]

_LOOKS_LIKE_A_KEY = re.compile(r"sk-[0-9A-Za-z_-]{17,253}")
_ASK = "Ask whoever runs this imagegate"


class KeyRefused(Unauthenticated):
    """What was presented is no key that works now. `reason` is for the metric; the message is for the caller."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Keyring:
    """All keys and teams. Empty, and not loaded, until the first `replace`."""

    def __init__(self) -> None:
        self._teams: dict[str, TeamRecord] = {}
        self._holders: dict[str, Holder] = {}
        """By the key's id."""
        self._by_digest: dict[bytes, Holder] = {}
        """By the key's digest and, after a rotation, by the one before."""
        self._is_loaded = False

    @property
    def is_loaded(self) -> bool:
        """The keys are known. Until then nothing can be said about any: `find` would call every key unknown."""
        return self._is_loaded

    def __len__(self) -> int:
        return len(self._holders)

    def replace(self, keys: Sequence[KeyRecord], teams: Sequence[TeamRecord]) -> None:
        """These are all there are; what is not among them is gone."""
        self._teams = {team.id: team for team in teams}
        self._holders, self._by_digest = {}, {}
        for key in keys:
            self._put(key)
        self._is_loaded = True

    def apply(self, keys: Sequence[KeyRecord], teams: Sequence[TeamRecord]) -> None:
        """These are new or have changed, or are revoked; the rest stays."""
        self._teams.update({team.id: team for team in teams})
        for holder in self._members({team.id for team in teams}):
            self._put(holder.key)
        for key in keys:
            self._put(key)

    def find(self, text: str, now: float) -> Holder:
        """Who holds this key. `now` is wall clock. Raises KeyRefused (401) for what is no key that works now."""
        try:
            digest = virtualkey.digest(text)
        except UnicodeEncodeError:
            raise _refusal_of_stranger(text) from None
        holder = self._by_digest.get(digest)
        refusal = _refusal_of_stranger(text) if holder is None else _refusal(holder, digest, now)
        if refusal is not None:
            raise refusal
        assert holder is not None
        return holder

    def still(self, digest: bytes, now: float) -> Holder | None:
        """Who holds the key of this digest, if `find` would let them in; nothing is said of who is refused."""
        holder = self._by_digest.get(digest)
        return holder if holder is not None and _refusal(holder, digest, now) is None else None

    def key_of(self, key_id: str) -> KeyRecord | None:
        """The key of this id, whether or not it works now; None if it was revoked, or never was."""
        holder = self._holders.get(key_id)
        return holder.key if holder is not None else None

    def holders(self) -> Iterable[Holder]:
        """Every key with its team, expired and blocked ones too. For any thread, as `teams`: a copy is made in one step."""
        return self._holders.copy().values()

    def teams(self) -> Iterable[TeamRecord]:
        """Every team, with and without keys."""
        return self._teams.copy().values()

    def _members(self, team_ids: set[str]) -> list[Holder]:
        """Teams change so seldom that a walk over all keys (1 ms for 10,000) is cheaper than an index kept right."""
        return [holder for holder in self._holders.values() if holder.key.team_id in team_ids] if team_ids else []

    def _put(self, key: KeyRecord) -> None:
        """The key in its present form, or, revoked, not at all."""
        former = self._holders.get(key.id)
        if former is not None:
            for digest in _digests(former.key):
                self._by_digest.pop(digest, None)
        if key.revoked_at is not None:
            self._holders.pop(key.id, None)
            return
        holder = Holder(key, self._team_of(key))
        self._holders[key.id] = holder
        for digest in _digests(key):
            self._by_digest[digest] = holder

    def _team_of(self, key: KeyRecord) -> TeamRecord | None:
        return self._teams.get(key.team_id) if key.team_id is not None else None


def _digests(key: KeyRecord) -> tuple[bytes, ...]:
    return (key.digest,) if key.previous_digest is None else (key.digest, key.previous_digest)


def _refusal(holder: Holder, digest: bytes, now: float) -> KeyRefused | None:
    """Why the key of this digest works no more, or not now; None if it works."""
    key = holder.key
    if key.digest != digest and (key.previous_until is None or key.previous_until <= now):
        return KeyRefused(
            "expired", f"This API key was replaced by a new one and works no longer. {_ASK} for the new one."
        )
    if key.expires is not None and key.expires <= now:
        return KeyRefused("expired", f"This API key has expired. {_ASK} to renew it.")
    if key.blocked:
        return KeyRefused("blocked", f"This API key is blocked. {_ASK} to unblock it.")
    # A team that was not told of may be blocked: its keys wait for it.
    if key.team_id is not None and (holder.team is None or holder.team.blocked):
        return KeyRefused("blocked", f"The team of this API key is blocked. {_ASK} to unblock it.")
    return None


def _refusal_of_stranger(text: str) -> KeyRefused:
    reason: Reason = "unknown" if virtualkey.is_wellformed(text) else "malformed"
    return KeyRefused(reason, f"Incorrect API key provided{_quoted(text)}. {_ASK} for a key.")


def _quoted(text: str) -> str:
    """The last four characters, of what looks like some vendor's key: enough to see which one was taken by mistake.

    Of anything else nothing is repeated: it may be a password.
    """
    if not _LOOKS_LIKE_A_KEY.fullmatch(text):
        return ""
    if text.startswith(virtualkey.PREFIX):
        return f": {virtualkey.shown(text)}"
    return f": sk-…{text[-4:]}"

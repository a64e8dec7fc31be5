"""The keyring: exactly the keys that work now open the door, and a refusal tells a stranger nothing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import virtualkey
from proxy.errors import Unauthenticated
from proxy.keyrecord import KeyRecord, TeamRecord
from proxy.keyring import KeyRefused, Keyring
from proxy.model import Holder

NOW = 1_795_000_000.0
ASK = "Ask whoever runs this imagegate"


def text_of(number: int) -> str:
    return virtualkey.make(number.to_bytes(32, "big"))


def key(number: int, **fields: Any) -> KeyRecord:
    text = text_of(number)
    given: dict[str, Any] = {
        "id": f"key_{number}",
        "digest": virtualkey.digest(text),
        "shown": virtualkey.shown(text),
        "key_alias": f"k{number}",
        "created_at": 1.0,
        "updated_at": 1.0,
        "revision": 1,
    }
    return KeyRecord(**{**given, **fields})


def team(name: str, **fields: Any) -> TeamRecord:
    return TeamRecord(
        **{"id": f"team_{name}", "team_alias": name, "created_at": 1.0, "updated_at": 1.0, "revision": 1, **fields}
    )


def ring(keys: Sequence[KeyRecord] = (), teams: Sequence[TeamRecord] = ()) -> Keyring:
    made = Keyring()
    made.replace(keys, teams)
    return made


def refusal(keyring: Keyring, text: str, now: float = NOW) -> KeyRefused:
    with pytest.raises(KeyRefused) as caught:
        keyring.find(text, now)
    return caught.value


# What opens


def test_a_key_is_found_with_its_team() -> None:
    keyring = ring([key(1), key(2, team_id="team_a")], [team("a")])
    assert keyring.find(text_of(1), NOW) == Holder(key(1))
    assert keyring.find(text_of(2), NOW) == Holder(key(2, team_id="team_a"), team("a"))


def test_it_is_loaded_from_the_first_time_that_all_was_told() -> None:
    keyring = Keyring()
    before = keyring.is_loaded
    keyring.apply([key(1)], [])
    between = keyring.is_loaded
    keyring.replace([], [])
    assert (before, between, keyring.is_loaded) == (False, False, True)
    assert len(keyring) == 0


def test_a_key_works_until_the_moment_it_expires() -> None:
    keyring = ring([key(1, expires=NOW)])
    assert keyring.find(text_of(1), NOW - 0.001).key.id == "key_1"
    error = refusal(keyring, text_of(1), NOW)
    assert error.reason == "expired"
    assert error.message == f"This API key has expired. {ASK} to renew it."


def test_after_a_rotation_both_keys_work_until_the_grace_is_over() -> None:
    rotated = key(2, id="key_1", previous_digest=virtualkey.digest(text_of(1)), previous_until=NOW)
    keyring = ring([rotated])
    for text in (text_of(1), text_of(2)):
        assert keyring.find(text, NOW - 0.001) == Holder(rotated)
    error = refusal(keyring, text_of(1), NOW)
    assert error.reason == "expired"
    assert error.message == f"This API key was replaced by a new one and works no longer. {ASK} for the new one."
    assert keyring.find(text_of(2), NOW) == Holder(rotated)


def test_a_previous_key_without_an_end_does_not_work() -> None:
    keyring = ring([key(2, previous_digest=virtualkey.digest(text_of(1)), previous_until=None)])
    assert refusal(keyring, text_of(1)).reason == "expired"


def test_a_rotated_key_expires_with_its_successor() -> None:
    previous = virtualkey.digest(text_of(1))
    keyring = ring([key(2, previous_digest=previous, previous_until=NOW + 9, expires=NOW)])
    assert refusal(keyring, text_of(1)).reason == "expired"


def test_a_blocked_key_is_refused() -> None:
    error = refusal(ring([key(1, blocked=True)]), text_of(1))
    assert error.reason == "blocked"
    assert error.message == f"This API key is blocked. {ASK} to unblock it."


def test_a_key_of_a_blocked_team_is_refused() -> None:
    keyring = ring([key(1, team_id="team_a"), key(2)], [team("a", blocked=True)])
    error = refusal(keyring, text_of(1))
    assert error.reason == "blocked"
    assert error.message == f"The team of this API key is blocked. {ASK} to unblock it."
    assert keyring.find(text_of(2), NOW).key.id == "key_2"


def test_a_key_waits_for_its_team() -> None:
    keyring = ring([key(1, team_id="team_a")])
    assert refusal(keyring, text_of(1)).reason == "blocked"
    keyring.apply([], [team("a")])
    assert keyring.find(text_of(1), NOW).team == team("a")


# What does not open, and what is said of it


def test_a_wellformed_key_of_nobody_is_unknown() -> None:
    error = refusal(ring([key(1)]), text_of(2))
    assert error.reason == "unknown"
    assert error.message == f"Incorrect API key provided: sk-ig-…{text_of(2)[-4:]}. {ASK} for a key."


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        (text_of(1)[:-1], f": {virtualkey.shown(text_of(1)[:-1])}"),
        (text_of(1) + "A", f": sk-ig-…{text_of(1)[-3:]}A"),
        (text_of(1).swapcase(), ""),
        ("sk-proj-abcdefghijklmnop_-Ab3x", ": sk-…Ab3x"),
        ("sk-ig-", ""),
        ("sk-ig-hunter2", ""),
        ("sk-1234", ""),
        ("", ""),
        (" ", ""),
        ("correct horse battery staple", ""),
        ("Bearer " + text_of(1), ""),
        (text_of(1) + "\n", ""),
        (text_of(1) + " x", ""),
        ("sk-ig-" + "é" * 49, ""),
        ("sk-ig-" + "\x1b" * 49, ""),
        ("sk-ig-" + "٣" * 49, ""),
        ("sk-ig-" + "\ud800" * 49, ""),
        ("sk-ig-" + "x" * 100_000, ""),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_what_cannot_be_a_key_is_malformed_and_quoted_only_if_it_looks_like_one(text: str, quoted: str) -> None:
    error = refusal(ring([key(1)]), text)
    assert error.reason == "malformed"
    assert error.message == f"Incorrect API key provided{quoted}. {ASK} for a key."


@given(st.text() | st.from_regex(r"sk-[!-~]{0,80}", fullmatch=True) | st.integers(2, 2**200).map(text_of))
def test_no_more_than_four_characters_of_a_stranger_are_repeated(text: str) -> None:
    message = refusal(ring([key(1)]), text).message
    start = message.removeprefix("Incorrect API key provided").removesuffix(f". {ASK} for a key.")
    assert start in ("", f": sk-…{text[-4:]}", f": sk-ig-…{text[-4:]}")
    assert not start or (text[-4:].isascii() and text[-4:].isprintable() and len(text) >= 20)


@pytest.mark.parametrize(
    "keyring",
    [ring(), ring([key(1, blocked=True)]), ring([key(1, expires=1.0)])],
    ids=["unknown", "blocked", "expired"],
)
def test_every_refusal_is_openais_401(keyring: Keyring) -> None:
    error = refusal(keyring, text_of(1))
    assert isinstance(error, Unauthenticated)
    assert (error.status, error.headers, error.param) == (401, {}, None)
    assert (error.type, error.code) == ("invalid_request_error", "invalid_api_key")
    assert text_of(1)[6:-4] not in error.message + repr(error)
    again = error.again()
    assert isinstance(again, KeyRefused)
    assert (again.reason, again.message) == (error.reason, error.message)


def test_a_keyring_shows_no_key() -> None:
    keyring = ring([key(1)])
    assert text_of(1) not in repr(keyring) + repr(list(keyring.holders()))
    assert repr(virtualkey.digest(text_of(1))) not in repr(list(keyring.holders()))


# Changes


def test_a_revoked_key_is_nobodys() -> None:
    rotated = key(2, id="key_1", previous_digest=virtualkey.digest(text_of(1)), previous_until=NOW + 9)
    keyring = ring([rotated])
    keyring.apply([replace(rotated, revoked_at=NOW, previous_digest=None, previous_until=None)], [])
    assert refusal(keyring, text_of(1)).reason == refusal(keyring, text_of(2)).reason == "unknown"
    assert len(keyring) == 0
    assert keyring.key_of("key_1") is None


def test_a_revoked_key_is_not_let_in_when_all_is_told() -> None:
    assert refusal(ring([key(1, revoked_at=NOW)]), text_of(1)).reason == "unknown"


def test_a_key_that_was_never_known_can_be_revoked() -> None:
    keyring = ring([key(1)])
    keyring.apply([key(2, revoked_at=NOW)], [])
    assert len(keyring) == 1


def test_a_rotation_ends_the_digests_that_it_does_not_keep() -> None:
    keyring = ring([key(1)])
    keyring.apply(
        [key(2, id="key_1", previous_digest=virtualkey.digest(text_of(1)), previous_until=NOW + 9)],
        [],
    )
    keyring.apply(
        [key(3, id="key_1", previous_digest=virtualkey.digest(text_of(2)), previous_until=NOW + 9)],
        [],
    )
    assert refusal(keyring, text_of(1)).reason == "unknown"
    assert keyring.find(text_of(2), NOW) == keyring.find(text_of(3), NOW)
    keyring.apply([key(4, id="key_1")], [])
    assert {refusal(keyring, text_of(number)).reason for number in (1, 2, 3)} == {"unknown"}
    assert keyring.find(text_of(4), NOW).key.id == "key_1"
    assert len(keyring) == 1


def test_a_changed_team_shows_in_all_its_keys_at_once() -> None:
    keyring = ring([key(n, team_id="team_a" if n < 3 else "team_b") for n in range(1, 4)], [team("a"), team("b")])
    keyring.apply([], [team("a", max_budget=5)])
    assert [holder.team for holder in keyring.holders()] == [team("a", max_budget=5)] * 2 + [team("b")]
    assert keyring.find(text_of(2), NOW).team == team("a", max_budget=5)
    keyring.apply([], [team("a", blocked=True)])
    assert {refusal(keyring, text_of(n)).reason for n in (1, 2)} == {"blocked"}
    assert keyring.find(text_of(3), NOW).key.id == "key_3"


def test_a_key_that_changes_its_team_together_with_the_teams_has_the_new_one() -> None:
    keyring = ring([key(1, team_id="team_a")], [team("a"), team("b")])
    keyring.apply([key(1, team_id="team_b")], [team("a", blocked=True), team("b", max_budget=5)])
    assert keyring.find(text_of(1), NOW).team == team("b", max_budget=5)
    keyring.apply([key(1)], [])
    assert keyring.find(text_of(1), NOW).team is None


def test_what_is_not_among_all_that_is_told_is_gone() -> None:
    keyring = ring([key(1), key(2, team_id="team_a")], [team("a")])
    keyring.replace([key(1)], [])
    assert refusal(keyring, text_of(2)).reason == "unknown"
    keyring.apply([key(2, team_id="team_a")], [])
    assert [holder.team for holder in keyring.holders()] == [None, None]


def test_keys_are_known_by_their_ids_whether_or_not_they_work() -> None:
    keyring = ring([key(1, blocked=True), key(2, expires=1.0)])
    assert keyring.key_of("key_1") == key(1, blocked=True)
    assert keyring.key_of("key_3") is None
    assert [holder.key.id for holder in keyring.holders()] == ["key_1", "key_2"]
    assert len(keyring) == 2


# The same by any way


@dataclass
class World:
    """What an administrator does to keys and teams, and what a proxy that follows is told."""

    keys: dict[str, KeyRecord] = field(default_factory=dict)
    teams: dict[str, TeamRecord] = field(default_factory=dict)
    texts: int = 0

    def fresh(self) -> bytes:
        self.texts += 1
        return virtualkey.digest(text_of(self.texts))

    def change(self, step: tuple[str, int, Any]) -> tuple[list[KeyRecord], list[TeamRecord]]:
        verb, number, choice = step
        if verb == "team":
            changed = team(str(number), blocked=bool(choice), max_budget=choice)
            self.teams[changed.id] = changed
            return [], [changed]
        current = self.keys.get(f"key_{number}")
        if current is None or current.revoked_at is not None:
            current = key(0, id=f"key_{number}", digest=self.fresh())
        changes: Mapping[str, Mapping[str, Any]] = {
            "team_id": {"team_id": f"team_{choice}" if choice else None},
            "block": {"blocked": bool(choice)},
            "rotate": {
                "digest": self.fresh(),
                "previous_digest": current.digest if choice else None,
                "previous_until": NOW + choice - 1 if choice else None,
            },
            "revoke": {"revoked_at": NOW, "previous_digest": None, "previous_until": None},
        }
        changed_key = replace(current, **changes[verb])
        self.keys[changed_key.id] = changed_key
        return [changed_key], []


STEPS = st.tuples(
    st.sampled_from(["team", "team_id", "block", "rotate", "revoke"]), st.integers(1, 4), st.integers(0, 3)
)


def answers(keyring: Keyring, texts: int) -> list[Any]:
    found: list[Any] = []
    for number in range(1, texts + 1):
        try:
            found.append(keyring.find(text_of(number), NOW))
        except KeyRefused as error:
            found.append((error.reason, error.message))
    return found


@given(st.lists(st.lists(STEPS, max_size=4), max_size=12))
def test_a_keyring_that_was_told_of_every_change_equals_one_built_anew(
    batches: list[list[tuple[str, int, Any]]],
) -> None:
    world, follower = World(), ring()
    for batch in batches:
        keys: dict[str, KeyRecord] = {}
        teams: dict[str, TeamRecord] = {}
        for step in batch:
            changed_keys, changed_teams = world.change(step)
            keys.update({each.id: each for each in changed_keys})
            teams.update({each.id: each for each in changed_teams})
        follower.apply(list(keys.values()), list(teams.values()))
        anew = ring([each for each in world.keys.values() if each.revoked_at is None], list(world.teams.values()))
        assert answers(follower, world.texts) == answers(anew, world.texts)
        assert len(follower) == len(anew)
        assert sorted(follower.holders(), key=lambda each: each.key.id) == sorted(
            anew.holders(), key=lambda each: each.key.id
        )


# Speed, with an order of magnitude to spare for a busy machine


def test_ten_thousand_keys_are_read_and_found_without_delay() -> None:
    texts = [text_of(number) for number in range(10_000)]
    keys = [key(number, team_id=f"team_{number % 100}") for number in range(10_000)]
    teams = [team(str(number)) for number in range(100)]
    keyring = Keyring()
    started = time.thread_time()
    keyring.replace(keys, teams)
    loaded = time.thread_time()
    for text in texts:
        keyring.find(text, NOW)
    found = time.thread_time()
    assert loaded - started < 0.5
    assert (found - loaded) / len(texts) < 50e-6

"""A virtual key's text: made of random bytes, and refused for any slip of the pen."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import virtualkey

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM = st.binary(min_size=32, max_size=32)


@given(RANDOM)
def test_what_is_made_is_wellformed_and_always_as_long(random: bytes) -> None:
    key = virtualkey.make(random)
    assert virtualkey.is_wellformed(key)
    assert key.startswith("sk-ig-")
    assert len(key) == 6 + 43 + 6
    assert set(key[6:]) <= set(ALPHABET)


@given(RANDOM)
def test_the_random_bytes_are_all_in_it(random: bytes) -> None:
    number = 0
    for digit in virtualkey.make(random)[6:49]:
        number = number * 62 + ALPHABET.index(digit)
    assert number.to_bytes(32, "big") == random


@pytest.mark.parametrize("random", [b"\x00" * 32, b"\xff" * 32])
def test_the_ends_of_the_range_fit(random: bytes) -> None:
    assert virtualkey.is_wellformed(virtualkey.make(random))


def test_the_form_never_changes() -> None:
    assert virtualkey.make(bytes(range(32))) == "sk-ig-003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1G6gBv"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_another_number_of_bytes_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        virtualkey.make(b"x" * length)


@given(RANDOM, st.integers(0, 54), st.characters())
def test_any_one_character_changed_is_found(random: bytes, at: int, other: str) -> None:
    key = virtualkey.make(random)
    changed = key[:at] + other + key[at + 1 :]
    assert virtualkey.is_wellformed(changed) == (changed == key)


@given(RANDOM, st.integers(6, 53))
def test_two_neighbours_swapped_are_found(random: bytes, at: int) -> None:
    key = virtualkey.make(random)
    swapped = key[:at] + key[at + 1] + key[at] + key[at + 2 :]
    assert virtualkey.is_wellformed(swapped) == (swapped == key)


@given(RANDOM, st.integers(0, 54))
def test_a_truncated_key_is_found_at_either_end(random: bytes, length: int) -> None:
    key = virtualkey.make(random)
    assert not virtualkey.is_wellformed(key[:length])
    assert not virtualkey.is_wellformed(key[len(key) - length :])


@given(RANDOM, st.text(min_size=1))
def test_anything_added_is_found(random: bytes, more: str) -> None:
    key = virtualkey.make(random)
    assert not virtualkey.is_wellformed(key + more)
    assert not virtualkey.is_wellformed(more + key)


@given(st.text())
def test_any_other_text_is_no_key(text: str) -> None:
    assert not virtualkey.is_wellformed(text)
    assert not virtualkey.is_wellformed("sk-ig-" + text)


@given(RANDOM)
def test_a_key_in_another_case_is_no_key(random: bytes) -> None:
    key = virtualkey.make(random)
    for other in (key.lower(), key.upper(), key.swapcase()):
        assert not virtualkey.is_wellformed(other) or other == key


def test_the_digest_is_its_sha256() -> None:
    key = virtualkey.make(b"k" * 32)
    assert virtualkey.digest(key) == hashlib.sha256(key.encode()).digest()
    assert len(virtualkey.digest(key)) == 32


@given(RANDOM)
def test_what_is_shown_are_the_last_four_characters(random: bytes) -> None:
    key = virtualkey.make(random)
    assert virtualkey.shown(key) == f"sk-ig-…{key[-4:]}"

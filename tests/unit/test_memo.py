"""proxy/memo.py: what was worked out is found again, within its bytes, and what is asked for least goes first."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.memo import Memo


def test_what_is_kept_is_found_and_nothing_else_is() -> None:
    memo: Memo[str, int] = Memo(100)
    assert memo.keep("a", 1, 10) == 1
    assert (memo.get("a"), memo.get("b"), len(memo)) == (1, None, 1)


def test_what_is_kept_under_the_same_key_takes_its_place_and_its_weight() -> None:
    memo: Memo[str, int] = Memo(100)
    for value in range(50):
        memo.keep("a", value, 60)
    memo.keep("b", 1, 40)
    assert (memo.get("a"), memo.get("b")) == (49, 1)


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    memo: Memo[str, int] = Memo(30)
    for key in "abc":
        memo.keep(key, 0, 10)
    assert memo.get("a") == 0
    memo.keep("d", 0, 10)
    assert [key for key in "abcd" if memo.get(key) is not None] == ["a", "c", "d"]


def test_to_keep_again_is_to_ask_for() -> None:
    memo: Memo[str, int] = Memo(30)
    for key in "abca":
        memo.keep(key, 0, 10)
    memo.keep("d", 0, 10)
    assert [key for key in "abcd" if memo.get(key) is not None] == ["a", "c", "d"]


def test_as_many_go_as_the_new_one_needs() -> None:
    memo: Memo[str, int] = Memo(30)
    for key in "abc":
        memo.keep(key, 0, 10)
    memo.keep("d", 0, 25)
    assert (len(memo), memo.get("d")) == (1, 0)


def test_what_is_too_heavy_is_given_back_and_not_kept() -> None:
    memo: Memo[str, int] = Memo(30)
    assert memo.keep("b", 2, 31) == 2
    assert memo.get("b") is None


def test_a_value_that_has_become_too_heavy_leaves_no_older_one_behind() -> None:
    memo: Memo[str, int] = Memo(30)
    memo.keep("a", 1, 10)
    memo.keep("a", 2, 31)
    assert memo.get("a") is None


_STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 40)))


@given(_STEPS)
def test_it_never_holds_more_than_it_may(steps: list[tuple[str, int]]) -> None:
    memo: Memo[str, int] = Memo(60)
    for key, weight in steps:
        memo.keep(key, weight, weight)
        kept = [weight for weight in map(memo.get, "abcdef") if weight is not None]
        assert sum(kept) <= 60
        assert len(memo) == len(kept)
        assert memo.get(key) == weight

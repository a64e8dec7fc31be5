"""What is wrong: all of it in order, with the variable it came from, and never the variable's text."""

import pytest

from proxy.errors import ConfigurationError
from proxy.problems import Problems, Variable, did_you_mean


def test_problems_are_reported_in_the_order_found_with_their_variables() -> None:
    problems = Problems()
    problems.report()
    problems.add("b.c", "is wrong", {"deep": Variable("IMAGEGATE_B__C", "marked")})
    problems.add("a", "is wrong, too", 7)
    with pytest.raises(ConfigurationError) as caught:
        problems.report()
    assert caught.value.problems == ("b.c: is wrong (from IMAGEGATE_B__C)", "a: is wrong, too")
    assert "marked" not in repr(Variable("IMAGEGATE_B__C", "marked"))


def test_what_lies_below_a_problem_is_not_sound_either() -> None:
    problems = Problems()
    problems.add("server", "must be a table")
    assert not problems.sound("cache.scope", "server.port")
    assert problems.sound("cache.scope", "server_port")


@pytest.mark.parametrize(("written", "hint"), [("Teem", "; did you mean team?"), ("xyz", ""), (7, "")])
def test_a_near_miss_gets_a_hint(written: object, hint: str) -> None:
    assert did_you_mean(written, ["team", "key"]) == hint

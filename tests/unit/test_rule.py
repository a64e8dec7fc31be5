"""Rules as values: when a condition holds, in which order parameters are checked, what an edit is expected to take."""

import pytest

from proxy.model import Operation, Usage
from proxy.rule import Condition, Extras, Formula, ModelRule, ParameterRule, endpoint, shape_only, with_pictures


@pytest.mark.parametrize(
    ("condition", "holding", "others"),
    [
        (Condition("x", equals=1), [1], [True, 1.0, "1", None]),
        (Condition("x", equals=True), [True], [1, "true", None]),
        (Condition("x", below=2), [1, -1], [2, True, "1", None]),
        (Condition("x", above=2), [3], [2, True, "3", None]),
    ],
)
def test_a_condition_holds_of_values_of_its_own_type(
    condition: Condition, holding: list[object], others: list[object]
) -> None:
    assert all(condition.holds(value, given=True) for value in holding)
    assert not any(condition.holds(value, given=True) for value in others)


def test_a_condition_may_ask_whether_the_caller_wrote_anything() -> None:
    condition = Condition("x", given=True)
    assert condition.holds("anything", given=True)
    assert not condition.holds("the default", given=False)


def test_our_own_parameters_stand_beside_the_declared_ones() -> None:
    declared = {name: ParameterRule(name, "string") for name in ("mood", "size", "prompt")}
    assert list(endpoint(declared, is_open=False).parameters) == [
        "prompt",
        "size",
        "mood",
        "response_format",
        "imagegate_variant",
    ]


def test_a_model_that_nobody_lists_takes_everything_in_every_operation() -> None:
    rule = shape_only("openai", "new")
    assert set(rule.endpoints) == set(Operation)
    assert all(each.open for each in rule.endpoints.values())
    assert not rule.known


def tokens(**extras: int) -> ModelRule:
    return ModelRule("v", "m", "m", {}, tokens=Formula({}, Extras(**extras)))


def test_pictures_are_counted_at_their_most_for_every_image_asked_for() -> None:
    usage = Usage(text_in=9, image_out=3)
    rule = tokens(per_input_image=10, per_input_image_high=40)
    low = with_pictures(usage, rule, n=2, pictures=3, fidelity="low")
    assert low == Usage(text_in=9, image_in=60, image_out=3)
    high = with_pictures(usage, rule, n=1, pictures=3, fidelity="high")
    assert high == Usage(text_in=9, image_in=120, image_out=3)
    same = with_pictures(usage, tokens(per_input_image=10), n=1, pictures=3, fidelity="high")
    assert same == Usage(text_in=9, image_in=30, image_out=3)


def test_nothing_is_estimated_where_nobody_knows_what_a_picture_takes() -> None:
    assert with_pictures(Usage(image_out=3), tokens(), n=1, pictures=1, fidelity=None) is None
    assert with_pictures(None, tokens(per_input_image=10), n=1, pictures=1, fidelity=None) is None

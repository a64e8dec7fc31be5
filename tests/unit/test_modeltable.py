"""A model's table: edits merged over generations, and the conditions of what is refused together."""

from typing import Any

import pytest

from proxy.catalogue import from_documents
from proxy.errors import ConfigurationError
from proxy.model import Operation
from proxy.modeltable import merged
from proxy.rule import Condition, Extras, Formula, ModelRule

PROMPT = {"type": "string", "required": True}
GENERATIONS = {"prompt": PROMPT, "n": {"type": "integer", "maximum": 4}, "style": {"type": "string"}}


def model(**table: Any) -> ModelRule:
    found = from_documents([("own.toml", {"vendor": "v", "model": {"m": table}})]).rule("v", "m")
    assert found is not None
    return found


def problems(**table: Any) -> set[str]:
    with pytest.raises(ConfigurationError) as caught:
        model(**table)
    return {problem.removeprefix("own.toml: model.m") for problem in caught.value.problems}


def test_edits_take_what_generations_take_but_for_what_is_written() -> None:
    fidelity = {"type": "string", "default": "low"}
    both = model(generations=GENERATIONS, edits={"style": False, "n": {"maximum": 2}, "input_fidelity": fidelity})
    generations, edits = (both.endpoints[each] for each in (Operation.GENERATION, Operation.EDIT))
    assert list(edits.parameters)[:2] == ["prompt", "n"]
    assert {"style", "input_fidelity"} & set(generations.parameters) == {"style"}
    assert {"style", "input_fidelity"} & set(edits.parameters) == {"input_fidelity"}
    assert (generations.parameters["n"].maximum, edits.parameters["n"].maximum) == (4, 2)
    assert generations.table_digest != edits.table_digest


def test_an_endpoint_is_there_if_its_table_is() -> None:
    assert set(model(generations=GENERATIONS).endpoints) == {Operation.GENERATION}
    assert set(model(generations=GENERATIONS, edits={}).endpoints) == {Operation.GENERATION, Operation.EDIT}
    assert set(model(generations=GENERATIONS, edits=False).endpoints) == {Operation.GENERATION}
    assert set(model(edits={"prompt": PROMPT}).endpoints) == {Operation.EDIT}
    assert problems(generations=False, edits=False) == {": a model needs at least one endpoint: generations, edits"}


def test_a_fault_of_both_endpoints_is_told_once() -> None:
    faulty = {**GENERATIONS, "n": {"type": "number"}}
    kinds = "must be one of string, integer, boolean, object"
    assert problems(generations=faulty, edits={}) == {f".generations.n.type: {kinds}"}
    assert problems(generations=faulty, edits={"m": {"type": "number"}}) == {
        f".generations.n.type: {kinds}",
        f".edits.m.type: {kinds}",
    }
    assert ".edits: must be a table" in problems(generations=GENERATIONS, edits=5)


@pytest.mark.parametrize(
    ("written", "condition"),
    [
        ("low", Condition("x", equals="low")),
        (True, Condition("x", equals=True)),
        (3, Condition("x", equals=3)),
        ({"below": 3}, Condition("x", below=3)),
        ({"above": 3}, Condition("x", above=3)),
        ({"given": True}, Condition("x", given=True)),
    ],
)
def test_conditions_are_read(written: object, condition: Condition) -> None:
    refused = {"r": {"when": {"x": written}, "parameter": "x", "message": "No."}}
    assert model(generations=GENERATIONS, refused=refused).refused[0].when == (condition,)


@pytest.mark.parametrize(
    "written", [{"below": True}, {"below": 1, "above": 0}, {"given": False}, {"given": 1}, {}, [], 1.5]
)
def test_any_other_condition_is_a_problem(written: object) -> None:
    refused = {"r": {"when": {"x": written}, "parameter": "x", "message": "No."}}
    message = "must be a value, { below = N }, { above = N } or { given = true }"
    assert f".refused.r.when.x: {message}" in problems(generations=GENERATIONS, refused=refused)


def test_tokens_beside_those_of_the_images_are_read() -> None:
    extras = {"per_partial": 100, "per_input_image": 5, "per_input_image_high": 7}
    tokens = {"kind": "formula", "factors": {"low": 16}, **extras}
    assert model(generations=GENERATIONS, tokens=tokens).tokens == Formula({"low": 16}, Extras(**extras))
    assert model(generations=GENERATIONS, tokens={"kind": "table"}).tokens is not None


def test_a_table_with_a_kind_or_a_type_replaces_and_another_is_merged() -> None:
    parent = {"a": {"type": "string", "default": "x"}, "b": {"kind": "grid"}, "c": 1}
    child = {"a": {"default": "y"}, "b": {"kind": "list"}, "d": 2}
    assert merged(parent, child) == {"a": {"type": "string", "default": "y"}, "b": {"kind": "list"}, "c": 1, "d": 2}

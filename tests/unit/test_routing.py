"""Routing: patterns say who may serve a model, priority says who is asked first."""

import pytest

from proxy.errors import UnsupportedByModel
from proxy.routing import eligible
from proxy.settings import UpstreamSection


def upstream(name: str, *models: str, priority: int = 0) -> UpstreamSection:
    return UpstreamSection(name=name, base_url="https://api.example/v1", models=models, priority=priority)


def names(model: str, *sections: UpstreamSection) -> list[str]:
    return [section.name for section in eligible(sections, model)]


def test_the_lowest_number_is_asked_first_and_equals_as_they_are_written() -> None:
    sections = (upstream("c", "*", priority=5), upstream("a", "*"), upstream("b", "*"), upstream("d", "*", priority=-1))
    assert names("gpt-image-2", *sections) == ["d", "a", "b", "c"]


def test_only_those_whose_patterns_match_are_eligible() -> None:
    sections = (
        upstream("all", "*"),
        upstream("gpt", "gpt-image-?", "x"),
        upstream("none"),
        upstream("one", "gpt-image-2"),
    )
    assert names("gpt-image-2", *sections) == ["all", "gpt", "one"]
    assert names("gpt-image-2-all", *sections) == ["all"]
    assert names("x", *sections) == ["all", "gpt"]


def test_case_counts() -> None:
    with pytest.raises(UnsupportedByModel, match="'GPT-image-2' does not exist"):
        names("GPT-image-2", upstream("a", "gpt-*"))


def test_without_a_model_everybody_may_say_that_it_is_missing() -> None:
    assert names("", upstream("a", "*"), upstream("b", "gpt-*")) == ["a", "b"]

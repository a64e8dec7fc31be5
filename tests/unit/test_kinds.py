"""Types of settings: a value reads the same from TOML and from a variable."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.configuration import load
from proxy.errors import ConfigurationError
from proxy.settings import sections
from tests.support.configuration import settings


@given(st.integers(1, 65_535))
def test_a_number_reads_the_same_from_the_environment_as_from_the_file(port: int) -> None:
    assert load(None, {"IMAGEGATE_SERVER__PORT": str(port)}).server.port == port


names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)


@given(st.lists(names, max_size=4))
def test_a_list_in_the_environment_may_have_commas_or_be_json(values: list[str]) -> None:
    for text in (",".join(values), " , ".join(values), json.dumps(values)):
        read = load(None, {"IMAGEGATE_RULES__EXTRA_PARAMETERS": text})
        assert read.rules.extra_parameters == tuple(values)


every_setting = st.sampled_from([(name, item.name) for name, kind in sections() for item in fields(kind)])


@given(st.text(max_size=40), every_setting)
def test_no_text_in_a_variable_does_more_than_raise_a_configuration_error(text: str, setting: tuple[str, str]) -> None:
    section, name = setting
    index = "0__" if section == "upstreams" else ""
    try:
        load(None, {f"IMAGEGATE_{section}__{index}{name}".upper(): text})
    except ConfigurationError as error:
        assert all(problem.startswith(f"{section}.") for problem in error.problems)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False), ("0", False)])
def test_a_flag_in_the_environment_is_a_word_or_a_digit(text: str, value: bool) -> None:
    assert load(None, {"IMAGEGATE_CACHE__KEEP_PROMPTS": text}).cache.keep_prompts is value


def test_aliases_in_the_environment_are_json() -> None:
    read = load(None, {"IMAGEGATE_RULES__ALIASES": '{"dall-e-3": "gpt-image-2"}'})
    assert read.rules.aliases == {"dall-e-3": "gpt-image-2"}


def test_sizes_and_durations_may_be_texts(tmp_path: Path) -> None:
    read = settings('[cache]\nmax_bytes = "50GB"\nmemory_bytes = 1000\nttl_seconds = "7d"\n', tmp_path)
    assert (read.cache.max_bytes, read.cache.memory_bytes, read.cache.ttl_seconds) == (50 * 10**9, 1000, 604_800)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("1e-3", 0.001)])
def test_a_ratio_is_a_number_from_0_to_1(text: str, value: float, tmp_path: Path) -> None:
    assert load(None, {"IMAGEGATE_TRACING__SAMPLE_RATIO": text}).tracing.sample_ratio == value
    assert settings(f"[tracing]\nsample_ratio = {text}\n", tmp_path).tracing.sample_ratio == value


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "true", "half", ""])
def test_nothing_else_is_a_ratio(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tracing\.sample_ratio: must be a number from 0 to 1"):
        load(None, {"IMAGEGATE_TRACING__SAMPLE_RATIO": text})

"""Sizes and durations: what is written reads back, and nothing else is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.quantities import parse_seconds, parse_size, size_text


@given(st.integers(0, 10**15))
def test_a_size_is_written_so_that_it_reads_back(size: int) -> None:
    assert parse_size(size_text(size)) == size


@given(st.integers(0, 10**6), st.sampled_from([("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("GiB", 2**30)]))
def test_units_of_size_multiply(amount: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    assert parse_size(f"{amount}{name}") == parse_size(f" {amount} {name.lower()} ") == amount * factor


@given(st.integers(0, 10**6), st.sampled_from([("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400), ("w", 604800)]))
def test_units_of_time_multiply(amount: int, unit: tuple[str, int]) -> None:
    name, factor = unit
    assert parse_seconds(f"{amount}{name}") == amount * factor


@pytest.mark.parametrize("text", ["", "GB", "-1MB", "1 PB", "1e3", "0x10", "1.5", "0.0001kB", "1MB1", "٣MB", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_seconds):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error).startswith("must")  # either way is right

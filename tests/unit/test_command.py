"""What every command has: numbers in a range, and a configuration under its options."""

import argparse

import pytest

from proxy.command import number


def test_a_number_is_in_its_range_and_whole_where_it_must_be() -> None:
    assert number(int, 0, 65_535)("0") == 0
    assert number(float, 0, 1)("0.5") == 0.5
    for text in ("-1", "65536", "1.5", "nan", "", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 0 to 65535"):
            number(int, 0, 65_535)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number from 0 to 1"):
        number(float, 0, 1)("nan")

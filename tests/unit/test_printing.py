"""What commands print: aligned, readable, and harmless to a terminal."""

import json

import pytest

from proxy.printing import amount, complain, moment, print_found, print_table, printable


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_140_000, "3.1 MB"), (2 * 10**13, "20.0 TB")]
)
def test_bytes_are_written_for_people(size: int, text: str) -> None:
    assert amount(size) == text


def test_a_moment_is_written_in_utc_and_beyond_the_calendar_as_a_number() -> None:
    assert moment(0) == "1970-01-01 00:00:00Z"
    assert moment(1e20) == "1e+20"


def test_no_terminal_obeys_a_name() -> None:
    assert printable("\x1b[31mred\n") == "?[31mred?"


def test_columns_are_as_wide_as_their_widest_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("KEY", "MODEL"), [("abcdef", "m"), ("a", "")])
    assert capsys.readouterr().out == "KEY     MODEL\nabcdef  m\na\n"


def test_what_was_found_is_json_or_lines_without_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"entries": 1200, "bytes": 3_100_000, "stored_at": 0.0, "usage": None, "request": {"n": 1}}
    print_found(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == found
    print_found(found, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "entries  1,200",
        "bytes    3.1 MB",
        "stored   1970-01-01 00:00:00Z",
        'request  {"n": 1}',
    ]


def test_a_complaint_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(2, "one\ntwo", "three") == 2
    assert capsys.readouterr() == ("", "imagegate: one two\nimagegate: three\n")

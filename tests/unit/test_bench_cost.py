"""The arithmetic of the measurements of cost: lines, tables, busy stretches; and that a step that fails stops nobody."""

from collections.abc import Iterator
from typing import cast

import pytest

from bench import cost
from bench.cost import Bench, Found, OutOfTime, Row, busy_seconds, line, tables


def test_a_line_gives_back_what_the_points_were_made_of() -> None:
    found = line([(x, 60 + 300 * x) for x in (0.002, 0.03, 0.3, 3, 12)])
    assert found.fixed == pytest.approx(60)
    assert found.growth == pytest.approx(300)
    assert found.worst == pytest.approx(0, abs=1e-9)


def test_a_large_point_that_is_off_by_a_tenth_does_not_change_the_fixed_part_much() -> None:
    points = [(x, 60 + 300 * x) for x in (0.002, 0.03, 0.3, 3)]
    found = line([*points, (12, (60 + 300 * 12) * 1.1)])
    assert found.fixed == pytest.approx(60, rel=0.02)
    assert 0.04 < found.worst < 0.1


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 3.0)], [(1.0, 2.0), (2.0, 0.0)]])
def test_too_few_points_or_none_above_zero_are_no_line(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="two different points"):
        line(points)


def test_the_longest_busy_stretch_is_found() -> None:
    idle = [(0.0, 0.0), (0.1, 0.0), (0.2, 0.01)]
    busy = [(0.3, 0.1), (0.4, 0.2), (0.5, 0.28)]
    again = [(0.6, 0.28), (0.7, 0.36)]
    assert busy_seconds(idle) == 0
    assert busy_seconds([*idle, *busy]) == pytest.approx(0.3)
    assert busy_seconds([*idle, *busy, *again]) == pytest.approx(0.3)
    assert busy_seconds([]) == 0


def test_a_table_has_the_columns_of_all_its_rows_and_a_dash_where_there_is_nothing() -> None:
    text = tables(
        [
            Row("index", "0 entries", {"start_seconds": 0.5}),
            Row("keys", "1 key", {"resident_mb": 70.0}),
            Row("index", "10 entries", {"start_seconds": 1234.0, "sweep_seconds": None}),
        ]
    )
    first, second = text.split("\n\n")
    assert first.splitlines() == [
        "| index | start seconds | sweep seconds |",
        "| --- | ---: | ---: |",
        "| 0 entries | 0.50 | - |",
        "| 10 entries | 1,234 | - |",
    ]
    assert second.splitlines()[2] == "| 1 key | 70 |"


def test_a_step_that_fails_keeps_its_rows_and_the_next_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_bench: Bench) -> Iterator[Row]:
        yield Row("first", "1", {"figure": 1.0})
        raise OutOfTime("no time")

    def sound(_bench: Bench) -> Iterator[Row]:
        yield Row("second", "1", {"figure": 2.0})

    monkeypatch.setattr(cost, "STEPS", {"failing": failing, "sound": sound})
    found = Found("now", {}, "")
    cost.measure(cast(Bench, None), ["failing", "sound"], found)
    assert [row.table for row in found.rows] == ["first", "second"]
    assert found.failed == ["failing: OutOfTime: no time"]


def test_a_step_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cost.main(["--only", "nonsense"])
    assert "no such step: nonsense" in capsys.readouterr().err

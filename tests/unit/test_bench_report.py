"""What the bench makes of its figures: medians, ratios within a round, verdicts, report, chart; and the order of a run."""

import contextlib
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench import chart, load, plan, report, results
from bench.arithmetic import differences, ratios, slope, spread
from bench.goal import GOALS, Goal, Verdict, judge, judge_all
from bench.measurement import Measurement, Sample
from bench.plan import Entry, Plan
from bench.results import Ran, Results
from bench.run import Run, headline, rotated
from bench.stage import Stage
from bench.system import Running, Skipped, System

HIT = "hit 3 MB c=16"


def measured(
    workload: str, system: str, figure: str, values: Sequence[float], group: str = "hits"
) -> list[Measurement]:
    return [Measurement(group, workload, system, turn, {figure: value}) for turn, value in enumerate(values, 1)]


@pytest.fixture
def found() -> Results:
    made = Results("quick", "2026-01-02 03:04 UTC", {"processor": "a | b", "cores": "2"}, "0123456789ab", 170.0)
    made.systems = {
        "nginx": Ran("1.22.1", caches=True, coalesces=True, configuration={"nginx.conf": "events {}\n"}),
        "portkey": Ran("1.15.2", caches=False, coalesces=False, configuration={}),
    }
    made.skipped = {"litellm": "it cannot be installed"}
    made.measurements = [
        *measured(HIT, "nginx", "rate", [100, 200, 50]),
        *measured(HIT, "imagegate", "rate", [120, 220, 70]),
        *measured(HIT, "portkey", "rate", [4]),
        *measured("miss 3 MB wait 0 c=1", "direct", "p50_ms", [1, 2, 3], "misses"),
        *measured("miss 3 MB wait 0 c=1", "nginx", "p50_ms", [10, 20, 10], "misses"),
        *measured("miss 3 MB wait 0 c=1", "imagegate", "p50_ms", [30, 30, 30], "misses"),
        Measurement("hits", HIT, "portkey", 2, {}, ("3 x status 502",)),
    ]
    return made


def test_a_spread_is_the_median_between_the_least_and_the_most() -> None:
    assert spread([]) is None
    found = spread([3.0, 1.0, 10.0])
    assert found is not None
    assert (found.median, found.least, found.most, found.rounds) == (3.0, 1.0, 10.0, 3)


def test_ratios_and_differences_are_taken_within_a_round_and_of_common_rounds_only() -> None:
    assert ratios({1: 10.0, 2: 30.0, 3: 5.0}, {1: 5.0, 2: 10.0}) == [2.0, 3.0]
    assert ratios({1: 10.0}, {1: 0.0}) == []
    assert differences({1: 10.0, 3: 5.0}, {1: 4.0, 2: 1.0}) == [6.0]


def test_a_line_has_its_slope_and_no_error_and_noise_has_no_growth_beyond_it() -> None:
    straight = slope([(x, 5 + 2 * x) for x in range(10)])
    assert straight.growth == pytest.approx(2)
    assert straight.error == pytest.approx(0, abs=1e-9)
    assert straight.beyond_noise == pytest.approx(2)
    noise = slope([(x, 100 + (-1) ** x) for x in range(10)])
    assert noise.error > 0
    assert noise.beyond_noise == 0
    falling = slope([(x, -x) for x in range(10)])
    assert falling.beyond_noise == 0


@pytest.mark.parametrize("points", [[(0, 1), (1, 1)], [(1, 1), (1, 2), (1, 3)]])
def test_a_slope_needs_three_points_at_different_times(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="a slope needs"):
        slope(points)


def test_the_median_is_of_the_ratios_not_the_ratio_of_the_medians(found: Results) -> None:
    judgement = judge(Goal("a hit", HIT, "rate", "nginx", "at least", 1.2), found)
    assert judgement.verdict is Verdict.MET
    assert judgement.spread is not None
    assert judgement.spread.median == pytest.approx(1.2)
    assert (judgement.spread.least, judgement.spread.most) == pytest.approx((1.1, 1.4))


def test_a_goal_is_met_not_met_or_not_measured(found: Results) -> None:
    verdicts = {(each.goal.workload, each.goal.against): each.verdict for each in judge_all(found)}
    assert verdicts[HIT, "nginx"] is Verdict.MET
    assert verdicts[HIT, "litellm"] is Verdict.NOT_MEASURED
    assert verdicts["miss 3 MB wait 0 c=1", "nginx"] is Verdict.NOT_MET
    assert verdicts["soak", ""] is Verdict.NOT_MEASURED


def test_a_goal_without_a_peer_is_judged_by_the_figure_itself() -> None:
    goal = next(goal for goal in GOALS if goal.line == "start to first reply")
    made = Results("quick", "", {})
    made.measurements = measured("start", "imagegate", "first_reply_seconds", [0.9, 1.0, 3.0], "start")
    assert judge(goal, made).verdict is Verdict.MET
    made.measurements = measured("start", "imagegate", "first_reply_seconds", [0.9, 1.1, 3.0], "start")
    assert judge(goal, made).verdict is Verdict.NOT_MET


def test_every_goal_is_about_a_workload_of_the_full_plan() -> None:
    names = {entry.workload.name for entry in plan.full().entries} | {"soak"}
    assert len({goal.line for goal in GOALS}) == 13
    assert {goal.workload for goal in GOALS} <= names


def test_every_group_of_a_plan_has_a_table() -> None:
    for each in (plan.quick(), plan.full()):
        assert {entry.workload.group for entry in each.entries} <= report.TABLES.keys()
        names = [entry.workload.name for entry in each.entries]
        assert len(names) == len(set(names))


def test_slow_systems_take_part_in_the_first_rounds_only() -> None:
    entry = next(entry for entry in plan.full().entries if entry.workload.name == HIT)
    assert [turn for turn in range(1, 9) if entry.takes("imagegate", turn)] == [1, 2, 3, 4, 5]
    assert [turn for turn in range(1, 9) if entry.takes("litellm", turn)] == [1, 2]


def test_only_takes_a_group_or_a_part_of_a_name() -> None:
    assert {entry.workload.group for entry in plan.quick().only(["misses"]).entries} == {"misses"}
    assert [entry.workload.name for entry in plan.quick().only(["hit 3 MB"]).entries] == [HIT]
    assert plan.quick().only(["nothing"]).entries == ()


def test_each_system_is_the_first_in_some_round() -> None:
    assert [rotated("abc", turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert rotated([], 3) == []


def test_the_report_says_what_was_measured_and_what_was_wrong(found: Results) -> None:
    text = report.write(found)
    assert "| hit 3 MB, c = 16 | ≥ 1.1 x nginx | 1.20 (1.10-1.40) x nginx | met |" in text
    assert "**not met**" in text
    assert "- litellm was not measured: it cannot be installed" in text
    assert f"| {HIT} | portkey | 2 | 3 x status 502 |" in text
    assert "| nginx | 1.22.1 | yes | yes |" in text
    assert "### nginx: nginx.conf\n\n```\nevents {}\n```" in text
    assert "| portkey * | 4 |" in text
    assert "quick run of 3 min, commit 0123456789ab." in text


def test_the_report_of_a_miss_says_what_is_added_to_no_proxy(found: Results) -> None:
    (row,) = [line for line in report.write(found).splitlines() if "| imagegate | 30 (30-30) |" in line]
    # 30/10, 30/20, 30/10; 30-1, 30-2, 30-3.
    assert "| 3 (1.50-3) | 28 (27-29) |" in row


def test_an_interrupted_run_says_so_and_an_empty_one_has_a_report_all_the_same(found: Results) -> None:
    found.interrupted = True
    assert "It was interrupted" in report.write(found)
    empty = report.write(Results("quick", "2026-01-02 03:04 UTC", {}))
    assert "0 met, 0 not met, 19 not measured" in empty
    assert "Nothing was measured." in empty


def test_every_row_of_a_table_has_as_many_cells_as_its_head(found: Results) -> None:
    tables = [block for block in report.write(found).split("\n\n") if block.startswith("| ")]
    assert tables
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1,234"), (45.67, "45.7"), (1.5, "1.50"), (2.0, "2"), (0.0123, "0.012"), (0.0, "0"), (-3.21, "-3.21")],
)
def test_a_number_has_three_digits_that_count(value: float, shown: str) -> None:
    assert report.number(value) == shown


def test_the_chart_is_well_formed_and_has_a_row_for_each_workload_beside_nginx(found: Results) -> None:
    root = ElementTree.fromstring(chart.write(found))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert HIT in texts
    assert "miss 3 MB wait 0 c=1" in texts
    assert "nginx" in texts


def test_in_the_chart_faster_is_to_the_right_for_hits_as_for_misses(found: Results) -> None:
    rows = dict(chart.rows(found))
    assert rows[HIT]["imagegate"].median == pytest.approx(1.2)
    assert rows["miss 3 MB wait 0 c=1"]["imagegate"].median == pytest.approx(1 / 3)


def test_a_chart_without_figures_is_still_a_picture() -> None:
    ElementTree.fromstring(chart.write(Results("quick", "<now>", {})))


def test_what_is_written_is_read_again(found: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    found.write(path)
    assert results.read(path) == found


def test_the_clients_result_is_read_and_what_is_not_a_whole_reply_is_named() -> None:
    said = dict.fromkeys(load.Load.__dataclass_fields__, 0) | {
        "replies": 5,
        "errors": 1,
        "seconds": 2.0,
        "cpu_seconds": 0.5,
        "statuses": {"200": 3, "502": 2},
        "labels": {"hit": 3},
        "new": 1,
    }
    found = load.read(json.dumps(said))
    assert found.cpu_share == 0.25
    assert found.faults == ("2 x status 502", "1 x connection failed or reply cut")


@pytest.mark.parametrize("said", ["", "{}", "[]", "Segmentation fault"])
def test_a_client_that_says_something_else_has_failed(said: str) -> None:
    with pytest.raises(load.LoadFailed):
        load.read(said)


def test_a_line_of_progress_has_the_figures_that_matter() -> None:
    assert headline({"rate": 1234.0, "p50_ms": 1.0, "replies": 3}) == "1,234/s, p50 1.00 ms"


@dataclass
class Noted:
    """A workload that notes who was asked when."""

    name: str
    asked: list[tuple[str, str, int]]
    systems: Sequence[str] = ("nginx", "imagegate", "litellm")
    group: str = "hits"
    fresh: bool = False
    fault: Exception | None = field(default=None)

    def prepare(self, stage: Stage, system: str) -> None:
        stage.system(system)

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        self.asked.append((self.name, system, turn))
        if self.fault:
            raise self.fault
        return Sample({"rate": 1.0})


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    def start(folder: Path, port: int) -> "contextlib.AbstractContextManager[System]":
        return contextlib.nullcontext(Running("some", "1", port, os.getpid(), 0.0))

    def missing(folder: Path, port: int) -> "contextlib.AbstractContextManager[System]":
        raise Skipped("it is not installed")

    starts = {"nginx": start, "imagegate": start, "litellm": start, "portkey": missing}
    return Stage(tmp_path, tmp_path / "load", Running("upstream", "", 1, os.getpid(), 0.0), starts)


def run(stage: Stage, *entries: Entry, limit_seconds: float = 60, systems: Sequence[str] = plan.ALL) -> Results:
    made = Results("quick", "", {})
    Run(Plan("quick", entries, limit_seconds), stage, made, systems, lambda _line: None).run()
    return made


def test_in_each_round_every_workload_takes_its_systems_in_turn(stage: Stage) -> None:
    asked: list[tuple[str, str, int]] = []
    made = run(
        stage, Entry(Noted("a", asked), 2), Entry(Noted("b", asked), 1), systems=("nginx", "imagegate", "litellm")
    )
    assert asked == [
        *(("a", "nginx", 1), ("a", "imagegate", 1), ("a", "litellm", 1)),
        *(("b", "nginx", 1), ("b", "imagegate", 1), ("b", "litellm", 1)),
        *(("a", "imagegate", 2), ("a", "nginx", 2)),
    ]
    assert len(made.measurements) == len(asked)
    assert made.systems["nginx"].version == "1"


def test_a_system_that_cannot_be_had_is_left_out_with_its_reason(stage: Stage) -> None:
    asked: list[tuple[str, str, int]] = []
    made = run(stage, Entry(Noted("a", asked, ("portkey", "nginx")), 1))
    assert asked == [("a", "nginx", 1)]
    assert made.skipped == {"portkey": "it is not installed"}


def test_a_measurement_that_fails_is_in_the_results_and_the_run_goes_on(stage: Stage) -> None:
    asked: list[tuple[str, str, int]] = []
    broken = Noted("a", asked, fault=ConnectionError("gone"))
    made = run(stage, Entry(broken, 1), Entry(Noted("b", asked), 1), systems=("nginx",))
    assert [each.faults for each in made.measurements] == [("not measured: ConnectionError: gone",), ()]


def test_an_interrupted_run_keeps_what_was_measured(stage: Stage) -> None:
    class Stopped(Noted):
        def measure(self, stage: Stage, system: str, turn: int) -> Sample:
            raise KeyboardInterrupt

    made = Results("quick", "", {})
    entries = (Entry(Noted("a", []), 1), Entry(Stopped("b", []), 1))
    with pytest.raises(KeyboardInterrupt):
        Run(Plan("quick", entries, 60), stage, made, ("nginx",), lambda _line: None).run()
    assert [each.workload for each in made.measurements] == ["a"]
    assert "nginx" in made.systems
    assert stage.systems == {}


def test_without_time_there_are_first_rounds_and_a_note_on_the_others(stage: Stage) -> None:
    asked: list[tuple[str, str, int]] = []
    made = run(stage, Entry(Noted("a", asked), 3), limit_seconds=0, systems=("nginx",))
    assert asked == [("a", "nginx", 1)]
    assert made.notes == ["a: there was no time for all of round 2, nor for what follows it"]

"""The goals, as data, and the judging of them: the bar that imagegate set itself beside nginx and LiteLLM."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from bench.arithmetic import Spread, ratios, spread
from bench.results import Results

OURS = "imagegate"


class Verdict(StrEnum):
    MET = "met"
    NOT_MET = "not met"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """A bound on a figure of ours: on its ratio to another system's in the same round, or (`against` empty) on itself."""

    line: str
    workload: str
    figure: str
    against: str
    bound: Literal["at least", "at most"]
    threshold: float
    unit: str = ""

    @property
    def text(self) -> str:
        sign = "≥" if self.bound == "at least" else "≤"
        return f"{sign} {self.threshold:g} {f'x {self.against}' if self.against else self.unit}".rstrip()


@dataclass(frozen=True)
class Judgement:
    goal: Goal
    verdict: Verdict
    spread: Spread | None


GOALS = (
    Goal("hit 3 MB, c = 16", "hit 3 MB c=16", "rate", "nginx", "at least", 1.1),
    Goal("hit 3 MB, c = 16", "hit 3 MB c=16", "rate", "litellm", "at least", 20),
    Goal("hit 12 MB, c = 16", "hit 12 MB c=16", "rate", "nginx", "at least", 1.0),
    Goal("hit 300 KB, c = 16", "hit 300 KB c=16", "rate", "nginx", "at least", 0.75),
    Goal("hit 300 KB, c = 16", "hit 300 KB c=16", "rate", "litellm", "at least", 100),
    Goal("hit 2 KB, c = 64", "hit 2 KB c=64", "rate", "nginx", "at least", 0.22),
    Goal("hit 2 KB, c = 64", "hit 2 KB c=64", "rate", "litellm", "at least", 150),
    Goal("data-URL hit 3 MB", "data-URL 3 MB c=16", "ratio_to_plain", "", "at least", 0.9, "x our plain hit"),
    Goal("disk hit 3 MB (beyond memory), c = 16", "disk 3 MB c=16", "rate", "nginx", "at least", 0.7),
    Goal("miss 3 MB, upstream 0 ms, c = 1, p50", "miss 3 MB wait 0 c=1", "p50_ms", "nginx", "at most", 1.2),
    Goal("miss 3 MB, upstream 50 ms, c = 16, p50", "miss 3 MB wait 50 c=16", "p50_ms", "nginx", "at most", 0.8),
    Goal("miss 3 MB, upstream 50 ms, c = 16, p50", "miss 3 MB wait 50 c=16", "p50_ms", "litellm", "at most", 0.25),
    Goal("64 x 12 MB in flight, peak memory", "64 x 12 MB in flight", "peak_mb", "", "at most", 200, "MB"),
    Goal("100 identical / abort and retry", "100 identical", "upstream_calls", "", "at most", 1, "upstream call"),
    Goal("100 identical / abort and retry", "abort and retry", "upstream_calls", "", "at most", 1, "upstream call"),
    Goal("5,000 clients waiting on one flight", "5000 waiting", "kb_per_client", "", "at most", 30, "KB each"),
    Goal("start to first reply", "start", "first_reply_seconds", "", "at most", 1.0, "s"),
    Goal("soak", "soak", "growth_beyond_noise_mb_per_hour", "", "at most", 1.0, "MB/hour beyond noise"),
    Goal("soak", "soak", "descriptors_beyond_noise_per_hour", "", "at most", 1.0, "descriptors/hour beyond noise"),
)


def judge(goal: Goal, results: Results) -> Judgement:
    """By the median over the rounds, as the goals are stated."""
    ours = results.figures(goal.workload, OURS, goal.figure)
    if goal.against:
        found = spread(ratios(ours, results.figures(goal.workload, goal.against, goal.figure)))
    else:
        found = spread(ours.values())
    if found is None:
        return Judgement(goal, Verdict.NOT_MEASURED, None)
    is_met = found.median >= goal.threshold if goal.bound == "at least" else found.median <= goal.threshold
    return Judgement(goal, Verdict.MET if is_met else Verdict.NOT_MET, found)


def judge_all(results: Results) -> list[Judgement]:
    return [judge(goal, results) for goal in GOALS]

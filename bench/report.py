"""The report for people, as Markdown: goals, a table for each group of workloads, what went wrong, versions, settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.arithmetic import Spread, differences, ratios, spread
from bench.goal import Judgement, Verdict, judge_all
from bench.results import Results

HOW = """\
- One upstream in C answers every call after a fixed time with a reply of a fixed size, counts its calls, and is the same
  for all. Client and systems are on the same machine, over loopback: absolute figures say more about it than about them.
- The systems are up at the same time and take turns: in each round every workload, in each workload every system, each
  round another one first. Ratios are taken within a round, then the median over the rounds: what disturbs a round
  disturbs both sides. Every figure is a median, with the least and the most in brackets.
- Memory, waiting and start are measured on a freshly started system, one at a time.
- LiteLLM and Portkey take so long that they are measured in fewer rounds, by a number of replies, and compared in those.
- imagegate runs with everything on: a virtual key with limits and a budget, ledger, metrics, log, validation; nginx with
  its log. Every system has one worker. `direct` is the upstream asked without a proxy: the limit of client and machine.
- The client is in C and drops bodies in the kernel. Latency goes from the first byte asked to the last byte taken.
- CPU is user and system time of the system's whole tree of processes, per reply; memory is PSS of the tree.
- Status, cut replies, and hits that were none are checked in every measurement: see "What was not as it should be".
"""


@dataclass(frozen=True)
class Column:
    """A figure as it is, over or less another system's of the same round."""

    title: str
    figure: str
    how: Literal["itself", "over", "less"] = "itself"
    other: str = ""
    has_spread: bool = False

    def value(self, results: Results, workload: str, system: str) -> Spread | None:
        ours = results.figures(workload, system, self.figure)
        if self.how == "itself":
            return spread(ours.values())
        if system == self.other:
            return None
        theirs = results.figures(workload, self.other, self.figure)
        return spread((ratios if self.how == "over" else differences)(ours, theirs))


RATES = (
    Column("replies/s", "rate", has_spread=True),
    Column("x nginx", "rate", "over", "nginx", has_spread=True),
    Column("x direct", "rate", "over", "direct"),
    Column("p50 ms", "p50_ms"),
    Column("p99 ms", "p99_ms"),
    Column("CPU ms", "cpu_ms"),
    Column("client, of a core", "client_cpu_share"),
)
TABLES: dict[str, tuple[Column, ...]] = {
    "hits": RATES,
    "disk hits": RATES,
    "renderings": (
        Column("replies/s", "rate", has_spread=True),
        Column("plain hit/s", "plain_rate", has_spread=True),
        Column("x plain", "ratio_to_plain", has_spread=True),
        Column("CPU ms", "cpu_ms"),
    ),
    "misses": (
        Column("p50 ms", "p50_ms", has_spread=True),
        Column("x nginx", "p50_ms", "over", "nginx", has_spread=True),
        Column("more than direct, ms", "p50_ms", "less", "direct", has_spread=True),
        Column("p99 ms", "p99_ms"),
        Column("replies/s", "rate"),
        Column("CPU ms", "cpu_ms"),
    ),
    "coalescing": (
        Column("upstream calls", "upstream_calls", has_spread=True),
        Column("p50 ms", "p50_ms"),
        Column("slowest ms", "max_ms"),
        Column("retry ms", "retry_ms"),
        Column("third ms", "third_ms"),
    ),
    "memory": (
        Column("idle MB", "idle_mb"),
        Column("peak MB", "peak_mb", has_spread=True),
        Column("5 s later MB", "later_mb", has_spread=True),
        Column("all answered after s", "seconds"),
    ),
    "waiting": (
        Column("KB each", "kb_per_client", has_spread=True),
        Column("before MB", "before_mb"),
        Column("while they wait MB", "waiting_mb"),
        Column("upstream calls", "upstream_calls"),
        Column("answered", "answered"),
        Column("slowest ms", "max_ms"),
    ),
    "start": (
        Column("first reply after s", "first_reply_seconds", has_spread=True),
        Column("idle MB", "idle_mb", has_spread=True),
    ),
    "soak": (
        Column("minutes", "minutes"),
        Column("requests", "requests"),
        Column("MB at first", "first_mb"),
        Column("at half", "middle_mb"),
        Column("at last", "last_mb"),
        Column("growth in the second half, MB/hour", "growth_mb_per_hour"),
        Column("standard error", "growth_error_mb_per_hour"),
        Column("descriptors at first", "first_descriptors"),
        Column("at last", "last_descriptors"),
    ),
}


def write(results: Results) -> str:
    """The whole of results.md."""
    parts = [
        f"# Measured side by side\n\n{_when(results)}",
        HOW,
        _goals(judge_all(results)),
        "![Ratios to nginx](results.svg)" if results.measurements else "",
        *(_table(results, group, columns) for group, columns in TABLES.items()),
        _faults(results),
        _systems(results),
        _configurations(results),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _when(results: Results) -> str:
    cut = " It was interrupted: what follows is what was measured until then." if results.interrupted else ""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    commit = f", commit {results.commit}" if results.commit else ""
    minutes = f"{results.seconds / 60:.0f} min" if results.seconds >= 90 else f"{results.seconds:.0f} s"
    return f"{results.began}, {results.plan} run of {minutes}{commit}.{cut} Machine: {machine}."


def _goals(judgements: Sequence[Judgement]) -> str:
    met = sum(each.verdict is Verdict.MET for each in judgements)
    missed = sum(each.verdict is Verdict.NOT_MET for each in judgements)
    rows = []
    line = ""
    for each in judgements:
        goal = each.goal
        shown = "" if goal.line == line else goal.line
        line = goal.line
        unit = f" x {goal.against}" if goal.against else f" {goal.unit}"
        found = cell(each.spread, has_spread=True) + (unit.rstrip() if each.spread else "")
        verdict = f"**{each.verdict}**" if each.verdict is Verdict.NOT_MET else each.verdict
        rows.append((shown, goal.text, found, verdict))
    head = f"## Goals\n\n{met} met, {missed} not met, {len(judgements) - met - missed} not measured.\n\n"
    return head + markdown(("workload", "goal", "measured", ""), rows, left=(0, 1, 2, 3))


def _table(results: Results, group: str, columns: Sequence[Column]) -> str:
    rows: list[tuple[str, ...]] = []
    last = ""
    for workload, system in _measured(results, group):
        values = [column.value(results, workload, system) for column in columns]
        cells = [cell(value, has_spread=column.has_spread) for value, column in zip(values, columns, strict=True)]
        star = " *" if group == "hits" and system != "direct" and not _caches(results, system) else ""
        rounds = max((value.rounds for value in values if value), default=0)
        rows.append(("" if workload == last else workload, system + star, *cells, str(rounds)))
        last = workload
    if not rows:
        return ""
    note = "\n\n\\* has no cache: every one is a call to the upstream." if any(" *" in row[1] for row in rows) else ""
    head = ("workload", "system", *(column.title for column in columns), "rounds")
    return f"## {group.capitalize()}\n\n{markdown(head, rows, left=(0, 1))}{note}"


def _measured(results: Results, group: str) -> list[tuple[str, str]]:
    """Workloads in the order of the plan; their systems in one order, whoever was first in a round."""
    pairs = dict.fromkeys((each.workload, each.system) for each in results.measurements if each.group == group)
    workloads = list(dict.fromkeys(workload for workload, _ in pairs))
    order = ("direct", "nginx", "imagegate", "litellm", "portkey")
    return [(workload, system) for workload in workloads for system in order if (workload, system) in pairs]


def _caches(results: Results, system: str) -> bool:
    return system not in results.systems or results.systems[system].caches


def _faults(results: Results) -> str:
    rows = [
        (each.workload, each.system, str(each.turn) if each.turn else "before", fault)
        for each in results.measurements
        for fault in each.faults
    ]
    notes = "".join(f"- {note}\n" for note in results.notes)
    if not rows:
        nothing = (
            "Nothing: every reply was whole and had status 200." if results.measurements else "Nothing was measured."
        )
        return f"## What was not as it should be\n\n{notes or nothing}"
    table = markdown(("workload", "system", "round", "what"), rows, left=(0, 1, 3))
    return f"## What was not as it should be\n\n{notes}\n{table}"


def _systems(results: Results) -> str:
    rows = [
        (name, ran.version or "-", _word(ran.caches), _word(ran.coalesces))
        for name, ran in sorted(results.systems.items())
    ]
    skipped = "".join(f"- {name} was not measured: {why}\n" for name, why in results.skipped.items())
    table = markdown(("system", "version", "caches images", "coalesces"), rows, left=(0, 1, 2, 3))
    return f"## Versions\n\n{table}\n\n{skipped}"


def _configurations(results: Results) -> str:
    parts = [
        f"### {name}: {file}\n\n```\n{text.rstrip()}\n```"
        for name, ran in sorted(results.systems.items())
        for file, text in ran.configuration.items()
    ]
    return "## Configurations\n\n" + "\n\n".join(parts) if parts else ""


def cell(value: Spread | None, *, has_spread: bool) -> str:
    if value is None:
        return "-"
    if has_spread and value.rounds > 1:
        return f"{number(value.median)} ({number(value.least)}-{number(value.most)})"
    return number(value.median)


def number(value: float) -> str:
    """Three digits that count, or two of a small one."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> str:
    """A table; columns that are not `left` are numbers."""
    rule = ["---" if index in left else "---:" for index in range(len(head))]
    clean = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (head, *rows)]
    lines = [clean[0], rule, *clean[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _word(is_so: bool) -> str:
    return "yes" if is_so else "no"

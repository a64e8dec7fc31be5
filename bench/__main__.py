"""The command: measures imagegate beside nginx, LiteLLM and Portkey in one run, and writes what it found.

python -m bench [--quick | --full] [--only NAME,...] [--systems NAME,...] [--rounds N] [--soak-minutes M] [--output FOLDER]
"""

import argparse
import contextlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from bench import build, chart, plan, report, results
from bench.plan import Plan
from bench.process import Process, free_port
from bench.results import Results
from bench.run import Run
from bench.stage import Stage
from bench.system import Running, Skipped, Start
from bench.systems import direct, imagegate, litellm, nginx, portkey
from bench.workload import disk
from bench.workload.hits import SIZES
from bench.workload.soak import Soak

SOAK_MINUTES = 60.0
STARTS: Mapping[str, Start] = {
    "direct": direct.start,
    "nginx": nginx.start,
    "imagegate": imagegate.start,
    **{
        disk.small_memory(size): partial(imagegate.start, memory_bytes=disk.KEYS * SIZES[size] // 4)
        for size in ("300 KB", "3 MB")
    },
    "litellm": litellm.start,
    "portkey": portkey.start,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.render:
        write(results.read(options.render), options.output)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # 5,000 connections here, in the client and in what is measured.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = results.begin(options.plan.name)
    try:
        with stage() as here:
            Run(options.plan, here, found, options.systems, say).run()
    except KeyboardInterrupt:
        found.interrupted = True
        say("interrupted: everything is ended; what was measured is written")
    except Skipped as why:
        say(f"nothing is measured: {why}")
        return 1
    write(found, options.output)
    say(f"written: {options.output / 'results.md'}, results.json, results.svg")
    return 130 if found.interrupted else 0


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """The upstream runs, and nothing else does; all that is stored is gone afterwards."""
    programs = build.build()
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="imagegate-bench-", ignore_cleanup_errors=True) as name,
        Process([programs.upstream, "--port", str(port)], port=port, log=Path(name) / "upstream.log") as process,
    ):
        upstream = Running("upstream", "", port, process.pid, began=time.perf_counter())
        here = Stage(Path(name), programs.load, upstream, STARTS)
        try:
            yield here
        finally:
            here.clear()


def write(found: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found.write(folder / "results.json")
    (folder / "results.md").write_text(report.write(found))
    (folder / "results.svg").write_text(chart.write(found))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures imagegate beside its peers.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="about three minutes (the default)")
    length.add_argument("--full", action="store_true", help="twenty to thirty minutes")
    parser.add_argument("--only", type=_names, default=[], metavar="NAME,...", help="groups, or parts of names")
    parser.add_argument("--systems", type=_names, default=list(plan.ALL), metavar="NAME,...")
    parser.add_argument("--rounds", type=int, help="rounds of every workload")
    parser.add_argument("--soak", action="store_true", help=f"a soak of {SOAK_MINUTES:g} minutes as well")
    parser.add_argument("--soak-minutes", type=float, metavar="M", help="the same, so long")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: write a record's report anew")
    options = parser.parse_args(arguments)
    if wrong := set(options.systems) - set(plan.ALL):
        parser.error(f"no such system: {', '.join(sorted(wrong))} (there are {', '.join(plan.ALL)})")
    options.plan = _plan(options)
    if not options.plan.entries and not options.plan.soak:
        parser.error(f"no workload is called {', '.join(options.only)}")
    return options


def _plan(options: argparse.Namespace) -> Plan:
    chosen = (plan.full() if options.full else plan.quick()).only(options.only)
    if options.rounds:
        chosen = chosen.with_rounds(options.rounds)
    if options.soak or options.soak_minutes or "soak" in options.only:
        chosen = replace(chosen, soak=Soak(options.soak_minutes or SOAK_MINUTES))
    return chosen


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Once: what ends everything that was started is not interrupted itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())

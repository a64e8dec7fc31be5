"""The command: measures what imagegate's cost grows with, prints tables, and writes what it found.

    python -m bench.cost [--only index,keys,waiting,hits,misses] [--entries N] [--output FOLDER]

The real program on loopback, before the bench's upstream: entries, keys, clients that wait, bytes of a hit, bytes of a
miss. Writes `cost.json` into the folder. At most twelve minutes; what the time does not suffice for is named. On a
shared machine read orders of magnitude: figures of CPU are medians of rounds that take turns, and lines are fitted to
them by least squares of the relative errors.
"""

import argparse
import contextlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import build, results
from bench.cost import hits, index, keys, misses, waiting
from bench.cost.record import Found, Row, tables
from bench.cost.rig import LIMIT_SECONDS, Rig
from bench.process import Process, free_port
from bench.stage import Stage
from bench.system import Running, Skipped

TOLD_CHARACTERS = 200
# The longest last: if the time does not suffice, its last row is what is missing.
STEPS: Mapping[str, Callable[[Rig], Iterator[Row]]] = {
    "hits": hits.measure,
    "misses": misses.measure,
    "waiting": waiting.measure,
    "keys": keys.measure,
    "index": index.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    start = results.begin("cost")
    found = Found(start.began, start.machine, start.commit)
    began = time.perf_counter()
    try:
        with _rig(options.entries, began + LIMIT_SECONDS) as rig:
            run(rig, options.only, found)
    except KeyboardInterrupt:
        found.failed.append("interrupted")
    except Skipped as why:
        say(f"nothing is measured: {why}")
        return 1
    found.seconds = time.perf_counter() - began
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "cost.json"
    found.write(path)
    print(tables(found.rows))
    print("".join(f"\nfailed: {each}" for each in found.failed))
    say(f"{found.seconds:.0f} s; written: {path}")
    return 1 if found.failed else 0


def run(rig: Rig, chosen: Sequence[str], found: Found) -> None:
    """Every step; one that fails, or for which there is no time, keeps what it has found and stops nobody."""
    for name in chosen:
        say(f"{name} ...")
        began = time.perf_counter()
        try:
            for row in STEPS[name](rig):
                found.rows.append(row)
                say(f"  {row.told()}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the other steps are not concerned
            found.failed.append(f"{name}: {type(error).__name__}: {error}"[:TOLD_CHARACTERS])
            say(f"  failed: {found.failed[-1]}")
        say(f"{name}: {time.perf_counter() - began:.0f} s")


@contextlib.contextmanager
def _rig(most_entries: int, deadline: float) -> Iterator[Rig]:
    """The upstream runs; all that was made is gone afterwards."""
    programs = build.build()
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="imagegate-cost-", ignore_cleanup_errors=True) as name,
        Process([programs.upstream, "--port", str(port)], port=port, log=Path(name) / "upstream.log") as process,
    ):
        root = Path(name)
        upstream = Running("upstream", "", port, process.pid, began=process.began)
        yield Rig(Stage(root, programs.load, upstream, {}), port, root, most_entries, deadline)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cost", description="Measures what imagegate's cost grows with."
    )
    parser.add_argument("--only", type=_names, default=list(STEPS), metavar="STEP,...", help=", ".join(STEPS))
    parser.add_argument(
        "--entries", type=int, default=index.ENTRIES[-1], metavar="N", help="at most so many in the index"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if wrong := set(options.only) - set(STEPS):
        parser.error(f"no such step: {', '.join(sorted(wrong))} (there are {', '.join(STEPS)})")
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

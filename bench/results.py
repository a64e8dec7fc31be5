"""The record of a run: every round of every measurement, the versions and settings, and the machine; kept as JSON."""

import dataclasses
import datetime
import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from bench.measurement import Measurement


@dataclass(frozen=True)
class Ran:
    """A system as it was measured."""

    version: str
    caches: bool
    coalesces: bool
    configuration: dict[str, str]


@dataclass
class Results:
    """Grows during the run, so that what was measured before an interruption is not lost."""

    plan: str
    began: str
    machine: dict[str, str]
    commit: str = ""
    seconds: float = 0.0
    interrupted: bool = False
    systems: dict[str, Ran] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)

    def figures(self, workload: str, system: str, figure: str) -> dict[int, float]:
        """One figure by round; rounds in which it was not measured are not there."""
        return {
            each.turn: each.figures[figure]
            for each in self.measurements
            if each.workload == workload and each.system == system and figure in each.figures
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Results:
    """A record that `write` made."""
    kept = json.loads(path.read_text())
    kept["systems"] = {name: Ran(**ran) for name, ran in kept["systems"].items()}
    kept["measurements"] = [
        Measurement(**{**each, "faults": tuple(each["faults"]), "course": tuple(each["course"])})
        for each in kept["measurements"]
    ]
    return Results(**kept)


def begin(plan: str) -> Results:
    began = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Results(plan=plan, began=began, machine=machine(), commit=commit())


def machine() -> dict[str, str]:
    """What the figures depend on, and nothing that says whose machine it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """The commit that is checked out, with a + if files differ from it; empty where that cannot be known."""
    here = Path(__file__).parent.parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if head and _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return found.stdout.strip()

"""Prometheus's own programs and the rules that are shipped: on the path, else unpacked into .venv by `make test`."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "prometheus"
UNPACKED = ROOT / ".venv" / "prometheus" / "usr" / "bin"
PATIENCE_SECONDS = 60


def found(name: str) -> Path | None:
    """The program, if it is to be had here."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    return UNPACKED / name if (UNPACKED / name).is_file() else None


def needed(name: str) -> Path:
    """The program; skips the test where it is not to be had."""
    program = found(name)
    if program is None:
        pytest.skip(f"{name} is not to be had here: apt-get install prometheus")
    return program


@dataclass(frozen=True)
class Verdict:
    """What promtool said."""

    passed: bool
    text: str

    def alerts(self) -> set[str]:
        """The alerts that were not as expected."""
        return set(re.findall(r"^\s+alertname: (\w+),", self.text, re.MULTILINE))


def promtool(*arguments: object, given: bytes = b"") -> Verdict:
    """Runs it; skips the test where it is not to be had."""
    command = [str(needed("promtool")), *map(str, arguments)]
    ran = subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    return Verdict(ran.returncode == 0, (ran.stdout + ran.stderr).decode())


def rules_tested(files: Sequence[Path]) -> list[Verdict]:
    """`promtool test rules` for each, two at a time: it uses one processor."""
    needed("promtool")
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda file: promtool("test", "rules", file), files))


@dataclass(frozen=True)
class Rule:
    """One rule as it is written; `name` is that of the alert, or of what is recorded."""

    name: str
    expression: str
    is_alert: bool
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


def rules_of(document: Any) -> Iterator[Rule]:
    for group in document["groups"]:
        for rule in group["rules"]:
            name = rule.get("alert") or rule["record"]
            labels, annotations = rule.get("labels", {}), rule.get("annotations", {})
            yield Rule(name, rule["expr"], "alert" in rule, labels, annotations)


@cache
def shipped(folder: Path = CONFIG) -> list[Rule]:
    """Every rule of every file that prometheus.yml names."""
    files = read(folder / "prometheus.yml")["rule_files"]
    return [rule for file in files for rule in rules_of(read(folder / file))]


def written_tests(folder: Path = CONFIG) -> list[Path]:
    return sorted((folder / "tests").glob("*.yml"))


def read(file: Path) -> Any:
    return yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)


def write(file: Path, document: Any) -> None:
    file.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, width=1000, sort_keys=False), "utf-8")

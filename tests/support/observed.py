"""A real Prometheus beside a real proxy, and the queries of a dashboard put to it as Grafana puts them."""

import json
import math
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from tests.support.polling import eventually

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "grafana" / "dashboards"
PROMETHEUS = ROOT / "config" / "prometheus"
SCRAPE_SECONDS = 1
RATE_INTERVAL = "5s"
"""`$__rate_interval` as Grafana reckons it: four scrapes, or the step and one scrape more."""
RANGE_SECONDS = 60


@dataclass(frozen=True)
class Target:
    """One query of one panel."""

    dashboard: str
    panel: str
    kind: str
    ref: str
    expression: str
    is_instant: bool
    legend: str = ""

    @property
    def name(self) -> str:
        return f"{self.dashboard}: {self.panel} [{self.ref}]"


def targets(folder: Path = DASHBOARDS) -> Sequence[Target]:
    """Every query of every panel."""
    found = []
    for path in sorted(folder.glob("*.json")):
        dashboard = json.loads(path.read_text("utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                found.append(
                    Target(
                        path.stem,
                        panel["title"],
                        panel["type"],
                        target.get("refId", ""),
                        target["expr"],
                        bool(target.get("instant")),
                        target.get("legendFormat", ""),
                    )
                )
    return found


def substituted(expression: str) -> str:
    """With every variable set to all it can be, and the intervals of a short range."""
    values = {
        "$__rate_interval": RATE_INTERVAL,
        "$__interval": "5s",
        "$__range_s": str(RANGE_SECONDS),
        "$__range": f"{RANGE_SECONDS}s",
        "$job": ".+",
        "$instance": ".+",
        "$model": ".+",
        "$team": ".+",
    }
    for name, value in values.items():
        expression = expression.replace("${" + name[1:] + "}", value).replace(name, value)
    return expression


class Prometheus:
    """One process, with the rules and alerts that are shipped, scraping one proxy every second."""

    def __init__(self, binary: Path, folder: Path, proxy_url: str) -> None:
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
        config["rule_files"] = [str(_at_once(PROMETHEUS / name, folder)) for name in config["rule_files"]]
        [job] = [each for each in config["scrape_configs"] if each["job_name"] == "imagegate"]
        job.pop("scrape_interval", None)
        job["static_configs"] = [{"targets": [urlsplit(proxy_url).netloc]}]
        config["scrape_configs"] = [job]
        config.pop("alerting", None)
        written = folder / "prometheus.yml"
        written.write_text(yaml.safe_dump(config), "utf-8")
        self.client: httpx.Client | None = None
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(binary),
                    f"--config.file={written}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            port = eventually(self._port, seconds=20, what="the start of Prometheus")
        except BaseException:
            self.close()
            raise
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
        self._process.terminate()
        self._process.wait(20)

    def ask(self, path: str, **parameters: Any) -> Any:
        """What the API answers; a refused query is an AssertionError with its reason."""
        assert self.client is not None
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters.get('query')}: {answer.get('error')}"
        assert not answer.get("warnings"), f"{parameters.get('query')}: {answer['warnings']}"
        return answer["data"]

    def instant(self, expression: str) -> list[tuple[Mapping[str, str], float]]:
        data = self.ask("query", query=expression)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def series(self, expression: str, seconds: int = RANGE_SECONDS) -> list[tuple[Mapping[str, str], list[float]]]:
        """Each series' values over the last seconds."""
        now = time.time()
        data = self.ask("query_range", query=expression, start=now - seconds, end=now, step=SCRAPE_SECONDS)
        return [(each["metric"], [float(value) for _, value in each["values"]]) for each in data["result"]]

    def exemplars(self, expression: str) -> list[Any]:
        """Those of the last minute, by series."""
        now = time.time()
        found: list[Any] = self.ask("query_exemplars", query=expression, start=now - 60, end=now + 1)
        return found

    def answers(self, target: Target) -> bool:
        """Whether a panel's query has something to show: a number at least once."""
        expression = substituted(target.expression)
        if target.is_instant:
            return any(not math.isnan(value) for _, value in self.instant(expression))
        return any(not math.isnan(value) for _, values in self.series(expression) for value in values)

    def scrapes(self) -> float:
        found = self.instant('count_over_time(up{job="imagegate"}[1h])')
        return found[0][1] if found else 0.0

    def _port(self) -> int | None:
        assert self._process.poll() is None, self._log.read_text("utf-8", "replace")[-2000:]
        for line in self._log.read_text("utf-8", "replace").splitlines():
            if "Listening on" in line or "Start listening" in line:
                address = line.partition("address=")[2].split()[0].strip('"')
                port = int(address.rpartition(":")[2])
                if port:
                    return port
        return None


def _at_once(rules: Path, folder: Path) -> Path:
    """The same rules, evaluated as often as everything here."""
    document = yaml.safe_load(rules.read_text("utf-8"))
    for group in document["groups"]:
        group.pop("interval", None)
    written = folder / rules.name
    written.write_text(yaml.safe_dump(document), "utf-8")
    return written


@contextmanager
def prometheus(binary: Path, folder: Path, proxy_url: str) -> Iterator[Prometheus]:
    running = Prometheus(binary, folder, proxy_url)
    try:
        yield running
    finally:
        running.close()

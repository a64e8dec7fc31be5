"""Starts and stops `imagegate serve` as a user would, and reads what the kernel and the log say about it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.polling import eventually

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0

Sections = Mapping[str, Mapping[str, Any]]


def write_config(path: Path, upstream_url: str, sections: Sections | None = None) -> Path:
    """A configuration with one upstream on a free port; `sections` adds to it or overrides it, `upstream` included."""
    given = sections or {}
    base: dict[str, dict[str, Any]] = {
        "server": {"port": 0},
        "cache": {"directory": "cache", "min_free_bytes": "1MB"},
        "upstream": {"name": "openai", "vendor": "openai", "base_url": upstream_url},
    }
    lines: list[str] = []
    for name in {**base, **given}:
        members = {**base.get(name, {}), **given.get(name, {})}
        lines.append("[[upstreams]]" if name == "upstream" else f"[{name}]")
        lines.extend(f"{key} = {_toml(value)}" for key, value in members.items())
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


class Proxy:
    """One `imagegate serve`, from start to end. Stopped by its own process id, and nothing else."""

    def __init__(self, *options: str, log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.log = log
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("IMAGEGATE_", "OPENAI_"))
        }
        with log.open("ab") as stderr, log.with_suffix(".out").open("ab") as stdout:
            self._begin = stderr.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "serve", *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**inherited, **(environ or {})},
            )
        try:
            self.url = eventually(self._announced, seconds=START_SECONDS, what="imagegate's start")
            eventually(lambda: self.get("/readyz")[0] == 200, what="readiness")
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    # --- its end --------------------------------------------------------------------------------------------------------

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """kill -9. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def wait(self, seconds: float = 20.0) -> int:
        """Its exit code."""
        return self._process.wait(seconds)

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM; its exit code."""
        self.terminate()
        return self.wait(seconds)

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    # --- what it says ---------------------------------------------------------------------------------------------------

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return response.status, named, response.read()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples called `name` that carry these labels."""
        return self.metrics().sum(name, **labels)

    def metrics(self) -> "Scrape":
        status, _, body = self.get("/metrics")
        assert status == 200
        return Scrape(body.decode())

    def log_text(self) -> str:
        """Everything it wrote, to either stream."""
        written = self.log.read_bytes()[self._begin :]
        return (written + self.log.with_suffix(".out").read_bytes()).decode("utf-8", "replace")

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_bytes()[self._begin :].splitlines() if line.startswith(b"{")]

    def _announced(self) -> str | None:
        if self._process.poll() is not None:
            raise AssertionError(f"imagegate did not start (exit {self._process.returncode}):\n{self.log_text()}")
        for line in self.log.read_bytes()[self._begin :].splitlines():
            if b'"msg":"serving"' in line:
                return str(json.loads(line)["url"])
        return None

    # --- what the kernel says ---------------------------------------------------------------------------------------------

    def peak_bytes(self) -> int:
        """The most memory that was ever resident (VmHWM)."""
        return self._status("VmHWM")

    def resident_bytes(self) -> int:
        return self._status("VmRSS")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise LookupError(field)


@contextmanager
def serving(folder: Path, upstream_url: str, sections: Sections | None = None) -> Iterator[Proxy]:
    """One proxy over the upstream, with all its files in `folder` (`cache` is the store); it must leave with 0."""
    config = write_config(folder / "imagegate.toml", upstream_url, sections)
    proxy = Proxy("--config", str(config), log=folder / "imagegate.log")
    try:
        yield proxy
        assert proxy.stop() == 0
    finally:
        proxy.kill()


class Scrape:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples called `name` that carry these labels; a name nobody counts under is an error."""
        found = [sample for sample in self._samples if sample.name == name]
        assert found or f"# TYPE {name} " in self.text or f"# TYPE {name.removesuffix('_total')} " in self.text, name
        return sum(sample.value for sample in found if labels.items() <= sample.labels.items())

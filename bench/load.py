"""The C client: what it is asked to do, and what it says came of it."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.system import System

GRACE_SECONDS = 10.0


class LoadFailed(Exception):
    """The client ended without a result."""


@dataclass(frozen=True)
class Order:
    """How many connections ask for what, and for how long: `seconds`, a `count` of replies, or what is first of both."""

    body: str
    connections: int
    seconds: float = 0.0
    count: int = 0
    keys: int = 0
    start: int = 0
    headers: tuple[str, ...] = ()
    timeout_seconds: float = 60.0

    def arguments(self, system: System) -> list[str]:
        seconds = ["--seconds", f"{self.seconds:g}"] if self.seconds else []
        count = ["--count", str(self.count)] if self.count else []
        keys = ["--keys", str(self.keys)] if self.keys else []
        headers = [part for header in (*system.headers, *self.headers) for part in ("--header", header)]
        return [
            *("--port", str(system.port), "--path", system.path, "--connections", str(self.connections)),
            *seconds,
            *count,
            *keys,
            *headers,
            *("--start", str(self.start), "--timeout", f"{self.timeout_seconds:g}", "--body", self.body),
        ]


@dataclass(frozen=True)
class Load:
    """What the client counted. Latency is from the first byte written to the last byte taken."""

    replies: int
    errors: int
    seconds: float
    rate: float
    bytes: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    min_ms: float
    cpu_seconds: float
    statuses: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def cpu_share(self) -> float:
        """How much of a core the client itself used."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that is not a whole reply with status 200, in words."""
        found = [f"{count} x status {status}" for status, count in sorted(self.statuses.items()) if status != "200"]
        if self.errors:
            found.append(f"{self.errors} x connection failed or reply cut")
        if not self.replies:
            found.append("no reply")
        return tuple(found)


def read(text: str) -> Load:
    """What the client printed; members that this does not know are left out."""
    try:
        found = json.loads(text)
        return Load(**{name: found[name] for name in Load.__dataclass_fields__})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise LoadFailed(f"the client said: {text[:200]!r}") from error


@contextlib.contextmanager
def running(program: Path, system: System, order: Order) -> Iterator[subprocess.Popen[str]]:
    """The client at work; ended with the context if it has not ended by itself."""
    process = subprocess.Popen(
        [str(program), *order.arguments(system)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], order: Order) -> Load:
    """Waits for the client, never longer than its own cap and a little."""
    try:
        out, err = process.communicate(timeout=order.timeout_seconds + order.seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise LoadFailed("the client did not end in its time") from error
    if process.returncode and not out:
        raise LoadFailed(f"the client failed: {err.strip()[:200]}")
    return read(out)


def run(program: Path, system: System, order: Order) -> Load:
    with running(program, system, order) as process:
        return finish(process, order)

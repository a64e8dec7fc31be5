"""The proxy of this repository as it is meant to run: a virtual key, its team and budget, the ledger, metrics and logs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from bench.process import ROOT, Process, environment, free_port
from bench.system import Running, Skipped, System
from proxy import __version__

Mode = Literal["keys", "open"]
COMMAND_SECONDS = 60

CONFIGURATION = """\
[server]
port = {port}

[auth]
mode = "{mode}"

[[upstreams]]
name = "bench"
base_url = "http://127.0.0.1:{upstream_port}/v1"
api_key = {{ file = "upstream.key" }}
max_connections = 2000  # the other systems have no limit that a load of the bench reaches

[cache]
directory = "cache"
min_free_bytes = 0
{memory}
[database]
url = "sqlite:///ledger.db"
"""

# Limits that are checked for each request, and never reached.
LIMITS = ("--max-budget", "999000000", "--rpm-limit", "100000000", "--max-parallel-requests", "100000")


@contextmanager
def start(
    folder: Path, upstream_port: int, *, memory_bytes: int | None = None, mode: Mode = "keys"
) -> Iterator[System]:
    """Started again in the same folder, it has its key and its cache. Mode `open` does without keys and budgets."""
    port = free_port()
    memory = "" if memory_bytes is None else f"memory_bytes = {memory_bytes}\n"
    text = CONFIGURATION.format(port=port, mode=mode, upstream_port=upstream_port, memory=memory)
    configuration = folder / "imagegate.toml"
    configuration.write_text(text)
    (folder / "upstream.key").write_text("sk-bench-upstream")
    shown = {"imagegate.toml": text}
    headers: tuple[str, ...] = ()
    if mode == "keys":
        headers = (f"authorization: Bearer {_key(folder, configuration)}",)
        shown["key"] = f"imagegate keys create --alias bench --team bench {' '.join(LIMITS)}\n"
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(configuration)]
    with Process(command, port=port, log=folder / "imagegate.log") as process:
        yield Running(
            name="imagegate",
            version=__version__,
            port=port,
            pid=process.pid,
            began=process.began,
            headers=headers,
            configuration=shown,
        )


def _key(folder: Path, configuration: Path) -> str:
    """The virtual key of the callers, made at the first start."""
    kept = folder / "caller.key"
    if not kept.exists():
        create = ["keys", "create", "--json", "--config", str(configuration), "--alias", "bench", "--team", "bench"]
        made = subprocess.run(
            [sys.executable, "-m", "proxy", *create, *LIMITS],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if made.returncode:
            raise Skipped(f"imagegate keys create: {made.stderr.strip()}")
        kept.write_text(json.loads(made.stdout)["key"])
    return kept.read_text()

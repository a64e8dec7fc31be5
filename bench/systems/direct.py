"""No proxy at all: the upstream itself, the measure of what anything in between adds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.process import listener
from bench.system import Running, System


@contextmanager
def start(folder: Path, upstream_port: int) -> Iterator[System]:
    """Starts nothing: the upstream runs, and its process is the one that is weighed."""
    del folder
    yield Running(
        name="direct",
        version="",
        port=upstream_port,
        pid=listener(upstream_port),
        began=time.perf_counter(),
        caches=False,
        coalesces=False,
    )

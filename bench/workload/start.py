"""Start: how long after its process is started a system answers, and what it takes while nobody asks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import call
from bench.measurement import Sample
from bench.process import pss_bytes
from bench.stage import Stage, request

SIZE_BYTES = 2_000
RETRY_SECONDS = 0.01
MOST_SECONDS = 20.0
IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class FirstReply:
    """The first image reply with status 200; before that, a system may refuse connections or say that it is not ready."""

    systems: Sequence[str]
    group: str = "start"
    fresh: bool = True
    name: str = "start"

    def prepare(self, stage: Stage, system: str) -> None:
        """Each round starts its own."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        body = request(f"first {turn}", SIZE_BYTES)
        with stage.start(system) as server:
            while True:
                status = call.ask(server, body).status
                seconds = time.perf_counter() - server.began
                if status == 200 or seconds > MOST_SECONDS:
                    break
                time.sleep(RETRY_SECONDS)
            time.sleep(IDLE_SECONDS)
            figures = {"first_reply_seconds": seconds, "idle_mb": pss_bytes(server.pid) / 1e6}
        return Sample(figures, () if status == 200 else (f"status {status} after {MOST_SECONDS:g} s",))

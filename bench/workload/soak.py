"""Soak: a modest, mixed load for a long time; memory and descriptors must not grow."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench import call
from bench.arithmetic import slope
from bench.measurement import Sample
from bench.process import descriptors, pss_bytes
from bench.stage import Stage, request
from bench.system import System
from bench.workload.hits import SIZES, warm
from bench.workload.rendering import HEADER

CALLERS = 4
CALLS_PER_SECOND = 20.0
SAMPLE_SECONDS = 10.0
# Keys that are hit, by size: 105 MB in all, well within the memory tier.
KEYS = {"2 KB": 50, "300 KB": 50, "3 MB": 10, "12 MB": 5}
# One in so many. What is bought is 300 KB large but for some: about 2 GB an hour.
KINDS = {"hit": 60, "data-URL": 8, "miss": 8, "large miss": 1, "leaver": 4, "invalid": 8}
LEAVING_SECONDS = 0.05


@dataclass(frozen=True)
class Soak:
    """The slope is that of the second half, with its standard error; what is kept on purpose is kept by then."""

    minutes: float
    systems: Sequence[str] = ("imagegate",)
    group: str = "soak"
    fresh: bool = True
    name: str = "soak"

    def prepare(self, stage: Stage, system: str) -> None:
        """Each round starts its own."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample:
        with stage.start(system) as server:
            callers = Callers(server)
            callers.fill()
            course = self._watch(server, callers)
        return Sample(_figures(course), callers.faults(), tuple(course))

    def _watch(self, server: System, callers: "Callers") -> list[dict[str, float]]:
        course = []
        began = time.perf_counter()
        interval = min(SAMPLE_SECONDS, self.minutes * 60 / 12)
        with ThreadPoolExecutor(CALLERS) as pool:
            try:
                for number in range(CALLERS):
                    pool.submit(callers.work, number)
                while (seconds := time.perf_counter() - began) < self.minutes * 60:
                    time.sleep(min(interval, self.minutes * 60 - seconds))
                    course.append(
                        {
                            "seconds": time.perf_counter() - began,
                            "pss_mb": pss_bytes(server.pid) / 1e6,
                            "descriptors": descriptors(server.pid),
                            "requests": callers.counted.total(),
                        }
                    )
            finally:
                callers.over.set()
        return course


@dataclass
class Callers:
    """Mixed callers at a steady pace; what came of their calls is counted by kind and status."""

    server: System
    over: threading.Event = field(default_factory=threading.Event)
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)

    def fill(self) -> None:
        """All that is hit is stored, and in the memory tier, before the course begins."""
        for size, count in KEYS.items():
            for number in range(count):
                warm(self.server, hot(size, number))

    def work(self, number: int) -> None:
        # Seeded: every run asks for the same, in the same order.
        choice = random.Random(number)
        kinds: dict[str, Callable[[str], int]] = {
            "hit": lambda _unique: self._hit(choice),
            "data-URL": lambda _unique: self._hit(choice, HEADER),
            "miss": lambda unique: call.ask(self.server, request(f"soak {unique}", 300_000)).status,
            "large miss": lambda unique: call.ask(self.server, request(f"soak {unique}", 3_000_000)).status,
            "leaver": self._leave,
            "invalid": self._invalid,
        }
        made, due = 0, time.perf_counter()
        while not self.over.wait(max(0.0, due - time.perf_counter())):
            due = max(due + CALLERS / CALLS_PER_SECOND, time.perf_counter())
            made += 1
            (kind,) = choice.choices(list(KINDS), list(KINDS.values()))
            try:
                status = str(kinds[kind](f"{number} {made}"))
            except OSError as error:
                status = type(error).__name__
            self.counted[kind, status] += 1

    def _hit(self, choice: random.Random, *headers: str) -> int:
        (size,) = choice.choices(list(KEYS), list(KEYS.values()))
        return call.ask(self.server, hot(size, choice.randrange(KEYS[size])), *headers).status

    def _leave(self, unique: str) -> int:
        call.leave(self.server, request(f"soak left {unique}", 300_000, 200), LEAVING_SECONDS)
        return 0

    def _invalid(self, unique: str) -> int:
        return call.ask(self.server, request(f"soak {unique}", 2_000).replace("1024x1024", "abc")).status

    def faults(self) -> tuple[str, ...]:
        """What did not end as its kind should."""
        right = {"invalid": "400", "leaver": "0"}
        wrong = {what: count for what, count in self.counted.items() if what[1] != right.get(what[0], "200")}
        return tuple(f"{count} x {kind}: {status}" for (kind, status), count in sorted(wrong.items()))


def hot(size: str, number: int) -> str:
    return request(f"soak hot {size} {number}", SIZES[size])


def _figures(course: Sequence[dict[str, float]]) -> dict[str, float]:
    if len(course) < 6:
        return {}
    half = course[len(course) // 2 :]
    memory = slope([(each["seconds"] / 3600, each["pss_mb"]) for each in half])
    files = slope([(each["seconds"] / 3600, each["descriptors"]) for each in half])
    return {
        "minutes": course[-1]["seconds"] / 60,
        "requests": course[-1]["requests"],
        "first_mb": course[0]["pss_mb"],
        "middle_mb": half[0]["pss_mb"],
        "last_mb": course[-1]["pss_mb"],
        "growth_mb_per_hour": memory.growth,
        "growth_error_mb_per_hour": memory.error,
        "growth_beyond_noise_mb_per_hour": memory.beyond_noise,
        "first_descriptors": course[0]["descriptors"],
        "last_descriptors": course[-1]["descriptors"],
        "descriptors_beyond_noise_per_hour": files.beyond_noise,
    }

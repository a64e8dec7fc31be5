"""Which workloads a run has, how often each is measured, and how long the run may take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.measurement import SLOW, Workload
from bench.workload.disk import DiskHits
from bench.workload.hits import Hits
from bench.workload.identical import Identical
from bench.workload.leaver import Leaver
from bench.workload.memory import InFlight
from bench.workload.misses import Misses
from bench.workload.rendering import DataUrl
from bench.workload.soak import Soak
from bench.workload.start import FirstReply
from bench.workload.waiting import Waiting

ALL = ("direct", "nginx", "imagegate", "litellm", "portkey")
TOGETHER_SHARE = 0.7
GATEWAYS = ("nginx", "imagegate", "litellm", "portkey")


@dataclass(frozen=True)
class Entry:
    """A workload, and in how many rounds it is measured; for slow systems in the first of them only."""

    workload: Workload
    rounds: int
    slow_rounds: int = 1

    def takes(self, system: str, turn: int) -> bool:
        """Rounds count from 1."""
        rounds = min(self.rounds, self.slow_rounds) if system in SLOW else self.rounds
        return system in self.workload.systems and turn <= rounds


@dataclass(frozen=True)
class Plan:
    """First rounds are always run; further ones as there is time, of those that are up together until a share of it.

    The soak has its own time and comes last.
    """

    name: str
    entries: tuple[Entry, ...]
    limit_seconds: float
    soak: Soak | None = None

    def seconds_for(self, workload: Workload) -> float:
        """After so much of the run no further round of it is begun."""
        return self.limit_seconds if workload.fresh else TOGETHER_SHARE * self.limit_seconds

    def only(self, names: Sequence[str]) -> "Plan":
        """Those whose group is named, or whose name has one of these in it."""
        kept = tuple(entry for entry in self.entries if not names or _is_named(entry.workload, names))
        return replace(self, entries=kept)

    def with_rounds(self, rounds: int) -> "Plan":
        entries = tuple(
            replace(entry, rounds=rounds, slow_rounds=min(rounds, entry.slow_rounds)) for entry in self.entries
        )
        return replace(self, entries=entries)


def quick() -> Plan:
    """About three minutes: the sizes and numbers of connections that the goals name."""
    sizes = {"2 KB": 64, "300 KB": 16, "3 MB": 16, "12 MB": 16}
    return Plan(
        "quick",
        (
            *(Entry(Hits(size, connections, 0.8, ALL), 3) for size, connections in sizes.items()),
            *(Entry(DiskHits(size, 0.8, ("nginx", "imagegate")), 3) for size in ("300 KB", "3 MB")),
            Entry(DataUrl("3 MB", 0.8), 3),
            Entry(Misses("3 MB", 0, 1, ALL), 3),
            Entry(Misses("3 MB", 50, 16, ALL), 3),
            Entry(Identical(ALL), 1),
            Entry(Leaver(GATEWAYS), 1),
            Entry(InFlight(("nginx", "imagegate")), 1),
            Entry(Waiting(100, 3, ("imagegate",)), 1),
            Entry(Waiting(1_000, 8, ("nginx", "imagegate")), 1),
            Entry(FirstReply(GATEWAYS), 3),
        ),
        limit_seconds=200,
    )


def full() -> Plan:
    """Twenty to thirty minutes: everything."""
    return Plan(
        "full",
        (
            *(
                Entry(Hits(size, connections, 1.5, ALL), 5, 2)
                for size in ("2 KB", "300 KB", "3 MB", "12 MB")
                for connections in (1, 16, 64)
            ),
            *(Entry(DiskHits(size, 1.5, ("direct", "nginx", "imagegate")), 5) for size in ("300 KB", "3 MB")),
            Entry(DataUrl("3 MB", 1.5), 5),
            *(
                # Large replies fill the disk: fewer rounds.
                Entry(Misses(size, wait, connections, ALL), 3 if size == "12 MB" else 5, 1 if size == "12 MB" else 2)
                for size in ("300 KB", "3 MB", "12 MB")
                for wait in (0, 50)
                for connections in (1, 16)
            ),
            Entry(Identical(ALL), 3),
            Entry(Leaver(ALL), 3),
            Entry(InFlight(GATEWAYS), 3),
            Entry(Waiting(100, 4, ("imagegate",)), 3),
            Entry(Waiting(1_000, 8, ("nginx", "imagegate")), 3),
            Entry(Waiting(5_000, 20, ("imagegate",)), 3),
            Entry(FirstReply(GATEWAYS), 3, 3),
        ),
        limit_seconds=1_800,
    )


def _is_named(workload: Workload, names: Iterable[str]) -> bool:
    return any(name.lower() == workload.group or name.lower() in workload.name.lower() for name in names)

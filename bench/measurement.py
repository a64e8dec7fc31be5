"""What one measurement is, and what a workload has to be so that the run can take it in turns with others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.stage import Stage

# They answer so few requests a second that they are measured in fewer rounds, and by a number of replies.
SLOW = frozenset({"litellm", "portkey"})


@dataclass(frozen=True)
class Sample:
    """Figures by name, units in the names; what was not as it should be, in words; the course over time, if it has one."""

    figures: dict[str, float]
    faults: tuple[str, ...] = ()
    course: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class Measurement:
    """A sample of one system under one workload in one round."""

    group: str
    workload: str
    system: str
    turn: int
    figures: dict[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    course: tuple[dict[str, float], ...] = ()


class Workload(Protocol):
    """Something to do to a system. It names the systems it is for; the plan says how often."""

    @property
    def group(self) -> str:
        """The table of the report it belongs to."""

    @property
    def name(self) -> str: ...

    @property
    def systems(self) -> Sequence[str]: ...

    @property
    def fresh(self) -> bool:
        """It starts its systems itself, one at a time, after those that are up together have ended."""

    def prepare(self, stage: Stage, system: str) -> None:
        """Once, before the first round."""

    def measure(self, stage: Stage, system: str, turn: int) -> Sample: ...

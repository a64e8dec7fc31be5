"""The arithmetic of the report: medians with their spread, ratios taken within a round, and the slope of a line."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and between what it lies."""

    median: float
    least: float
    most: float
    rounds: int


@dataclass(frozen=True)
class Slope:
    """Growth per unit of the first axis, and the standard error of it."""

    growth: float
    error: float

    @property
    def beyond_noise(self) -> float:
        """What is left of a growth after two standard errors; never below 0."""
        return max(0.0, self.growth - 2 * self.error)


def spread(values: Iterable[float]) -> Spread | None:
    known = list(values)
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known), len(known))


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours over theirs, only of rounds in which both were measured: what disturbs a round disturbs both."""
    return [ours[turn] / theirs[turn] for turn in sorted(ours.keys() & theirs.keys()) if theirs[turn]]


def differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours less theirs, of the same rounds."""
    return [ours[turn] - theirs[turn] for turn in sorted(ours.keys() & theirs.keys())]


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """The least-squares line through the points."""
    count = len(points)
    if count < 3:
        raise ValueError("a slope needs three points")
    middle_x = sum(x for x, _ in points) / count
    middle_y = sum(y for _, y in points) / count
    width = sum((x - middle_x) ** 2 for x, _ in points)
    if not width:
        raise ValueError("a slope needs points at different times")
    growth = sum((x - middle_x) * (y - middle_y) for x, y in points) / width
    rest = sum((y - middle_y - growth * (x - middle_x)) ** 2 for x, y in points)
    return Slope(growth, math.sqrt(rest / (count - 2) / width))

"""A line through points: what there is at zero, and what each unit adds."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.cost.record import Row


@dataclass(frozen=True)
class Line:
    """What is there at zero, what each unit adds, and by which share the worst point is off."""

    fixed: float
    growth: float
    worst: float


def line(points: Sequence[tuple[float, float]]) -> Line:
    """Through points whose errors grow with them: least squares of the relative errors. All y must be above 0."""
    if len({x for x, _ in points}) < 2 or any(y <= 0 for _, y in points):
        raise ValueError("a line needs two different points, and figures above 0")
    weights = [1 / (y * y) for _, y in points]
    total = sum(weights)
    middle_x = sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)) / total
    middle_y = sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)) / total
    width = sum(weight * (x - middle_x) ** 2 for weight, (x, _) in zip(weights, points, strict=True))
    shared = sum(w * (x - middle_x) * (y - middle_y) for w, (x, y) in zip(weights, points, strict=True))
    growth = shared / width
    fixed = middle_y - growth * middle_x
    return Line(fixed, growth, max(abs(fixed + growth * x - y) / y for x, y in points))


def fitted(table: str, at: str, unit: str, points: Sequence[tuple[float, float]]) -> Row:
    """The line as a row; `unit` is what is counted along x."""
    found = line(points)
    return Row(table, at, {"fixed": found.fixed, f"per_{unit}": found.growth, "worst_error_percent": 100 * found.worst})

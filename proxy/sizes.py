"""Rules for image sizes: what a model takes, what is wrong with what it does not take, and the nearest that it does.

Nearest, for a wanted w x h: least max(|ln W/w|, |ln H/h|), then least sum, then most pixels, then the widest.
The comparison is exact: |ln W/w| orders as the fraction max(W, w) / min(W, w), and the sum as the product of fractions.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

_SIZE = re.compile(r"([1-9][0-9]{0,17})x([1-9][0-9]{0,17})", re.ASCII)
_MUST_COMPARE_EXACTLY = 1e-9


def parse(size: str) -> tuple[int, int] | None:
    """Width and height of `WIDTHxHEIGHT`; None for any other spelling (nothing is trimmed or folded)."""
    match = _SIZE.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class Grid:
    """Any size within limits. `confirmed` is False where the limits are assumed: then nothing is refused."""

    multiple: int
    longest_edge: int
    ratio: int
    """Long side to short side, at most."""
    min_pixels: int
    max_pixels: int
    confirmed: bool = True

    def fault(self, size: str) -> str | None:
        """What is wrong with an explicit size, in the API's words and its order of checks; None if it is valid."""
        parsed = parse(size)
        if parsed is None:
            return "Expected WIDTHxHEIGHT, for example '1824x1024'."
        width, height = parsed
        long, short, pixels = max(parsed), min(parsed), width * height
        faults = (
            (width % self.multiple or height % self.multiple)
            and f"Width and height must both be divisible by {self.multiple}.",
            long > self.longest_edge and f"The longest edge must be less than or equal to {self.longest_edge}.",
            long > self.ratio * short and f"The maximum supported aspect ratio is {self.ratio}:1.",
            pixels < self.min_pixels and "Requested resolution is below the current minimum pixel budget.",
            pixels > self.max_pixels and "Requested resolution exceeds the current pixel budget.",
        )
        return next((fault for fault in faults if fault), None)

    def nearest(self, width: int, height: int) -> tuple[int, int] | None:
        """The valid size nearest to this one; None only if the limits leave no size at all."""
        return _nearest(self._near(width, height), width, height)

    def leaves_none(self) -> bool:
        """Whether the limits leave no size at all."""
        return next(self._near(1, 1), None) is None

    def _near(self, width: int, height: int) -> Iterator[tuple[int, int]]:
        """For each valid width the one or two valid heights that could be the nearest: they enclose `height`."""
        step = self.multiple
        for w in range(step, self.longest_edge + 1, step):
            least = max(-(-w // self.ratio), -(-self.min_pixels // w))
            most = min(self.ratio * w, self.max_pixels // w, self.longest_edge)
            low, high = -(-least // step) * step, most // step * step
            if low <= high:
                below = min(max(height // step * step, low), high)
                yield w, below
                if below < height and below + step <= high:
                    yield w, below + step


@dataclass(frozen=True, slots=True)
class Listed:
    """Only these sizes, as written; a word such as `auto` may be among them."""

    sizes: tuple[str, ...]
    confirmed: bool = True

    def nearest(self, width: int, height: int) -> tuple[int, int] | None:
        """The listed size nearest to this one; None if only words are listed."""
        return _nearest((parsed for parsed in map(parse, self.sizes) if parsed), width, height)


SizeRule = Grid | Listed


def _nearest(candidates: Iterable[tuple[int, int]], width: int, height: int) -> tuple[int, int] | None:
    """Floating-point logarithms leave a handful; exact fractions decide among those."""
    log_width, log_height = math.log(width), math.log(height)
    rough = [(max(abs(math.log(w) - log_width), abs(math.log(h) - log_height)), w, h) for w, h in candidates]
    if not rough:
        return None
    limit = min(rough)[0] + _MUST_COMPARE_EXACTLY
    return min(((w, h) for distance, w, h in rough if distance <= limit), key=lambda size: _order(size, width, height))


def _order(size: tuple[int, int], width: int, height: int) -> tuple[Fraction, Fraction, int, int]:
    w, h = size
    across = Fraction(max(w, width), min(w, width))
    down = Fraction(max(h, height), min(h, height))
    return max(across, down), across * down, -w * h, -w

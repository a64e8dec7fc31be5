"""The brushes: gradients, glows, mist, ridges and smooth-edged silhouettes on one Pillow image.

Law: every random number comes from the generator that is handed in, so a picture is a function of its seed.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
Stop = tuple[float, Colour]

_OVERSAMPLING = 2
"""Edges are drawn at twice the size and averaged down: Pillow draws polygons without smoothing."""


def colour(text: str) -> Colour:
    """`#rrggbb` as a triple."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of `second` in `first`."""
    keep = 1 - share
    return (
        round(first[0] * keep + second[0] * share),
        round(first[1] * keep + second[1] * share),
        round(first[2] * keep + second[2] * share),
    )


def gradient(stops: Sequence[Stop], width: int, height: int) -> Image.Image:
    """Colours from top to bottom; stops are (0..1, colour), ascending."""
    rows = max(2, min(height, 512))
    strip = Image.new("RGB", (1, rows))
    for row in range(rows):
        strip.putpixel((0, row), _at(stops, row / (rows - 1)))
    return _widened(strip.resize((1, height), Image.Resampling.BICUBIC), width)


def _at(stops: Sequence[Stop], where: float) -> Colour:
    for (low, before), (high, after) in pairwise(stops):
        if where <= high:
            share = (where - low) / (high - low) if high > low else 1.0
            return mix(before, after, max(0.0, share))
    return stops[-1][1]


def fade(values: Sequence[float], width: int, height: int) -> Image.Image:
    """A mask that runs from top to bottom through evenly spaced strengths (0..1)."""
    strip = Image.new("L", (1, len(values)))
    strip.putdata([round(255 * min(1.0, max(0.0, value))) for value in values])
    return _widened(strip.resize((1, height), Image.Resampling.BILINEAR), width)


def _widened(strip: Image.Image, width: int) -> Image.Image:
    return strip.resize((width, strip.height), Image.Resampling.NEAREST)


def fog(rng: Random, cells: tuple[int, int], size: tuple[int, int], octaves: int = 4) -> Image.Image:
    """Fractal value noise as a mask: `cells` is the grid of the coarsest octave."""
    blend: Image.Image | None = None
    for octave in range(octaves):
        columns, rows = cells[0] << octave, cells[1] << octave
        layer = Image.frombytes("L", (columns, rows), rng.randbytes(columns * rows))
        layer = layer.resize(size, Image.Resampling.BICUBIC)
        blend = layer if blend is None else Image.blend(blend, layer, 1 / (2 ** (octave + 1)))
    assert blend is not None
    return blend


def jagged(rng: Random, points: int, roughness: float = 0.55) -> list[float]:
    """A mountain line by midpoint displacement: at least `points` heights in 0..1."""
    line = [rng.random(), rng.random(), rng.random()]
    swing = 0.6
    while len(line) < points:
        halves: list[float] = []
        for left, right in pairwise(line):
            halves += [left, (left + right) / 2 + rng.uniform(-swing, swing) / 2]
        line = [*halves, line[-1]]
        swing *= roughness
    low, high = min(line), max(line)
    return [(height - low) / (high - low or 1) for height in line]


def rolling(rng: Random, points: int, waves: float = 2.0) -> list[float]:
    """A soft line of hills or dunes: sines of falling size, heights in 0..1."""
    parts = [(waves * 1.9**step, rng.uniform(0, math.tau), 0.5**step) for step in range(4)]
    line = [
        sum(size * math.sin(math.tau * often * index / points + phase) for often, phase, size in parts)
        for index in range(points + 1)
    ]
    low, high = min(line), max(line)
    return [(height - low) / (high - low or 1) for height in line]


class Canvas:
    """One picture being painted. Coordinates are pixels from the top left; `unit` is the shorter side."""

    def __init__(self, width: int, height: int, rng: Random) -> None:
        self.width = width
        self.height = height
        self.unit = min(width, height)
        self.rng = rng
        self.image = Image.new("RGB", (width, height))

    def sky(self, stops: Sequence[Stop], horizon: float) -> None:
        """A gradient from the top edge to `horizon`; below it, the last colour."""
        self.image.paste(stops[-1][1], (0, 0, self.width, self.height))
        self.image.paste(gradient(stops, self.width, max(2, round(horizon))), (0, 0))

    def glow(self, centre: Point, radius: float, tint: Colour, strength: float, falloff: float = 2.2) -> None:
        """Light around a point, fading to nothing at `radius`."""
        size = max(2, round(radius * 2.6))
        rim = 180  # Pillow's radial gradient reaches 255 only in the corners
        fall = [max(0.0, 1 - v / rim) ** falloff for v in range(256)]
        halo = Image.radial_gradient("L").point([round(255 * strength * level) for level in fall])
        halo = halo.resize((size, size), Image.Resampling.BICUBIC)
        self.image.paste(tint, (round(centre[0] - size / 2), round(centre[1] - size / 2)), halo)

    def stencil(self, top: float, bottom: float, draw: Callable[["Pen"], None]) -> tuple[int, Image.Image]:
        """A smooth mask of the rows [top, bottom), filled in by `draw`; returned with its first row."""
        first = max(0, math.floor(top))
        rows = max(1, min(self.height, math.ceil(bottom)) - first)
        mask = Image.new("L", (self.width * _OVERSAMPLING, rows * _OVERSAMPLING))
        draw(Pen(ImageDraw.Draw(mask), first))
        return first, mask.reduce(_OVERSAMPLING)

    def shape(self, polygons: Sequence[Sequence[Point]], tint: Colour, opacity: float = 1.0) -> None:
        """Filled polygons in one colour."""
        heights = [y for polygon in polygons for _, y in polygon]
        if not heights or max(heights) <= 0 or min(heights) >= self.height:
            return
        strength = round(255 * opacity)
        top, mask = self.stencil(min(heights), max(heights) + 1, lambda pen: pen.fill(polygons, strength))
        self.image.paste(tint, (0, top), mask)

    def ridge(self, line: Sequence[Point], crest: Colour, foot: Colour, depth: float) -> tuple[int, Image.Image]:
        """Everything below `line`, from `crest` at its top to `foot` after `depth` pixels; returns its mask."""
        polygon = [*line, (self.width + 2, self.height + 2), (-2, self.height + 2)]
        highest = min(y for _, y in line)
        top, mask = self.stencil(highest, self.height, lambda pen: pen.fill([polygon], 255))
        turn = min(0.98, max(0.02, depth / mask.height))
        self.image.paste(gradient([(0, crest), (turn, foot), (1, foot)], self.width, mask.height), (0, top), mask)
        return top, mask

    def tint(self, shade: Colour, top: int, mask: Image.Image) -> None:
        """Lays one colour through a mask whose first row is `top`."""
        self.image.paste(shade, (0, top), mask)

    def mist(self, centre: float, spread: float, shade: Colour, strength: float) -> None:
        """A drifting band of haze around the row `centre`."""
        top, rows = round(centre - spread), max(4, round(spread * 2))
        band = fade([0, strength * 0.6, strength, strength * 0.6, 0], self.width, rows)
        drift = fog(self.rng, (3, 2), (max(2, self.width // 4), max(2, rows // 4)), 3)
        drift = drift.point([min(255, 90 + v) for v in range(256)]).resize((self.width, rows))
        self.image.paste(shade, (0, top), ImageChops.multiply(band, drift))


class Pen:
    """Draws into a stencil in the canvas's own coordinates."""

    def __init__(self, draw: ImageDraw.ImageDraw, first_row: int) -> None:
        self._draw = draw
        self._first_row = first_row

    def _point(self, x: float, y: float) -> Point:
        return x * _OVERSAMPLING, (y - self._first_row) * _OVERSAMPLING

    def fill(self, polygons: Sequence[Sequence[Point]], strength: int) -> None:
        """Polygons of at least two points."""
        for polygon in polygons:
            self._draw.polygon([self._point(x, y) for x, y in polygon], fill=strength)

    def dot(self, x: float, y: float, across: float, down: float, strength: int) -> None:
        """An ellipse given by its centre and half axes."""
        (left, top), (right, bottom) = self._point(x - across, y - down), self._point(x + across, y + down)
        self._draw.ellipse((left, top, right, bottom), fill=strength)

    def box(self, left: float, top: float, right: float, bottom: float, strength: int) -> None:
        """A rectangle; nothing when it is empty."""
        (x0, y0), (x1, y1) = self._point(left, top), self._point(right, bottom)
        if x1 >= x0 + 1 and y1 >= y0 + 1:
            self._draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=strength)

    def strokes(self, lines: Sequence[Sequence[Point]], width: float, strength: int) -> None:
        """Several lines alike."""
        for points in lines:
            self.stroke(points, width, strength)

    def stroke(self, points: Sequence[Point], width: float, strength: int) -> None:
        """An open line with rounded joints."""
        path = [self._point(x, y) for x, y in points]
        self._draw.line(path, fill=strength, width=max(1, round(width * _OVERSAMPLING)), joint="curve")

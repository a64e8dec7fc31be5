"""The lower half of a picture: which land it is; mountains, lakes, coasts and forests."""

import math
from collections.abc import Callable, Mapping, Sequence

from PIL import ImageChops

from proxy.sandbox.canvas import Canvas, Colour, Point, fog, gradient, jagged, mix, rolling
from proxy.sandbox.city import paint_city
from proxy.sandbox.desert import paint_desert
from proxy.sandbox.terrain import SNOW, line_of, shades
from proxy.sandbox.theme import Hour, Place, Theme
from proxy.sandbox.water import paint_water


def horizon_of(canvas: Canvas, theme: Theme) -> float:
    """The row where the land begins."""
    shares = {Place.SEA: 0.64, Place.LAKE: 0.62, Place.CITY: 0.74, Place.DESERT: 0.62, Place.FOREST: 0.6}
    return canvas.height * shares.get(theme.place, 0.66)


def paint_land(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    """Everything below the sky, far to near."""
    painters: Mapping[Place, Callable[[Canvas, Theme, float, Point], None]] = {
        Place.MOUNTAINS: _mountains,
        Place.LAKE: _lake,
        Place.SEA: _sea,
        Place.DESERT: paint_desert,
        Place.FOREST: _forest,
        Place.CITY: paint_city,
    }
    painters[theme.place](canvas, theme, horizon, light)


def _range(canvas: Canvas, theme: Theme, base: float, rise: float, share: float) -> list[Point]:
    """One chain of mountains with a lit and a shaded side and, high up or in winter, snow."""
    roughness = 0.5 + 0.04 * canvas.rng.random()
    points = 1 << max(7, min(10, round(math.log2(canvas.width / 2))))
    line = line_of(canvas, jagged(canvas.rng, points, roughness), base, rise)
    crest, foot = shades(theme, share)
    top, mask = canvas.ridge(line, crest, foot, rise * 1.25)
    texture = fog(canvas.rng, (18, 12), (max(2, mask.width // 3), max(2, mask.height // 3)), 4).resize(mask.size)
    texture = texture.point([round(min(70, max(0, (v - 124) * 0.9))) for v in range(256)])
    canvas.tint(mix(crest, (0, 0, 0), 0.35), top, ImageChops.multiply(mask, texture))
    return line


def _relief(canvas: Canvas, line: Sequence[Point], light: Point, tones: tuple[Colour, Colour], snow: float) -> None:
    """Snow on the tops of `line`, then shadows on the sides that face away from the light."""
    rng, heights = canvas.rng, [y for _, y in line]
    highest, lowest = min(heights), max(heights)
    limit = highest + (lowest - highest) * snow
    if snow > 0:
        teeth = jagged(rng, len(line), 0.62)
        ragged = (lowest - highest) * 0.34
        edge = [(x, max(y, limit + (tooth - 0.5) * ragged)) for (x, y), tooth in zip(line, teeth, strict=False)]
        canvas.shape([[*line, *reversed(edge)]], tones[0], 0.92)
    shadows: list[list[Point]] = []
    reach = max(3, len(line) // 40)
    for index in range(reach, len(line) - reach):
        x, y = line[index]
        around = heights[index - reach : index + reach + 1]
        if y > min(around) or y > lowest - (lowest - highest) * 0.2:
            continue
        shadows.append(_spur(canvas, line, index, 1 if light[0] < x else -1))
    canvas.shape(shadows, tones[1], 0.4)


def _spur(canvas: Canvas, line: Sequence[Point], peak: int, away: int) -> list[Point]:
    """From the peak down its far side to the next valley, and back up along a ragged spine."""
    end = peak
    while 0 < end < len(line) - 1 and line[end + away][1] >= line[end][1] - canvas.unit * 0.004:
        end += away
    side = [line[index] for index in range(peak, end + away, away) if 0 <= index < len(line)]
    x, y = line[peak]
    depth = max(y for _, y in side) - y + canvas.unit * 0.01
    spine: list[Point] = []
    for step in range(1, 9):
        spine.append((x + away * canvas.rng.uniform(-0.16, 0.26) * depth * step / 5, y + depth * step / 8))
    return [*side, *reversed(spine)]


def _mountains(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    unit, palette = canvas.unit, theme.palette
    for layer in range(5):
        share = layer / 4
        base = horizon + canvas.height * (0.02 + 0.3 * share**1.25)
        rise = unit * (0.3 - 0.1 * share) * (1.15 if layer == 1 else 0.85)
        if layer < 3:
            line = _range(canvas, theme, base, rise, 0.14 + share * 0.72)
            crest, _ = shades(theme, 0.14 + share * 0.72)
            bright = mix(mix(SNOW, palette.light, 0.4), crest, 0.25 + 0.3 * (theme.hour is not Hour.NOON))
            snow = (0.75 if theme.winter else 0.36) if layer == 1 else (0.6 if theme.winter else 0)
            _relief(canvas, line, light, (bright, mix(crest, (8, 10, 40), 0.55)), snow)
            canvas.mist(base + unit * 0.03, unit * 0.1, mix(palette.haze, palette.sky[-1][1], 0.6), 0.5 - 0.3 * share)
        else:
            _wood(canvas, theme, base - unit * 0.02, 0.2 + 0.8 * share, unit * (0.035 + 0.06 * (share - 0.7)))


def _lake(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    unit, palette = canvas.unit, theme.palette
    for layer in range(3):
        share = 0.18 + 0.26 * layer
        rise = unit * (0.34, 0.25, 0.1)[layer]
        line = _range(canvas, theme, horizon + unit * 0.01, rise, share)
        crest, _ = shades(theme, share)
        bright = mix(mix(SNOW, palette.light, 0.4), crest, 0.3)
        snow = (0.42 if layer == 0 else 0) + 0.3 * theme.winter * (layer < 2)
        _relief(canvas, line, light, (bright, mix(crest, (8, 10, 40), 0.5)), snow)
        canvas.mist(horizon - unit * 0.012, unit * 0.07, mix(palette.haze, palette.sky[-1][1], 0.6), 0.42)
    _wood(canvas, theme, horizon - unit * 0.004, 0.82, unit * 0.026, flat=True)
    paint_water(canvas, theme, horizon, light, 0.3)


def _sea(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    rng, unit = canvas.rng, canvas.unit
    if rng.random() < 0.75:
        for share in (0.2, 0.42):
            heights = jagged(rng, 128, 0.48)
            shift = rng.uniform(0.0, 0.55)
            slope = [h * math.sin(math.pi * min(1.0, max(0.0, (i / 128 - shift) * 2.1))) for i, h in enumerate(heights)]
            line = line_of(canvas, slope, horizon + 2, unit * 0.11)
            canvas.ridge(line, *shades(theme, share), unit * 0.1)
    canvas.mist(horizon, unit * 0.05, mix(theme.palette.haze, theme.palette.sky[-1][1], 0.75), 0.55)
    paint_water(canvas, theme, horizon, light, 0.52)


def _forest(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    unit, palette = canvas.unit, theme.palette
    line = _range(canvas, theme, horizon + unit * 0.02, unit * 0.26, 0.16)
    crest, _ = shades(theme, 0.16)
    _relief(canvas, line, light, (mix(SNOW, crest, 0.3), mix(crest, (8, 10, 40), 0.5)), 0.7 if theme.winter else 0.3)
    for layer in range(5):
        share = layer / 4
        base = horizon + canvas.height * (0.03 + 0.34 * share**1.3)
        canvas.mist(
            base - unit * 0.03, unit * 0.1, mix(palette.haze, palette.sky[-1][1], 0.65), 0.55 * (1 - share * 0.6)
        )
        _wood(canvas, theme, base, 0.28 + 0.72 * share, unit * (0.045 + 0.17 * share**1.6))


def _wood(canvas: Canvas, theme: Theme, base: float, share: float, tall: float, *, flat: bool = False) -> None:
    """A row of conifers on a rolling rise."""
    rng = canvas.rng
    crest, foot = shades(theme, share)
    if theme.hour is Hour.NOON or theme.hour is Hour.DAWN:
        crest = mix(crest, (30, 74, 52), 0.4 * share)
    ground = rolling(rng, 120, 1.4)
    line = line_of(canvas, ground, base, 0 if flat else tall * 0.9)
    x, trees = -tall * 0.3, [[*line, (canvas.width + 2.0, canvas.height + 2.0), (-2.0, canvas.height + 2.0)]]
    while x < canvas.width + tall * 0.3:
        foot_y = line[min(len(line) - 1, max(0, round(x / canvas.width * (len(line) - 1))))][1] + tall * 0.06
        trees.append(_conifer(canvas, (x, foot_y), tall * rng.uniform(0.5, 1.15)))
        x += tall * rng.uniform(0.1, 0.34)
    highest = min(y for tree in trees for _, y in tree)
    top, mask = canvas.stencil(highest, canvas.height, lambda pen: pen.fill(trees, 255))
    fill = gradient([(0, crest), (min(0.95, tall * 2.2 / mask.height), foot), (1, foot)], canvas.width, mask.height)
    canvas.image.paste(fill, (0, top), mask)
    if theme.winter:
        caps = [[(x, y - tall * 0.004) for x, y in tree[: len(tree) // 2]] for tree in trees[1:]]
        _, frost = canvas.stencil(highest, canvas.height, lambda pen: pen.strokes(caps, tall * 0.012, 150))
        canvas.tint(mix(SNOW, crest, 0.25), top, frost)


def _conifer(canvas: Canvas, foot: Point, tall: float) -> list[Point]:
    rng, (x, y) = canvas.rng, foot
    tiers = 7 if tall > canvas.unit * 0.05 else 5
    wide = tall * rng.uniform(0.15, 0.21)
    lean = rng.uniform(-0.01, 0.01) * tall
    left: list[Point] = [(x + lean, y - tall)]
    right: list[Point] = []
    for tier in range(1, tiers + 1):
        level = y - tall * (1 - tier / tiers) - tall * 0.06
        reach = wide * (tier / tiers) ** 0.85
        left += [(x - reach * rng.uniform(0.85, 1.1), level + tall * 0.03), (x - reach * 0.45, level - tall * 0.004)]
        right += [(x + reach * rng.uniform(0.85, 1.1), level + tall * 0.03), (x + reach * 0.45, level - tall * 0.004)]
    trunk = wide * 0.13
    return [*left, (x - trunk, y), (x + trunk, y), *reversed(right)]


def foreground(canvas: Canvas, theme: Theme) -> float:
    """A dark knoll for a subject to stand on; returns the row of its top."""
    top, rise, near = canvas.height * 0.86, canvas.unit * 0.05, theme.palette.near
    line: list[Point] = []
    for step in range(-1, 62):
        bend = 1 - math.cos((step / 60 - 0.5) * 2.6)
        line.append((canvas.width * step / 60, top + rise * bend * 2.2 + canvas.rng.uniform(0, 1.5)))
    canvas.ridge(line, near, mix(near, (0, 0, 0), 0.4), rise * 3)
    return top

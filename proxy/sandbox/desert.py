"""Desert: mesas far away, dunes near by."""

import math
from collections.abc import Sequence

from proxy.sandbox.canvas import Canvas, Colour, Point, mix, rolling
from proxy.sandbox.terrain import line_of, shades
from proxy.sandbox.theme import Hour, Theme


def paint_desert(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    """Mesas far away, dunes with a sharp edge between light and shade near by."""
    rng, unit, palette = canvas.rng, canvas.unit, theme.palette
    dim = {Hour.NOON: 0.12, Hour.DAWN: 0.12, Hour.DUSK: 0.42}.get(theme.hour, 0.66)
    sand = mix((232, 166, 98), palette.haze, 0.12 + dim)
    dark = mix((112, 48, 40), palette.near, dim)
    _mesas(canvas, theme, horizon)
    for layer in range(4):
        share = layer / 3
        base = horizon + canvas.height * (0.05 + 0.33 * share**1.2)
        rise = unit * (0.07 + 0.09 * share)
        line = line_of(canvas, rolling(rng, 200, 0.7 + 0.7 * rng.random()), base, rise)
        crest = mix(mix(sand, palette.sky[-1][1], 0.35 * (1 - share)), dark, 0.12 + 0.3 * share)
        canvas.ridge(line, crest, mix(crest, dark, 0.35), rise * 3)
        _dune_shadow(canvas, line, light, mix(dark, palette.near, 0.2 * dim + 0.3 * share * dim))
        if layer < 2:
            canvas.mist(base + rise * 0.6, unit * 0.05, mix(palette.haze, palette.sky[-1][1], 0.7), 0.3)


def _dune_shadow(canvas: Canvas, line: Sequence[Point], light: Point, shade: Colour) -> None:
    """The lee side of the highest dune: from its crest a long winding edge runs down towards the viewer."""
    heights = [y for _, y in line]
    index = min(range(8, len(line) - 8), key=heights.__getitem__)
    x, y = line[index]
    away = 1 if light[0] < x else -1
    end = index
    while 0 < end < len(line) - 1 and heights[end + away] >= heights[end] - 0.5:
        end += away
    side = [line[at] for at in range(index, end + away, away)]
    (far, low), bulge = side[-1], abs(side[-1][0] - x) * canvas.rng.uniform(0.16, 0.26)
    edge: list[Point] = []
    for step in range(33):
        t = step / 32
        swing = 0.2 * math.sin(math.pi * t) + 0.1 * math.sin(math.tau * t)
        edge.append((x + (far - x) * (t - swing), y + (low - y) * t + bulge * math.sin(math.pi * t**0.8)))
    canvas.shape([[*side, *reversed(edge)]], shade, 0.36)


def _mesas(canvas: Canvas, theme: Theme, horizon: float) -> None:
    rng, unit = canvas.rng, canvas.unit
    for share in (0.18, 0.36):
        x, line = -0.1 * canvas.width, [(-2.0, horizon)]
        while x < canvas.width:
            x += unit * rng.uniform(0.08, 0.4)
            wide, tall = unit * rng.uniform(0.07, 0.26), unit * rng.uniform(0.04, 0.15)
            slope = tall * 0.35
            line += [(x - slope, horizon), (x, horizon - tall * 0.55), (x + slope * 0.15, horizon - tall)]
            line += [(x + wide, horizon - tall * rng.uniform(0.96, 1)), (x + wide + slope * 0.2, horizon - tall * 0.5)]
            line.append((x + wide + slope, horizon))
            x += wide + slope
        line.append((canvas.width + 2.0, horizon))
        red = mix(shades(theme, share)[0], (150, 70, 52), 0.35)
        canvas.ridge(line, red, mix(red, theme.palette.sky[-1][1], 0.5), unit * 0.16)

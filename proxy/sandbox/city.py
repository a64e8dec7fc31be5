"""A city by the water: towers, windows, signs."""

import math
from collections.abc import Sequence

from PIL import ImageFilter

from proxy.sandbox.canvas import Canvas, Pen, Point, gradient, mix
from proxy.sandbox.terrain import shades
from proxy.sandbox.theme import Hour, Theme
from proxy.sandbox.water import paint_water


def paint_city(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    """Four rows of towers by a river, windows lit when it is dark."""
    unit = canvas.unit
    for layer in range(4):
        share = 0.16 + 0.26 * layer
        tall = unit * (0.5, 0.44, 0.34, 0.2)[layer]
        _towers(canvas, theme, horizon, share, tall)
        if layer < 3:
            haze = mix(theme.palette.haze, theme.palette.sky[-1][1], 0.5)
            canvas.mist(horizon - unit * 0.02, unit * 0.14, haze, 0.4)
    canvas.shape(
        [
            [
                (0, horizon - unit * 0.008),
                (canvas.width, horizon - unit * 0.008),
                (canvas.width, horizon + 2),
                (0, horizon + 2),
            ]
        ],
        theme.palette.near,
    )
    paint_water(canvas, theme, horizon, light, 0.18)


def _towers(canvas: Canvas, theme: Theme, ground: float, share: float, tall: float) -> None:
    rng, unit = canvas.rng, canvas.unit
    boxes: list[tuple[float, float, float]] = []
    x = -unit * 0.03
    while x < canvas.width:
        wide = unit * rng.uniform(0.045, 0.105) * (0.75 + 0.45 * share)
        swell = 0.62 + 0.38 * math.sin(x / canvas.width * math.pi * 1.6 + share * 5) ** 2
        boxes.append((x, wide, tall * rng.uniform(0.3, 1.0) * swell))
        x += wide + unit * rng.choice((0.0, 0.004, 0.004, 0.018))
    outline = [part for box in boxes for part in _tower(canvas, box, ground)]
    crest, foot = shades(theme, share)
    highest = min(y for polygon in outline for _, y in polygon)
    top, mask = canvas.stencil(highest, ground + 1, lambda pen: pen.fill(outline, 255))
    canvas.image.paste(gradient([(0, crest), (1, mix(crest, foot, 0.7))], canvas.width, mask.height), (0, top), mask)
    _facades(canvas, theme, boxes, ground, share)


def _tower(canvas: Canvas, box: tuple[float, float, float], ground: float) -> list[list[Point]]:
    """A body, and on some a set-back, a slanted roof or a mast."""
    rng, (x, wide, tall) = canvas.rng, box
    roof, style = ground - tall, rng.random()

    def block(left: float, top: float, right: float, bottom: float) -> list[Point]:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]

    parts = [block(x, roof, x + wide, ground + 1)]
    if style < 0.3:
        parts.append(block(x + wide * 0.2, roof - wide * 0.35, x + wide * 0.8, roof))
        parts.append(block(x + wide * 0.35, roof - wide * 0.6, x + wide * 0.65, roof))
    elif style < 0.37:
        parts.append([(x, roof), (x + wide, roof - wide * 0.4), (x + wide, roof)])
    if style < 0.14 or 0.4 < style < 0.55:
        middle, mast = x + wide * 0.5, roof - wide * rng.uniform(0.7, 1.3)
        parts.append(block(middle - wide * 0.018, mast, middle + wide * 0.018, roof))
    return parts


def _facades(
    canvas: Canvas, theme: Theme, boxes: Sequence[tuple[float, float, float]], ground: float, share: float
) -> None:
    """Windows in two colours and, in a neon city, signs with their glow."""
    rng, unit = canvas.rng, canvas.unit
    dark = theme.hour in (Hour.NIGHT, Hour.NEON, Hour.AURORA, Hour.DUSK)
    lit = (0.46 if theme.hour is not Hour.DUSK else 0.3) if dark else 0.16
    pitch, masks = unit * (0.0062 + 0.0034 * share), []
    warm = ((255, 214, 140), (255, 244, 214)) if theme.hour is not Hour.NEON else ((255, 190, 240), (130, 240, 255))
    if not dark:
        warm = ((235, 245, 250), (255, 250, 235))
    panes: tuple[list[tuple[float, float, int]], list[tuple[float, float, int]]] = ([], [])
    for x, wide, tall in boxes:
        columns, rows = max(1, int((wide - pitch) / pitch)), max(1, int((tall - pitch) / (pitch * 1.5)))
        margin, busy = (wide - columns * pitch) / 2, lit * rng.uniform(0.4, 1.5)
        for cell in range(columns * rows):
            if rng.random() < busy:
                left, top = x + margin + (cell % columns) * pitch, ground - tall + pitch * (0.9 + cell // columns * 1.5)
                panes[rng.random() < 0.35].append((left, top, rng.randrange(110, 256)))
    for kind in (0, 1):

        def draw(pen: Pen, kind: int = kind) -> None:
            for left, top, strength in panes[kind]:
                pen.box(left + pitch * 0.2, top, left + pitch * 0.8, top + pitch * 0.85, strength)

        masks.append(canvas.stencil(ground - max(tall for _, _, tall in boxes), ground, draw))
    for tone, (top, mask) in zip(warm, masks, strict=True):
        if dark:
            bloom = mask.reduce(4).filter(ImageFilter.GaussianBlur(unit * 0.0016)).resize(mask.size)
            canvas.tint(tone, top, bloom.point([round(v * 0.5 * share) for v in range(256)]))
        canvas.tint(tone, top, mask.point([round(v * (0.35 + 0.6 * share)) for v in range(256)]))
    if theme.hour is Hour.NEON and share > 0.3:
        _signs(canvas, boxes, ground)


def _signs(canvas: Canvas, boxes: Sequence[tuple[float, float, float]], ground: float) -> None:
    rng, unit = canvas.rng, canvas.unit
    for x, wide, tall in boxes:
        if rng.random() > 0.34 or tall < unit * 0.09:
            continue
        tone = rng.choice(((255, 45, 149), (0, 240, 255), (255, 214, 10), (124, 92, 255), (57, 255, 160)))
        left, top = x + wide * rng.choice((0.08, 0.7)), ground - tall * rng.uniform(0.7, 0.92)
        across, down = wide * 0.17, tall * rng.uniform(0.16, 0.34)
        middle = (left + across / 2, top + down / 2)
        canvas.glow(middle, max(across, down) * 1.1, tone, 0.6, 2.4)
        canvas.shape([[(left, top), (left + across, top), (left + across, top + down), (left, top + down)]], tone, 0.9)
        glyphs: list[list[Point]] = []
        for step in range(4):
            y = top + down * (0.07 + step * 0.235)
            inset = across * rng.uniform(0.18, 0.34)
            glyphs.append(
                [
                    (left + inset, y),
                    (left + across - inset, y),
                    (left + across - inset, y + down * 0.13),
                    (left + inset, y + down * 0.13),
                ]
            )
        canvas.shape(glyphs, mix(tone, (255, 255, 255), 0.75), 0.95)

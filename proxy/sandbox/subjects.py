"""Silhouettes that a prompt can ask for by name."""

import math
from collections.abc import Sequence

from PIL import Image, ImageChops

from proxy.sandbox.canvas import Canvas, Colour, Pen, Point, fade, mix
from proxy.sandbox.theme import Hour, Subject, Theme

_CAT_BODY = (
    (-0.27, 0.0), (-0.325, -0.14), (-0.3, -0.32), (-0.21, -0.5), (-0.155, -0.68), (0.0, -0.78), (0.155, -0.68),
    (0.21, -0.5), (0.3, -0.32), (0.325, -0.14), (0.27, 0.0),
)  # fmt: skip
_CAT_HEAD = (
    (-0.225, -0.79), (-0.21, -0.9), (-0.12, -0.985), (0.0, -1.0), (0.12, -0.985), (0.21, -0.9), (0.225, -0.79),
    (0.14, -0.69), (0.0, -0.66), (-0.14, -0.69),
)  # fmt: skip
_CAT_EARS = (
    ((-0.215, -0.86), (-0.225, -1.0), (-0.2, -1.16), (-0.12, -1.07), (-0.03, -0.98)),
    ((0.215, -0.86), (0.225, -1.0), (0.2, -1.16), (0.12, -1.07), (0.03, -0.98)),
)


def paint_subjects(canvas: Canvas, theme: Theme, horizon: float, ground: float, light: Point) -> None:
    """Every subject of the theme, the far ones first. `ground` is the top of the foreground."""
    if Subject.BALLOONS in theme.subjects:
        _balloons(canvas, theme, horizon)
    if Subject.LIGHTHOUSE in theme.subjects:
        _lighthouse(canvas, theme, horizon, light)
    if Subject.SAILBOAT in theme.subjects:
        _sailboat(canvas, theme, horizon, light)
    if Subject.TREE in theme.subjects:
        _tree(canvas, theme, (canvas.width * 0.5 + canvas.unit * 0.2, ground + canvas.unit * 0.02))
    if Subject.CAT in theme.subjects:
        _cat(canvas, theme, (canvas.width * 0.5 - canvas.unit * 0.05, ground + canvas.unit * 0.012), light)


def _curve(points: Sequence[Point], steps: int = 8) -> list[Point]:
    """A smooth closed outline through `points` (Catmull-Rom)."""
    outline: list[Point] = []
    count = len(points)
    for index in range(count):
        a, b, c, d = (points[(index + offset) % count] for offset in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            outline.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return outline


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def _cat(canvas: Canvas, theme: Theme, foot: Point, light: Point) -> None:
    """A sitting cat that watches the sky, with a rim of light on the side of sun or moon."""
    size = canvas.unit * 0.3
    spots = [
        (t, 0.33 + 0.36 * math.sin(t * 2.3), -0.04 - 0.5 * t**1.5 + 0.035 * math.sin(t * 9))
        for t in (i / 24 for i in range(25))
    ]

    def at(x: float, y: float) -> Point:
        return foot[0] + x * size, foot[1] + y * size

    def draw(pen: Pen) -> None:
        pen.fill([_curve([at(*p) for p in _CAT_BODY]), _curve([at(*p) for p in _CAT_HEAD])], 255)
        pen.fill([[at(*p) for p in ear] for ear in _CAT_EARS], 255)
        for t, x, y in spots:
            radius = size * (0.062 - 0.018 * t)
            pen.dot(*at(x, y), radius, radius, 255)
        pen.fill([[at(-0.36, -0.02), at(0.42, -0.02), at(0.34, 0.06), at(-0.32, 0.06)]], 255)

    top, mask = canvas.stencil(foot[1] - size * 1.2, foot[1] + size * 0.1, draw)
    rim = mix(theme.palette.light, theme.palette.sky[-1][1], 0.35)
    fur = mix(theme.palette.near, (0, 0, 0), 0.35)
    shift = max(1, round(size * 0.011))
    canvas.tint(rim, top, mask)
    towards = -1 if light[0] < foot[0] else 1
    canvas.image.paste(fur, (-towards * shift, top + shift), mask)
    canvas.image.paste(fur, (0, top + shift * 2), mask)


def _sailboat(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    size = canvas.unit * 0.085
    x = canvas.width * (0.36 if light[0] > canvas.width / 2 else 0.64)
    y = horizon + canvas.unit * 0.055
    hull: list[Point] = [(-0.62, -0.16), (0.7, -0.16), (0.5, 0.04), (-0.46, 0.04)]
    main: list[Point] = [(0.02, -1.5), (0.05, -0.24), (0.62, -0.24)]
    jib: list[Point] = [(-0.03, -1.35), (-0.03, -0.24), (-0.56, -0.24)]

    def place(points: Sequence[Point], flip: float = 1) -> list[Point]:
        return [(x + px * size, y + py * size * flip) for px, py in points]

    sail = mix(theme.palette.light, (255, 255, 255), 0.3)
    canvas.shape([place(main, -0.75), place(jib, -0.75)], sail, 0.2)
    canvas.shape([place(hull, -1)], theme.palette.near, 0.35)
    canvas.shape([place(hull)], theme.palette.near)
    canvas.shape([place(main)], mix(sail, theme.palette.haze, 0.12), 0.97)
    canvas.shape([place(jib)], mix(sail, theme.palette.haze, 0.4), 0.97)


def _lighthouse(canvas: Canvas, theme: Theme, horizon: float, light: Point) -> None:
    """On a headland opposite the sun, its lamp burning."""
    unit, near = canvas.unit, theme.palette.near
    right = light[0] < canvas.width / 2
    side = 1 if right else -1
    x = canvas.width * (0.76 if right else 0.24)
    edge = canvas.width + 4 if right else -4
    base = horizon - unit * 0.035
    rock = [
        (
            x - side * unit * (0.2 - 0.03 * s),
            base + unit * 0.085 * (1 - (s / 6) ** 0.8) + canvas.rng.uniform(0, 0.012) * unit,
        )
        for s in range(7)
    ]
    canvas.shape(
        [
            [
                *rock,
                (x + side * unit * 0.12, base - unit * 0.012),
                (edge, base - unit * 0.03),
                (edge, horizon + unit * 0.11),
                (x - side * unit * 0.12, horizon + unit * 0.1),
            ]
        ],
        mix(near, theme.palette.haze, 0.1),
    )
    tall, wide = unit * 0.31, unit * 0.036
    lamp = (x, base - tall * 0.985)
    if theme.hour is not Hour.NOON:
        _beam(canvas, lamp, side, unit * 0.8)
    _tower(canvas, (x, base + unit * 0.012), (wide, tall), mix((240, 236, 228), theme.palette.haze, 0.3), near)
    canvas.glow(lamp, unit * 0.11, (255, 236, 170), 0.95, 2.6)


def _beam(canvas: Canvas, lamp: Point, side: int, reach: float) -> None:
    """A cone of light away from the land, fading with distance."""
    end = lamp[0] - side * reach
    cone = [lamp, (end, lamp[1] - reach * 0.15), (end, lamp[1] + reach * 0.02)]
    top, mask = canvas.stencil(lamp[1] - reach * 0.16, lamp[1] + reach * 0.03, lambda pen: pen.fill([cone], 255))
    span = max(2, round(reach))
    ramp = fade([0.62, 0.3, 0.12, 0.0], 1, span).transpose(Image.Transpose.ROTATE_90)
    if side > 0:
        ramp = ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    light = Image.new("L", mask.size)
    light.paste(ramp.resize((span, mask.height)), (round(min(lamp[0], end)), 0))
    canvas.tint((255, 240, 190), top, ImageChops.multiply(mask, light))


def _tower(canvas: Canvas, foot: Point, size: tuple[float, float], white: Colour, near: Colour) -> None:
    (x, base), (wide, tall) = foot, size

    def slice_of(low: float, high: float) -> list[Point]:
        ends = [(base - tall * share, wide * (1 - 0.38 * share)) for share in (low, high)]
        return _trapeze(x, ends[0], ends[1])

    red = mix((186, 44, 40), near, 0.25)
    for step in range(6):
        canvas.shape([slice_of(step * 0.155, (step + 1) * 0.155)], red if step % 2 else white)
    shade = slice_of(0, 0.93)
    canvas.shape([[(x + wide * 0.18, base), shade[1], shade[2], (x + wide * 0.12, base - tall * 0.93)]], near, 0.38)
    gallery, lantern = base - tall * 0.93, wide * 0.42
    canvas.shape([_trapeze(x, (gallery, wide * 0.86), (gallery - tall * 0.022, wide * 0.7))], near)
    canvas.shape([_trapeze(x, (gallery - tall * 0.02, lantern), (gallery - tall * 0.1, lantern))], (255, 238, 180))
    canvas.shape([_trapeze(x, (gallery - tall * 0.1, lantern * 1.35), (gallery - tall * 0.17, 0))], near)


def _trapeze(x: float, bottom: tuple[float, float], top: tuple[float, float]) -> list[Point]:
    """Symmetrical about `x`; each end is a row and half a width."""
    return [(x - bottom[1], bottom[0]), (x + bottom[1], bottom[0]), (x + top[1], top[0]), (x - top[1], top[0])]


def _balloons(canvas: Canvas, theme: Theme, horizon: float) -> None:
    rng = canvas.rng
    tones: tuple[Colour, ...] = ((224, 78, 57), (242, 169, 59), (60, 130, 170), (186, 70, 110), (80, 150, 110))
    for index in range(6):
        size = canvas.unit * (0.115, 0.075, 0.055, 0.04, 0.03, 0.024)[index]
        x, y = canvas.width * ((index * 0.37 + rng.uniform(0.1, 0.25)) % 0.84 + 0.08), horizon * rng.uniform(0.2, 0.62)
        tone = mix(rng.choice(tones), theme.palette.haze, 0.12 + 0.11 * index)
        _balloon(canvas, (x, y), size, tone)


def _balloon(canvas: Canvas, centre: Point, size: float, tone: Colour) -> None:
    x, y = centre
    for gore in range(5, 0, -1):
        width = math.sin(gore / 5 * math.pi / 2)
        outline: list[Point] = []
        for step in range(41):
            angle = math.tau * step / 40
            drop = math.sin(angle)
            pinch = 1 - 0.45 * max(0.0, drop) ** 2.2
            outline.append(
                (x + size * width * math.cos(angle) * pinch, y + size * (drop * 1.08 if drop < 0 else drop * 1.35))
            )
        canvas.shape([outline], tone if gore % 2 else mix(tone, (255, 248, 232), 0.62))
    basket = y + size * 1.72
    canvas.shape(
        [
            [
                (x - size * 0.14, basket),
                (x + size * 0.14, basket),
                (x + size * 0.11, basket + size * 0.2),
                (x - size * 0.11, basket + size * 0.2),
            ]
        ],
        (74, 50, 38),
    )
    ropes = [[(x + s * size * 0.22, y + size * 1.3), (x + s * size * 0.13, basket)] for s in (-1, 1)]
    top, mask = canvas.stencil(y, basket + 1, lambda pen: pen.strokes(ropes, size * 0.02, 200))
    canvas.tint((74, 50, 38), top, mask)


def _tree(canvas: Canvas, theme: Theme, foot: Point) -> None:
    """A broad lone tree: a branching trunk under clumps of leaves."""
    rng, tall = canvas.rng, canvas.unit * 0.34
    limbs: list[tuple[Point, Point, float]] = []
    crown: list[Point] = []

    def grow(start: Point, angle: float, length: float, depth: int) -> None:
        end = (start[0] + math.cos(angle) * length, start[1] - math.sin(angle) * length)
        limbs.append((start, end, tall * 0.016 * 1.55**depth))
        if depth == 0:
            crown.append(end)
            return
        for turn in (-0.5, 0.0, 0.5):
            grow(end, angle + turn + rng.uniform(-0.2, 0.2), length * rng.uniform(0.55, 0.72), depth - 1)

    grow(foot, math.pi / 2 + rng.uniform(-0.06, 0.06), tall * 0.36, 3)

    def draw(pen: Pen) -> None:
        for start, end, width in limbs:
            pen.stroke([start, end], width, 255)
        for x, y in crown:
            for _ in range(5):
                radius = tall * rng.uniform(0.018, 0.06)
                pen.dot(x + rng.gauss(0, 0.04) * tall, y + rng.gauss(0, 0.03) * tall, radius * 1.2, radius, 245)

    top, mask = canvas.stencil(0, foot[1] + tall * 0.05, draw)
    canvas.tint(mix(theme.palette.near, (0, 0, 0), 0.25), top, mask)

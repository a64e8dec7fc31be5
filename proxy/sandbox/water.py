"""Water: the picture above it upside down, waves, and the path of the light."""

import math

from PIL import Image

from proxy.sandbox.canvas import Canvas, Pen, Point, fade, gradient, mix
from proxy.sandbox.theme import Hour, Theme


def paint_water(canvas: Canvas, theme: Theme, horizon: float, light: Point, murk: float) -> None:
    """The picture above, upside down, blurred by waves, under the light's own path."""
    first = round(horizon)
    rows = canvas.height - first
    if rows < 4:
        return
    palette = theme.palette
    source = canvas.image.crop((0, max(0, first - round(rows * 1.25)), canvas.width, first))
    mirror = source.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((canvas.width, rows), Image.Resampling.BILINEAR)
    small = mirror.resize((canvas.width, max(2, rows // 5))).resize((canvas.width, rows), Image.Resampling.BICUBIC)
    rough = _waver(canvas, small)
    near = mix(palette.near, palette.sky[0][1], 0.35)
    depth = gradient(
        [(0, mix(palette.haze, palette.sky[-1][1], 0.45)), (0.25, mix(palette.haze, near, 0.55)), (1, near)],
        canvas.width,
        rows,
    )
    water = Image.composite(depth, rough, fade([murk * 0.5, murk, murk + 0.18, murk + 0.34], canvas.width, rows))
    canvas.image.paste(water, (0, first))
    _ripples(canvas, theme, first, rows)
    if theme.hour is not Hour.AURORA:
        _glitter(canvas, theme, first, rows, light[0])


def _waver(canvas: Canvas, mirror: Image.Image) -> Image.Image:
    """Shifts rows sideways, more the nearer they are."""
    rough, (width, rows) = mirror.copy(), mirror.size
    phase, row = canvas.rng.uniform(0, math.tau), 0
    while row < rows:
        near = row / rows
        thick = 1 + round(near * canvas.unit / 220)
        swing = (0.6 + near * 9) * canvas.unit / 1000
        shift = round(swing * (math.sin(row / (2.2 + near * 9) + phase) + canvas.rng.uniform(-0.8, 0.8)))
        strip = mirror.crop((0, row, width, min(rows, row + thick)))
        rough.paste(strip, (shift, row))
        row += thick
    return rough


def _ripples(canvas: Canvas, theme: Theme, first: int, rows: int) -> None:
    """Fine bright and dark streaks, wider towards the viewer."""
    rng, unit = canvas.rng, canvas.unit
    tones = (mix(theme.palette.sky[-1][1], (255, 255, 255), 0.15), mix(theme.palette.near, (0, 0, 0), 0.2))
    for tone, strength in zip(tones, (62, 74), strict=True):

        def draw(pen: Pen, strength: int = strength) -> None:
            for _ in range(round(260 * max(1.0, canvas.width / unit))):
                depth = rng.random() ** 1.4
                y = first + rows * depth
                across = unit * (0.006 + 0.05 * depth) * rng.uniform(0.4, 1.3)
                pen.dot(
                    rng.random() * canvas.width,
                    y,
                    across,
                    unit * (0.0006 + 0.0018 * depth),
                    rng.randrange(10, strength),
                )

        top, mask = canvas.stencil(first, canvas.height, draw)
        canvas.tint(tone, top, mask)


def _glitter(canvas: Canvas, theme: Theme, first: int, rows: int, x: float) -> None:
    rng, unit = canvas.rng, canvas.unit

    def draw(pen: Pen) -> None:
        for _ in range(520):
            depth = rng.random() ** 1.25
            spread = unit * (0.02 + 0.13 * depth)
            across = unit * (0.004 + 0.022 * depth) * rng.uniform(0.4, 1.4)
            pen.dot(
                x + rng.gauss(0, 1) * spread * 0.6, first + rows * depth, across, unit * (0.0007 + 0.002 * depth),
                round(rng.uniform(60, 235) * (1 - 0.55 * depth)),
            )  # fmt: skip

    top, mask = canvas.stencil(first, canvas.height, draw)
    canvas.tint(mix(theme.palette.light, theme.palette.sky[-1][1], 0.3), top, mask)

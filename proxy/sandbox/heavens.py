"""The upper half of a picture: stars, sun or moon, clouds, aurora, birds, falling snow."""

import math

from PIL import Image, ImageChops, ImageFilter

from proxy.sandbox.canvas import Canvas, Colour, Pen, Point, colour, fade, fog, mix
from proxy.sandbox.theme import Hour, Theme

_DARK = (Hour.NIGHT, Hour.NEON, Hour.AURORA)
_AURORAS = (("#5dffb0", "#3ad6c8", "#8b5cf6"), ("#7dffa0", "#41c7ff", "#e05cff"), ("#9dffcb", "#2fe39a", "#3f8cff"))


def paint_heavens(canvas: Canvas, theme: Theme, horizon: float) -> Point:
    """Sky with everything in it; returns the centre of sun or moon."""
    palette = theme.palette
    canvas.sky(palette.sky, horizon)
    light = _light_position(canvas, theme, horizon)
    if theme.hour in _DARK:
        _stars(canvas, horizon, 0.55 if theme.hour is Hour.NEON else 1.0)
    if theme.hour is Hour.AURORA:
        _aurora(canvas, horizon)
        return light
    _clouds(canvas, theme, horizon)
    _sun_or_moon(canvas, theme, light)
    return light


def _light_position(canvas: Canvas, theme: Theme, horizon: float) -> Point:
    rng = canvas.rng
    x = canvas.width * rng.choice((rng.uniform(0.22, 0.4), rng.uniform(0.6, 0.78)))
    low = {Hour.DAWN: (0.66, 0.8), Hour.DUSK: (0.68, 0.84), Hour.NEON: (0.42, 0.52)}.get(theme.hour, (0.24, 0.4))
    return x, horizon * rng.uniform(*low)


def _stars(canvas: Canvas, horizon: float, density: float) -> None:
    rng = canvas.rng
    count = round(420 * density * max(1.0, canvas.width * horizon / canvas.unit**2))
    grain = canvas.unit / 1000

    def sprinkle(pen: Pen) -> None:
        for _ in range(count):
            height = rng.random() ** 1.5
            size = grain * (0.45 + 1.3 * rng.random() ** 5)
            pen.dot(
                rng.random() * canvas.width,
                height * horizon * 0.92,
                size,
                size,
                round(rng.uniform(50, 235) * (1 - height)),
            )

    top, mask = canvas.stencil(0, horizon, sprinkle)
    canvas.tint((255, 252, 240), top, mask)
    for _ in range(round(7 * density)):
        where = (rng.random() * canvas.width, rng.random() * horizon * 0.5)
        canvas.glow(where, grain * 9, (214, 228, 255), 0.75, 3.0)


def _sun_or_moon(canvas: Canvas, theme: Theme, light: Point) -> None:
    tint, unit = theme.palette.light, canvas.unit
    night = theme.hour is Hour.NIGHT
    radius = unit * {Hour.NOON: 0.036, Hour.NIGHT: 0.058, Hour.NEON: 0.17}.get(theme.hour, 0.066)
    warm = mix(theme.palette.sky[-1][1], tint, 0.45)
    canvas.glow(light, unit * 0.85, warm, 0.34 if night else 0.62, 2.6)
    canvas.glow(light, radius * 3.2, tint, 0.5 if night else 0.8, 2.4)
    if theme.hour is Hour.NEON:
        _striped_sun(canvas, light, radius, tint)
        return
    top, mask = canvas.stencil(
        light[1] - radius, light[1] + radius + 1, lambda pen: pen.dot(*light, radius, radius, 255)
    )
    canvas.tint(mix(tint, (255, 255, 255), 0.35), top, mask)
    if night:
        _craters(canvas, light, radius, tint)


def _striped_sun(canvas: Canvas, light: Point, radius: float, tint: Colour) -> None:
    def disc(pen: Pen) -> None:
        pen.dot(*light, radius, radius, 240)
        for step in range(6):
            y = light[1] + radius * (0.02 + step * 0.17)
            pen.box(light[0] - radius, y, light[0] + radius, y + radius * (0.025 + step * 0.014), 0)

    top, mask = canvas.stencil(light[1] - radius, light[1] + radius + 1, disc)
    shades = fade([1, 0.9, 0.55, 0.3], *mask.size)
    canvas.tint(mix(tint, (255, 60, 120), 0.4), top, mask)
    canvas.tint(mix(tint, (255, 245, 170), 0.6), top, ImageChops.multiply(mask, shades))


def _craters(canvas: Canvas, light: Point, radius: float, tint: Colour) -> None:
    spots = [(-0.35, -0.2, 0.3), (0.28, -0.36, 0.2), (0.1, 0.28, 0.34), (-0.42, 0.36, 0.16), (0.5, 0.12, 0.17)]

    def seas(pen: Pen) -> None:
        for dx, dy, size in spots:
            pen.dot(light[0] + dx * radius, light[1] + dy * radius, size * radius, size * radius * 0.85, 60)

    top, mask = canvas.stencil(light[1] - radius, light[1] + radius + 1, seas)
    canvas.tint(mix(tint, (110, 120, 140), 0.7), top, mask.filter(ImageFilter.GaussianBlur(radius * 0.06)))


def _clouds(canvas: Canvas, theme: Theme, horizon: float) -> None:
    rng, dark = canvas.rng, theme.hour in _DARK
    small = (max(8, canvas.width // 3), max(8, round(horizon) // 3))
    wide = max(2, round(3 * canvas.width / canvas.unit))
    noise = fog(rng, (wide, 7), small, 5)
    threshold = rng.randrange(126, 144) + (8 if dark else 0)
    strength = 0.45 if dark else 0.85
    curve = [round(255 * strength * min(1.0, max(0.0, (v - threshold) / 62)) ** 1.15) for v in range(256)]
    bands = fade([0.15, 0.75, 1, 0.9, 0.55, 0.15], *small)
    cover = ImageChops.multiply(noise.point(curve), bands)
    under = ImageChops.offset(cover, 0, max(1, small[1] // 60))
    size = (canvas.width, max(8, round(horizon)))
    shadow = mix(theme.palette.cloud, theme.palette.sky[1][1], 0.6)
    canvas.tint(shadow, 0, under.resize(size, Image.Resampling.BICUBIC).point([round(v * 0.6) for v in range(256)]))
    canvas.tint(theme.palette.cloud, 0, cover.resize(size, Image.Resampling.BICUBIC))


def _aurora(canvas: Canvas, horizon: float) -> None:
    """Curtains of light: each column of a small picture is one ray, stretched and hung along a curve."""
    rng = canvas.rng
    width, height = 240, max(40, round(240 * horizon / canvas.width))
    sheet = Image.new("RGB", (width, height))
    hues = [colour(text) for text in rng.choice(_AURORAS)]
    for curtain in range(3):
        _curtain(canvas, sheet, hues, 0.52 + 0.17 * curtain)
    sheet = sheet.filter(ImageFilter.GaussianBlur(1.1))
    size = (canvas.width, max(8, round(horizon)))
    layer = sheet.resize(size, Image.Resampling.BICUBIC)
    below = canvas.image.crop((0, 0, *size))
    canvas.image.paste(ImageChops.screen(below, layer), (0, 0))


def _curtain(canvas: Canvas, sheet: Image.Image, hues: list[Colour], base: float) -> None:
    rng, (width, height) = canvas.rng, sheet.size
    rays = Image.frombytes("L", (40, 1), rng.randbytes(40)).resize((width, 1), Image.Resampling.BICUBIC).tobytes()
    fine = Image.frombytes("L", (120, 1), rng.randbytes(120)).resize((width, 1), Image.Resampling.BICUBIC).tobytes()
    phases = [rng.uniform(0, math.tau) for _ in range(3)]
    ray = Image.new("RGB", (1, 48))
    for row in range(48):
        rise = row / 47  # 0 at the top of the ray, 1 at its bright hem
        tint = mix(hues[2], hues[1], min(1, rise * 1.6)) if rise < 0.6 else mix(hues[1], hues[0], (rise - 0.6) / 0.4)
        power = rise**1.7 if rise < 0.93 else (1 - rise) / 0.07
        ray.putpixel((0, row), mix((0, 0, 0), tint, max(0.0, power)))
    for column in range(width):
        along = column / width * math.tau
        wave = 0.5 * math.sin(along * 0.9 + phases[0]) + 0.3 * math.sin(along * 2.1 + phases[1])
        hem = height * (base + 0.13 * wave)
        power = (0.35 + 0.75 * rays[column] / 255) * (0.7 + 0.45 * fine[column] / 255)
        power *= 0.72 + 0.38 * math.sin(along * 0.8 + phases[2])
        length = max(6, round(height * (0.36 + 0.4 * rays[column] / 255)))
        strip = ray.resize((1, length))
        strip = Image.blend(Image.new("RGB", strip.size), strip, min(1.0, max(0.0, power)))
        spot = (column, round(hem - length))
        box = (spot[0], max(0, spot[1]), column + 1, min(height, spot[1] + length))
        if box[3] <= box[1]:
            continue
        cut = strip.crop((0, box[1] - spot[1], 1, box[3] - spot[1]))
        sheet.paste(ImageChops.screen(sheet.crop(box), cut), box[:2])


def birds(canvas: Canvas, tint: Colour, horizon: float) -> None:
    """A loose flock, each bird two strokes."""
    rng, unit = canvas.rng, canvas.unit
    x, y = canvas.width * rng.uniform(0.2, 0.75), horizon * rng.uniform(0.25, 0.5)
    flock: list[list[Point]] = []
    for _ in range(rng.randrange(5, 10)):
        bx, by = x + rng.gauss(0, 0.09) * unit, y + rng.gauss(0, 0.04) * unit
        span, lift = unit * rng.uniform(0.008, 0.017), rng.uniform(0.3, 0.65)
        flock.append([
            (bx - span, by - span * lift * 0.7), (bx - span * 0.5, by - span * lift), (bx, by),
            (bx + span * 0.5, by - span * lift), (bx + span, by - span * lift * 0.7),
        ])  # fmt: skip

    def draw(pen: Pen) -> None:
        for wings in flock:
            pen.stroke(wings, unit * 0.0022, 225)

    top, mask = canvas.stencil(0, horizon, draw)
    canvas.tint(tint, top, mask)


def snowfall(canvas: Canvas) -> None:
    """Flakes near and far."""
    rng, grain = canvas.rng, canvas.unit / 1000

    def draw(pen: Pen) -> None:
        for _ in range(420):
            size = grain * rng.choice((1.0, 1.4, 1.8, 2.6, 4.2))
            pen.dot(rng.random() * canvas.width, rng.random() * canvas.height, size, size, rng.randrange(60, 210))

    top, mask = canvas.stencil(0, canvas.height, draw)
    canvas.tint((255, 255, 255), top, mask)

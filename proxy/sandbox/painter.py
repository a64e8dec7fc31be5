"""A landscape for a prompt: a pure function from words and size to the bytes of an image file.

Law: the same arguments give the same bytes; nothing is read but the arguments.
"""

import hashlib
import io
import math
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from proxy.sandbox.canvas import Canvas, Colour
from proxy.sandbox.heavens import birds, paint_heavens, snowfall
from proxy.sandbox.scenery import foreground, horizon_of, paint_land
from proxy.sandbox.subjects import paint_subjects
from proxy.sandbox.theme import Hour, Place, Subject, choose

_WORKING_PIXELS = 1_700_000
"""Larger pictures are painted at about this size and scaled up: a 4K landscape stays under a second."""

_LEAST_SIDE = 128
"""Smaller pictures are painted at this size and scaled down."""

_MARK = "imagegate sandbox"


def paint(
    prompt: str,
    *,
    width: int,
    height: int,
    output_format: str = "png",
    compression: int = 100,
    background: str = "opaque",
) -> bytes:
    """The bytes of one image file of exactly `width` x `height` pixels."""
    return encode(picture(prompt, width, height, transparent=background == "transparent"), output_format, compression)


def picture(prompt: str, width: int, height: int, *, number: int = 0, transparent: bool = False) -> Image.Image:
    """The picture itself. `number` tells the images of one call apart; `transparent` leaves a round vignette."""
    image = scene(prompt, width, height, number)
    sign(image)
    return vignette(image) if transparent else image


def scene(prompt: str, width: int, height: int, number: int = 0) -> Image.Image:
    """What the words call for, unsigned."""
    seed = hashlib.sha256(f"{number}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    rng = Random(seed)  # noqa: S311 - art, not secrets
    scale = min(1.0, math.sqrt(_WORKING_PIXELS / (width * height)))
    small = (max(_LEAST_SIDE, round(width * scale)), max(_LEAST_SIDE, round(height * scale)))
    canvas = Canvas(*small, rng)
    _compose(canvas, prompt)
    image = canvas.image
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _grain(image, rng)


def sketch(image: Image.Image, step: int, steps: int) -> Image.Image:
    """The same picture unfinished: `step` 0 is the coarsest of `steps`."""
    cells = 14 * 3**step if steps > 1 else 28
    factor = max(1, max(image.size) // cells)
    coarse = image.reduce(factor) if factor > 1 else image
    return coarse.resize(image.size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, output_format: str, compression: int = 100) -> bytes:
    """`output_format` is png, jpeg or webp; `compression` is the quality (0..100) of the last two."""
    buffer = io.BytesIO()
    if output_format == "jpeg":
        image.convert("RGB").save(buffer, "JPEG", quality=max(1, min(95, compression)))
    elif output_format == "webp":
        image.save(buffer, "WEBP", quality=compression, method=1)
    elif output_format == "png":
        image.save(buffer, "PNG", compress_level=1)
    else:
        raise ValueError(f"no painter for the format {output_format!r}")
    return buffer.getvalue()


def _compose(canvas: Canvas, prompt: str) -> None:
    theme = choose(prompt, canvas.rng)
    horizon = horizon_of(canvas, theme)
    light = paint_heavens(canvas, theme, horizon)
    if theme.place is not Place.CITY and theme.hour in (Hour.DAWN, Hour.NOON, Hour.DUSK):
        birds(canvas, theme.palette.near, horizon)
    paint_land(canvas, theme, horizon, light)
    ground = canvas.height * 0.86
    if Subject.CAT in theme.subjects or Subject.TREE in theme.subjects:
        ground = foreground(canvas, theme)
    paint_subjects(canvas, theme, horizon, ground, light)
    if theme.winter:
        snowfall(canvas)


def _grain(image: Image.Image, rng: Random) -> Image.Image:
    """A breath of film grain: it hides the steps of 8-bit gradients."""
    side = 256
    tile = Image.frombytes("L", (side, side), rng.randbytes(side * side)).point(
        [128 + (v * 7 // 256 - 3) for v in range(256)]
    )
    noise = Image.new("L", image.size)
    for x in range(0, image.width, side):
        for y in range(0, image.height, side):
            noise.paste(tile, (x, y))
    layers = Image.merge("RGB", (noise, noise, noise))
    return ImageChops.add(image, layers, 1, -128)


def sign(image: Image.Image) -> None:
    """The mark in the lower right corner, so that nobody takes the picture for a model's."""
    size = max(9, min(image.size) // 64)
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(_MARK)
    margin = size
    mask = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4))
    ImageDraw.Draw(mask).text((2 - left, 2 - top), _MARK, fill=150, font=font)
    corner = (image.width - mask.width - margin, image.height - mask.height - margin)
    shadow: Colour = (0, 0, 0)
    image.paste(shadow, (corner[0] + 1, corner[1] + 1), mask.filter(ImageFilter.GaussianBlur(1.5)))
    image.paste((255, 255, 255), corner, mask)


def vignette(image: Image.Image) -> Image.Image:
    """A rounded medallion on nothing."""
    scale = 2
    mask = Image.new("L", (image.width * scale // 2, image.height * scale // 2))
    margin = min(mask.size) * 0.03
    box = (margin, margin, mask.width - margin, mask.height - margin)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=(min(mask.size) - 2 * margin) / 2, fill=255)
    mask = mask.resize(image.size, Image.Resampling.BICUBIC)
    image = image.convert("RGBA")
    image.putalpha(mask)
    return image

"""What all land has in common: colours by distance, and a line across the picture."""

from collections.abc import Sequence

from proxy.sandbox.canvas import Canvas, Colour, Point, mix
from proxy.sandbox.theme import Theme

SNOW: Colour = (240, 246, 255)


def shades(theme: Theme, share: float) -> tuple[Colour, Colour]:
    """Crest and foot of a layer, `share` of the way from the far haze to the foreground."""
    palette = theme.palette
    crest = mix(palette.haze, palette.near, share)
    foot = mix(crest, palette.sky[-1][1] if share < 0.6 else palette.haze, 0.62 * (1 - share) + 0.08)
    if theme.winter:
        crest = mix(crest, SNOW, 0.22 * (1 - share))
    return crest, foot


def line_of(canvas: Canvas, heights: Sequence[float], base: float, rise: float) -> list[Point]:
    """Heights (0..1) across the whole width, up to `rise` pixels above the row `base`."""
    step = (canvas.width + 4) / (len(heights) - 1)
    return [(-2 + index * step, base - height * rise) for index, height in enumerate(heights)]

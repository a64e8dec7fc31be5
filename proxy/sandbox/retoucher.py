"""An edit of somebody's picture: the scene of a prompt, painted into it.

Law: as the painter's, the same arguments give the same picture. Whoever looks at the result sees both the picture that was
sent and the words that were sent with it.
"""

import itertools
import math
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageFilter, ImageOps

from proxy.sandbox import painter
from proxy.sandbox.originals import Originals

_FEATHER = 160
"""The short side, in widths of the soft edge between the picture and what is painted into it."""
_HAZE = ((0.0, 0.62), (0.45, 0.30), (1.0, 0.46))
"""How much of the scene lies over the picture where no mask says where: by height from the top."""


def retouch(prompt: str, originals: Originals, size: tuple[int, int], number: int = 0) -> Image.Image:
    """The first of the pictures at this size, with the prompt's scene in it, and the others as prints in a corner.

    The scene stands where the mask is transparent; without a mask, where the picture itself is; if that is nowhere, it
    lies over all of it as a tint. `number` tells the images of one call apart.
    """
    first, *others = (original.image for original in originals.pictures)
    mask = originals.mask.image if originals.mask else None
    image = _blended(ImageOps.fit(first.convert("RGBA"), size), painter.scene(prompt, *size, number), mask)
    _pin(image, others)
    painter.sign(image)
    return image


def _blended(base: Image.Image, scene: Image.Image, mask: Image.Image | None) -> Image.Image:
    alpha = base.getchannel("A")
    opaque = Image.composite(base.convert("RGB"), scene, alpha)
    if mask is not None:
        keep = ImageOps.fit(mask.convert("RGBA"), base.size).getchannel("A")
        return Image.composite(opaque, scene, _softened(keep))
    if alpha.getextrema() != (255, 255):
        return Image.composite(opaque, scene, _softened(alpha))
    return Image.composite(scene, ImageChops.soft_light(opaque, scene), _haze(base.size))


def _softened(keep: Image.Image) -> Image.Image:
    return keep.filter(ImageFilter.GaussianBlur(max(1.0, min(keep.size) / _FEATHER)))


def _haze(size: tuple[int, int]) -> Image.Image:
    column = Image.new("L", (1, 256))
    column.putdata([round(255 * _between(row / 255)) for row in range(256)])
    return column.resize(size, Image.Resampling.BICUBIC)


def _between(height: float) -> float:
    for (above, first), (below, second) in itertools.pairwise(_HAZE):
        if height <= below:
            return first + (second - first) * (height - above) / (below - above)
    return _HAZE[-1][1]


def _pin(image: Image.Image, pictures: Sequence[Image.Image]) -> None:
    """The other pictures as white-edged prints, from the lower left corner on."""
    side = max(8, min(image.size) // 7)
    edge, gap = max(1, side // 24), max(2, side // 8)
    across = max(1, (image.width - gap) // (side + gap))
    rows = math.ceil(len(pictures) / across)
    for index, picture in enumerate(pictures):
        print_ = ImageOps.expand(
            ImageOps.fit(picture.convert("RGB"), (side - 2 * edge, side - 2 * edge)), edge, "white"
        )
        row, column = divmod(index, across)
        image.paste(print_, (gap + column * (side + gap), image.height - (rows - row) * (side + gap)))

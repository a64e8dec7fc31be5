"""Pictures to be edited, of one colour, and masks."""

import io

from PIL import Image, ImageDraw

RED = (200, 30, 30)


def drawn(
    width: int, height: int, kind: str = "PNG", colour: tuple[int, ...] = RED, exif: Image.Exif | None = None
) -> bytes:
    """A file that shows nothing but a colour; one of four numbers has an alpha channel."""
    buffer = io.BytesIO()
    more = {} if exif is None else {"exif": exif}
    Image.new("RGBA" if len(colour) == 4 else "RGB", (width, height), colour).save(buffer, kind, **more)
    return buffer.getvalue()


def mask(width: int, height: int) -> bytes:
    """The right half is to be painted."""
    image = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    ImageDraw.Draw(image).rectangle((width // 2, 0, width, height), fill=(0, 0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()

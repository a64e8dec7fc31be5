"""proxy/sandbox/retoucher.py: whoever looks at an edit sees what was sent, and what was asked for."""

from PIL import Image

from proxy.sandbox import painter
from proxy.sandbox.originals import Original, Originals
from proxy.sandbox.retoucher import retouch
from tests.unit.sandbox.pictures import RED

SIZE = (256, 192)
PROMPT = "aurora over a lake"


def original(colour: tuple[int, ...] = RED, size: tuple[int, int] = (80, 60)) -> Original:
    return Original(Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour), size)


def half_mask() -> Original:
    """The right half is to be painted."""
    image = Image.new("RGBA", (80, 60), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (40, 0, 80, 60))
    return Original(image, image.size)


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return found


def distance(one: Image.Image, other: Image.Image, box: tuple[int, int, int, int]) -> float:
    """The mean difference of two pictures within a box, 0 to 255."""
    pairs = zip(one.crop(box).tobytes(), other.crop(box).tobytes(), strict=True)
    differences = [abs(a - b) for a, b in pairs]
    return sum(differences) / len(differences)


LEFT, RIGHT, ALL = (0, 0, 100, 192), (156, 0, 256, 160), (0, 0, 256, 192)


def test_the_scene_is_painted_where_the_mask_is_transparent_and_nowhere_else() -> None:
    image = retouch(PROMPT, Originals((original(),), half_mask()), SIZE)
    scene = painter.scene(PROMPT, *SIZE)
    assert distance(image, Image.new("RGB", SIZE, RED), LEFT) == 0
    assert distance(image, scene, RIGHT) == 0


def test_without_a_mask_it_is_painted_where_the_picture_is_transparent() -> None:
    picture = original((*RED, 255))
    picture.image.paste((0, 0, 0, 0), (40, 0, 80, 60))
    image = retouch(PROMPT, Originals((picture,)), SIZE)
    assert distance(image, Image.new("RGB", SIZE, RED), LEFT) == 0
    assert distance(image, painter.scene(PROMPT, *SIZE), RIGHT) == 0


def test_without_either_it_lies_over_all_and_both_can_be_seen() -> None:
    image = retouch(PROMPT, Originals((original(),)), SIZE)
    scene, other = painter.scene(PROMPT, *SIZE), retouch(PROMPT, Originals((original((30, 30, 200)),)), SIZE)
    assert 10 < distance(image, scene, ALL) < distance(Image.new("RGB", SIZE, RED), scene, ALL)
    assert distance(image, other, ALL) > 10


def test_another_prompt_and_another_number_make_another_picture() -> None:
    originals = Originals((original(),))
    pictures = [
        retouch(PROMPT, originals, SIZE),
        retouch("a cat", originals, SIZE),
        retouch(PROMPT, originals, SIZE, 1),
    ]
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert retouch(PROMPT, originals, SIZE).tobytes() == pictures[0].tobytes()


def test_a_picture_of_another_shape_is_cut_not_stretched() -> None:
    wide = Image.new("RGB", (400, 100), RED)
    wide.paste((0, 0, 0), (0, 0, 100, 100))  # the left quarter is cut off
    image = retouch(PROMPT, Originals((Original(wide, wide.size),), half_mask()), (128, 128))
    assert pixel(image, 2, 60) == RED


def test_the_other_pictures_are_pinned_to_it() -> None:
    first, green = original(), original((0, 255, 0))
    for count in (1, 2, 15):
        image = retouch(PROMPT, Originals((first, *[green] * count), half_mask()), SIZE)
        colours = image.convert("RGB").getcolors(SIZE[0] * SIZE[1])
        assert colours is not None
        pinned = next(number for number, colour in colours if colour == (0, 255, 0))
        assert pinned > count * 400


def test_the_smallest_pictures_do_no_harm() -> None:
    assert retouch("", Originals((original(size=(1, 1)), original(size=(1, 1)))), (16, 16)).size == (16, 16)

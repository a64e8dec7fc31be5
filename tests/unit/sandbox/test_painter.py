"""proxy/sandbox/painter.py: the same words give the same bytes, in the size and format that were asked for."""

import hashlib
import io
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from proxy.sandbox.painter import encode, paint, picture, sketch
from proxy.sandbox.theme import Hour, Place, Subject, choose


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_the_same_prompt_and_size_give_the_same_bytes() -> None:
    first, second = (paint("a red fox", width=320, height=256) for _ in range(2))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_another_prompt_or_another_number_gives_another_picture() -> None:
    pictures = {
        picture("a red fox", 128, 128).tobytes(),
        picture("a red  fox", 128, 128).tobytes(),
        picture("a red fox", 128, 128, number=1).tobytes(),
    }
    assert len(pictures) == 3


@pytest.mark.parametrize(
    ("width", "height"),
    [(1024, 640), (640, 1024), (816, 816), (1488, 496), (496, 1488), (1024, 1024), (1536, 1024), (1, 1), (17, 900)],
)
def test_a_picture_has_exactly_the_size_that_was_asked_for(width: int, height: int) -> None:
    assert picture("mountains", width, height).size == (width, height)


def test_the_largest_size_is_painted_too() -> None:
    assert opened(paint("seaside", width=3840, height=2160, output_format="jpeg")).size == (3840, 2160)


@pytest.mark.parametrize(
    ("output_format", "signature"), [("png", b"\x89PNG\r\n\x1a\n"), ("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")]
)
def test_the_bytes_are_of_the_format_that_was_asked_for(output_format: str, signature: bytes) -> None:
    data = paint("a lake", width=256, height=192, output_format=output_format)
    assert data.startswith(signature)
    assert opened(data).format == output_format.upper()


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_less_quality_means_fewer_bytes(output_format: str) -> None:
    image = picture("a forest", 256, 256)
    sizes = [len(encode(image, output_format, quality)) for quality in (0, 30, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_a_transparent_background_shows_nothing_in_the_corners_and_the_picture_in_the_middle(
    output_format: str,
) -> None:
    data = paint("cat", width=320, height=256, output_format=output_format, background="transparent")
    alpha = opened(data).convert("RGBA").getchannel("A")
    assert [alpha.getpixel(corner) for corner in ((0, 0), (319, 0), (0, 255), (319, 255))] == [0, 0, 0, 0]
    assert alpha.getpixel((160, 128)) == 255


def test_an_opaque_picture_has_no_transparency() -> None:
    assert opened(paint("cat", width=64, height=64)).mode == "RGB"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no painter"):
        paint("cat", width=32, height=32, output_format="svg")


def test_sketches_grow_towards_the_finished_picture() -> None:
    image = picture("aurora", 256, 256)
    steps = [sketch(image, step, 3) for step in range(3)]
    assert {step.size for step in steps} == {image.size}
    distances = [_difference(step, image) for step in steps]
    assert distances[0] > distances[1] > distances[2] > 0


def _difference(one: Image.Image, other: Image.Image) -> int:
    return sum(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))


@pytest.mark.parametrize(
    ("prompt", "hour", "place", "subjects"),
    [
        ("Cyberpunk city at night, neon sign closeup", Hour.NEON, Place.CITY, ()),
        ("Landscape 2K seaside lighthouse at sunset", Hour.DUSK, Place.SEA, (Subject.LIGHTHOUSE,)),
        ("Watercolor-style Nordic aurora", Hour.AURORA, Place.LAKE, ()),
        ("A lone TREE in the desert at noon", Hour.NOON, Place.DESERT, (Subject.TREE,)),
        ("雪山日落", Hour.DUSK, Place.MOUNTAINS, ()),
    ],
)
def test_the_words_of_a_prompt_choose_the_scene(
    prompt: str, hour: Hour, place: Place, subjects: tuple[Subject, ...]
) -> None:
    theme = choose(prompt, Random(7))
    assert (theme.hour, theme.place, theme.subjects) == (hour, place, subjects)


def test_a_word_inside_another_word_means_nothing() -> None:
    assert choose("education and research", Random(1)).subjects == ()


@pytest.mark.parametrize(
    ("hour", "place"), [(hour, tuple(Place)[(index + turn) % 6]) for index, hour in enumerate(Hour) for turn in (0, 2)]
)
def test_every_place_and_every_hour_can_be_painted_with_every_subject(hour: Hour, place: Place) -> None:
    prompt = f"{hour.value} {place.value} with a cat, a sailboat, a lighthouse, balloons and a tree in winter"
    assert picture(prompt, 96, 64).size == (96, 64)


@settings(max_examples=8, deadline=None)
@given(prompt=st.text(st.characters(), max_size=40), width=st.integers(1, 90), height=st.integers(1, 90))
def test_any_text_at_any_size_gives_a_picture(prompt: str, width: int, height: int) -> None:
    assert picture(prompt, width, height).size == (width, height)

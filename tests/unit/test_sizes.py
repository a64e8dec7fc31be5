"""The size rules: every documented boundary, and the nearest size against brute force."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sizes import Grid, Listed, parse

GRID = Grid(multiple=16, longest_edge=3840, ratio=3, min_pixels=655_360, max_pixels=8_294_400)
LISTED = Listed(("1024x1024", "1024x1536", "1536x1024", "auto"))

FORMAT = "Expected WIDTHxHEIGHT, for example '1824x1024'."
MULTIPLE = "Width and height must both be divisible by 16."
EDGE = "The longest edge must be less than or equal to 3840."
RATIO = "The maximum supported aspect ratio is 3:1."
LOW = "Requested resolution is below the current minimum pixel budget."
HIGH = "Requested resolution exceeds the current pixel budget."

VALID = (
    "1024x640 640x1024 816x816 1488x496 1536x512 3840x1280 1280x720 1536x864 1920x1088 2048x1152 2048x2048 2560x1440 "
    "2304x2304 2560x2560 2880x2880 3840x2160 2160x3840 1024x1024 1536x1024 1024x1536"
)

INVALID = {
    MULTIPLE: "1920x1080 1000x1000 1200x628 99999999x1",
    LOW: "816x800 800x800 768x768 512x512 1024x512 1024x576",
    RATIO: "1408x464 1792x592 2560x832 1104x3840 1424x176 1024x256",
    HIGH: "2896x2880 3008x3008 3840x2176",
    EDGE: "3856x2144 4096x4096 2304x4096",
    FORMAT: "0x0 1:1 2K 0x16 1024 1024x x1024 1024X1024 01024x1024 1024×1024 -16x16 1e3x1e3 1024x1024x1024 auto",
}


@pytest.mark.parametrize("size", VALID.split())
def test_a_size_on_the_grid_is_valid(size: str) -> None:
    assert GRID.fault(size) is None


@pytest.mark.parametrize(
    ("sentence", "size"), [(why, size) for why, sizes in INVALID.items() for size in sizes.split()]
)
def test_a_size_off_the_grid_is_told_why_in_the_apis_order(sentence: str, size: str) -> None:
    assert GRID.fault(size) == sentence


@pytest.mark.parametrize("size", ["", " 1024x1024", "1024x1024 ", "1024x1024\n", "१०२४x1024", "1" * 400 + "x16"])
def test_a_size_is_never_trimmed_or_folded(size: str) -> None:
    assert parse(size) is None
    assert GRID.fault(size) == FORMAT


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ((1000, 1000), (1008, 1008)),
        ((512, 512), (816, 816)),
        ((4096, 4096), (2880, 2880)),
        ((1920, 1080), (1920, 1088)),
        ((1024, 1024), (1024, 1024)),
    ],
)
def test_the_nearest_size_on_the_grid(wanted: tuple[int, int], nearest: tuple[int, int]) -> None:
    assert GRID.nearest(*wanted) == nearest


def test_the_nearest_size_of_a_list() -> None:
    assert LISTED.nearest(1254, 836) == (1024, 1024)  # equal in the first measure, nearer in the sum
    assert LISTED.nearest(1400, 900) == (1536, 1024)
    assert LISTED.nearest(800, 1600) == (1024, 1536)
    assert Listed(("auto",)).nearest(1, 1) is None


def test_a_grid_without_a_size_has_no_nearest() -> None:
    assert Grid(multiple=16, longest_edge=16, ratio=1, min_pixels=1000, max_pixels=2000).nearest(16, 16) is None


def brute_force(grid: Grid, width: int, height: int) -> tuple[int, int]:
    steps = range(grid.multiple, grid.longest_edge + 1, grid.multiple)
    valid = [(w, h) for w in steps for h in steps if grid.fault(f"{w}x{h}") is None]

    def order(size: tuple[int, int]) -> tuple[Fraction, Fraction, int, int]:
        across = max(Fraction(size[0], width), Fraction(width, size[0]))
        down = max(Fraction(size[1], height), Fraction(height, size[1]))
        return max(across, down), across * down, -size[0] * size[1], -size[0]

    return min(valid, key=order)


# The same limits in proportion, with few enough sizes that brute force is quick.
SMALL = Grid(multiple=16, longest_edge=256, ratio=3, min_pixels=3_000, max_pixels=36_000)


@given(st.integers(1, 600), st.integers(1, 600))
def test_the_nearest_size_is_what_brute_force_finds(width: int, height: int) -> None:
    assert SMALL.nearest(width, height) == brute_force(SMALL, width, height)


@given(st.integers(1, 10**17), st.integers(1, 10**17))
def test_the_nearest_size_is_valid_whatever_was_asked(width: int, height: int) -> None:
    nearest = GRID.nearest(width, height)
    assert nearest is not None
    assert GRID.fault("{}x{}".format(*nearest)) is None


@given(st.integers(1, 240), st.integers(1, 240))
def test_a_valid_size_is_its_own_nearest(across: int, down: int) -> None:
    size = (across * 16, down * 16)
    if GRID.fault("{}x{}".format(*size)) is None:
        assert GRID.nearest(*size) == size


def test_the_nearest_size_is_found_in_milliseconds_even_for_absurd_sizes() -> None:
    for wanted in ((99_999_999, 1), (1, 10**17), (10**17, 10**17), (1000, 1000)):
        took = []
        for _ in range(5):
            begin = time.process_time()
            GRID.nearest(*wanted)
            took.append(time.process_time() - begin)
        assert min(took) < 0.005

"""proxy/sandbox/tokens.py: input pictures cost what callers measured, and no more than the catalogue reckons with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.catalogue import Catalogue, load
from proxy.sandbox.tokens import image_tokens
from proxy.sizes import Listed

LISTED = Listed(("1024x1024", "auto"))
SIDES = st.integers(1, 9000)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((1024, 1024), 1024),
        ((512, 512), 1024),  # scaled up by 2
        ((256, 256), 256),  # and by no more
        ((1536, 1024), 1536),
        ((3000, 2000), 1536),  # the budget
        ((3840, 100), 1536),  # counted as 3:1, and so over the budget
        ((960, 10), 32 * 11),
    ],
)
def test_a_picture_costs_its_patches(size: tuple[int, int], tokens: int) -> None:
    assert image_tokens(size, None) == tokens


@pytest.mark.parametrize(
    ("size", "is_faithful", "tokens"),
    [
        ((512, 512), False, 194),
        ((4096, 4096), False, 194),
        ((1536, 1024), False, 65 + 2 * 129),
        ((512, 512), True, 194 + 4160),
        ((1536, 1024), True, 65 + 2 * 129 + 6240),
    ],
)
def test_of_the_first_generation_it_costs_its_tiles(size: tuple[int, int], is_faithful: bool, tokens: int) -> None:
    assert image_tokens(size, LISTED, high_fidelity=is_faithful) == tokens


@given(size=st.tuples(SIDES, SIDES), is_faithful=st.booleans())
def test_no_picture_costs_more_than_the_catalogue_reckons_with(
    catalogue: Catalogue, size: tuple[int, int], is_faithful: bool
) -> None:
    for rule in catalogue.models("openai"):
        if rule.tokens is None or not rule.tokens.extras.per_input_image:
            continue
        extras = rule.tokens.extras
        most = max(extras.per_input_image, extras.per_input_image_high if is_faithful else 0)
        assert 0 < image_tokens(size, rule.size, high_fidelity=is_faithful) <= most

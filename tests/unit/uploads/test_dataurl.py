"""A data URL decodes to the same bytes however its text is spelled and cut, or to none."""

import base64
import itertools
import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.uploads.dataurl import DataUrlDecoder, beginning

SPELLINGS = {
    "/": ["/", r"\/", r"\u002f", r"\u002F"],
    "+": ["+", r"\u002b", r"\u002B"],
    "=": ["=", r"\u003D"],
    "d": ["d", r"\u0064"],
}


def decoded(raw: bytes, cuts: list[int], *, escaped: bool) -> tuple[str, int, bytes]:
    decoder = DataUrlDecoder(escaped=escaped)
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    content = b""
    for start, stop in itertools.pairwise(edges):
        content += decoder.feed(raw[start:stop], last=stop == len(raw))
    return decoder.media_type, decoder.characters, content


@given(st.binary(max_size=80), st.lists(st.integers(0, 500), max_size=8), st.randoms(use_true_random=False))
def test_spelling_and_windows_change_nothing(content: bytes, cuts: list[int], random: Random) -> None:
    url = f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
    raw = "".join(random.choice(SPELLINGS.get(character, [character])) for character in url)
    expected = ("image/svg+xml", len(url), content)
    assert decoded(url.encode(), cuts, escaped=False) == expected
    assert decoded(raw.encode(), cuts, escaped=True) == expected


@given(st.text("AQe+/=\\u02 \n", max_size=30), st.lists(st.integers(0, 500), max_size=8))
def test_windows_do_not_change_what_is_refused(text: str, cuts: list[int]) -> None:
    raw = f"data:image/png;base64,{text}".encode()
    for escaped in (False, True):
        results = []
        for places in ([], cuts):
            try:
                results.append(decoded(raw, places, escaped=escaped))
            except ValueError:
                results.append(("", 0, b""))
        assert results[0] == results[1]


@pytest.mark.parametrize(
    ("url", "media_type"),
    [
        (b"data:image/png;base64,eA==", "image/png"),
        (b"DATA:IMAGE/Png;charset=x;BASE64,eA==", "image/png"),
        (b"data:;base64,eA==", "text/plain"),
    ],
)
def test_the_media_type_is_told_without_parameters(url: bytes, media_type: str) -> None:
    assert decoded(url, [], escaped=False) == (media_type, len(url), b"x")


@pytest.mark.parametrize("text", ["", "https://a", 'a "quoted" text', "a\\b", "/" * 20, "ünï☕", "\n\t"])
def test_the_beginning_of_a_string_is_read_from_its_spelling(text: str) -> None:
    for spelled in (json.dumps(text), json.dumps(text, ensure_ascii=False), json.dumps(text).replace("/", r"\/")):
        assert beginning(spelled[1:-1].encode(), 5) == text[:5]


@given(st.binary(max_size=40))
def test_any_bytes_have_a_beginning(raw: bytes) -> None:
    assert len(beginning(raw, 5)) <= 5

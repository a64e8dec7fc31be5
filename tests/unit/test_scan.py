"""What is seen of a text while it comes is what stands there, however it was cut into pieces."""

import base64
import random
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalidResponse
from proxy.reply import Inspection, inspect, inspect_event
from proxy.scan import HEAD_BYTES, LEAST_BYTES, MAX_QUOTES, Decoded, Scan
from tests.support.images import SIGNATURES, reply

SOUND = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def seen(text: bytes, cuts: list[int]) -> Scan:
    scan = Scan()
    for piece in pieces(text, cuts):
        scan.feed(piece)
    return scan


def pieces(text: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return (text[start:stop] for start, stop in pairwise(edges))


def told(text: bytes, scan: Scan | None) -> Inspection | str:
    try:
        return inspect(memoryview(text), scan)
    except UpstreamInvalidResponse as error:
        return error.message


def base64_of(size: int, seed: int = 0) -> bytes:
    return base64.b64encode((SIGNATURES["png"] + random.Random(seed).randbytes(size))[:size])


strings = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=32), max_size=40).map(str.encode),
    st.builds(base64_of, st.integers(0, 80)),
    st.builds(base64_of, st.integers(LEAST_BYTES * 3 // 4 - 9, LEAST_BYTES * 3 // 4 + 9), st.integers(0, 5)),
    st.builds(base64_of, st.integers(LEAST_BYTES, 3 * LEAST_BYTES), st.integers(0, 5)),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Base64, mostly long, that may have a byte put in, taken out or changed."""
    text = draw(strings)
    if not text or draw(st.booleans()):
        return text
    at = draw(st.one_of(st.integers(0, len(text) - 1), st.just(len(text) - 1), st.just(len(text) - 2)))
    odd = draw(st.sampled_from([b"", b"=", b"==", b" ", b"-", b"\n", b"A", b"\xff"]))
    return text[:at] + odd + text[at + draw(st.integers(0, 1)) :]


cuts = st.lists(st.integers(0, 10**6), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(), max_size=5), cuts)
def test_it_finds_each_quote_and_each_string_that_is_base64(texts: list[bytes], where: list[int]) -> None:
    text = b",".join(b'"%s"' % each.replace(b'"', b"") for each in texts)
    scan = seen(text, where)
    assert scan.size == len(text)
    assert scan.is_plain
    quotes = [at for at, byte in enumerate(text) if byte == ord('"')]
    at, found = 0, []
    while (quote := scan.find_quote(at)) >= 0:
        found.append(quote)
        at = quote + 1
    assert found == quotes
    for opening, closing in zip(quotes[::2], quotes[1::2], strict=True):
        inner = text[opening + 1 : closing]
        expected = None
        if len(inner) >= LEAST_BYTES and SOUND.fullmatch(inner):
            content = base64.b64decode(inner)
            expected = Decoded(len(content), content[:HEAD_BYTES])
        assert scan.decoded(opening + 1, closing) == expected


@settings(max_examples=150, deadline=None)
@given(damaged(), damaged(), st.sampled_from(["b64_json", "url", "revised_prompt"]), cuts)
def test_an_inspection_is_the_same_with_it_and_without_it(
    one: bytes, other: bytes, name: str, where: list[int]
) -> None:
    text = b'{"created":1,"data":[{"b64_json":"%s","%s":"%s"}],"usage":{"input_tokens":7}}' % (
        one,
        name.encode(),
        other,
    )
    assert told(text, seen(text, where)) == told(text, None)
    cut_short = text[: where[0] % len(text)] if where else text
    assert told(cut_short, seen(cut_short, where)) == told(cut_short, None)


def test_what_was_seen_of_another_text_is_not_believed() -> None:
    text = reply(base64.b64decode(base64_of(30_000)))
    longer = text + b" "
    assert told(text, seen(longer, [])) == told(text, None)
    with pytest.raises(UpstreamInvalidResponse):
        inspect_event(memoryview(text), seen(text, []))


@pytest.mark.parametrize("odd", ['{"a":"\\/"}', '{"a":"' + '","b":"' * MAX_QUOTES + '"}'])
def test_of_a_text_with_escapes_or_too_many_strings_nothing_is_said(odd: str) -> None:
    scan = seen(odd.encode(), [3])
    assert (scan.is_plain, scan.size) == (False, len(odd))
    scan.feed(b'"' + base64_of(LEAST_BYTES) + b'"')
    assert not scan.is_plain


def test_an_escape_that_comes_late_takes_back_what_was_said() -> None:
    text = reply(base64.b64decode(base64_of(30_000)))[:-2] + b',"note":"\\u0041"}]}'
    assert told(text, seen(text, [100, 20_000])) == told(text, None)

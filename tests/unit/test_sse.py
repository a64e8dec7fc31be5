"""Reading event streams: any framing and any cut of the bytes gives the same events, and no event is held."""

import re
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalidResponse
from proxy.sse import COMMENT, MAX_NAME_BYTES, Data, Dispatch, EventParser, framed

Event = tuple[str, bytes]


def tokens(chunks: Iterable[bytes]) -> tuple[list[bytes | Dispatch], bool, bool]:
    """Tokens with neighbouring data joined; whether the end is inside of an event; whether the parser refused."""
    parser = EventParser()
    found: list[bytes | Dispatch] = []
    try:
        for chunk in chunks:
            for token in parser.feed(chunk):
                if isinstance(token, Dispatch):
                    found.append(token)
                    continue
                assert token.piece
                if found and isinstance(found[-1], bytes):
                    found[-1] += token.piece
                else:
                    found.append(token.piece)
    except UpstreamInvalidResponse:
        return found, parser.ends_inside(), True
    return found, parser.ends_inside(), False


def events(*chunks: bytes) -> list[Event]:
    found, _, refused = tokens(chunks)
    assert not refused
    whole: list[Event] = []
    data = b""
    for token in found:
        if isinstance(token, bytes):
            data = token
        else:
            whole.append((token.name, data))
            data = b""
    return whole


def by_the_letter(text: bytes) -> list[Event]:
    """The standard's own algorithm, on the whole text."""
    lines = re.split(rb"\r\n|\n|\r", text.removeprefix(b"\xef\xbb\xbf"))[:-1]
    whole: list[Event] = []
    name, data = b"", b""
    for line in lines:
        if not line:
            if data:
                whole.append((name.decode("utf-8", "replace"), data[:-1]))
            name, data = b"", b""
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value
    return whole


def cut(text: bytes, places: Sequence[int]) -> list[bytes]:
    at = sorted({0, *(min(place, len(text)) for place in places), len(text)})
    return [text[start:stop] for start, stop in pairwise(at)] + [b""]


names = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
lines = st.one_of(
    st.sampled_from([b"", b" ", b":", b"data: x", b'{"type":"x"}', b"[DONE]", b"\xff\x00"]),
    st.binary(max_size=30).map(lambda raw: re.sub(rb"[\r\n]", b"", raw)),
)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
noise = st.sampled_from([b": ping", b":", b"id: 7", b"id", b"retry: 10", b"colour:data: no", b"Data: no", b" data: no"])
places = st.lists(st.integers(0, 600), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """A stream written in any legal way, and the events in it."""
    text = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    expected: list[Event] = []
    last = b""  # a line end of CR must not be followed by one of LF, where two line ends are meant

    def line(content: bytes) -> None:
        nonlocal text, last
        end = draw(ends if not (last == b"\r" and content == b"") else st.sampled_from([b"\r\n", b"\r"]))
        text += content + end
        last = end

    for name, data in draw(st.lists(st.tuples(names, st.lists(lines, max_size=3)), max_size=5)):
        fields = [(b"data", value) for value in data]
        if name:
            fields.insert(draw(st.integers(0, len(fields))), (b"event", name.encode()))
        for field, value in fields:
            for each in draw(st.lists(noise, max_size=2)):
                line(each)
            bare = not value and draw(st.booleans())
            space = b" " if value.startswith(b" ") or draw(st.booleans()) else b""
            line(field if bare else field + b":" + space + value)
        for _ in range(draw(st.integers(1, 2))):
            line(b"")
        if data:
            expected.append((name, b"\n".join(data)))
    return text, expected


@settings(max_examples=300, deadline=None)
@given(streams(), places)
def test_any_framing_and_any_cut_gives_the_events_that_were_written(
    written: tuple[bytes, list[Event]], at: list[int]
) -> None:
    text, expected = written
    assert by_the_letter(text) == expected
    assert events(*cut(text, at)) == expected


PIECES = [
    b"data:",
    b"data",
    b"event: x",
    b"event:",
    b": c",
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b":",
    b"\xef\xbb\xbf",
    b"y" * 200,
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=25).map(b"".join), places)
@example(b"\xef\xbb", [1])
@example(b"\xef\xbbdata: no\n\ndata: x\n\n", [1, 2, 3])
@example(b"data: x\r\n\r\n", [8, 10])
def test_any_bytes_give_the_same_tokens_however_they_are_cut(text: bytes, at: list[int]) -> None:
    whole = tokens([text])
    assert tokens(cut(text, at)) == whole
    assert tokens([bytes([byte]) for byte in text]) == whole
    if not whole[2]:
        assert events(text) == by_the_letter(text)


# --- the standard, line by line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"data: a\n\n", [("", b"a")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"event: done\ndata: a\n\n", [("done", b"a")]),
        (b"data: a\nevent: done\n\n", [("done", b"a")]),
        (b"event: one\nevent: two\ndata: a\n\n", [("two", b"a")]),
        (b"event: one\nevent\ndata: a\n\n", [("", b"a")]),
        (b"data: a\ndata: b\ndata: c\n\n", [("", b"a\nb\nc")]),
        (b"data\n\n", [("", b"")]),
        (b"data\ndata\n\n", [("", b"\n")]),
        (b"data: a\ndata\n\n", [("", b"a\n")]),
        (b"event: lost\n\ndata: a\n\n", [("", b"a")]),
        (b"\n\n\n", []),
        (b": ping\n\n: ping\n\n", []),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\r", [("", b"a"), ("", b"b"), ("", b"c")]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"data: a:b: c\n\n", [("", b"a:b: c")]),
    ],
)
def test_a_stream_is_read_as_the_standard_says(text: bytes, expected: list[Event]) -> None:
    assert events(text) == expected
    assert events(*(bytes([byte]) for byte in text)) == expected


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (b"", False),
        (b"data: a\n\n", False),
        (b": ping\n\nevent: x\n", False),
        (b"event: x\ndat", False),
        (b"data:", True),
        (b"data: a", True),
        (b"data: a\n", True),
        (b"data: a\n\ndata: b\n", True),
        (b"data: a\r\n\r", False),
    ],
)
def test_an_event_that_was_begun_and_not_ended_shows(text: bytes, inside: bool) -> None:
    assert tokens([text])[1] is inside


def test_a_byte_order_mark_is_one_only_at_the_start() -> None:
    assert events(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == [("", b"a")]
    assert events(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n") == [("", b"b")]


def test_what_we_write_is_read_back() -> None:
    before, after = framed("image_edit.completed")
    assert events(COMMENT + before + b"{}" + after + COMMENT) == [("image_edit.completed", b"{}")]
    before, after = framed("")
    assert events(before + b"{}" + after) == [("", b"{}")]


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"x%s", b"x%s:", b"event:%s", b"event: %s\n", b"<html>%s\n"])
def test_a_name_that_is_too_long_is_refused(line: bytes) -> None:
    text = line % (b"y" * (MAX_NAME_BYTES + 1))
    assert tokens([text])[2]
    assert tokens([bytes([byte]) for byte in text])[2]


def test_a_name_may_be_as_long_as_the_limit_and_a_comment_longer() -> None:
    name = b"n" * MAX_NAME_BYTES
    text = b"event: %s\n%s: x\n%s\n:%s\ndata: a\n\n" % (name, name, name, b"c" * 5_000)
    assert events(text) == [(name.decode(), b"a")]


def test_megabytes_on_one_line_are_handed_on_quickly_and_not_held() -> None:
    chunk = b"A" * 65_536
    tracemalloc.start()
    try:
        parser = EventParser()
        began = time.thread_time()
        total = sum(len(token.piece) for token in parser.feed(b"data: ") if isinstance(token, Data))
        for _ in range(256):
            total += sum(len(token.piece) for token in parser.feed(chunk) if isinstance(token, Data))
        assert time.thread_time() - began < 2
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert total == 256 * len(chunk)
    assert parser.ends_inside()


@pytest.mark.parametrize("line", [b"\n", b"\r", b": ping\n\n", b"data: x\n\n"])
def test_a_megabyte_of_short_lines_takes_no_time_either(line: bytes) -> None:
    text = line * (200_000 // len(line))
    began = time.thread_time()
    tokens([text])
    assert time.thread_time() - began < 2


def test_pieces_are_not_shown() -> None:
    assert repr(Data(b"secret")) == "Data()"

"""The skeleton of a large JSON text: small, exact in its offsets, and refusing in its caller's words."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.skeleton import MAX_INNER_QUOTES, MAX_SKELETON_BYTES, WINDOW_BYTES, Skeleton, window


def refused(what: str) -> InvalidRequest:
    return InvalidRequest(f"Your request {what}.")


def of(text: bytes, **options: Any) -> Skeleton:
    return Skeleton(memoryview(text), refused, **options)


strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(strings, values, max_size=5)
styles = st.tuples(st.booleans(), st.sampled_from([None, 1]))


def written(document: dict[str, Any], style: tuple[bool, int | None]) -> bytes:
    return json.dumps(document, ensure_ascii=style[0], indent=style[1]).encode()


@settings(max_examples=100, deadline=None)
@given(documents, styles)
def test_a_document_is_restored_exactly(document: dict[str, Any], style: tuple[bool, int | None]) -> None:
    skeleton = of(written(document, style))
    assert skeleton.restored(skeleton.document()) == document
    skeleton.check_remaining_strings()


@settings(max_examples=100, deadline=None)
@given(documents, styles)
def test_every_member_stands_where_it_is_said_to(document: dict[str, Any], style: tuple[bool, int | None]) -> None:
    text = written(document, style)
    skeleton = of(text)
    skeleton.document()
    members = skeleton.members()
    assert list(members) == list(document)
    for name, member in members.items():
        key_start, key_end = skeleton.raw((member.key_start, member.key_end))
        start, stop = skeleton.raw((member.value_start, member.value_end))
        assert json.loads(text[key_start:key_end]) == name
        assert json.loads(text[start:stop]) == document[name]
        if isinstance(document[name], list):
            assert len(list(skeleton.elements(member.value_start))) == len(document[name])
        assert skeleton.is_object(member.value_start) == isinstance(document[name], dict)


@settings(max_examples=100, deadline=None)
@given(documents.filter(bool), styles, st.data())
def test_any_members_can_be_cut_apart_from_one_that_is_kept(
    document: dict[str, Any], style: tuple[bool, int | None], data: st.DataObject
) -> None:
    text = written(document, style)
    skeleton = of(text)
    skeleton.document()
    members = skeleton.members()
    kept = data.draw(st.sampled_from(list(document)))
    gone = data.draw(st.sets(st.sampled_from(list(document)))) - {kept}
    ranges = sorted(skeleton.raw(members[name].apart_from(members[kept])) for name in gone)
    for start, stop in reversed(ranges):
        text = text[:start] + text[stop:]
    assert json.loads(text) == {name: value for name, value in document.items() if name not in gone}


def test_long_strings_are_found_by_what_they_stand_for() -> None:
    text = b'{"a":"%s","b":"data:%s\\/"}' % (b"x" * 40, b"y" * 40)
    skeleton = of(text)
    document = skeleton.document()
    first, second = skeleton.long_string(document["a"]), skeleton.long_string(document["b"])
    assert (first, second, skeleton.long_string("short"), skeleton.long_string(7)) == (0, 1, None, None)
    assert skeleton.starts_with(b"data:", document["b"])
    assert not skeleton.starts_with(b"data:", document["a"])
    assert second is not None
    (start, stop), escaped = skeleton.take(second)
    assert text[start:stop] == b"data:" + b"y" * 40 + b"\\/"
    assert escaped
    assert len(skeleton.text) < 120


def test_what_was_taken_needs_no_further_check() -> None:
    text = b'{"a":"%s"}' % (b"x" * 1_000)
    with pytest.raises(InvalidRequest, match=r"^Your request holds a long string that is no image\.$"):
        of(text, max_text_bytes=999).check_remaining_strings()
    of(text, max_text_bytes=1_000).check_remaining_strings()
    skeleton = of(text, max_text_bytes=999)
    skeleton.take(0)
    skeleton.check_remaining_strings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a":"x', "ends inside a string"),
        (b'{"a":"x\\"', "ends inside a string"),
        (b" " * (MAX_SKELETON_BYTES + 1), "holds far more than images"),
        (b" " * (MAX_SKELETON_BYTES + 1) + b'"', "holds far more than images"),
        (b'{"a":"' + b'\\"' * (MAX_INNER_QUOTES + 1) + b'"}', "holds far more than images"),
        (b'{"' + b"\\u0061" * 6 + b'":1,"aaaaaa":2}', "names one member twice"),
        (b'{"a":"' + b"\n" * 40 + b'"}', "holds a string that is not JSON"),
        (b'{"a":"' + b"\xff" * 40 + b'"}', "holds a string that is not JSON"),
        (b'{"a":"' + b"\\ud800" * 40 + b'"}', "holds a string that is not JSON"),
    ],
)
def test_what_is_wrong_is_said_in_the_callers_words(text: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^Your request {words}\.$"):
        (skeleton := of(text)).members(0)
        skeleton.check_remaining_strings()


def test_half_a_pair_of_escapes_passes_where_it_may() -> None:
    text = b'{"a":"%s\\ud83d","b":"\\ud83d"}' % (b"x" * 40)
    assert of(text, lone_surrogates=True).document()["b"] == "\ud83d"
    of(text, lone_surrogates=True).check_remaining_strings()
    with pytest.raises(InvalidRequest):
        of(text).document()


def test_a_text_that_is_no_object_is_refused_as_strict_json_is() -> None:
    for text in (b"", b"[]", b"[DONE]", b'"' + b"x" * 50 + b'"', b'{"a":1,"a":2}', b"{" + b'"a":{' * 40 + b"}" * 41):
        with pytest.raises(InvalidRequest, match="We could not parse the JSON body"):
            of(text).document()


@pytest.mark.parametrize("filler", [b"\\\\", b"A", b"\\/"])
def test_sixty_four_megabytes_of_one_string_are_walked_quickly(filler: bytes) -> None:
    text = b'{"a":"' + filler * ((64 << 20) // len(filler)) + b'"}'
    began = time.thread_time()
    skeleton = of(text)
    assert time.thread_time() - began < 2
    (start, stop), _ = skeleton.take(0)
    assert stop - start == len(text) - 8


def test_windows_follow_one_another_to_the_end() -> None:
    view = memoryview(bytes(range(256)) * (WINDOW_BYTES // 128) + b"end")
    parts = [window(view, start) for start in range(0, len(view), WINDOW_BYTES)]
    assert b"".join(parts) == bytes(view)
    assert [len(part) for part in parts] == [WINDOW_BYTES, WINDOW_BYTES, 3]

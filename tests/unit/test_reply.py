"""Finding images in a reply: the ranges are right to the byte, and whatever is doubtful is refused."""

import base64
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import UpstreamInvalidResponse
from proxy.model import ImageSpan, Usage
from proxy.reply import (
    Edit,
    Inspection,
    Link,
    Peek,
    inspect,
    inspect_event,
    media_type_of,
    peek,
    shifted,
    usage_of,
)
from proxy.skeleton import WINDOW_BYTES
from tests.support.eventbodies import EventBody, event_bodies
from tests.support.images import MEDIA_TYPES, SIGNATURES, picture, reply


def look(body: bytes) -> Inspection:
    return inspect(memoryview(body))


def edited(body: bytes, edits: Sequence[Edit]) -> bytes:
    """The obvious way: from the back, so that offsets stay true."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        body = body[: edit.start] + edit.replacement + body[edit.stop :]
    return body


def text(body: bytes, span: tuple[int, int]) -> bytes:
    return body[span[0] : span[1]]


def pixels(body: bytes, image: ImageSpan) -> bytes:
    return base64.b64decode(json.loads(b'"' + text(body, image.value) + b'"'), validate=True)


def reply_of(item: str, *more: str) -> bytes:
    return ('{"data":[' + ",".join((item, *more)) + "]}").encode()


B64 = base64.b64encode(picture("one")).decode()
ITEM = f'{{"b64_json":"{B64}"}}'


# --- any reply -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A reply as text, and what is in it."""

    body: bytes
    pictures: tuple[tuple[str, bytes], ...]
    prefixed: tuple[bool, ...]


PLAIN: Callable[[str], str] = str
SPELLINGS: list[Callable[[str], str]] = [
    PLAIN,
    lambda value: value.replace("/", "\\/"),
    lambda value: value.replace("/", "\\u002f").replace("+", "\\u002B"),
    lambda value: "".join(f"\\u{ord(c):04x}" if index < 40 else c for index, c in enumerate(value)),
]
TRICKY = [
    '"b64_json"',
    f'"b64_json":"{B64}"',
    B64,
    "\\",
    '\\"',
    "x" * 31,
    "x" * 32,
    "é€🎨" * 20,
    '{"data":[{"b64_json":"' + B64 + '"}]}',
    "a/b" * 30,
    "\n\t\x00" * 11,
]
spaces = st.text(alphabet=" \t\r\n", max_size=3)
words = st.one_of(st.sampled_from(TRICKY), st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(-1e9, 1e9), words)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


@st.composite
def replies(draw: st.DrawFn) -> Written:
    """A reply with its members in any order, spelled and spaced in any way."""

    def members(own: list[tuple[str, str]]) -> str:
        taken = {"data", "error", "url", "b64_json", "usage", "safety_identifier"} | {name for name, _ in own}
        extra = draw(st.dictionaries(words.filter(lambda word: word not in taken), values, max_size=3))
        ascii_only = draw(st.booleans())
        pairs = [(json.dumps(name), value) for name, value in own]
        pairs += [
            (json.dumps(name, ensure_ascii=ascii_only), json.dumps(value, ensure_ascii=ascii_only))
            for name, value in extra.items()
        ]
        shuffled = draw(st.permutations(pairs))
        joined = ",".join(f"{draw(spaces)}{k}{draw(spaces)}:{draw(spaces)}{v}{draw(spaces)}" for k, v in shuffled)
        return "{" + joined + "}"

    kinds = draw(st.lists(st.sampled_from(sorted(SIGNATURES)), min_size=1, max_size=5))
    pictures, prefixed, items = [], [], []
    for index, kind in enumerate(kinds):
        content = picture(f"{index}", kind, draw(st.integers(48, 400)))
        prefix = draw(st.sampled_from(["", "", f"data:{MEDIA_TYPES[kind]};base64,", "data:x,y;a=b;base64,"]))
        spelled = draw(st.sampled_from(SPELLINGS))(prefix + base64.b64encode(content).decode())
        own = [("b64_json", f'"{spelled}"')]
        if draw(st.booleans()):
            own.append(("url", draw(st.sampled_from(["null", '""', '"https://x.invalid/a.png"', f'"{"u" * 90}"']))))
        items.append(draw(spaces) + members(own) + draw(spaces))
        pictures.append((MEDIA_TYPES[kind], content))
        prefixed.append(bool(prefix))
    top = [("data", f"[{','.join(items)}]")]
    if draw(st.booleans()):
        top.append(("safety_identifier", json.dumps(draw(st.one_of(st.none(), words)))))
    body = draw(spaces) + members(top) + draw(spaces)
    return Written(body.encode(), tuple(pictures), tuple(prefixed))


def without_what_is_cut(document: dict[str, Any]) -> dict[str, Any]:
    document.pop("safety_identifier", None)
    for item in document["data"]:
        if item["b64_json"].startswith("data:"):
            item["b64_json"] = item["b64_json"].partition(";base64,")[2]
    return document


@settings(max_examples=60, deadline=None)
@given(replies())
def test_the_ranges_of_any_reply_hold_exactly_its_images(written: Written) -> None:
    found = look(written.body)
    assert [(image.media_type, pixels(written.body, image)) for image in found.images] == list(written.pictures)
    assert [image.size for image in found.images] == [len(content) for _, content in written.pictures]
    assert {json.loads(text(written.body, image.key)) for image in found.images} == {"b64_json"}
    assert [image.escaped for image in found.images] == [
        b"\\" in text(written.body, (image.key[1] + 1, image.value[1])) for image in found.images
    ]
    assert len(found.prefixes) == sum(written.prefixed)
    assert not found.links
    assert found.items == len(written.pictures)


@settings(max_examples=60, deadline=None)
@given(replies())
def test_what_remains_after_the_cuts_is_the_same_document_without_them(written: Written) -> None:
    found = look(written.body)
    stored = edited(written.body, found.cuts())
    assert json.loads(stored) == without_what_is_cut(json.loads(written.body))
    again = look(stored)
    assert again.cuts() == ()
    assert again.usage == found.usage
    assert [(image.media_type, pixels(stored, image)) for image in again.images] == list(written.pictures)


@settings(max_examples=60, deadline=None)
@given(replies())
def test_the_echo_goes_back_to_where_it_was_cut(written: Written) -> None:
    found = look(written.body)
    stored = edited(written.body, found.cuts())
    if found.echo is None:
        assert "safety_identifier" not in json.loads(written.body)
        return
    at = shifted(found.echo[0], found.cuts())
    restored = stored[:at] + text(written.body, found.echo) + stored[at:]
    assert restored == edited(written.body, found.prefixes)
    assert "safety_identifier" in json.loads(restored)


@settings(max_examples=60, deadline=None)
@given(replies())
def test_the_url_beside_an_image_is_cut_with_exactly_one_comma(written: Written) -> None:
    found = look(written.body)
    stored = edited(written.body, [Edit(*image.url) for image in found.images if image.url])
    expected = json.loads(written.body)
    for item in expected["data"]:
        item.pop("url", None)
    assert json.loads(stored) == expected


@pytest.mark.parametrize(
    "body",
    [
        '{"safety_identifier":"me","data":[%s]}',
        '{"created":1,"safety_identifier":"me","data":[%s]}',
        '{"data":[%s],"safety_identifier":"me"}',
        '{"data":[%s] , "safety_identifier" : "me" , "created":1}',
        '{"data":[%s],"safety_identifier":null}',
        '{"data":[%s],"safety_identifier":{"a":["me","b64_json"]}}',
        '{"\\u0073afety_identifier":"me","data":[%s]}',
        '{"' + "".join(f"\\u{ord(c):04x}" for c in "safety_identifier") + '":"me","data":[%s]}',
    ],
)
def test_the_callers_own_identifier_is_cut_wherever_it_stands(body: str) -> None:
    written = (body % ITEM).encode()
    found = look(written)
    stored = edited(written, found.cuts())
    assert b"me" not in stored.replace(B64.encode(), b"")
    assert found.echo is not None
    assert stored[: found.echo[0]] + text(written, found.echo) + stored[found.echo[0] :] == written


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_reply_cut_off_at_any_byte_is_refused() -> None:
    body = reply(
        picture("a", size=60), picture("b", "webp", 48), safety_identifier="me", note='a "quoted\\ note'
    ).strip()
    look(body)
    for length in range(len(body)):
        with pytest.raises(UpstreamInvalidResponse):
            look(body[:length])


@pytest.mark.parametrize("wrong", [" ", "-", "_", "\n", "é", ".", "=", "\x00", "\\n", "\\", "\\u0041\\u00e9", '\\"'])
@pytest.mark.parametrize("at", [0, 1, 63, -1, -2, -3])
def test_a_character_that_is_no_base64_is_refused(wrong: str, at: int) -> None:
    value = list(B64)
    value[at] = wrong
    body = reply_of(f'{{"b64_json":"{"".join(value)}"}}')
    if (wrong == "=" and at == -1) or "".join(value)[-2:] == "==":
        return  # padding where padding may be
    with pytest.raises(UpstreamInvalidResponse):
        look(body)


@pytest.mark.parametrize("drop", [1, 2, 3])
def test_base64_of_a_broken_length_is_refused(drop: int) -> None:
    with pytest.raises(UpstreamInvalidResponse):
        look(reply_of(f'{{"b64_json":"{B64[:-drop]}"}}'))


@pytest.mark.parametrize("off", [-8, -4, 0, 4, 8])
@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_images_whose_base64_ends_near_a_window_are_measured(off: int, windows: int, padding: int) -> None:
    size = (WINDOW_BYTES * windows + off) // 4 * 3 - padding
    content = picture("w", size=size)
    body = reply_of(f'{{"b64_json":"{base64.b64encode(content).decode()}"}}')
    (image,) = look(body).images
    assert image.size == size
    assert image.value[1] - image.value[0] == WINDOW_BYTES * windows + off


@pytest.mark.parametrize("at", [WINDOW_BYTES - 2, WINDOW_BYTES - 1, WINDOW_BYTES, WINDOW_BYTES + 1])
@pytest.mark.parametrize("wrong", ["=", "*"])
def test_damage_at_the_edge_of_a_window_is_seen(at: int, wrong: str) -> None:
    value = base64.b64encode(picture("w", size=WINDOW_BYTES)).decode()
    with pytest.raises(UpstreamInvalidResponse):
        look(reply_of(f'{{"b64_json":"{value[:at]}{wrong}{value[at + 1 :]}"}}'))


def test_padding_in_the_middle_is_refused_even_where_a_window_ends() -> None:
    first = base64.b64encode(picture("w", size=WINDOW_BYTES // 4 * 3 - 1)).decode()
    assert len(first) == WINDOW_BYTES
    assert first.endswith("=")
    with pytest.raises(UpstreamInvalidResponse):
        look(reply_of(f'{{"b64_json":"{first}{B64}"}}'))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":[]}',
        b'{"data":{}}',
        b'{"data":"' + B64.encode() + b'"}',
        b'{"data":[null]}',
        b'{"data":["' + B64.encode() + b'"]}',
        b'{"data":[[]]}',
        b'{"data":[{}]}',
        b'{"data":[{"b64_json":null}]}',
        b'{"data":[{"b64_json":""}]}',
        b'{"data":[{"b64_json":7}]}',
        b'{"data":[{"b64_json":["' + B64.encode() + b'"]}]}',
        b'{"data":[{"b64_json":null,"url":null}]}',
        b'{"data":[{"url":7}]}',
        b'{"data":[{"B64_JSON":"' + B64.encode() + b'"}]}',
        b'{"error":{"message":"no"},"data":[' + ITEM.encode() + b"]}",
        b'{"data":[' + ITEM.encode() + b'],"error":"no"}',
        b'{"data":[' + ITEM.encode() + b'],"data":[' + ITEM.encode() + b"]}",
        b'{"data":[{"b64_json":"' + B64.encode() + b'","b64_json":"' + B64.encode() + b'"}]}',
        b'{"data":[' + ITEM.encode() + b"]} {}",
        b'{"data":[' + ITEM.encode() + b",]}",
        b"\xef\xbb\xbf" + reply_of(ITEM),
        b'{"data":[' + ITEM.encode() + b'],"note":"' + b"\xff" * 40 + b'"}',
        b'{"data":[' + ITEM.encode() + b'],"note":"' + b"\n" * 40 + b'"}',
        b'{"data":[' + ITEM.encode() + b'],"note":"' + b"\\x" * 40 + b'"}',
        b"<html><body>Bad gateway</body></html>",
        b'"' + b"x" * 100,
    ],
)
def test_what_is_no_image_reply_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamInvalidResponse):
        look(body)


def test_a_good_item_does_not_excuse_a_bad_one() -> None:
    for bad in ("null", "{}", '{"b64_json":"AAAA"}', f'{{"b64_json":"{B64[:-1]}*"}}'):
        with pytest.raises(UpstreamInvalidResponse):
            look(reply_of(ITEM, bad))


def test_a_name_given_twice_is_refused_though_one_is_spelled_in_escapes() -> None:
    spelled = "".join(f"\\u{ord(c):04x}" for c in "b64_json")
    other = base64.b64encode(picture("two")).decode()
    with pytest.raises(UpstreamInvalidResponse):
        look(reply_of(f'{{"b64_json":"{B64}","{spelled}":"{other}"}}'))


def test_base64_of_something_that_is_no_image_is_refused() -> None:
    value = base64.b64encode(b"<html><body>no image but an error page</body></html>").decode()
    with pytest.raises(UpstreamInvalidResponse, match="known image format"):
        look(reply_of(f'{{"b64_json":"{value}"}}'))


@pytest.mark.parametrize("prefix", ["data:image/png,", "data:", "data:" + "x" * 200 + ";base64,", "data\\u003a,"])
def test_a_data_url_that_is_not_base64_is_refused(prefix: str) -> None:
    with pytest.raises(UpstreamInvalidResponse):
        look(reply_of(f'{{"b64_json":"{prefix}{B64}"}}'))
    with pytest.raises(UpstreamInvalidResponse):
        look(reply_of(f'{{"b64_json":"{prefix}\\/{B64}"}}'))


def test_a_prefix_in_escapes_is_cut_as_it_stands() -> None:
    prefix = "".join(f"\\u{ord(c):04x}" for c in "data:image/png;base64,")
    body = reply_of(f'{{"b64_json":"{prefix}{B64}"}}')
    found = look(body)
    assert [text(body, (edit.start, edit.stop)) for edit in found.prefixes] == [prefix.encode()]
    assert edited(body, found.cuts()) == reply_of(ITEM)


def test_what_holds_far_more_than_images_is_refused() -> None:
    for filler in (b" " * 2_000_000, b'"a",' * 400_000 + b'"a"', b'"' + b"x" * 2_000_000 + b'"', b"1" * 2_000_000):
        body = b'{"data":[' + ITEM.encode() + b'],"more":[' + filler + b"]}"
        with pytest.raises(UpstreamInvalidResponse):
            look(body)
    with pytest.raises(UpstreamInvalidResponse):
        look(reply_of(ITEM) + b" " * 2_000_000)


# --- size ------------------------------------------------------------------------------------------------------------


def big(characters: int) -> bytes:
    noise = random.Random(1).randbytes(characters // 4 * 3)
    return base64.b64encode(SIGNATURES["png"] + noise[len(SIGNATURES["png"]) :])


def test_twelve_megabytes_are_inspected_quickly_and_in_little_memory() -> None:
    body = b'{"created":1,"data":[{"b64_json":"' + big(12_000_000) + b'"}],"usage":{"output_tokens":4160}}'
    look(body)
    quickest = 10.0
    for _ in range(3):
        began = time.thread_time()
        look(body)
        quickest = min(quickest, time.thread_time() - began)
    assert quickest < 0.3
    tracemalloc.start()
    try:
        look(body)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_megabytes_with_an_escape_every_sixty_four_characters_take_no_time_either() -> None:
    body = b'{"data":[{"b64_json":"' + big(4_000_000).replace(b"/", b"\\/") + b'"}]}'
    began = time.thread_time()
    (image,) = look(body).images
    assert time.thread_time() - began < 1
    assert image.escaped


# --- addresses -------------------------------------------------------------------------------------------------------

URL = "https://pictures.example/a.png?signature=0123456789abcdef0123456789abcdef"


def edits_of(link: Link, base64_text: bytes) -> list[Edit]:
    """What turns the item into one with `b64_json`, in order."""
    member = Edit(*link.replace, b'"b64_json":"' + base64_text + b'"')
    return sorted([member, *([Edit(*link.cut)] if link.cut else [])], key=lambda edit: edit.start)


@pytest.mark.parametrize(
    "item",
    [
        f'{{"url":"{URL}"}}',
        f'{{"url":"{URL}","b64_json":null}}',
        f'{{"b64_json":null,"url":"{URL}"}}',
        f'{{ "b64_json" : "" , "url" : "{URL}" , "revised_prompt" : "b64_json" }}',
        f'{{ "revised_prompt":"x", "url" : "{URL}" , "b64_json" : null }}',
        f'{{"url":"{URL.replace("/", chr(92) + "/")}","a":1,"b64_json":null,"b":2}}',
    ],
)
def test_an_address_is_exchanged_for_the_picture_behind_it(item: str) -> None:
    body = reply_of(ITEM, item, item)
    found = look(body)
    assert [(link.index, link.url) for link in found.links] == [(1, URL), (2, URL)]
    assert (found.items, len(found.images)) == (3, 1)
    other = base64.b64encode(picture("fetched"))
    stored = edited(body, [edit for link in found.links for edit in edits_of(link, other)])
    expected = json.loads(body)
    for each in expected["data"][1:]:
        each.pop("url")
        each["b64_json"] = other.decode()
    pairs: list[list[str]] = []
    json.loads(stored, object_pairs_hook=lambda members: pairs.append([name for name, _ in members]))
    assert json.loads(stored) == expected
    assert [names.count("b64_json") for names in pairs if "data" not in names] == [1, 1, 1]
    assert [pixels(stored, image) for image in look(stored).images] == [
        picture(s) for s in ("one", "fetched", "fetched")
    ]


def test_the_edits_of_a_link_come_in_order() -> None:
    for item in (f'{{"url":"{URL}","b64_json":null}}', f'{{"b64_json":null,"url":"{URL}"}}'):
        (link,) = look(reply_of(item)).links
        edits = edits_of(link, b"AAAA")
        assert len(edits) == 2
        assert edits[0].stop <= edits[1].start


def test_a_picture_wins_over_an_address_beside_it() -> None:
    found = look(reply_of(f'{{"url":"{URL}","b64_json":"{B64}"}}'))
    assert (len(found.images), found.links) == (1, ())


@pytest.mark.parametrize("spelled", ["data:image/png;base64,", "data:image\\/png;base64,", "data:;base64,"])
@pytest.mark.parametrize(
    "item",
    [
        '{"url":"%s"}',
        '{"url":"%s","b64_json":null}',
        '{"b64_json":"","url":"%s"}',
        '{ "b64_json" : null , "revised_prompt":"url" , "url" : "%s" }',
    ],
)
def test_a_data_url_in_place_of_an_address_is_the_picture_itself(spelled: str, item: str) -> None:
    value = base64.b64encode(picture("long", size=120_000)).decode()
    if "\\" in spelled:
        value = value.replace("/", "\\/")
    sent = f'{{"data":[{item.replace("%s", spelled + value)},{ITEM}],"safety_identifier":"me"}}'.encode()
    found = look(sent)
    assert found.links == ()
    stored = edited(sent, found.cuts())
    assert all(len(edit.replacement) < edit.stop - edit.start for edit in found.cuts())
    expected = json.loads(sent)
    del expected["safety_identifier"], expected["data"][0]["url"]
    expected["data"][0]["b64_json"] = base64.b64encode(picture("long", size=120_000)).decode()
    assert json.loads(stored) == expected
    assert stored.count(b'"b64_json"') == 2
    again = look(stored)
    assert again.cuts() == ()
    assert [pixels(stored, image) for image in again.images] == [picture("long", size=120_000), picture("one")]
    assert found.echo is not None
    at = shifted(found.echo[0], found.cuts())
    assert stored[:at] + text(sent, found.echo) + stored[at:] == edited(sent, found.prefixes)


# --- the last event of a stream --------------------------------------------------------------------------------------


def look_event(body: bytes) -> Inspection:
    return inspect_event(memoryview(body))


@settings(max_examples=100, deadline=None)
@given(event_bodies())
def test_the_ranges_of_any_event_hold_exactly_its_image_and_its_members(written: EventBody) -> None:
    found = look_event(written.body)
    (image,) = found.images
    assert (pixels(written.body, image), image.size) == (written.picture, len(written.picture))
    assert json.loads(text(written.body, image.key)) == "b64_json"
    assert (found.links, found.prefixes) == ((), ())
    assert found.usage == usage_of(written.document.get("usage"))
    assert found.event is not None
    for span, name in ((found.event.type, "type"), (found.echo, "safety_identifier"), (image.url, "url")):
        assert (span is None) == (name not in written.document)
        if span is not None:
            expected = {key: value for key, value in written.document.items() if key != name}
            assert json.loads(edited(written.body, [Edit(*span)])) == expected
    if found.event.created is None:
        assert "created_at" not in written.document or "created" in written.document
    else:
        assert json.loads(text(written.body, found.event.created)) == "created_at"


@settings(max_examples=60, deadline=None)
@given(event_bodies())
def test_the_callers_own_member_is_cut_from_an_event_and_goes_back(written: EventBody) -> None:
    found = look_event(written.body)
    stored = edited(written.body, found.cuts())
    expected = {name: value for name, value in written.document.items() if name != "safety_identifier"}
    assert json.loads(stored) == expected
    assert look_event(stored).cuts() == ()
    if found.echo is not None:
        at = shifted(found.echo[0], found.cuts())
        assert stored[:at] + text(written.body, found.echo) + stored[at:] == written.body


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", "data:image\\/png;base64,", "data:;base64,"])
@pytest.mark.parametrize(
    "body",
    [
        '{"type":"t","b64_json":"%s"}',
        '{"url":"%s","type":"t"}',
        '{"url":"%s","b64_json":null,"safety_identifier":"me","type":"t"}',
        '{"safety_identifier":"me","b64_json":"" , "type":"t","url":"%s"}',
        '{"b64_json":"%s","safety_identifier":"me","url":null,"type":"t"}',
    ],
)
def test_a_data_url_in_an_event_is_made_bare_base64(prefix: str, body: str) -> None:
    sent = body.replace("%s", prefix + (B64.replace("/", "\\/") if "\\" in prefix else B64)).encode()
    found = look_event(sent)
    assert len(found.prefixes) > 0
    assert all(len(edit.replacement) <= edit.stop - edit.start for edit in found.cuts())
    assert all(one.stop <= two.start for one, two in zip(found.cuts(), found.cuts()[1:], strict=False))
    stored = edited(sent, found.cuts())
    expected = json.loads(sent)
    expected.pop("safety_identifier", None)
    if expected.get("url", 1) is not None:
        expected.pop("url", None)
    assert json.loads(stored) == {**expected, "b64_json": B64}
    (image,) = look_event(stored).images
    assert pixels(stored, image) == picture("one")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[DONE]",
        b"null",
        b"{}",
        b'{"type":"image_generation.completed"}',
        b'{"b64_json":null}',
        b'{"b64_json":7}',
        b'{"b64_json":"short"}',
        b'{"b64_json":"' + B64[:-1].encode() + b'"}',
        b'{"b64_json":"' + base64.b64encode(b"<html>" * 20) + b'"}',
        b'{"url":"https://pictures.example/a.png?signature=0123456789abcdef"}',
        b'{"b64_json":null,"url":"https://pictures.example/a.png?signature=0123456789abcdef"}',
        b'{"error":{"message":"no"},"b64_json":"' + B64.encode() + b'"}',
        b'{"b64_json":"' + B64.encode() + b'","b64_json":"' + B64.encode() + b'"}',
        b'{"b64_json":"' + B64.encode() + b'","note":"' + b"\n" * 40 + b'"}',
        b'{"b64_json":"' + B64.encode() + b'","data":null}',
        b'{"data":[' + ITEM.encode() + b"]}",
        b'{"image":{"b64_json":"' + B64.encode() + b'"}}',
    ],
)
def test_what_is_no_last_event_is_refused(body: bytes) -> None:
    with pytest.raises(UpstreamInvalidResponse):
        look_event(body)


def test_an_event_cut_off_at_any_byte_is_refused() -> None:
    body = f'{{"type":"image_edit.completed","b64_json":"{B64}","created_at":1}}'.encode()
    look_event(body)
    for length in range(len(body)):
        with pytest.raises(UpstreamInvalidResponse):
            look_event(body[:length])


# --- a look at any event ---------------------------------------------------------------------------------------------

LONG = "an explanation that is longer than any short string"


def glance(body: bytes) -> Peek:
    return peek(memoryview(body))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", ""),
        (b"[DONE]", ""),
        (b"null", ""),
        (b'["type"]', ""),
        (b'"type', ""),
        (b'{"type":', ""),
        (b"{}", ""),
        (b'{"type":7}', ""),
        (b'{"type":null,"error":null}', ""),
        (b'{"type":"a","type":"b"}', ""),
        (b" " * 2_000_000, ""),
        (b'{"type":"image_generation.completed"}', "image_generation.completed"),
        (
            b'{"b64_json":"%s","type":"image_generation.partial_succeeded"}' % (b"*" * 99),
            "image_generation.partial_succeeded",
        ),
        (b'{"\\u0074\\u0079\\u0070\\u0065":"a","note":"%s"}' % (b"\n" * 99), "a"),
        (b'{"inner":{"type":"b"},"type":"a"}', "a"),
    ],
)
def test_the_type_of_any_event_is_told_and_nothing_raised(body: bytes, kind: str) -> None:
    assert glance(body) == Peek(kind, None)


@pytest.mark.parametrize(
    ("body", "message", "kind", "param", "code"),
    [
        (
            {"type": "error", "error": {"message": LONG, "type": LONG, "param": None, "code": "c"}},
            LONG,
            LONG,
            None,
            "c",
        ),
        ({"error": {"message": "no", "type": "t", "param": "p", "code": 500}}, "no", "t", "p", "500"),
        ({"type": "error", "code": "c", "message": LONG}, LONG, "server_error", None, "c"),
        ({"type": "error", "error": None, "message": "no"}, "no", "server_error", None, None),
        ({"type": "error"}, "The upstream reported an error.", "server_error", None, None),
        ({"error": "no"}, "no", "server_error", None, None),
        ({"error": {}}, "The upstream reported an error.", "server_error", None, None),
        ({"error": [LONG]}, "The upstream reported an error.", "server_error", None, None),
        ({"error": {"message": "x" * 99_999}}, "The upstream reported an error.", "server_error", None, None),
        (
            {"error": {"message": {"a": LONG}, "code": True}},
            "The upstream reported an error.",
            "server_error",
            None,
            None,
        ),
    ],
)
def test_the_error_of_any_event_is_told_in_its_four_members(
    body: dict[str, Any], message: str, kind: str, param: str | None, code: str | None
) -> None:
    found = glance(json.dumps(body).encode())
    assert found.error == {"message": message, "type": kind, "param": param, "code": code}
    assert found.type == body.get("type", "")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\eorx1', max_size=80).map(str.encode))
def test_a_glance_never_raises(body: bytes) -> None:
    glance(body)


# --- usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, None),
        ({}, None),
        ("14", None),
        ({"input_tokens": 14, "output_tokens": 1056}, Usage(text_in=14, image_out=1056)),
        (
            {"input_tokens": 50, "input_tokens_details": {"image_tokens": 40, "cached_tokens": 20}, "output_tokens": 9},
            Usage(text_in=10, image_in=40, image_out=9, cached_text_in=10, cached_image_in=10),
        ),
        (
            {"input_tokens": 5, "output_tokens": 100, "output_tokens_details": {"text_tokens": 30, "image_tokens": 70}},
            Usage(text_in=5, text_out=30, image_out=70),
        ),
        ({"input_tokens": True, "output_tokens": -4, "total_tokens": 9}, None),
        ({"input_tokens": "5", "output_tokens": 2.5}, None),
        ({"input_tokens": 5, "input_tokens_details": ["x"]}, Usage(text_in=5)),
    ],
)
def test_usage_is_split_into_disjoint_classes(reported: Any, expected: Usage | None) -> None:
    assert usage_of(reported) == expected


counts = st.one_of(st.integers(-10, 10_000), st.none(), st.text(max_size=2), st.booleans(), st.floats())


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "input_tokens": counts,
            "output_tokens": counts,
            "input_tokens_details": st.dictionaries(st.sampled_from(["image_tokens", "cached_tokens"]), counts),
            "output_tokens_details": st.dictionaries(st.sampled_from(["text_tokens", "image_tokens"]), counts),
        },
    )
)
def test_the_classes_of_tokens_always_add_up(reported: dict[str, Any]) -> None:
    usage = usage_of(reported)
    if usage is None:
        return
    told = [reported.get(name) for name in ("input_tokens", "output_tokens")]
    assert usage.total == sum(n for n in told if isinstance(n, int) and not isinstance(n, bool) and n > 0)
    assert 0 <= usage.cached_text_in <= usage.text_in
    assert 0 <= usage.cached_image_in <= usage.image_in
    assert min(usage.text_out, usage.image_out) >= 0


def test_the_usage_of_a_reply_is_read() -> None:
    assert look(reply(picture("a"))).usage == Usage(text_in=14, image_out=1056, cached_text_in=4)


# --- formats ---------------------------------------------------------------------------------------------------------


def test_every_known_signature_is_told_apart() -> None:
    for kind, media_type in MEDIA_TYPES.items():
        assert media_type_of(picture("x", kind)) == media_type
    for nothing in (b"", b"\x89PNG", b"RIFF\x00\x00\x00\x00WAVE", b"<html>", b"\xff\xd8", b"BM", bytes(20)):
        assert media_type_of(nothing) is None


def test_shifting_counts_only_what_was_cut_before() -> None:
    cuts = (Edit(2, 5), Edit(10, 20))
    assert [shifted(offset, cuts) for offset in (0, 2, 4, 5, 9, 10, 15, 20, 30)] == [0, 2, 2, 2, 6, 7, 7, 7, 17]

"""The two shapes of one answer say the same, whichever was made from the other."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import StoreError
from proxy.model import EventMembers, ImageSpan
from proxy.reply import Edit, inspect, inspect_event
from proxy.shapes import as_event, event_edits, link_event
from tests.support.eventbodies import EventBody, event_bodies
from tests.support.images import picture, reply

KIND = "image_generation.completed"


def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in members}) == len(members)
    return dict(members)


def halves(body: bytes) -> tuple[bytes, bytes, bytes]:
    """A reply before its first base64, the base64, and after it."""
    start, stop = inspect(memoryview(body)).images[0].value
    return body[:start], body[start:stop], body[stop:]


def event_of(body: bytes) -> bytes:
    before, value, after = halves(body)
    head, tail = as_event(before, after, KIND)
    return head + value + tail


def reply_of(body: bytes) -> bytes:
    found = inspect_event(memoryview(body))
    assert found.event is not None
    for edit in sorted(
        event_edits(found.event, found.images[0]), key=lambda edit: (edit.start, edit.stop), reverse=True
    ):
        body = body[: edit.start] + edit.replacement + body[edit.stop :]
    return body


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    names = st.sampled_from(
        [
            "created",
            "created_at",
            "type",
            "b64_json",
            "size",
            "usage",
            "é",
            "n" * 40,
            "safety_identifier",
            "url",
            "note",
        ]
    )
    values = st.sampled_from([None, 1, "x", "b64_json", "é€" * 30, [{"data": "\n"}], "y" * 50, {"b64_json": ""}])

    def item(index: int) -> dict[str, Any]:
        value = base64.b64encode(picture(str(index), size=draw(st.integers(48, 90)))).decode()
        members = [*draw(st.dictionaries(names, values, max_size=3)).items()]
        return dict(draw(st.permutations([*((k, v) for k, v in members if k != "b64_json"), ("b64_json", value)])))

    items = [item(index) for index in range(draw(st.integers(1, 3)))]
    members = [*draw(st.dictionaries(names, values, max_size=5)).items(), ("data", items)]
    top = dict(draw(st.permutations(members)))
    return json.dumps(top, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))).encode()


@settings(max_examples=150, deadline=None)
@given(replies())
def test_an_event_says_what_its_reply_says(body: bytes) -> None:
    top = json.loads(body)
    expected = {k: v for k, v in top.items() if k not in ("data", "type", "b64_json")}
    if "created" in expected and "created_at" not in expected:
        expected["created_at"] = expected.pop("created")
    item = top["data"][0]
    inner = {k: v for k, v in item.items() if k not in ("type", *top, *expected)}
    own = {k: item[k] for k in ("b64_json", "url") if k in item}
    expected = {**inner, **expected, **own, "type": KIND}
    written = event_of(body)
    assert json.loads(written, object_pairs_hook=once) == expected
    assert written.startswith(b'{"type":"image_generation.completed",')
    assert b"\n" not in written
    assert b"\r" not in written


@settings(max_examples=60, deadline=None)
@given(replies())
def test_other_images_may_be_left_out_of_the_text(body: bytes) -> None:
    before, _, after = halves(body)
    cut_off = len(body) - len(after)
    for image in reversed(inspect(memoryview(body)).images[1:]):
        start, stop = (at - cut_off for at in image.value)
        after = after[:start] + after[stop:]
    assert as_event(before, after, KIND) == as_event(*halves(body)[::2], KIND)


@settings(max_examples=100, deadline=None)
@given(event_bodies())
def test_an_event_made_a_reply_and_an_event_again_says_the_same(written: EventBody) -> None:
    expected = {**written.document, "type": KIND}
    if "created_at" not in expected and "created" in expected:
        expected["created_at"] = expected.pop("created")
    assert json.loads(event_of(reply_of(written.body))) == expected


def test_a_usual_reply_becomes_a_usual_event() -> None:
    body = b'{\n "created": 1,\n "data": [\n  {\n   "b64_json": "%s"\n  }\n ],\n "usage": {"input_tokens": 5}\n}\n'
    value = base64.b64encode(picture("a"))
    assert event_of(body % value) == (
        b'{"type":"image_generation.completed","created_at": 1,"b64_json": "%s","usage": {"input_tokens": 5}}' % value
    )


def test_where_a_reply_and_its_item_have_one_name_the_event_has_the_replys_member() -> None:
    value = base64.b64encode(picture("a")).decode()
    item = f'{{"created_at":2,"size":"inner","type":"inner","b64_json":"{value}","url":"inner"}}'
    body = f'{{"type":"outer","created":1,"b64_json":"outer","url":"outer","data":[{item}],"size":"outer"}}'.encode()
    assert event_of(body) == (
        f'{{"type":"{KIND}","created_at":1,"b64_json":"{value}","url":"inner","size":"outer"}}'.encode()
    )


def test_a_usual_event_becomes_a_usual_reply() -> None:
    value = base64.b64encode(picture("a")).decode()
    body = f'{{"type":"{KIND}","b64_json":"{value}","created_at":1,"size":"1024x1024"}}'.encode()
    assert reply_of(body) == f'{{"data":[{{"b64_json":"{value}"}}],"created":1,"size":"1024x1024"}}'.encode()


def test_the_edits_of_an_event_wrap_its_image() -> None:
    image = ImageSpan((10, 20), (22, 30), None, "image/png", 6)
    assert event_edits(EventMembers(None, None), image) == [Edit(10, 10, b'"data":[{'), Edit(31, 31, b"}]")]
    assert event_edits(EventMembers((1, 9), (40, 52)), image)[2:] == [Edit(1, 9), Edit(40, 52, b'"created"')]


def test_a_revised_prompt_cut_inside_an_emoji_is_no_obstacle() -> None:
    body = reply(picture("a"), note="PROMPT").replace(b"PROMPT", b"x" * 40 + b"\\ud83d")
    assert b'"note": "%s\\ud83d"' % (b"x" * 40) in event_of(body)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"{", b"}"),
        (b'{"data":[{"b64_json":"', b'"}]'),
        (b'{"data":[{"b64_json":"x', b'"}]}'),
        (b'{"data":[{"b64_json":', b'""}]}'),
        (b'{"data":[{"b64_json":"",', b'"a":1}]}'),
        (b'{"data":[{"b64_json":"\\', b'"}]}'),
        (b'{"data":[{"a":1},{"b64_json":"', b'"}]}'),
        (b'{"data":[{"b64_json":1,"a":"', b'"}]}'),
        (b'{"data":[{"b64_json":"', b'","b64_json":""}]}'),
        (b'{"data":[{"b64_json":"', b'"}],"data":1}'),
        (b'{"data":["', b'"]}'),
        (b'{"data":[', b"]}"),
        (b'{"data":"', b'"}'),
        (b'{"type":"x","b64_json":"', b'"}'),
        (b'[{"b64_json":"', b'"}]'),
        (b'{"a":"%s' % (b"x" * 40), b""),
    ],
)
def test_a_text_that_is_no_reply_is_damage(before: bytes, after: bytes) -> None:
    with pytest.raises(StoreError):
        as_event(before, after, KIND)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='{}[]":,ab', max_size=30), st.binary(max_size=10), replies(), st.data())
def test_nothing_worse_than_damage_is_raised(text: str, junk: bytes, body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body)))
    for before, after in ((text.encode(), junk), (junk, text.encode()), (body[:at], body[at:]), (body[:at], junk)):
        try:
            as_event(before, after, KIND)
        except StoreError:
            pass


def test_a_reply_that_holds_an_address_becomes_an_event_that_does() -> None:
    body = b'{\n"created":1,"url":null,"data":[{"url" : "https://pictures.example/a.png?signature=0123456789",\n"b64_json":null}]}'
    assert link_event(body, KIND) == (
        b'{"type":"image_generation.completed","created_at":1,'
        b'"url" : "https://pictures.example/a.png?signature=0123456789","b64_json":null}'
    )
    for wrong in (b"", b"{}", b'{"data":[]}', b'{"data":[{}]}', b'{"data":["url"]}', b'{"url":"x"}'):
        with pytest.raises(StoreError):
            link_event(wrong, KIND)

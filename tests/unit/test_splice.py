"""Splicing: every face of a body is the JSON that a naive rewrite would give, and the base64 is never touched."""

import base64
import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import ImageSpan, Rendering
from proxy.reply import inspect, inspect_event, shifted
from proxy.splice import Face, Piece, length_of, pieces
from tests.support.eventbodies import EventBody, event_bodies
from tests.support.images import SIGNATURES, picture

Field = Literal["url", "b64_json"]


def link(index: int, image: ImageSpan) -> str:
    return f"https://gate.example/v1/images/files/{index}.{image.size}"


def joined(body: bytes, parts: Sequence[Piece]) -> bytes:
    return b"".join(part if isinstance(part, bytes) else body[part[0] : part[1]] for part in parts)


def shown(body: bytes, rendering: Rendering, field: Field = "url", echo: tuple[int, bytes] | None = None) -> bytes:
    parts = pieces(len(body), inspect(memoryview(body)).images, Face(rendering, field, link), echo)
    whole = joined(body, parts)
    assert length_of(parts) == len(whole)
    return whole


def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in members}) == len(members)
    return dict(members)


def rewritten(body: bytes, rendering: Rendering, field: Field) -> dict[str, Any]:
    """The naive way: parse, change, and let the caller compare."""
    document: dict[str, Any] = json.loads(body)
    images = inspect(memoryview(body)).images
    for index, (item, image) in enumerate(zip(document["data"], images, strict=True)):
        url = f"data:{image.media_type};base64,{item['b64_json']}" if rendering is Rendering.DATA_URL else ""
        if rendering is Rendering.B64_JSON:
            continue
        if rendering is Rendering.DATA_URL and field == "b64_json":
            item["b64_json"] = url
            continue
        del item["b64_json"]
        item["url"] = url or link(index, image)
    return document


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    items = []
    for index, kind in enumerate(draw(st.lists(st.sampled_from(sorted(SIGNATURES)), min_size=1, max_size=4))):
        value = base64.b64encode(picture(str(index), kind, draw(st.integers(48, 200)))).decode()
        members = [("b64_json", '"' + (value.replace("/", "\\/") if draw(st.booleans()) else value) + '"')]
        if draw(st.booleans()):
            members.append(("url", draw(st.sampled_from(["null", '"https://x.invalid/"', '""']))))
        if draw(st.booleans()):
            members.append(("revised_prompt", json.dumps(draw(st.sampled_from(['"b64_json":"', "url", "é" * 40])))))
        gap = draw(st.sampled_from(["", " ", "\n  "]))
        items.append("{" + ",".join(f'{gap}"{k}"{gap}:{v}' for k, v in draw(st.permutations(members))) + gap + "}")
    top = draw(st.permutations([f'"data":[{",".join(items)}]', '"created":1', '"usage":{"output_tokens":5}']))
    return ("{" + ",".join(top) + "}").encode()


@settings(max_examples=80, deadline=None)
@given(bodies(), st.sampled_from(Rendering), st.sampled_from(["url", "b64_json"]))
def test_every_face_says_what_a_naive_rewrite_says(body: bytes, rendering: Rendering, field: Field) -> None:
    assert json.loads(shown(body, rendering, field)) == rewritten(body, rendering, field)


@settings(max_examples=40, deadline=None)
@given(bodies(), st.sampled_from(Rendering), st.sampled_from(["url", "b64_json"]))
def test_no_member_is_named_twice(body: bytes, rendering: Rendering, field: Field) -> None:
    json.loads(shown(body, rendering, field), object_pairs_hook=once)


@settings(max_examples=40, deadline=None)
@given(bodies())
def test_the_default_face_is_the_body_itself(body: bytes) -> None:
    assert pieces(len(body), inspect(memoryview(body)).images, Face(Rendering.B64_JSON, "url", link)) == [
        (0, len(body))
    ]


@settings(max_examples=40, deadline=None)
@given(bodies(), st.sampled_from(Rendering), st.sampled_from(["first", "middle", "last"]))
def test_a_face_with_the_echo_is_the_face_of_what_the_upstream_sent(
    body: bytes, rendering: Rendering, place: str
) -> None:
    own = b'"safety_identifier": "me" '
    first_comma = body.index(b'"created":1') if b'"created":1,' in body else 1
    sent = {
        "first": body[:1] + own + b"," + body[1:],
        "middle": body[:first_comma] + own + b" ," + body[first_comma:],
        "last": body[:-1] + b" , " + own + b"}",
    }[place]
    found = inspect(memoryview(sent))
    assert found.echo is not None
    start, stop = found.echo
    stored = sent[:start] + sent[stop:]
    echo = (shifted(start, found.cuts()), sent[start:stop])
    assert shown(stored, rendering, "url", echo) == shown(sent, rendering)


@pytest.mark.parametrize("rendering", list(Rendering))
def test_megabytes_are_ranges_and_our_own_bytes_are_few(rendering: Rendering) -> None:
    value = base64.b64encode(picture("big", size=90_000)).decode()
    body = f'{{"data":[{{"b64_json":"{value}","url":null}},{{"url":null,"b64_json":"{value}"}}]}}'.encode()
    parts = pieces(len(body), inspect(memoryview(body)).images, Face(rendering, "url", link))
    assert sum(len(part) for part in parts if isinstance(part, bytes)) < 300
    assert all(part[0] < part[1] for part in parts if not isinstance(part, bytes))


# --- bodies that are the data of an event ----------------------------------------------------------------------------


def as_reply(document: dict[str, Any], rendering: Rendering, field: Field, image: ImageSpan) -> dict[str, Any]:
    """The naive way: what an ordinary reply would have said."""
    members = {name: value for name, value in document.items() if name not in ("type", "b64_json")}
    if "created_at" in members and "created" not in members:
        members["created"] = members.pop("created_at")
    value = document["b64_json"]
    name = "b64_json" if rendering is Rendering.B64_JSON else "url"
    if rendering is Rendering.DATA_URL:
        value, name = f"data:{image.media_type};base64,{value}", field
    elif rendering is Rendering.URL:
        value = link(0, image)
    if name == "url":
        members.pop("url", None)
    return {**members, "data": [{name: value}]}


@settings(max_examples=250, deadline=None)
@given(event_bodies(), st.sampled_from(Rendering), st.sampled_from(["url", "b64_json"]), st.booleans())
def test_every_face_of_an_event_is_the_reply_that_it_stands_for(
    written: EventBody, rendering: Rendering, field: Field, with_echo: bool
) -> None:
    sent = inspect_event(memoryview(written.body))
    stored, echo, expected = written.body, None, dict(written.document)
    if sent.echo is not None:
        start, stop = sent.echo
        stored = written.body[:start] + written.body[stop:]
        echo = (shifted(start, sent.cuts()), written.body[start:stop]) if with_echo else None
        if not with_echo:
            del expected["safety_identifier"]
    found = inspect_event(memoryview(stored))
    parts = pieces(len(stored), found.images, Face(rendering, field, link), echo, found.event)
    whole = joined(stored, parts)
    assert length_of(parts) == len(whole)
    assert json.loads(whole, object_pairs_hook=once) == as_reply(expected, rendering, field, found.images[0])


@pytest.mark.parametrize("rendering", list(Rendering))
@pytest.mark.parametrize(
    "body",
    [
        '{"safety_identifier":"me","b64_json":"%s"}',
        '{"b64_json":"%s","safety_identifier":"me"}',
        '{"type":"t","safety_identifier":"me","b64_json":"%s","url":null}',
        '{"safety_identifier":"me","type":"t","b64_json":"%s"}',
        '{"url":null,"b64_json":"%s","safety_identifier":"me","type":"t"}',
        '{"b64_json":"%s","type":"t","safety_identifier":"me","url":null}',
    ],
)
def test_the_echo_of_an_event_stands_outside_of_its_image(body: str, rendering: Rendering) -> None:
    sent = body.replace("%s", base64.b64encode(picture("a")).decode()).encode()
    start, stop = inspect_event(memoryview(sent)).echo or (0, 0)
    stored = sent[:start] + sent[stop:]
    found = inspect_event(memoryview(stored))
    parts = pieces(len(stored), found.images, Face(rendering, "url", link), (start, sent[start:stop]), found.event)
    expected = as_reply(json.loads(sent), rendering, "url", found.images[0])
    assert json.loads(joined(stored, parts), object_pairs_hook=once) == expected


def test_the_megabytes_of_an_event_are_ranges_too() -> None:
    value = base64.b64encode(picture("big", size=90_000)).decode()
    body = f'{{"created_at":1,"b64_json":"{value}","type":"image_generation.completed"}}'.encode()
    found = inspect_event(memoryview(body))
    parts = pieces(len(body), found.images, Face(Rendering.B64_JSON, "url", link), None, found.event)
    assert sum(len(part) for part in parts if isinstance(part, bytes)) < 50
    assert joined(body, parts) == f'{{"created":1,"data":[{{"b64_json":"{value}"}}]}}'.encode()

"""Splicing: every face of a body is the JSON that a naive rewrite would give, and the base64 is never touched."""

import base64
import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import ImageSpan, Rendering
from proxy.reply import inspect, shifted
from proxy.splice import Face, Piece, length_of, pieces
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
    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in members}) == len(members)
        return dict(members)

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

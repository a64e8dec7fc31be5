"""The data of a stream's last event, with its members in any order, spelled and spaced in any way, as a strategy."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.support.images import SIGNATURES, USAGE, picture


@dataclass(frozen=True)
class EventBody:
    """The data of an event as text, what it says, and the picture in it."""

    body: bytes
    document: dict[str, Any]
    picture: bytes


def _escaped(name: str) -> str:
    return '"' + "".join(f"\\u{ord(character):04x}" for character in name) + '"'


@st.composite
def event_bodies(draw: st.DrawFn, *, echo: bool = True) -> EventBody:
    """One that `inspect_event` takes: `b64_json`, and any of the members that an event may have."""
    content = picture("event", draw(st.sampled_from(sorted(SIGNATURES))), draw(st.integers(48, 200)))
    document: dict[str, Any] = {"b64_json": base64.b64encode(content).decode()}
    optional: dict[str, list[Any]] = {
        "type": ["image_generation.completed", "image_generation.partial_succeeded", 7],
        "created_at": [1_795_000_000, None],
        "created": [5],
        "url": [None, "", "https://pictures.example/" + "u" * 40],
        "size": ["1024x1024", "b64_json"],
        "note": ['"type":"x","b64_json":"', "é€🎨" * 15, {"type": "inner", "b64_json": [None]}],
        "usage": [dict(USAGE)],
    }
    if echo:
        optional["safety_identifier"] = ["me", None, "x" * 40]
    for name in draw(st.lists(st.sampled_from(sorted(optional)), unique=True)):
        document[name] = draw(st.sampled_from(optional[name]))
    gaps = st.sampled_from(["", "", " ", "\n", "\r\n  "])

    def member(name: str) -> str:
        spelled = _escaped(name) if draw(st.integers(0, 7)) == 0 else json.dumps(name)
        value = json.dumps(document[name], ensure_ascii=draw(st.booleans()))
        if name == "b64_json" and draw(st.booleans()):
            value = value.replace("/", "\\/")
        return f"{draw(gaps)}{spelled}{draw(gaps)}:{draw(gaps)}{value}{draw(gaps)}"

    names = draw(st.permutations(list(document)))
    return EventBody(("{" + ",".join(member(name) for name in names) + "}").encode(), document, content)

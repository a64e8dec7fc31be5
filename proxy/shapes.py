"""One answer, two shapes: an ordinary reply, and the data of a stream's last event; either is made from the other.

`created_at` ↔ `created`, `b64_json` ↔ `data[0].b64_json`, `type` only in the event, all else as it came. The base64 is never
touched: an event is turned into a reply by edits of its body, a reply into an event by rewriting the little that stands
before and after the base64. Pure.
"""

import json
from collections.abc import Iterator

from proxy.errors import InvalidRequest, StoreError
from proxy.model import EventMembers, ImageSpan
from proxy.reply import Edit
from proxy.skeleton import Member, Skeleton


def event_edits(event: EventMembers, image: ImageSpan) -> list[Edit]:
    """The edits that make a reply of an event's data. Those of one place are given in their order there."""
    edits = [
        Edit(image.key[0], image.key[0], b'"data":[{'),
        Edit(image.value[1] + 1, image.value[1] + 1, b"}]"),
    ]
    if event.type is not None:
        edits.append(Edit(*event.type))
    if event.created is not None:
        edits.append(Edit(*event.created, b'"created"'))
    return edits


def as_event(before: bytes, after: bytes, kind: str) -> tuple[bytes, bytes]:
    """What stands before and after the base64 in the data, on one line, of an event of type `kind`.

    `before` and `after` are what stands before and after the first image's base64, between its quotes, in a reply. Of the
    other images nothing is left. Raises StoreError if this is no such reply.
    """
    reply = _Reply(before + after)  # where the base64 was is now an empty string
    image = reply.item.get("b64_json")
    if image is None or reply.skeleton.raw((image.value_start, image.value_end)) != (len(before) - 1, len(before) + 1):
        raise _refused("holds its first image elsewhere")
    head: list[bytes] = [_type(kind)]
    tail: list[bytes] = []
    for name, member in reply.event_members():
        text = reply.spelled(name, member)
        if member is image:
            head.append(text[:-1])
            tail.append(text[-1:])
        else:
            (tail or head).append(text)
    return _one_line(b",".join(head)), _one_line(b",".join(tail) + b"}")


def link_event(text: bytes, kind: str) -> bytes:
    """The data, on one line, of an event of type `kind`, made of a reply whose first item is an address.

    Raises StoreError if this is no such reply.
    """
    reply = _Reply(text)
    if "url" not in reply.item:
        raise _refused("holds no address")
    members = [_type(kind), *(reply.spelled(name, member) for name, member in reply.event_members())]
    return _one_line(b",".join(members) + b"}")


class _Reply:
    """The text of a reply, and what an event takes from it. Raises StoreError if it holds no item."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.skeleton = Skeleton(memoryview(text), _refused, lone_surrogates=True)
        try:
            self.skeleton.document()
        except InvalidRequest as error:
            raise _refused("is not JSON") from error
        self._top = self.skeleton.members()
        data = self._top.get("data")
        if data is None or not isinstance(data.value, list) or not data.value or not isinstance(data.value[0], dict):
            raise _refused("holds no image")
        self.item = self.skeleton.members(next(self.skeleton.elements(data.value_start)))

    def event_members(self) -> Iterator[tuple[bytes | None, Member]]:
        """The members that the event has, in their order, each with its new name, if it gets one.

        No name is given twice: `type` is the event's, `b64_json` and `url` are the item's, and of any other name that the
        reply and its item have both, the event's is the reply's.
        """
        own = {"b64_json", "url"} & self.item.keys()
        is_renamed = "created" in self._top and "created_at" not in self._top
        taken = {*self._top, "type", *(["created_at"] if is_renamed else [])} - own
        for name, member in self._top.items():
            if name == "data":
                yield from ((None, inner) for inner_name, inner in self.item.items() if inner_name not in taken)
            elif name == "created" and is_renamed:
                yield b'"created_at"', member
            elif name != "type" and name not in own:
                yield None, member

    def spelled(self, name: bytes | None, member: Member) -> bytes:
        """A member as it came, but for its name."""
        start, name_end = self.skeleton.raw((member.key_start, member.key_end))
        _, stop = self.skeleton.raw((member.value_start, member.value_end))
        return (name or self._text[start:name_end]) + self._text[name_end:stop]


def _type(kind: str) -> bytes:
    return b'{"type":' + json.dumps(kind).encode("ascii")


def _refused(what: str) -> StoreError:
    return StoreError(f"a stored reply {what}")


def _one_line(text: bytes) -> bytes:
    """JSON without the line ends in it, which can only be white space."""
    return text.translate(None, b"\r\n")

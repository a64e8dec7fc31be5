"""Finds the images in a reply of the Images API, and checks them, without parsing their megabytes.

A reply of 12 MB is a few hundred bytes of JSON around one or more base64 strings: its skeleton is parsed strictly, and a
span is an image only if its nonce stands at `data[i].b64_json`, or in a stream's last event at `b64_json`. A search for the
text `"b64_json"` alone would find it inside other strings too. Pure, and meant for a worker thread: 12 MB take some
milliseconds.

Source: OpenAI API reference, "ImagesResponse", "ImageGenCompletedEvent", "ImageEditCompletedEvent".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pybase64

from proxy.errors import InvalidRequest, UpstreamInvalidResponse
from proxy.model import EventMembers, ImageSpan, Usage
from proxy.scan import HEAD_BYTES, Decoded, Scan
from proxy.skeleton import WINDOW_BYTES, Member, Skeleton, Span, window

MAX_TOKENS = 10**9
"""A count above this is no count: a counter that believed it could never be corrected."""
_CHARACTER = re.compile(rb"\\u[0-9A-Fa-f]{4}|\\.|.", re.DOTALL)
"""One character of a JSON string, as it is spelled."""
_LONGEST_ESCAPE = 6


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the bytes [start, stop) of a body."""

    start: int
    stop: int
    replacement: bytes = b""


@dataclass(frozen=True, slots=True)
class Link:
    """An item that came as an address: with its two edits it becomes one with `b64_json`."""

    index: int
    url: str
    replace: Span
    """The range that becomes `"b64_json":"…"`."""
    cut: Span | None
    """An empty `b64_json` member beside it, with one comma."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What stands where in a reply. Offsets are bytes of the body that was inspected."""

    images: tuple[ImageSpan, ...]
    links: tuple[Link, ...]
    usage: Usage | None
    prefixes: tuple[Edit, ...]
    """Where base64 came as a data URL: cuts the prefix `data:…;base64,`, and makes a `url` member a `b64_json` one."""
    echo: Span | None
    """The `safety_identifier` member with one comma: one caller's own, to be cut."""
    event: EventMembers | None = None
    """Set if this is the data of a stream's last event."""
    told_usage: Mapping[str, Any] = field(default_factory=dict)
    """The `usage` member as it came: some vendors tell there what they charged."""
    has_created: bool = True

    @property
    def items(self) -> int:
        return len(self.images) + len(self.links)

    def cuts(self) -> tuple[Edit, ...]:
        """The edits that make a body fit to be stored, in order; each of them makes it shorter."""
        edits = [*self.prefixes, *([Edit(*self.echo)] if self.echo else [])]
        return tuple(sorted(edits, key=lambda edit: edit.start))


@dataclass(frozen=True, slots=True)
class Peek:
    """What an event says of itself, before anything in it is believed."""

    type: str
    """Empty if its data is no JSON object, or names no type."""
    error: Mapping[str, Any] | None
    """The four members of an OpenAI error, if it tells of one: `message`, `type`, `param`, `code`."""
    echo: Span | None = None
    """The `safety_identifier` member with one comma: one caller's own."""


def inspect(view: memoryview, scan: Scan | None = None) -> Inspection:
    """Checks a complete reply and says what stands where. `scan` is what was seen of it while it came.

    Raises UpstreamInvalidResponse if it is not a JSON object with a `data` array that is not empty, whose every item
    holds either base64 that decodes to a known image or an address; or if it carries an `error`.
    """
    skeleton, document = _read(view, scan)
    data = document.get("data")
    if not isinstance(data, list) or not data:
        raise UpstreamInvalidResponse("The upstream's reply holds no images: 'data' is missing or empty.")
    top = skeleton.members()
    images: list[ImageSpan] = []
    links: list[Link] = []
    prefixes: list[Edit] = []
    for index, start in enumerate(skeleton.elements(top["data"].value_start)):
        if not skeleton.is_object(start):
            raise UpstreamInvalidResponse(f"The upstream's reply holds no image at data[{index}].")
        item = _Item(skeleton, skeleton.members(start), f"data[{index}]")
        if (link := item.link(index)) is not None:
            links.append(link)
            continue
        image, edits = item.image()
        images.append(image)
        prefixes.extend(edits)
    skeleton.check_remaining_strings()
    return Inspection(
        images=tuple(images),
        links=tuple(links),
        usage=usage_of(document.get("usage")),
        prefixes=tuple(prefixes),
        echo=_cut(skeleton, top.get("safety_identifier"), top["data"]),
        told_usage=_mapping(document.get("usage")),
        has_created="created" in top,
    )


def document_of(view: memoryview) -> dict[str, Any]:
    """A reply's members, with placeholders for whatever is long. Raises UpstreamInvalidResponse."""
    return _read(view)[1]


def inspect_event(view: memoryview, scan: Scan | None = None) -> Inspection:
    """Checks the data of a stream's last event, and says what stands where.

    Raises UpstreamInvalidResponse if it is not a JSON object that holds, at the top, base64 that decodes to a known image;
    if it carries an `error`; or if it is a reply at the same time, so that nobody could say what it means.
    """
    skeleton, document = _read(view, scan)
    top = skeleton.members()
    if "data" in top:
        raise UpstreamInvalidResponse("The upstream's last event holds 'data', as only a reply does.")
    item = _Item(skeleton, top, "the end of the stream")
    image, prefixes = item.image()
    skeleton.check_remaining_strings()
    # A reply has one `created`: where the event has it already, its `created_at` keeps its name.
    created = top.get("created_at") if "created" not in top else None
    return Inspection(
        images=(image,),
        links=(),
        usage=usage_of(document.get("usage")),
        prefixes=prefixes,
        echo=_cut(skeleton, top.get("safety_identifier"), item.picture),
        event=EventMembers(
            type=_cut(skeleton, top.get("type"), item.picture),
            created=skeleton.raw((created.key_start, created.key_end)) if created else None,
        ),
        told_usage=_mapping(document.get("usage")),
        has_created="created_at" in top or "created" in top,
    )


def addition(view: memoryview, member: bytes) -> Edit:
    """The edit that puts a member before all others of a reply, which has some."""
    start = bytes(view[:WINDOW_BYTES]).index(b"{") + 1
    return Edit(start, start, member + b",")


def peek(view: memoryview) -> Peek:
    """The type of an event, and the error that it tells of, by its data. Raises nothing: `[DONE]` is no type."""
    try:
        skeleton = Skeleton(view, _refused, lone_surrogates=True)
        document = {skeleton.string(name): value for name, value in skeleton.document().items()}
        kind = document.get("type")
        kind = skeleton.string(kind) if isinstance(kind, str) else ""
        error = document.get("error")
        if error is None and kind == "error":
            error = {name: document.get(name) for name in ("message", "param", "code")}
        return Peek(kind, None if error is None else _error_of(skeleton, error), _echo_in(skeleton))
    except (InvalidRequest, UpstreamInvalidResponse):
        return Peek("", None)


def usage_of(value: Any) -> Usage | None:
    """Tokens by class, disjoint; None where the upstream reported none.

    Without `input_tokens_details` a generation's input is text; without `output_tokens_details` its output is image.
    """
    if not isinstance(value, Mapping):
        return None
    given, made = _count(value, "input_tokens"), _count(value, "output_tokens")
    details_in, details_out = value.get("input_tokens_details"), value.get("output_tokens_details")
    if not given and not made:
        return None
    image_in = min(_count(details_in, "image_tokens"), given)
    text_out = min(_count(details_out, "text_tokens"), made)
    text_in = given - image_in
    cached = min(_count(details_in, "cached_tokens"), given)
    cached_text = min(cached, text_in)
    return Usage(
        text_in=text_in,
        image_in=image_in,
        text_out=text_out,
        image_out=made - text_out,
        cached_text_in=cached_text,
        cached_image_in=cached - cached_text,
    )


def shifted(offset: int, cuts: tuple[Edit, ...]) -> int:
    """Where `offset` stands after `cuts` (which only shorten) were made."""
    return offset - sum(min(cut.stop, offset) - cut.start - len(cut.replacement) for cut in cuts if cut.start < offset)


def media_type_of(head: bytes) -> str | None:
    """The media type of an image by its first bytes (the formats' own specifications); None if it is none we know."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<svg", b"<?xml")):
        return "image/svg+xml"
    return None


def _count(details: Any, name: str) -> int:
    value = details.get(name) if isinstance(details, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOKENS else 0


def _refused(what: str) -> UpstreamInvalidResponse:
    return UpstreamInvalidResponse(f"The upstream's reply {what}.")


def _read(view: memoryview, scan: Scan | None = None) -> tuple[Skeleton, dict[str, Any]]:
    """A reply or an event, parsed but for its long strings, that tells of no error."""
    # A revised prompt that was cut in the middle of an emoji is no reason to lose an image that is paid for.
    skeleton = Skeleton(view, _refused, lone_surrogates=True, scan=scan)
    try:
        document = skeleton.document()
    except InvalidRequest as error:
        raise UpstreamInvalidResponse("The upstream's reply is not the JSON of an image reply.") from error
    if document.get("error") is not None:
        raise UpstreamInvalidResponse("The upstream answered 200 with an error in the body.")
    return skeleton, document


def _cut(skeleton: Skeleton, member: Member | None, kept: Member) -> Span | None:
    """The range of `member` with one comma, if there is one, in an object that keeps `kept`."""
    return skeleton.raw(member.apart_from(kept)) if member is not None else None


def _echo_in(skeleton: Skeleton) -> Span | None:
    top = skeleton.members()
    others = [member for name, member in top.items() if name != "safety_identifier"]
    return _cut(skeleton, top.get("safety_identifier"), others[0]) if others else None


def _error_of(skeleton: Skeleton, told: Any) -> Mapping[str, Any]:
    """What an upstream calls an error, as OpenAI shapes it."""
    try:
        told = skeleton.restored(told)
    except UpstreamInvalidResponse:
        told = None  # an error all the same
    members = told if isinstance(told, Mapping) else {"message": told}

    def text(name: str) -> str | None:
        value = members.get(name)
        return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "" else None

    return {
        "message": text("message") or "The upstream reported an error.",
        "type": text("type") or "server_error",
        "param": text("param"),
        "code": text("code"),
    }


class _Item:
    """An object that holds one image: an element of `data`, or an event. `place` is where, for the words of a refusal."""

    def __init__(self, skeleton: Skeleton, members: Mapping[str, Member], place: str) -> None:
        self._skeleton = skeleton
        self._place = place
        self._inline, self._url = members.get("b64_json"), members.get("url")

    def link(self, index: int) -> Link | None:
        """The item as an address, if it has no base64 of its own."""
        url = self._url
        if self._base64_member() is not None or url is None or not isinstance(url.value, str) or not url.value:
            return None
        replace = self._skeleton.raw((url.key_start, url.value_end))
        return Link(index, self._skeleton.string(url.value), replace, _cut(self._skeleton, self._inline, url))

    @property
    def picture(self) -> Member:
        """The member that holds the base64. Raises UpstreamInvalidResponse if there is none."""
        member = self._base64_member()
        if member is None or self._skeleton.long_string(member.value) is None:
            raise _refused(f"holds no image at {self._place}")
        return member

    def image(self) -> tuple[ImageSpan, tuple[Edit, ...]]:
        """The item's base64, checked whole, and the edits that leave it bare under the name `b64_json`."""
        member = self.picture
        number = self._skeleton.long_string(member.value)
        assert number is not None
        (start, stop), escaped = self._skeleton.take(number)
        view = self._skeleton.view
        text = _unescaped(view[start:stop]) if escaped else view[start:stop]
        prefix = _data_prefix_length(text)
        # The prefix `data:image\/png;base64,` may be escaped as well: measured as it stands.
        prefix_raw = _raw_length(view[start:stop], prefix) if escaped else prefix
        seen = self._skeleton.decoded(start, stop) if prefix == 0 else None
        decoded = seen or _checked_base64(text[prefix:], self._place)
        media_type = media_type_of(decoded.head)
        if media_type is None:
            raise _refused(f"holds no known image format at {self._place}")
        span = ImageSpan(
            key=self._skeleton.raw((member.key_start, member.key_end)),
            value=(start + prefix_raw, stop),
            url=_cut(self._skeleton, self._url, member) if self._url is not member else None,
            media_type=media_type,
            size=decoded.size,
            escaped=escaped,
        )
        return span, self._edits(member, start, start + prefix_raw)

    def _base64_member(self) -> Member | None:
        """The member that holds the picture itself: `b64_json`, or a `url` that is a data URL."""
        if self._inline is not None and self._inline.value:
            return self._inline
        return self._url if self._url is not None and self._skeleton.starts_with(b"data:", self._url.value) else None

    def _edits(self, member: Member, start: int, bare: int) -> tuple[Edit, ...]:
        """For a text that starts at `start`, and is base64 from `bare` on."""
        if member is self._inline:
            return (Edit(start, bare),) if bare > start else ()
        # Longer than its replacement whatever the media type: `"url":"data:…;base64,`.
        renamed = Edit(self._skeleton.raw((member.key_start, member.key_end))[0], bare, b'"b64_json":"')
        unused = _cut(self._skeleton, self._inline, member)
        return (renamed,) if unused is None else (renamed, Edit(*unused))


def _unescaped(text: memoryview) -> memoryview:
    """A string with JSON escapes (PHP writes `\\/`), decoded; base64 is ASCII."""
    try:
        return memoryview(json.loads(f'"{str(text, "ascii")}"').encode("ascii"))
    except ValueError as error:
        raise _refused("holds damaged base64") from error


def _data_prefix_length(text: memoryview) -> int:
    head = bytes(text[:128])
    if not head.startswith(b"data:"):
        return 0
    comma = head.find(b";base64,")
    if comma < 0:
        raise _refused("holds a data URL that is not base64")
    return comma + len(b";base64,")


def _raw_length(text: memoryview, characters: int) -> int:
    """How many bytes of a JSON string its first `characters` take; none of them is more than ASCII."""
    head = bytes(text[: _LONGEST_ESCAPE * characters])
    return sum(len(spelling.group()) for spelling in islice(_CHARACTER.finditer(head), characters))


def _checked_base64(text: memoryview, place: str) -> Decoded:
    """What a text stands for, after every character of its base64 was checked (RFC 4648 §4)."""
    broken = _refused(f"holds damaged base64 at {place}")
    if len(text) == 0 or len(text) % 4:
        raise broken
    size, head = 0, b""
    for start in range(0, len(text), WINDOW_BYTES):
        content = window(text, start)
        last = start + WINDOW_BYTES >= len(text)
        if content.find(b"=", 0, len(content) - 2 if last else len(content)) >= 0:
            raise broken
        try:
            decoded = pybase64.b64decode(content, validate=True)
        except ValueError as error:
            raise broken from error
        if start == 0:
            head = decoded[:HEAD_BYTES]
        size += len(decoded)
    return Decoded(size, head)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

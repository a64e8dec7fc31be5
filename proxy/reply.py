"""Finds the images in a reply of the Images API, and checks them, without parsing their megabytes.

A reply of 12 MB is a few hundred bytes of JSON around one or more base64 strings. We walk the string tokens; each long one
is replaced by a nonce that the upstream cannot guess; the small skeleton that remains is parsed strictly; and a span is an
image only if its nonce stands at `data[i].b64_json`. A search for the text `"b64_json"` alone would find it inside other
strings too. Pure, and meant for a worker thread: 12 MB take some milliseconds.

Source: OpenAI API reference, "ImagesResponse".
"""

import json
import mmap
import re
import secrets
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pybase64

from proxy import strictjson
from proxy.errors import InvalidRequest, UpstreamInvalidResponse
from proxy.model import ImageSpan, Usage

Span = tuple[int, int]

LONG_STRING_BYTES = 32
"""Strings from this length on are replaced by a nonce; the base64 of the smallest GIF has 60 characters."""
MAX_SKELETON_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 16
"""The longest string that is not an image: a revised prompt has at most 32,000 characters."""
MAX_TOKENS = 10**9
"""A count above this is no count: a counter that believed it could never be corrected."""
WINDOW_BYTES = 1 << 18
_WHITESPACE = " \t\r\n"
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

    @property
    def items(self) -> int:
        return len(self.images) + len(self.links)

    def cuts(self) -> tuple[Edit, ...]:
        """The edits that make a body fit to be stored, in order; each of them makes it shorter."""
        edits = [*self.prefixes, *([Edit(*self.echo)] if self.echo else [])]
        return tuple(sorted(edits, key=lambda edit: edit.start))


def inspect(view: memoryview) -> Inspection:
    """Checks a complete reply and says what stands where.

    Raises UpstreamInvalidResponse if it is not a JSON object with a `data` array that is not empty, whose every item
    holds either base64 that decodes to a known image or an address; or if it carries an `error`.
    """
    skeleton = _Skeleton(view)
    document = _parse(skeleton.text)
    if document.get("error") is not None:
        raise UpstreamInvalidResponse("The upstream answered 200 with an error in the body.")
    data = document.get("data")
    if not isinstance(data, list) or not data:
        raise UpstreamInvalidResponse("The upstream's reply holds no images: 'data' is missing or empty.")
    layout = skeleton.text.decode("latin-1")  # one character a byte: offsets are byte offsets
    top = skeleton.by_name(_members(layout, _skip(layout, 0)))
    images: list[ImageSpan] = []
    links: list[Link] = []
    prefixes: list[Edit] = []
    for index, start in enumerate(_elements(layout, top["data"].value_start)):
        item = _Item(skeleton, layout, start, index)
        if (link := item.link()) is not None:
            links.append(link)
            continue
        image, edits = item.image()
        images.append(image)
        prefixes.extend(edits)
    skeleton.check_remaining_strings()
    echo = top.get("safety_identifier")
    return Inspection(
        images=tuple(images),
        links=tuple(links),
        usage=usage_of(document.get("usage")),
        prefixes=tuple(prefixes),
        echo=skeleton.raw(echo.with_comma) if echo else None,
    )


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


def _parse(text: bytes) -> dict[str, Any]:
    try:
        # A revised prompt that was cut in the middle of an emoji is no reason to lose an image that is paid for.
        return strictjson.parse_object(text, lone_surrogates=True)
    except InvalidRequest as error:
        raise UpstreamInvalidResponse("The upstream's reply is not the JSON of an image reply.") from error


class _Skeleton:
    """The reply with every long string replaced by a nonce, and the way back to the bytes."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self._nonce = secrets.token_hex(16).encode()
        self._spans: list[tuple[Span, bool]] = []  # raw range of the k-th long string, and whether it has escapes
        self._starts: list[int] = [0]  # skeleton offset from which on ...
        self._shifts: list[int] = [0]  # ... raw offset = skeleton offset + shift
        self._used: set[int] = set()
        self.text = self._walk()

    def _walk(self) -> bytes:
        scanner = _Scanner(self.view)
        parts: list[bytes] = []
        length, position = 0, 0
        while (opening := scanner.find(b'"', position)) >= 0:
            if opening - position + length > MAX_SKELETON_BYTES:
                raise UpstreamInvalidResponse("The upstream's reply holds far more than images.")
            closing, escaped = scanner.string_end(opening + 1)
            if closing - opening - 1 < LONG_STRING_BYTES:
                parts.append(bytes(self.view[position : closing + 1]))
                length += closing + 1 - position
            else:
                token = b'"%s-%d"' % (self._nonce, len(self._spans))
                parts += (bytes(self.view[position:opening]), token)
                length += opening - position + len(token)
                self._spans.append(((opening + 1, closing), escaped))
                self._starts.append(length)
                self._shifts.append(closing + 1 - length)
            position = closing + 1
        if len(self.view) - position + length > MAX_SKELETON_BYTES:
            raise UpstreamInvalidResponse("The upstream's reply holds far more than images.")
        parts.append(bytes(self.view[position:]))
        return b"".join(parts)

    def raw(self, span: Span) -> Span:
        """The bytes of the body that a range of the skeleton stands for."""
        return self._offset(span[0]), self._offset(span[1])

    def _offset(self, offset: int) -> int:
        return offset + self._shifts[bisect_right(self._starts, offset) - 1]

    def long_string(self, value: Any) -> int | None:
        """The number of the long string that `value` stands for, if it is one."""
        prefix = self._nonce.decode() + "-"
        return int(value[len(prefix) :]) if isinstance(value, str) and value.startswith(prefix) else None

    def starts_with(self, beginning: bytes, value: Any) -> bool:
        """Whether `value` is a long string whose text begins so, as it is spelled."""
        number = self.long_string(value)
        return number is not None and bytes(self.view[self._spans[number][0][0] :][: len(beginning)]) == beginning

    def take(self, number: int) -> tuple[Span, bool]:
        """The range of a long string between its quotes, and whether it has escapes; it needs no further check."""
        self._used.add(number)
        return self._spans[number]

    def string(self, value: str) -> str:
        """The text of a string value, long or short."""
        number = self.long_string(value)
        return value if number is None else self._decoded(number)

    def by_name(self, members: "Iterator[_Member]") -> "dict[str, _Member]":
        """Members by their names as every reader of JSON reads them: a name may be long only because it is escaped."""
        found: dict[str, _Member] = {}
        for member in members:
            name = self.string(member.key)
            if name in found:
                raise UpstreamInvalidResponse("The upstream's reply names one member twice.")
            found[name] = member
        return found

    def check_remaining_strings(self) -> None:
        """Every long string that is no image is checked as the JSON it is."""
        for number in range(len(self._spans)):
            if number not in self._used:
                self._decoded(number)

    def _decoded(self, number: int) -> str:
        start, stop = self._spans[number][0]
        if stop - start > MAX_TEXT_BYTES:
            raise UpstreamInvalidResponse("The upstream's reply holds a long string that is no image.")
        text: str = _parse(b'{"":"%s"}' % bytes(self.view[start:stop]))[""]
        return text


class _Scanner:
    """Finds single bytes in a large buffer by windows: `bytes.find` is as fast as memory, and a memoryview has none."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._base = 0
        self._window = b""

    def find(self, byte: bytes, position: int) -> int:
        while position < len(self._view):
            self._load(position)
            found = self._window.find(byte, position - self._base)
            if found >= 0:
                return self._base + found
            position = self._base + len(self._window)
        return -1

    def string_end(self, start: int) -> tuple[int, bool]:
        """Where the string whose text begins at `start` has its closing quote, and whether it holds escapes.

        Goes from quote to quote, never from escape to escape: a PHP vendor escapes every 64th character of megabytes.
        """
        closing = self.find(b'"', start)
        while closing >= 0 and self._is_escaped(closing, start):
            closing = self.find(b'"', closing + 1)
        if closing < 0:
            raise UpstreamInvalidResponse("The upstream's reply ends inside a string.")
        return closing, self._find_before(b"\\", start, closing) >= 0

    def _is_escaped(self, position: int, start: int) -> bool:
        """Whether an odd number of backslashes stands before `position`."""
        first = position
        while first > start and self._view[first - 1] == ord("\\"):
            first -= 1
        return (position - first) % 2 == 1

    def _find_before(self, byte: bytes, position: int, stop: int) -> int:
        while position < stop:
            self._load(position)
            found = self._window.find(byte, position - self._base, stop - self._base)
            if found >= 0:
                return self._base + found
            position = self._base + len(self._window)
        return -1

    def _load(self, position: int) -> None:
        if not self._base <= position < self._base + len(self._window):
            self._base = position
            self._window = _read(self._view, position)


@dataclass(frozen=True, slots=True)
class _Member:
    """One member of an object, by offsets into the skeleton."""

    key: str
    key_start: int
    key_end: int
    value: Any
    value_start: int
    value_end: int
    comma_before: int | None
    comma_after: int | None

    @property
    def with_comma(self) -> Span:
        """The range to cut so that what remains is still JSON."""
        if self.comma_after is not None:
            return self.key_start, self.comma_after + 1
        start = self.key_start if self.comma_before is None else self.comma_before
        return start, self.value_end


class _Item:
    """One element of `data`."""

    def __init__(self, skeleton: _Skeleton, layout: str, start: int, index: int) -> None:
        self._skeleton = skeleton
        self._index = index
        if layout[start] != "{":
            raise UpstreamInvalidResponse(f"The upstream's reply holds no image at data[{index}].")
        members = skeleton.by_name(_members(layout, start))
        self._inline, self._url = members.get("b64_json"), members.get("url")

    def link(self) -> Link | None:
        """The item as an address, if it has no base64 of its own."""
        url = self._url
        if self._base64_member() is not None or url is None or not isinstance(url.value, str) or not url.value:
            return None
        cut = self._skeleton.raw(self._inline.with_comma) if self._inline is not None else None
        replace = self._skeleton.raw((url.key_start, url.value_end))
        return Link(self._index, self._skeleton.string(url.value), replace, cut)

    def image(self) -> tuple[ImageSpan, tuple[Edit, ...]]:
        """The item's base64, checked whole, and the edits that leave it bare under the name `b64_json`."""
        member = self._base64_member()
        number = self._skeleton.long_string(member.value) if member else None
        if member is None or number is None:
            raise UpstreamInvalidResponse(f"The upstream's reply holds no image at data[{self._index}].")
        (start, stop), escaped = self._skeleton.take(number)
        view = self._skeleton.view
        text = _unescaped(view[start:stop]) if escaped else view[start:stop]
        prefix = _data_prefix_length(text)
        # The prefix `data:image\/png;base64,` may be escaped as well: measured as it stands.
        prefix_raw = _raw_length(view[start:stop], prefix) if escaped else prefix
        media_type, size = _checked_base64(text[prefix:], self._index)
        span = ImageSpan(
            key=self._skeleton.raw((member.key_start, member.key_end)),
            value=(start + prefix_raw, stop),
            url=self._skeleton.raw(self._url.with_comma) if self._url and self._url is not member else None,
            media_type=media_type,
            size=size,
            escaped=escaped,
        )
        return span, self._edits(member, start, start + prefix_raw)

    def _base64_member(self) -> "_Member | None":
        """The member that holds the picture itself: `b64_json`, or a `url` that is a data URL."""
        if self._inline is not None and self._inline.value:
            return self._inline
        return self._url if self._url is not None and self._skeleton.starts_with(b"data:", self._url.value) else None

    def _edits(self, member: "_Member", start: int, bare: int) -> tuple[Edit, ...]:
        """For a text that starts at `start`, and is base64 from `bare` on."""
        if member is self._inline:
            return (Edit(start, bare),) if bare > start else ()
        # Longer than its replacement whatever the media type: `"url":"data:…;base64,`.
        renamed = Edit(self._skeleton.raw((member.key_start, member.key_end))[0], bare, b'"b64_json":"')
        return (renamed,) if self._inline is None else (renamed, Edit(*self._skeleton.raw(self._inline.with_comma)))


def _unescaped(text: memoryview) -> memoryview:
    """A string with JSON escapes (PHP writes `\\/`), decoded; base64 is ASCII."""
    try:
        return memoryview(json.loads(f'"{str(text, "ascii")}"').encode("ascii"))
    except ValueError as error:
        raise UpstreamInvalidResponse("The upstream's reply holds damaged base64.") from error


def _data_prefix_length(text: memoryview) -> int:
    head = bytes(text[:128])
    if not head.startswith(b"data:"):
        return 0
    comma = head.find(b";base64,")
    if comma < 0:
        raise UpstreamInvalidResponse("The upstream's reply holds a data URL that is not base64.")
    return comma + len(b";base64,")


def _raw_length(text: memoryview, characters: int) -> int:
    """How many bytes of a JSON string its first `characters` take; none of them is more than ASCII."""
    head = bytes(text[: _LONGEST_ESCAPE * characters])
    return sum(len(spelling.group()) for spelling in islice(_CHARACTER.finditer(head), characters))


def _checked_base64(text: memoryview, index: int) -> tuple[str, int]:
    """Media type and size in bytes of an image, after every character of its base64 was checked (RFC 4648 §4)."""
    broken = UpstreamInvalidResponse(f"The upstream's reply holds damaged base64 at data[{index}].")
    if len(text) == 0 or len(text) % 4:
        raise broken
    size = 0
    media_type: str | None = None
    for start in range(0, len(text), WINDOW_BYTES):
        window = _read(text, start)
        last = start + WINDOW_BYTES >= len(text)
        if window.find(b"=", 0, len(window) - 2 if last else len(window)) >= 0:
            raise broken
        try:
            decoded = pybase64.b64decode(window, validate=True)
        except ValueError as error:
            raise broken from error
        if start == 0:
            media_type = media_type_of(decoded[:256])
        size += len(decoded)
    if media_type is None:
        raise UpstreamInvalidResponse(f"The upstream's reply holds no known image format at data[{index}].")
    return media_type, size


def _read(view: memoryview, start: int) -> bytes:
    """The window that begins at `start`. The pages of a mapped body count as ours until they are dropped, and a reply of
    ten large images has hundreds of megabytes of them: none is kept behind the window."""
    window = bytes(view[start : start + WINDOW_BYTES])
    if isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)
    return window


_DECODER = json.JSONDecoder(strict=False)


def _skip(text: str, position: int) -> int:
    while text[position] in _WHITESPACE:
        position += 1
    return position


def _members(text: str, position: int) -> Iterator[_Member]:
    """The members of the object that opens at `position` of `text`, which is known to be valid JSON."""
    position = _skip(text, position + 1)
    comma_before: int | None = None
    while text[position] != "}":
        key, key_end = _DECODER.raw_decode(text, position)
        value_start = _skip(text, _skip(text, key_end) + 1)
        value, value_end = _DECODER.raw_decode(text, value_start)
        after = _skip(text, value_end)
        comma_after = after if text[after] == "," else None
        yield _Member(key, position, key_end, value, value_start, value_end, comma_before, comma_after)
        comma_before = comma_after
        position = _skip(text, after + 1) if comma_after is not None else after


def _elements(text: str, position: int) -> Iterator[int]:
    """Where each element of the array that opens at `position` begins."""
    position = _skip(text, position + 1)
    while text[position] != "]":
        yield position
        after = _skip(text, _DECODER.raw_decode(text, position)[1])
        position = _skip(text, after + 1) if text[after] == "," else after

"""A large JSON text made small: its long strings exchanged for nonces, so that what remains can be parsed and measured.

Whoever sends megabytes of base64 sends a few hundred bytes of JSON around them. We walk the string tokens; each long one is
replaced by a nonce that nobody outside can guess; what remains is the skeleton, and a range of it has its way back to the
bytes. Pure, and meant for a worker thread: 12 MB take some milliseconds.

What is wrong with a text is said by an error of the caller's choice, made of half a sentence: "names one member twice".
"""

import json
import mmap
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy import strictjson
from proxy.errors import ImagegateError, InvalidRequest
from proxy.scan import Decoded, Scan

Span = tuple[int, int]
"""A range [start, stop)."""
Refused = Callable[[str], ImagegateError]
"""Makes an error of what a text does wrong."""

LONG_STRING_BYTES = 32
"""Strings from this length on are replaced by a nonce; the base64 of the smallest GIF has 60 characters."""
MAX_SKELETON_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 16
"""The longest string that is not an image: a revised prompt has at most 32,000 characters."""
MAX_INNER_QUOTES = 1 << 17
"""Of all strings together: base64 has none, and each costs a step."""
WINDOW_BYTES = 1 << 18
_WHITESPACE = " \t\r\n"
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object, by offsets into the skeleton."""

    key: str
    key_start: int
    key_end: int
    value: Any
    value_start: int
    value_end: int
    comma_before: int | None
    comma_after: int | None

    def apart_from(self, kept: "Member") -> Span:
        """The range to cut, with the comma on the side of `kept`, so that what remains is still JSON.

        Any number of members may be cut, each apart from the same one: their ranges never touch the same comma.
        """
        if self.key_start < kept.key_start:
            assert self.comma_after is not None
            return self.key_start, self.comma_after + 1
        assert self.comma_before is not None
        return self.comma_before, self.value_end


class Skeleton:
    """A JSON text with every long string replaced by a nonce, and the way back to its bytes.

    `document` is to be called before anything is measured: only a text that was parsed has members. A long string is
    believed only once it was decoded, or taken by a caller who knows what it must be.
    """

    def __init__(
        self,
        view: memoryview,
        refused: Refused,
        *,
        max_text_bytes: int = MAX_TEXT_BYTES,
        lone_surrogates: bool = False,
        scan: Scan | None = None,
    ) -> None:
        """`scan` is what was seen of this very text before."""
        self.view = view
        self._scan = scan if scan is not None and scan.is_plain and scan.size == len(view) else None
        self._refused = refused
        self._max_text_bytes = max_text_bytes
        self._lone_surrogates = lone_surrogates
        self._nonce = secrets.token_hex(16).encode()
        self._spans: list[tuple[Span, bool]] = []  # raw range of the k-th long string, and whether it has escapes
        self._starts: list[int] = [0]  # skeleton offset from which on ...
        self._shifts: list[int] = [0]  # ... raw offset = skeleton offset + shift
        self._used: set[int] = set()
        self.text = self._walk()
        self._layout = self.text.decode("latin-1")  # one character a byte: offsets are byte offsets

    def _walk(self) -> bytes:
        scanner = _Known(self._scan, self._refused) if self._scan else _Scanner(self.view, self._refused)
        parts: list[bytes] = []
        length, position = 0, 0
        while (opening := scanner.find_quote(position)) >= 0:
            if opening - position + length > MAX_SKELETON_BYTES:
                raise self._refused("holds far more than images")
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
            raise self._refused("holds far more than images")
        parts.append(bytes(self.view[position:]))
        return b"".join(parts)

    # --- what it says ---------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """The JSON object, with nonces in the places of its long strings. Raises InvalidRequest, as strictjson does."""
        return strictjson.parse_object(self.text, lone_surrogates=self._lone_surrogates)

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

    def decoded(self, start: int, stop: int) -> Decoded | None:
        """What the base64 that fills a long string stands for, if it was found sound before."""
        return self._scan.decoded(start, stop) if self._scan else None

    def string(self, value: str) -> str:
        """The text of a string value, long or short."""
        number = self.long_string(value)
        return value if number is None else self._decoded(number)

    def restored(self, value: Any) -> Any:
        """A value of the document with its long strings, and long names, as they were."""
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, list):
            return [self.restored(element) for element in value]
        if isinstance(value, Mapping):
            return {self.string(name): self.restored(inner) for name, inner in value.items()}
        return value

    def check_remaining_strings(self) -> None:
        """Every long string that was not taken is checked as the JSON it is."""
        for number in range(len(self._spans)):
            if number not in self._used:
                self._decoded(number)

    def _decoded(self, number: int) -> str:
        start, stop = self._spans[number][0]
        if stop - start > self._max_text_bytes:
            raise self._refused("holds a long string that is no image")
        alone = b'{"":"%s"}' % bytes(self.view[start:stop])
        try:
            text: str = strictjson.parse_object(alone, lone_surrogates=self._lone_surrogates)[""]
        except InvalidRequest as error:
            raise self._refused("holds a string that is not JSON") from error
        return text

    # --- where it stands ------------------------------------------------------------------------------------------------

    def raw(self, span: Span) -> Span:
        """The bytes of the text that a range of the skeleton stands for."""
        return self._offset(span[0]), self._offset(span[1])

    def _offset(self, offset: int) -> int:
        return offset + self._shifts[bisect_right(self._starts, offset) - 1]

    def members(self, start: int | None = None) -> dict[str, Member]:
        """The members of the object that opens at `start`, by default the outermost, by their names in their order.

        By their names as every reader of JSON reads them: a name may be long only because it is escaped.
        """
        found: dict[str, Member] = {}
        for member in _members(self._layout, _skip(self._layout, 0) if start is None else start):
            # One character a byte is enough to measure by, but is not how a name in UTF-8 reads.
            name = member.key if member.key.isascii() else json.loads(self.text[member.key_start : member.key_end])
            name = self.string(name)
            if name in found:
                raise self._refused("names one member twice")
            found[name] = member
        return found

    def elements(self, start: int) -> Iterator[int]:
        """Where each element of the array that opens at `start` begins."""
        return _elements(self._layout, start)

    def is_object(self, start: int) -> bool:
        """Whether the value that begins at `start` is an object."""
        return self._layout[start] == "{"


class _Known:
    """The same as `_Scanner`, of a text that was seen before, and has no escapes."""

    def __init__(self, scan: Scan, refused: Refused) -> None:
        self._scan = scan
        self._refused = refused

    def find_quote(self, position: int) -> int:
        return self._scan.find_quote(position)

    def string_end(self, start: int) -> tuple[int, bool]:
        closing = self._scan.find_quote(start)
        if closing < 0:
            raise self._refused("ends inside a string")
        return closing, False


class _Scanner:
    """Finds single bytes in a large buffer by windows: `bytes.find` is as fast as memory, and a memoryview has none."""

    def __init__(self, view: memoryview, refused: Refused) -> None:
        self._view = view
        self._refused = refused
        self._inner_quotes = 0
        self._base = 0
        self._window = b""

    def find_quote(self, position: int) -> int:
        while position < len(self._view):
            self._load(position)
            found = self._window.find(b'"', position - self._base)
            if found >= 0:
                return self._base + found
            position = self._base + len(self._window)
        return -1

    def string_end(self, start: int) -> tuple[int, bool]:
        """Where the string whose text begins at `start` has its closing quote, and whether it holds escapes.

        Goes from quote to quote, never from escape to escape: a PHP vendor escapes every 64th character of megabytes.
        """
        closing = self.find_quote(start)
        while closing >= 0 and self._is_escaped(closing, start):
            self._inner_quotes += 1
            if self._inner_quotes > MAX_INNER_QUOTES:
                raise self._refused("holds far more than images")
            closing = self.find_quote(closing + 1)
        if closing < 0:
            raise self._refused("ends inside a string")
        return closing, self._find_before(b"\\", start, closing) >= 0

    def _is_escaped(self, position: int, start: int) -> bool:
        """Whether an odd number of backslashes stands before `position`."""
        first, step = position, 1
        while first > start:
            piece = bytes(self._view[max(start, first - step) : first])
            first -= len(piece) - len(bare := piece.rstrip(b"\\"))
            if bare:
                break
            step = min(2 * step, WINDOW_BYTES)
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
            self._window = window(self._view, position)


def window(view: memoryview, start: int) -> bytes:
    """The window that begins at `start`. The pages of a mapped body count as ours until they are dropped, and a reply of
    ten large images has hundreds of megabytes of them: none is kept behind the window."""
    content = bytes(view[start : start + WINDOW_BYTES])
    if isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)
    return content


def _skip(text: str, position: int) -> int:
    while text[position] in _WHITESPACE:
        position += 1
    return position


def _members(text: str, position: int) -> Iterator[Member]:
    """The members of the object that opens at `position` of `text`, which is known to be valid JSON."""
    position = _skip(text, position + 1)
    comma_before: int | None = None
    while text[position] != "}":
        key, key_end = _DECODER.raw_decode(text, position)
        value_start = _skip(text, _skip(text, key_end) + 1)
        value, value_end = _DECODER.raw_decode(text, value_start)
        after = _skip(text, value_end)
        comma_after = after if text[after] == "," else None
        yield Member(key, position, key_end, value, value_start, value_end, comma_before, comma_after)
        comma_before = comma_after
        position = _skip(text, after + 1) if comma_after is not None else after


def _elements(text: str, position: int) -> Iterator[int]:
    """Where each element of the array that opens at `position` begins."""
    position = _skip(text, position + 1)
    while text[position] != "]":
        yield position
        after = _skip(text, _DECODER.raw_decode(text, position)[1])
        position = _skip(text, after + 1) if text[after] == "," else after

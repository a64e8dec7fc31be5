"""What can be said of a JSON text while its pieces go by, still warm in the processor's cache: where its quotes stand, and
which of its long strings are sound base64.

Facts only, nothing is judged. A text with a backslash anywhere, or with more quotes than a reply of images has, is none of
ours: of it nothing is said, and whoever needs to know reads it. Belongs to one thread at a time.
"""

from bisect import bisect_left
from typing import NamedTuple

import pybase64

MAX_QUOTES = 4096
LEAST_BYTES = 1 << 14
"""Shorter strings are as well decoded by who needs them."""
HEAD_BYTES = 256


class Decoded(NamedTuple):
    """Of base64 (RFC 4648 §4): how many bytes it stands for, and the first of them."""

    size: int
    head: bytes


class Scan:
    """Fed with the pieces of a text in their order."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that were fed."""
        self._quotes: list[int] = []
        self._is_plain = True
        self._string: _String | None = None
        """The string that has not ended yet."""
        self._sound: dict[tuple[int, int], Decoded] = {}

    @property
    def is_plain(self) -> bool:
        """Whether what is known of the quotes is all that there is to know of the strings."""
        return self._is_plain

    def feed(self, piece: bytes) -> None:
        if self._is_plain:
            self._is_plain = b"\\" not in piece
        if self._is_plain:
            self._look_at(piece)
        self.size += len(piece)

    def find_quote(self, position: int) -> int:
        """The first quote from `position` on; -1 if there is none."""
        place = bisect_left(self._quotes, position)
        return self._quotes[place] if place < len(self._quotes) else -1

    def decoded(self, start: int, stop: int) -> Decoded | None:
        """If all between these two quotes is known to be base64, with its padding where it belongs."""
        return self._sound.get((start, stop))

    def _look_at(self, piece: bytes) -> None:
        done = 0
        while (quote := piece.find(b'"', done)) >= 0:
            self._quotes.append(self.size + quote)
            if len(self._quotes) > MAX_QUOTES:
                self._is_plain = False
                return
            if self._string is None:
                self._string = _String(self.size + quote + 1)
            else:
                self._string.feed(memoryview(piece)[done:quote])
                self._close(self._string)
            done = quote + 1
        if self._string is not None:
            self._string.feed(memoryview(piece)[done:])

    def _close(self, string: "_String") -> None:
        self._string = None
        if (decoded := string.decoded()) is not None:
            self._sound[string.start, string.start + string.length] = decoded


class _String:
    """One string, decoded as it comes, four characters at a time, for as long as it may be base64."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.length = 0
        self._rest = bytearray()
        """Fewer than four characters; of a string that is not long yet, all of it."""
        self._size = 0
        self._head = b""
        self._is_over = False
        """Padding was seen: nothing may follow."""
        self._is_sound = True

    def feed(self, piece: memoryview) -> None:
        self.length += len(piece)
        if not self._is_sound:
            return
        if self.length < LEAST_BYTES:
            self._rest += piece
            return
        if self._rest:
            missing = -len(self._rest) % 4
            self._rest += piece[:missing]
            piece = piece[missing:]
            if len(self._rest) % 4:
                return
            self._decode(self._rest)
        whole = len(piece) - len(piece) % 4
        self._rest = bytearray(piece[whole:])
        if whole:
            self._decode(piece[:whole])

    def decoded(self) -> Decoded | None:
        if self.length < LEAST_BYTES or not self._is_sound or self._rest:
            return None
        return Decoded(self._size, self._head)

    def _decode(self, characters: bytearray | memoryview) -> None:
        try:
            content = pybase64.b64decode(characters, validate=True)
        except ValueError:
            self._is_sound = False
            return
        self._is_sound = self._is_sound and not self._is_over
        # It takes padding only at the end of what it is given, which need not be the end of the string.
        self._is_over = len(content) != len(characters) // 4 * 3
        if len(self._head) < HEAD_BYTES:
            self._head += content[: HEAD_BYTES - len(self._head)]
        self._size += len(content)

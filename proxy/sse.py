"""Server-sent events, read piece by piece as they arrive (WHATWG HTML §9.2.6, "Interpreting an event stream").

An event of ours is one line of megabytes: its data is handed on as it comes and never held. What is held is at most one
name. Pure: no I/O.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from proxy.errors import UpstreamInvalidResponse

MAX_NAME_BYTES = 256
MAX_LINES = 100_000
"""Of one stream: ten minutes of a comment every ten milliseconds."""
"""Of a field's name, and of an event's: an error page that calls itself a stream has longer ones."""
COMMENT = b": keepalive\n\n"
"""What readers ignore, and what keeps a silent connection open."""
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of the current event's data, never empty."""

    piece: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The current event is whole. `name` is its `event` field, empty if it has none."""

    name: str


class _Part(Enum):
    """Where in a line the parser is."""

    FIELD = auto()
    """In the field's name, from the line's first byte on."""
    DATA = auto()
    EVENT = auto()
    IGNORED = auto()
    """In a comment, or in the value of a field that means nothing to us."""


class EventParser:
    """One stream. After an exception, or a `feed` that was not read to its end, it is of no use any more."""

    def __init__(self) -> None:
        self._part = _Part.FIELD
        self._held = b""  # so far: the field's name, or the event's
        self._is_value_new = False  # nothing was read of the value yet: one space belongs to the colon
        self._name = ""
        self._has_data = False
        self._mark: bytes | None = b""  # so far: what may be a byte order mark
        self._is_after_cr = False
        self._lines = 0

    def feed(self, chunk: bytes) -> Iterator[Data | Dispatch]:
        """What the next bytes of the stream tell. Raises UpstreamInvalidResponse for an overlong name."""
        for piece, is_line_end in self._pieces(self._without_mark(chunk)):
            yield from self._read(piece)
            if is_line_end:
                yield from self._end_line()

    def ends_inside(self) -> bool:
        """Whether an event that was begun is not whole: at the stream's end it is lost."""
        return self._has_data

    def _without_mark(self, chunk: bytes) -> bytes:
        if self._mark is None:
            return chunk
        head = self._mark + chunk
        if len(head) < len(_MARK) and _MARK.startswith(head):
            self._mark = head
            return b""
        self._mark = None
        return head.removeprefix(_MARK)

    def _pieces(self, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """The lines of a chunk, the last of them perhaps cut; whether each has its end."""
        if not chunk:
            return
        position = 1 if self._is_after_cr and chunk.startswith(b"\n") else 0
        self._is_after_cr = chunk.endswith(b"\r")
        lf = cr = -1
        while position < len(chunk):
            # Each is looked for only once it was passed: a chunk of many short lines is read once, not once a line.
            lf = _find(chunk, b"\n", position) if lf < position else lf
            cr = _find(chunk, b"\r", position) if cr < position else cr
            stop = min(lf, cr)
            yield chunk[position:stop], stop < len(chunk)
            position = stop + (2 if cr + 1 == lf and stop == cr else 1)

    def _read(self, piece: bytes) -> Iterator[Data]:
        """A piece of the current line, without its end."""
        if self._part is _Part.FIELD:
            colon = piece.find(b":", 0, MAX_NAME_BYTES + 1)
            self._hold(piece if colon < 0 else piece[:colon])
            if colon < 0:
                return
            yield from self._begin_value()
            piece = piece[colon + 1 :]
        if self._is_value_new and piece:
            self._is_value_new = False
            piece = piece.removeprefix(b" ")
        if self._part is _Part.DATA and piece:
            yield Data(piece)
        elif self._part is _Part.EVENT:
            self._hold(piece)

    def _hold(self, piece: bytes) -> None:
        if len(self._held) + len(piece) > MAX_NAME_BYTES:
            raise UpstreamInvalidResponse("The upstream's stream holds no events.")
        self._held += piece

    def _begin_value(self) -> Iterator[Data]:
        """The name of the field is whole; a comment is a field without a name."""
        field_name, self._held, self._is_value_new = self._held, b"", True
        self._part = {b"data": _Part.DATA, b"event": _Part.EVENT}.get(field_name, _Part.IGNORED)
        if self._part is _Part.DATA:
            if self._has_data:
                yield Data(b"\n")
            self._has_data = True

    def _end_line(self) -> Iterator[Data | Dispatch]:
        self._lines += 1
        if self._lines > MAX_LINES:
            raise UpstreamInvalidResponse(f"The upstream's stream has more than {MAX_LINES} lines.")
        if self._part is _Part.FIELD and not self._held:
            if self._has_data:
                yield Dispatch(self._name)
            self._name, self._has_data = "", False
            return
        if self._part is _Part.FIELD:
            yield from self._begin_value()
        if self._part is _Part.EVENT:
            self._name = self._held.decode("utf-8", "replace")
        self._part, self._held, self._is_value_new = _Part.FIELD, b"", False


def framed(name: str) -> tuple[bytes, bytes]:
    """What stands before and after the data of an event of ours, which is one line."""
    return (f"event: {name}\ndata: " if name else "data: ").encode(), b"\n\n"


def _find(chunk: bytes, byte: bytes, position: int) -> int:
    """Where `byte` is next; behind the end if nowhere."""
    found = chunk.find(byte, position)
    return len(chunk) if found < 0 else found

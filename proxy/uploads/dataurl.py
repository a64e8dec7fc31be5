"""A `data:` URL decoded window by window (RFC 2397, RFC 4648 §4), also as a JSON string spells it.

The law: however the text is cut into windows, the same bytes come out, or none: every character is checked. Pure.
"""

import json
import re

import pybase64

_HEAD = re.compile(rb"data:([^,;]*)(?:;[^,;]*)*;base64,", re.IGNORECASE)
_MAX_HEAD_BYTES = 256
_QUANTUM = 4
_CHARACTER = re.compile(r"\\u[0-9A-Fa-f]{4}|\\.|[^\\]", re.DOTALL)
_LONGEST_ESCAPE = 6


class DataUrlDecoder:
    """Decodes one URL. `escaped` says that its text holds JSON escapes: PHP writes `\\/`, .NET `\\u002B`."""

    def __init__(self, *, escaped: bool = False) -> None:
        self.media_type = ""
        """As declared, lower-case, without parameters; text/plain if none is (RFC 2397 §2)."""
        self.characters = 0
        """Of the URL so far."""
        self._escaped = escaped
        self._torn = b""  # the beginning of an escape whose end is in the next window
        self._head: bytes | None = b""
        self._rest = b""  # characters that make no whole quantum yet
        self._padded = False

    def feed(self, raw: bytes, *, last: bool) -> bytes:
        """What the next window decodes to. Raises ValueError if the URL is not base64 throughout."""
        text = self._unescaped(raw, last) if self._escaped else raw
        self.characters += len(text)
        if self._head is not None:
            text = self._after_head(self._head + text, last)
        return self._decoded(self._rest + text, last)

    def _unescaped(self, raw: bytes, last: bool) -> bytes:
        raw = self._torn + raw
        stop = len(raw)
        if not last:
            at = raw.rfind(b"\\", max(0, stop - _LONGEST_ESCAPE + 1))
            length = _LONGEST_ESCAPE if raw[at + 1 : at + 2] == b"u" else 2
            stop = at if at >= 0 and at + length > stop else stop
        raw, self._torn = raw[:stop], raw[stop:]
        text: str = json.loads(f'"{raw.decode("ascii")}"')
        return text.encode("ascii")

    def _after_head(self, text: bytes, last: bool) -> bytes:
        if b"," not in text[:_MAX_HEAD_BYTES] and len(text) < _MAX_HEAD_BYTES and not last:
            self._head = text
            return b""
        found = _HEAD.match(text[:_MAX_HEAD_BYTES])
        if found is None:
            raise ValueError("no base64 data URL")
        self.media_type = found[1].decode("ascii").strip().lower() or "text/plain"
        self._head = None
        return text[found.end() :]

    def _decoded(self, text: bytes, last: bool) -> bytes:
        stop = len(text) if last else len(text) - len(text) % _QUANTUM
        text, self._rest = text[:stop], text[stop:]
        padding = text.find(b"=")
        if (self._padded and text) or 0 <= padding < stop - 2:
            raise ValueError("padding inside the text")
        self._padded = self._padded or padding >= 0
        return pybase64.b64decode(text, validate=True)


def beginning(raw: bytes, characters: int) -> str:
    """The first characters of a JSON string's text, from its spelling; fewer where that is no JSON."""
    spelled = raw[: characters * _LONGEST_ESCAPE].decode("utf-8", "replace")
    found = _CHARACTER.findall(spelled)[:characters]
    try:
        text: str = json.loads(f'"{"".join(found)}"', strict=False)
    except ValueError:
        return ""
    return text

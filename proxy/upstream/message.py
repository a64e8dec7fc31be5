"""A reply as far as it has come: bytes in, content out, and whether it is whole. No I/O.

Framing is that of RFC 9112 section 6.3. What stands behind the end of the reply is nobody's. That is why some leniency does
no harm: a reply can be smuggled only where another one is expected.
"""

from typing import Any

import httptools

MAX_HEAD_BYTES = 64 * 1024
"""Of the fields of all heads and of the trailers; and of anything else that is no content, such as the size of a chunk."""


class Message:
    """Callers `feed` it until it `is_over`; then it is whole, unless `fault` says what is wrong with it."""

    def __init__(self) -> None:
        self.status = 0
        """Of the head that is not 1xx, once all of it has come."""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_over = False
        self.fault = ""
        self._is_chunked = False
        self._left_bytes: int | None = None
        """Of a body of announced length."""
        self._field_bytes = 0
        self._loose_bytes = 0
        """Parsed since the last field or piece of content."""
        self._content: list[bytes] = []
        self._parser: Any = httptools.HttpResponseParser(self)
        # Both are seen in the wild.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)

    def feed(self, data: bytes) -> bytes:
        """Takes what arrived, and gives what of it is content. The megabytes of a plain body pass the parser by."""
        if self.is_over:
            return b""
        if self.status and not self._is_chunked:
            content = data if self._left_bytes is None else data[: self._left_bytes]
        else:
            self._parse(data)
            content = b"".join(self._content)
            self._content.clear()
        if self._left_bytes is not None:
            self._left_bytes -= len(content)
            if not self._left_bytes:
                self.is_over = True
        self._release()
        return content

    def end(self) -> None:
        """The connection has ended; so does a body that nothing else ends."""
        if self.is_over:
            return
        if not self.status:
            self.fault = "The upstream closed the connection without a reply."
        elif self._is_chunked or self._left_bytes is not None:
            self.fault = "The upstream closed the connection before the end of its reply."
        self.is_over = True
        self._release()

    def _parse(self, data: bytes) -> None:
        self._loose_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._loose_bytes > MAX_HEAD_BYTES:
                raise httptools.HttpParserError("What is no content of the reply is too large.")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.is_over:  # else it is about what stands behind the end
                self.is_over, self.fault = True, str(error.__context__ or error)

    def _release(self) -> None:
        if self.is_over or (self.status and not self._is_chunked):
            self._parser = None  # else a circle of references

    # --- What the parser calls --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if not self.status:
            self.headers.clear()  # of a head with 1xx

    def on_header(self, name: bytes, value: bytes) -> None:
        self._loose_bytes = 0
        self._field_bytes += len(name) + len(value)
        if self._field_bytes > MAX_HEAD_BYTES:
            raise httptools.HttpParserError("The head of the reply is too large.")
        if not self.status:
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._loose_bytes = 0
        status = self._parser.get_status_code()
        if self.status or (status < 200 and status != 101):  # after 101 no other head comes
            return
        codings = [value.lower() for name, value in self.headers if name.lower() == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            raise httptools.HttpParserError("The transfer coding of the reply is unknown.")
        self._is_chunked = bool(codings)
        self._left_bytes = next((int(value) for name, value in self.headers if name.lower() == b"content-length"), None)
        self.status = status

    def on_body(self, content: bytes) -> None:
        self._loose_bytes = 0
        if not self.is_over:
            self._content.append(content)

    def on_message_complete(self) -> None:
        if self.status:
            self.is_over = True

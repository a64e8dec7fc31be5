"""A multipart/form-data body as the parts that it is made of, while it arrives; the one door of `multipart`.

The law: one body has one meaning, however it was cut into chunks and whatever its boundary is, and a part is announced only
after its headers were understood in full. Whatever breaks it raises `InvalidRequest`. Pure; holds a chunk and a header.

Sources: RFC 7578 (multipart/form-data), RFC 2046 §5.1.1 (boundaries), RFC 9110 §5.6.6 (parameters).
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import multipart  # type: ignore[import-untyped]  # it comes without type hints that count (PEP 561)

from proxy.errors import InvalidRequest

MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
"""Of all headers of one part."""
MAX_NAME_BYTES = 256

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110 §5.6.2
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*(?:({_TOKEN})[ \t]*=[ \t]*("(?:[^"\\]|\\.)*+"|[^\s";]+))?', re.ASCII)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ENCODINGS = frozenset({"7bit", "8bit", "binary"})
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})


@dataclass(frozen=True, slots=True)
class Part:
    """The headers of one part, understood. Its file's name is nobody's business."""

    name: str
    media_type: str | None
    """Lower-case, without parameters; None if it declares none."""
    is_file: bool
    """It has a file name, if only an empty one."""


class FormReader:
    """Reads one body. `read` is given its chunks in order and tells what they hold; then `finish` says if that was all."""

    def __init__(self, content_type: str, max_parts: int) -> None:
        """Raises InvalidRequest if the content type is not multipart/form-data with one legal boundary."""
        boundary = _boundary(content_type)
        self._opening: bytes | None = b""
        self._delimiter = b"\r\n--" + boundary
        self._complete = False
        self._parser = multipart.PushMultipartParser(
            boundary,
            max_header_size=MAX_HEADER_BYTES,
            max_header_count=MAX_HEADERS,
            max_segment_count=max_parts,
            strict=True,
        )

    def read(self, chunk: bytes) -> Iterator[Part | bytes | None]:
        """For each part: the Part, its bytes as they come, and None at its end. To be exhausted before the next chunk."""
        if self._opening is not None:
            chunk = self._opened(self._opening + chunk)
        # What follows the final boundary is no part of the form (RFC 2046 §5.1.1). Asked here and not of the parser, which
        # lets it pass in the chunk of that boundary and refuses it in the next.
        if self._complete or not chunk:
            return
        event: Part | bytes | None = None
        try:
            for found in self._parser.parse(chunk):
                event = _part(found.headerlist) if isinstance(found, multipart.MultipartSegment) else found
                yield event
        except multipart.MultipartError as error:
            raise malformed(_reason(error)) from None
        self._complete = event is None and self._has_ended()

    def finish(self) -> None:
        """The body is at its end. Raises InvalidRequest if the form is not."""
        if not self._complete:
            raise malformed("it ends before its final boundary")

    def _opened(self, opening: bytes) -> bytes:
        """All of what came so far, once it is long enough to begin with a boundary, as it must: the parser skips a preamble
        only as far as its first chunk reaches."""
        if len(opening) < len(self._delimiter):
            self._opening = opening
            return b""
        if not opening.startswith((self._delimiter, self._delimiter[2:])):
            raise malformed("it does not begin with its boundary")
        self._opening = None
        return opening

    def _has_ended(self) -> bool:
        """Whether the final boundary was read; the parser says so only when it is closed, so a copy is."""
        try:
            copy.copy(self._parser).close()
        except multipart.MultipartError:
            return False
        return True


def malformed(reason: str) -> InvalidRequest:
    """The body is no form that we read."""
    return InvalidRequest(f"We could not parse the multipart body of your request: {reason}.", code="invalid_multipart")


def _reason(error: multipart.MultipartError) -> str:
    """The parser's own words, which hold nothing of what was sent."""
    words = str(error.args[0]) if error.args else "it is not multipart/form-data"
    return words[:1].lower() + words[1:]


def _boundary(content_type: str) -> bytes:
    media_type, parameters = _with_parameters(content_type, "the content type")
    if media_type.lower() != "multipart/form-data":
        raise malformed("its content type is not multipart/form-data")
    boundary = parameters.get("boundary")
    if boundary is None:
        raise malformed("its content type names no boundary")
    if not _BOUNDARY.fullmatch(boundary):
        raise malformed("its boundary is not one of 1 to 70 letters, digits or '()+_,-./:=? (RFC 2046)")
    return boundary.encode("ascii")


def _part(headers: Sequence[tuple[str, str]]) -> Part:
    found = _headers(headers)
    if found.get("Content-Transfer-Encoding", "binary").strip().lower() not in _ENCODINGS:
        raise malformed("a part has a Content-Transfer-Encoding; send its bytes as they are")
    disposition, parameters = _with_parameters(found.get("Content-Disposition", ""), "a part's Content-Disposition")
    if disposition.lower() != "form-data":
        raise malformed("a part's Content-Disposition is not form-data")
    return Part(
        name=_name(parameters),
        media_type=_media_type(found["Content-Type"]) if "Content-Type" in found else None,
        is_file="filename" in parameters or "filename*" in parameters,
    )


def _headers(headers: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    if sum(len(name) + len(value.encode()) + 4 for name, value in headers) > MAX_HEADER_BYTES:
        raise malformed(f"the headers of a part have more than {MAX_HEADER_BYTES} bytes")
    found = dict(headers)
    if len(found) != len(headers):
        raise malformed("a part has one header twice")
    if any(_CONTROL.search(value) for value in found.values()):
        raise malformed("a part's header holds a control character")
    return found


def _name(parameters: Mapping[str, str]) -> str:
    raw = parameters.get("name")
    if not raw:
        raise malformed("a part has no name")
    name: str = multipart.content_disposition_unquote(raw)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise malformed(f"a part's name has more than {MAX_NAME_BYTES} bytes")
    if _CONTROL.search(name):
        raise malformed("a part's name holds a control character")
    return name


def _media_type(header: str) -> str:
    value, parameters = _with_parameters(header, "a part's Content-Type")
    media_type = value.lower()
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise malformed("a part's Content-Type is no media type")
    if media_type.startswith("multipart/"):
        raise malformed("a part is a multipart body itself")
    if media_type.startswith("text/") and parameters.get("charset", "utf-8").lower() not in _CHARSETS:
        raise malformed("a part's charset is not UTF-8")
    return media_type


def _with_parameters(header: str, where: str) -> tuple[str, Mapping[str, str]]:
    """A header's value and its parameters, without the quotes around them; none may be there twice."""
    value, _, _ = header.partition(";")
    parameters: dict[str, str] = {}
    at = len(value)
    rest = header.rstrip(" \t")
    while at < len(rest):
        match = _PARAMETER.match(rest, at)
        if match is None:
            _unreadable(where)
        at = match.end()
        if match[1] is None:  # nothing between two semicolons
            continue
        name = match[1].lower()
        if name in parameters:
            _unreadable(where)
        parameters[name] = match[2][1:-1] if match[2].startswith('"') else match[2]
    return value.strip(" \t"), parameters


def _unreadable(where: str) -> NoReturn:
    raise malformed(f"{where} is not as RFC 9110 and RFC 7578 have it")

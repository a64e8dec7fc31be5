"""The envelope of a stored reply: magic, the body as it came, metadata, and a digest over all of it. Pure: no I/O.

    magic (8) | body | header (JSON) | footer (40)
    footer = body length u64, header length u32, version u16, reserved u16, xxh3-128 (16), end magic (8); little-endian

The body comes first, so that a spool file begun with the magic becomes the stored value by appending a tail: no
megabyte is written twice. The digest covers every byte before it, lengths and version included. It finds damage, not
forgery. Law of the module: what is read back is exactly what was sealed, or StoreError is raised; nothing in between.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from decimal import Decimal, InvalidOperation
from typing import Any

import xxhash

from proxy.errors import StoreError
from proxy.model import EventMembers, ImageSpan, Metadata, Usage

MAGIC = b"\x89IGATE\r\n"
"""Not valid text in any encoding, and broken by a transfer that touches line ends (as PNG's)."""
VERSION = 1
FOOTER_BYTES = 40
MAX_HEADER_BYTES = 16 * 1024 * 1024

_END_MAGIC = b"\n\rETAGI\x89"
_FOOTER = struct.Struct("<QIHH16s8s")
_SEALED_FOOTER_BYTES = 16
"""The part of the footer that the digest covers: lengths, version, reserved."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of one envelope lie, as its footer says; not yet believed beyond its arithmetic."""

    body_bytes: int
    header_bytes: int
    digest: bytes

    @property
    def body_start(self) -> int:
        return len(MAGIC)

    @property
    def body_stop(self) -> int:
        return len(MAGIC) + self.body_bytes

    @property
    def size(self) -> int:
        return self.body_stop + self.header_bytes + FOOTER_BYTES


Digest = xxhash.xxh3_128


def digest() -> Digest:
    """A running digest; feed it the file from its first byte to the end of the body."""
    return xxhash.xxh3_128()


def begun_digest() -> Digest:
    """One that has seen the magic."""
    running = digest()
    running.update(MAGIC)
    return running


def tail(metadata: Metadata, body_bytes: int, running: Digest) -> bytes:
    """Header and footer, to be appended. `running` has seen the magic and the body. Raises StoreError."""
    _check_ranges(metadata, body_bytes)
    header = encode_header(metadata)
    if len(header) > MAX_HEADER_BYTES:
        raise StoreError(f"metadata of {len(header)} bytes is too large to be stored")
    lengths = _FOOTER.pack(body_bytes, len(header), VERSION, 0, b"", _END_MAGIC)[:_SEALED_FOOTER_BYTES]
    running.update(header)
    running.update(lengths)
    return header + lengths + running.digest() + _END_MAGIC


def layout(footer: bytes, size: int) -> Layout:
    """Read the last 40 bytes of an envelope of `size` bytes. Raises StoreError."""
    if len(footer) != FOOTER_BYTES or size < len(MAGIC) + FOOTER_BYTES:
        raise StoreError("damaged entry: too short")
    body_bytes, header_bytes, version, reserved, sealed, end = _FOOTER.unpack(footer)
    if end != _END_MAGIC:
        raise StoreError("damaged entry: no end mark")
    if version != VERSION or reserved != 0:
        raise StoreError(f"damaged entry: version {version} is not known")
    found = Layout(body_bytes, header_bytes, sealed)
    if header_bytes > MAX_HEADER_BYTES or found.size != size:
        raise StoreError("damaged entry: its length is not the one it was sealed with")
    return found


def unseal(found: Layout, running: xxhash.xxh3_128, tail_bytes: bytes) -> Metadata:
    """The metadata, once the digest agrees. `running` has seen the magic and the body. Raises StoreError."""
    header = tail_bytes[: found.header_bytes]
    running.update(header)
    running.update(tail_bytes[found.header_bytes : found.header_bytes + _SEALED_FOOTER_BYTES])
    if len(tail_bytes) != found.header_bytes + FOOTER_BYTES or running.digest() != found.digest:
        raise StoreError("damaged entry: its digest does not agree")
    return decode_header(header, found.body_bytes)


def encode(metadata: Metadata, body: bytes | bytearray | memoryview) -> bytes:
    """A whole envelope in memory."""
    running = digest()
    running.update(MAGIC)
    running.update(body)
    return b"".join((MAGIC, body, tail(metadata, len(body), running)))


def decode(sealed: bytes) -> tuple[Metadata, bytes]:
    """Metadata and body of a whole envelope. Raises StoreError for anything doubtful."""
    found = layout(sealed[-FOOTER_BYTES:], len(sealed))
    if not sealed.startswith(MAGIC):
        raise StoreError("damaged entry: no magic")
    running = digest()
    running.update(sealed[: found.body_stop])
    metadata = unseal(found, running, sealed[found.body_stop :])
    return metadata, sealed[found.body_start : found.body_stop]


def decode_header(header: bytes, body_bytes: int) -> Metadata:
    """Metadata from its JSON, every field's type checked. Unknown members are ignored, missing optional ones defaulted.

    Raises StoreError.
    """
    try:
        members = json.loads(header.decode("utf-8"), parse_constant=_no_constant)
        metadata = _metadata(members)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, InvalidOperation) as error:
        raise StoreError("damaged entry: its metadata cannot be read") from error
    _check_ranges(metadata, body_bytes)
    return metadata


def encode_header(metadata: Metadata) -> bytes:
    """Metadata as JSON. Raises StoreError for what cannot be read back the same."""
    members: dict[str, Any] = {field.name: getattr(metadata, field.name) for field in fields(Metadata)}
    members["images"] = [
        [list(span.key), list(span.value), span.url and list(span.url), span.media_type, span.size, span.escaped]
        for span in metadata.images
    ]
    if metadata.usage is not None:
        members["usage"] = {field.name: getattr(metadata.usage, field.name) for field in fields(Usage)}
    if metadata.cost is not None:
        members["cost"] = str(metadata.cost)
    members["request"] = dict(metadata.request)
    if metadata.event is not None:
        members["event"] = [span and list(span) for span in (metadata.event.type, metadata.event.created)]
    try:
        return json.dumps(members, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError("metadata cannot be written as JSON") from error


def _metadata(members: Any) -> Metadata:
    _expect(type(members) is dict)
    known: dict[str, Any] = {}
    for field in fields(Metadata):
        if field.name in members:
            known[field.name] = _DECODERS[field.name](members[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise KeyError(field.name)
    return Metadata(**known)


def _expect(true: bool) -> None:
    if not true:
        raise TypeError("a member has the wrong type")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _text(value: Any) -> str:
    _expect(type(value) is str)
    return str(value)


def _count(value: Any) -> int:
    _expect(type(value) is int and value >= 0)
    return int(value)


def _seconds(value: Any) -> float:
    _expect(type(value) in (int, float) and math.isfinite(value))
    return float(value)


def _range(value: Any) -> tuple[int, int]:
    _expect(type(value) is list and len(value) == 2)
    return _count(value[0]), _count(value[1])


def _span(value: Any) -> ImageSpan:
    _expect(type(value) is list and len(value) == 6 and type(value[5]) is bool)
    url = None if value[2] is None else _range(value[2])
    return ImageSpan(_range(value[0]), _range(value[1]), url, _text(value[3]), _count(value[4]), value[5])


def _images(value: Any) -> tuple[ImageSpan, ...]:
    _expect(type(value) is list)
    return tuple(_span(item) for item in value)


def _event(value: Any) -> EventMembers:
    _expect(type(value) is list and len(value) == 2)
    return EventMembers(*(None if span is None else _range(span) for span in value))


def _usage(value: Any) -> Usage:
    _expect(type(value) is dict)
    names = {field.name for field in fields(Usage)}
    return Usage(**{name: _count(count) for name, count in value.items() if name in names})


def _decimal(value: Any) -> Decimal:
    amount = Decimal(_text(value))
    _expect(amount.is_finite())
    return amount


def _request(value: Any) -> Mapping[str, Any]:
    _expect(type(value) is dict)
    return dict(value)


def _optional(decoder: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else decoder(value)


_DECODERS: Mapping[str, Callable[[Any], Any]] = {
    "key": _text,
    "scope": _text,
    "purchase_id": _text,
    "stored_at": _seconds,
    "expires_at": _seconds,
    "operation": _text,
    "model": _text,
    "upstream": _text,
    "cache_group": _text,
    "size": _text,
    "quality": _text,
    "images": _images,
    "usage": _optional(_usage),
    "cost": _optional(_decimal),
    "price_version": _text,
    "upstream_request_id": _optional(_text),
    "upstream_seconds": _seconds,
    "request": _request,
    "event": _optional(_event),
    "begun_at": _seconds,
}


def _check_ranges(metadata: Metadata, body_bytes: int) -> None:
    """Renderings cut and splice by these ranges: one outside the body would be a wrong byte."""
    for image in metadata.images:
        if not all(_is_within(body_bytes, span) for span in (image.key, image.value, image.url)):
            raise StoreError("damaged metadata: an image lies outside the body")
    event = metadata.event
    if event is None:
        return
    if len(metadata.images) != 1:
        raise StoreError("damaged metadata: an event holds one image")
    if not all(_is_within(body_bytes, span) for span in (event.type, event.created)):
        raise StoreError("damaged metadata: a member lies outside the body")


def _is_within(body_bytes: int, span: tuple[int, int] | None) -> bool:
    return span is None or span[0] <= span[1] <= body_bytes

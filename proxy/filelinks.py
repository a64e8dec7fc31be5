"""Signed, expiring names for single stored images: who has the link may see the image, nobody can make one up.

A name is base64url(key 32 | image index 1 | expiry 5 | HMAC-SHA-256 truncated to 16), so that it carries all that is
needed to find the image and to refuse it; nothing is kept for a link.
"""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass

from proxy.errors import LinkExpired, NotFound

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/svg+xml": "svg",
}
_FIELDS = struct.Struct(">32sB5s")
_MAC_BYTES = 16
_NAME_CHARACTERS = (_FIELDS.size + _MAC_BYTES) * 4 // 3


@dataclass(frozen=True, slots=True)
class FileLink:
    """One image of one stored reply, until `expires_at` (wall clock, whole seconds)."""

    key: str
    index: int
    expires_at: int


class FileLinks:
    """Signs and reads names under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.new(secret, b"file links", hashlib.sha256).digest()

    def name(self, link: FileLink) -> str:
        fields = _FIELDS.pack(bytes.fromhex(link.key), link.index, link.expires_at.to_bytes(5, "big"))
        return base64.urlsafe_b64encode(fields + self._mac(fields)).decode("ascii")

    def read(self, name: str, *, now: float) -> FileLink:
        """The link that `name` is. Raises NotFound for any that was not signed here, LinkExpired for an old one."""
        unknown = NotFound("There is no such image. The link may be incomplete.", code="file_not_found")
        try:
            raw = base64.b64decode(name.encode("ascii"), altchars=b"-_", validate=True)
        except ValueError:
            raise unknown from None
        if len(name) != _NAME_CHARACTERS or len(raw) != _FIELDS.size + _MAC_BYTES:
            raise unknown
        fields, mac = raw[: _FIELDS.size], raw[_FIELDS.size :]
        if not hmac.compare_digest(mac, self._mac(fields)):
            raise unknown
        key, index, expiry = _FIELDS.unpack(fields)
        link = FileLink(key.hex(), index, int.from_bytes(expiry, "big"))
        if now >= link.expires_at:
            raise LinkExpired("This link to an image has expired. Ask for the image again to get a new one.")
        return link

    def _mac(self, fields: bytes) -> bytes:
        return hmac.new(self._secret, fields, hashlib.sha256).digest()[:_MAC_BYTES]

"""Signed, expiring names for single stored images: who has the link may see the image, nobody can make one up.

A name is base64url(key 32 | purchase 8 | image index 2 | expiry 5 | HMAC-SHA-256 truncated to 16), so that it carries all
that is needed to find the image and to refuse it; nothing is kept for a link. It names the purchase beside the key: after a
refresh the key holds another picture, and a link never shows another one than it was made for.
"""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass

from proxy.errors import LinkExpired, NotFound
from proxy.model import Metadata

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/svg+xml": "svg",
}
_FIELDS = struct.Struct(">32s8sH5s")
_MAC_BYTES = 16
_NAME_CHARACTERS = (_FIELDS.size + _MAC_BYTES) * 4 // 3


@dataclass(frozen=True, slots=True)
class FileLink:
    """One image of one stored reply, until `expires_at` (wall clock, whole seconds)."""

    key: str
    purchase: bytes
    index: int
    expires_at: int

    @classmethod
    def to(cls, metadata: Metadata, index: int, expires_at: int) -> "FileLink":
        return cls(metadata.key, _mark(metadata), index, expires_at)

    def is_to(self, metadata: Metadata) -> bool:
        """Whether the entry that the key holds now is still the one that the link was made for."""
        return self.purchase == _mark(metadata) and self.index < len(metadata.images)


class FileLinks:
    """Signs and reads names under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hmac.new(secret, b"file links", hashlib.sha256).digest()

    def name(self, link: FileLink) -> str:
        fields = _FIELDS.pack(bytes.fromhex(link.key), link.purchase, link.index, link.expires_at.to_bytes(5, "big"))
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
        key, purchase, index, expiry = _FIELDS.unpack(fields)
        link = FileLink(key.hex(), purchase, index, int.from_bytes(expiry, "big"))
        if now >= link.expires_at:
            raise LinkExpired("This link to an image has expired. Ask for the image again to get a new one.")
        return link

    def _mac(self, fields: bytes) -> bytes:
        return hmac.new(self._secret, fields, hashlib.sha256).digest()[:_MAC_BYTES]


def _mark(metadata: Metadata) -> bytes:
    return hashlib.sha256(metadata.purchase_id.encode()).digest()[:8]

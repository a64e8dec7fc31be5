"""The text of a virtual key: how one is made, and what can be said of one without a look-up. Pure.

`sk-ig-`, then 32 random bytes in base62 (43 characters), then their CRC-32 in base62 (6 characters). The checksum is no
secret: a CRC finds every change within four neighbouring characters, so a mistyped or truncated key is refused before
anything is asked of a database, and a scanner for leaked secrets can tell a key from what merely looks like one. What is
kept of a key is its SHA-256: with 256 random bits behind it, it needs neither salt nor stretching.
"""

import hashlib
import re
import zlib

PREFIX = "sk-ig-"
RANDOM_BYTES = 32

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY_CHARACTERS = 43
_CHECKSUM_CHARACTERS = 6
_KEY = re.compile(rf"({re.escape(PREFIX)}[0-9A-Za-z]{{{_BODY_CHARACTERS}}})([0-9A-Za-z]{{{_CHECKSUM_CHARACTERS}}})")


def make(random: bytes) -> str:
    """The key that stands for these 32 random bytes. Raises ValueError for another number of them."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a virtual key is made of {RANDOM_BYTES} random bytes")
    body = PREFIX + _base62(int.from_bytes(random, "big"), _BODY_CHARACTERS)
    return body + _checksum(body)


def is_wellformed(text: str) -> bool:
    """It may be a key: right prefix, length and checksum. Whether anybody holds it is another question."""
    match = _KEY.fullmatch(text)
    return match is not None and _checksum(match[1]) == match[2]


def digest(text: str) -> bytes:
    """What is kept of a key, and looked up: 32 bytes. Raises UnicodeEncodeError for half a surrogate pair."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def shown(text: str) -> str:
    """Enough to tell one's keys apart: `sk-ig-…Ab3x`."""
    return f"{PREFIX}…{text[-4:]}"


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECKSUM_CHARACTERS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))

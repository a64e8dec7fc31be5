"""Text that may be written down: without what looks like a credential, a signed link or an image, and bounded.

A last resort, not a licence: what must not be told is not handed to a log in the first place.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted

__all__ = ["quoted", "redact", "shortened", "text", "timestamp"]

_NAMES = "api[-_]?key|authorization|password|passwd|secret|credential|signature|token"
_VALUE = r"""[^\s"',;&<>(){}\[\]]+"""
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"base64,[a-z0-9+/=_\\-]+", "base64,[redacted]"),
        # Backslashes and line ends belong to the run: PHP writes `\/`, MIME wraps at 76.
        (r"(?<![a-z0-9+/_\\-])[a-z0-9+/_\\\r\n-]{257,}={0,2}", "[redacted base64]"),
        (r"\b(bearer|basic)(?:\s|%20|\+)+(?:" + _VALUE + ")", r"\1 [redacted]"),
        (r"\b((?:set-)?cookie[\"']?\s*[:=,]\s*)[^\r\n]+", r"\1[redacted]"),
        (r"((?:" + _NAMES + r")[\"']?\s*[:=,]\s*(?:b?[\"'])?)(?:(?:bearer|basic)\s+)?" + _VALUE, r"\1[redacted]"),
        (r"((?:key|sig)=)[^\s\"'&<>]+", r"\1[redacted]"),
        # Inside a word (`disk-cache`) only what is long enough to be a key.
        (r"(?<![a-z0-9])sk-[a-z0-9_-]+|sk-[a-z0-9_-]{16,}", "[redacted key]"),
    )
)
_HINTS = (
    *("sk-", "key", "sig", "token", "bearer", "basic", "auth"),
    *("cookie", "passw", "secret", "credential", "base64,"),
)
"""Every rule but the one for long runs needs one of these words, in lower case."""


def redact(text: str) -> str:
    """The text without what looks like a credential, a signed link or an image."""
    if len(text) <= 256 and not _is_suspicious(text.lower()):
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def _is_suspicious(lowered: str) -> bool:
    for hint in _HINTS:  # noqa: SIM110 - `any` with a generator takes twice the time
        if hint in lowered:
            return True
    return False


def text(value: str, limit: int) -> str:
    """A JSON string of at most `limit` characters, redacted."""
    return quoted(shortened(value, limit))


def shortened(value: str, limit: int) -> str:
    """At most `limit` characters, redacted. Cut before it is searched: a client's megabyte must not stop the event loop."""
    longest = 4 * limit
    if len(value) > longest:
        # Without the last word, which may be half a secret.
        value = value[:longest].rpartition(" ")[0] or value[:longest]
    return redact(value)[:limit]


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, cut to the millisecond."""
    whole = int(seconds // 1)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]

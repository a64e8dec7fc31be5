"""Identifiers: of requests, of purchases, of this process."""

import random
import re
import secrets

_names = random.Random()  # noqa: S311 - guessing a request's id gives nobody anything
_CALLER_SUPPLIED = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


def request_id(supplied: str | None = None) -> str:
    """The caller's `X-Request-Id` if it is a plain token of at most 128 characters, else a fresh `req_…`."""
    if supplied is not None and _CALLER_SUPPLIED.fullmatch(supplied):
        return supplied
    return "req_" + secrets.token_hex(16)


def request_and_trace() -> tuple[str, str, str]:
    """A fresh request id, and the ids of a trace and of a span in it (32 and 16 hex digits).

    Names, and no secrets: from a generator of our own, seeded by the system, because asking the system each time takes as
    long as the rest of a hit's account.
    """
    digits = _names.randbytes(40).hex()
    return f"req_{digits[:32]}", digits[32:64], digits[64:]


def purchase_id() -> str:
    """Names one call to an upstream that may cost money; kept beside what it bought."""
    return "buy_" + secrets.token_hex(16)


def instance_id() -> str:
    """Names this process among those that share a cache directory."""
    return secrets.token_hex(8)


def record_id(kind: str, now: float) -> str:
    """Names a row of ours for good, and sorts by creation: milliseconds since the epoch, then 80 random bits."""
    return f"{kind}_{int(now * 1000):012x}{secrets.token_hex(10)}"

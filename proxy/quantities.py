"""Sizes, durations and moments as people write them: `20GB`, `30d`, `2026-11-22 14:00:00Z`. Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECOND_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_size(text: str) -> int:
    """Bytes of `20GB` (10⁹), `1MiB` (2²⁰), `1.5 MB` or `4096`. Raises ValueError."""
    return _quantity(text, _SIZE_UNITS, "a size such as 20GB, 256MB, 1MiB or a number of bytes")


def parse_seconds(text: str) -> int:
    """Seconds of `30d`, `12h`, `10m`, `45s`, `2w` or `45`. Raises ValueError."""
    return _quantity(text, _SECOND_UNITS, "a duration such as 30d, 12h, 10m, 45s or a number of seconds")


def size_text(size: int) -> str:
    """The shortest text that `parse_size` reads back as `size`."""
    for unit in ("TB", "TiB", "GB", "GiB", "MB", "MiB", "kB", "KiB"):
        factor = _SIZE_UNITS[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def moment(seconds: float) -> str:
    """A wall-clock time in UTC; what lies outside the calendar is shown as a number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _quantity(text: str, units: Mapping[str, int], expects: str) -> int:
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"must be {expects}")
    amount = Decimal(match[1]) * factor
    if amount != int(amount):
        raise ValueError("must come to a whole number")
    return int(amount)

"""What a message's headers say that its body is (RFC 9110 §8.3); their names are lower-case, or found in any case."""

from collections.abc import Mapping


def of(headers: Mapping[str, str]) -> str:
    """Lower-case, without parameters; empty if they do not say."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    """JSON by its own name, or by the suffix of another one (RFC 6839 §3.1)."""
    return media_type == "application/json" or media_type.endswith("+json")

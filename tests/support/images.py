"""Small images by their first bytes, and the replies of an Images API that hold them."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

SIGNATURES = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0",
    "webp": b"RIFF\x40\x00\x00\x00WEBP",
    "gif": b"GIF89a",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'>",
}
MEDIA_TYPES = {name: f"image/{name}" for name in ("png", "jpeg", "webp", "gif")} | {"svg": "image/svg+xml"}
USAGE: Mapping[str, Any] = {
    "input_tokens": 14,
    "input_tokens_details": {"text_tokens": 14, "image_tokens": 0, "cached_tokens": 4},
    "output_tokens": 1056,
    "total_tokens": 1070,
}


def picture(seed: str, kind: str = "png", size: int = 300) -> bytes:
    """Bytes with the signature of an image, different for each seed."""
    marked = SIGNATURES[kind] + seed.encode()
    return marked + bytes(number % 251 for number in range(max(0, size - len(marked))))


def reply(*pictures: bytes, usage: Mapping[str, Any] | None = USAGE, **more: Any) -> bytes:
    """The JSON of a reply, spaced and ordered as no serializer of ours would, so that a re-encoding shows."""
    data: Sequence[Mapping[str, str]] = [{"b64_json": base64.b64encode(each).decode()} for each in pictures]
    document: dict[str, Any] = {"created": 1_795_000_000, **more, "data": data}
    if usage is not None:
        document["usage"] = dict(usage)
    return json.dumps(document, indent=1).encode() + b"\n"

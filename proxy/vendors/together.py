"""Together: width and height instead of a size, another word for base64, and replies without `created` and `usage`.

Source: PyPI together 3.1.1, types/image_generate_params.py and types/image_file.py; npm @ai-sdk/togetherai 2.0.84
(2026-11).
"""

from collections.abc import Mapping
from typing import Any

from proxy.sizes import parse
from proxy.vendors.profile import Vendor


def members(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """A size that is no `WIDTHxHEIGHT`, or that contradicts a `width` or `height`, is left for Together to judge."""
    spelled = dict(canonical)
    size = spelled.get("size")
    if size == "auto":
        del spelled["size"]
    elif isinstance(size, str) and not spelled.keys() & {"width", "height"} and (parsed := parse(size)):
        del spelled["size"]
        spelled["width"], spelled["height"] = parsed
    if spelled.get("response_format") == "b64_json":
        spelled["response_format"] = "base64"
    return spelled


TOGETHER = Vendor(members=members, is_plain=False, adds_created=True)

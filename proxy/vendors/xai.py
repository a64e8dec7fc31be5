"""xAI: OpenAI's path and members, a refusal that comes as a success, and the exact price of every call.

Source: docs.x.ai, "Cost Tracking" and "Image Generation"; npm @ai-sdk/xai 3.0.138; PyPI xai-sdk 1.21.0 (2026-11).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from proxy.vendors.profile import Refusal, Vendor

TICKS_DIGITS = 10
"""1 USD is 10,000,000,000 ticks."""


def refusal_in(document: Mapping[str, Any]) -> Refusal | None:
    """What is blocked comes with `respect_moderation: false` and without its picture.

    One of several is enough: what remains has a hole in it, and xAI's clients refuse it whole, too.
    """
    items = document.get("data")
    if not isinstance(items, list):
        return None
    if not any(isinstance(item, Mapping) and item.get("respect_moderation") is False for item in items):
        return None
    return 400, {
        "message": "Your request was rejected by the safety system.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "moderation_blocked",
    }


def cost_of(usage: Mapping[str, Any]) -> Decimal | None:
    ticks = usage.get("cost_in_usd_ticks")
    if type(ticks) is not int or ticks < 0:
        return None
    return Decimal(ticks).scaleb(-TICKS_DIGITS)


XAI = Vendor(adds_created=True, refusal_in=refusal_in, cost_of=cost_of)

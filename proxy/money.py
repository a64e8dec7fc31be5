"""Dollars: what a call is expected to cost before it is sent, and how an amount is written. Pure."""

from decimal import Decimal

from proxy.model import ImageRequest, Price


def estimated_cost(request: ImageRequest) -> Decimal | None:
    """USD; None for a model without a price, or with a price for tokens whose number nobody can foresee."""
    price, usage = request.price, request.estimate
    if price is None or (usage is None and _counts_tokens(price)):
        return None
    return price.cost(usage, request.n, request.partial_images)


def _counts_tokens(price: Price) -> bool:
    return any((price.text_in, price.image_in, price.text_out, price.image_out))


def dollars(amount: Decimal) -> str:
    """An exact decimal without an exponent: `0.03512`, `0`."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text

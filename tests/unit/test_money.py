"""What a call is expected to cost: tokens, a flat price, or nobody knows."""

from dataclasses import replace
from decimal import Decimal

import pytest

from proxy import catalogue
from proxy.model import Document, Operation, Price
from proxy.money import dollars, estimated_cost
from proxy.settings import RulesSection
from proxy.validation import Validator

VALIDATOR = Validator(catalogue.load(()), RulesSection())


def estimate(vendor: str, model: str, **body: object) -> Decimal | None:
    document = {"model": model, "prompt": "a fox", **body}
    return estimated_cost(VALIDATOR.validate(Document(document), Operation.GENERATION, vendor))


def test_tokens_are_reckoned_where_their_number_can_be_foreseen() -> None:
    cost = estimate("openai", "gpt-image-2", size="1024x1024", quality="low")
    assert cost is not None
    assert 0 < cost < 1


def test_a_flat_price_needs_no_tokens() -> None:
    assert estimate("apiyi", "gpt-image-2-all") == Decimal("0.03")


def test_tokens_that_nobody_can_foresee_have_no_cost_yet() -> None:
    request = VALIDATOR.validate(
        Document({"model": "gpt-image-2-all", "prompt": "a fox"}), Operation.GENERATION, "apiyi"
    )
    assert estimated_cost(replace(request, price=Price(image_out=Decimal(30)))) is None
    assert estimated_cost(replace(request, price=Price(image_out=Decimal(30), per_call=Decimal(1)))) is None
    assert estimated_cost(replace(request, price=None)) is None


@pytest.mark.parametrize(
    ("amount", "text"), [("0.0110", "0.011"), ("0", "0"), ("0.00", "0"), ("1E+2", "100"), ("1E-7", "0.0000001")]
)
def test_dollars_are_written_without_exponent_or_idle_zeros(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text

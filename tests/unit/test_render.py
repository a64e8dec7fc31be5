"""Responses of the data plane: what a dry run says."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from proxy.filelinks import FileLinks
from proxy.model import Candidate, Forward, ImageRequest, Operation, Price, Rehearsal
from proxy.render import Renderer
from proxy.settings import RenderSection

pytestmark = pytest.mark.anyio


def flat(price: Price) -> ImageRequest:
    """A request whose tokens nobody can foresee."""
    return ImageRequest(
        operation=Operation.GENERATION,
        vendor="apiyi",
        model="flat-model",
        asked_model="flat-model",
        canonical=b'{"model":"flat-model","prompt":"a fox"}',
        prompt="a fox",
        unkeyed={},
        n=2,
        size="auto",
        quality="auto",
        table_digest="",
        price=price,
    )


async def rehearsed(request: ImageRequest) -> Any:
    sent: list[bytes] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    candidate = Candidate("apiyi", "apiyi", request, "0" * 64)
    renderer = Renderer(RenderSection(), FileLinks(b"s" * 32))
    await renderer.rehearsal(send, Rehearsal(candidate, Forward.URI_MISS))
    return json.loads(b"".join(sent))


async def test_a_dry_run_names_a_flat_price_although_the_tokens_are_unknown() -> None:
    found = await rehearsed(flat(Price(per_image=Decimal("0.025"))))
    assert (found["estimated_output_tokens"], found["estimated_cost_usd"]) == (None, "0.05")


async def test_a_dry_run_names_no_price_of_tokens_that_nobody_can_foresee() -> None:
    assert (await rehearsed(flat(Price(image_out=Decimal(30)))))["estimated_cost_usd"] is None

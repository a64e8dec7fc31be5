"""Many pictures of one prompt, on purpose."""

import pytest

from tests.support.application import Gate
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio


async def test_each_variant_is_bought_once_and_is_never_sent_upstream(proxy: Gate, upstream: CountingUpstream) -> None:
    contents = set()
    for variant in (None, "one", "two"):
        headers = {"x-imagegate-variant": variant} if variant else {}
        first = await proxy.ask(headers=headers)
        assert first.headers["x-imagegate-cache"] == "MISS"
        assert (await proxy.ask(headers=headers)).content == first.content
        contents.add(first.content)
    assert len(contents) == len(upstream.calls) == 3
    assert len({call.body for call in upstream.calls}) == 1
    assert not any("x-imagegate-variant" in call.headers for call in upstream.calls)


async def test_header_and_body_name_the_same_variants(proxy: Gate, upstream: CountingUpstream) -> None:
    by_header = await proxy.ask(headers={"x-imagegate-variant": "one"})
    by_body = await proxy.ask(imagegate_variant="one")
    assert by_body.headers["x-imagegate-cache"] == "HIT"
    assert by_body.content == by_header.content
    assert upstream.calls[0].json == {"model": "gpt-image-2", "prompt": "a red fox"}


async def test_the_header_goes_before_the_body(proxy: Gate) -> None:
    await proxy.ask(headers={"x-imagegate-variant": "one"})
    both = await proxy.ask(headers={"x-imagegate-variant": "one"}, imagegate_variant="two")
    assert both.headers["x-imagegate-cache"] == "HIT"


@pytest.mark.parametrize("variant", ["", "with space", "a,b", "x" * 129, "caf\u00e9"])
async def test_a_variant_that_is_no_token_is_refused(proxy: Gate, upstream: CountingUpstream, variant: str) -> None:
    pairs = [(b"x-imagegate-variant", variant.encode("latin-1"))]
    body = {"model": "gpt-image-2", "prompt": "a red fox"}
    by_header = await proxy.client.post("/v1/images/generations", json=body, headers=pairs)
    by_body = await proxy.ask(imagegate_variant=variant)
    for answer in (by_header, by_body):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "imagegate_variant"
    assert upstream.calls == []

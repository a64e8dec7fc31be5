"""A hit is what the upstream once sent, to the byte, and costs nothing."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio


async def test_the_second_of_two_identical_requests_is_a_hit_with_the_same_bytes(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    first, second = await proxy.ask(), await proxy.ask()
    assert (first.headers["x-imagegate-cache"], second.headers["x-imagegate-cache"]) == ("MISS", "HIT")
    assert first.content == second.content == upstream.replies[0]
    assert len(upstream.calls) == 1


async def test_the_first_hit_comes_from_disk_and_the_next_from_memory(proxy: Gate) -> None:
    await proxy.ask()
    details = [(await proxy.ask()).headers["cache-status"].rpartition("detail=")[2] for _ in range(3)]
    assert details == ["disk", "memory", "memory"]


async def test_a_hit_costs_nothing_and_says_what_it_saved(proxy: Gate) -> None:
    miss, hit = await proxy.ask(), await proxy.ask()
    # 10 new and 4 cached tokens of text at 5 and 1.25 USD per million, 1056 of image at 30.
    assert miss.headers["x-imagegate-cost-usd"] == hit.headers["x-imagegate-saved-usd"] == "0.031735"
    assert miss.headers["x-imagegate-saved-usd"] == hit.headers["x-imagegate-cost-usd"] == "0"


async def test_age_and_ttl_tell_how_old_a_hit_is_and_how_long_it_will_be_one(proxy: Gate) -> None:
    miss = await proxy.ask()
    assert "age" not in miss.headers
    proxy.clock.advance(100)
    hit = await proxy.ask()
    assert hit.headers["age"] == "100"
    assert f"ttl={2_592_000 - 100};" in hit.headers["cache-status"]


async def test_a_hit_is_a_hit_after_a_restart(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    async with gate(settings) as before:
        first = await before.ask()
    async with gate(settings) as after:
        second = await after.ask()
    assert second.headers["x-imagegate-cache"] == "HIT"
    assert second.content == first.content


@pytest.mark.parametrize(
    "same",
    [
        {"user": "somebody else"},
        {"safety_identifier": "somebody else"},
        {"response_format": "b64_json"},
        {"stream": False},
        {"partial_images": 0},
        {"n": 1, "size": "auto", "quality": "auto"},
        {"background": None},
    ],
    ids="-".join,
)
async def test_what_does_not_shape_the_image_is_no_part_of_the_key(
    proxy: Gate, upstream: CountingUpstream, same: dict[str, Any]
) -> None:
    await proxy.ask()
    again = await proxy.ask(**same)
    assert again.headers["x-imagegate-cache"] == "HIT", again.text
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "prompt",
    ["A red fox", "a red fox ", " a red fox", "a  red fox", "a red fox\n", "a re\u0301d fox", "a r\u00e9d fox"],
)
async def test_prompts_are_compared_byte_by_byte(proxy: Gate, upstream: CountingUpstream, prompt: str) -> None:
    await proxy.ask("a red fox")
    other = await proxy.ask(prompt)
    assert other.headers["x-imagegate-cache"] == "MISS"
    assert upstream.calls[1].json["prompt"] == prompt


@pytest.mark.parametrize("other", [{"n": 2}, {"size": "1024x1024"}, {"quality": "low"}, {"output_format": "jpeg"}])
async def test_what_shapes_the_image_is_part_of_the_key(
    proxy: Gate, upstream: CountingUpstream, other: dict[str, Any]
) -> None:
    await proxy.ask()
    assert (await proxy.ask(**other)).headers["x-imagegate-cache"] == "MISS"
    assert len(upstream.calls) == 2


async def test_another_beta_header_is_another_key(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask()
    other = await proxy.ask(headers={"openai-beta": "images=v2"})
    assert other.headers["x-imagegate-cache"] == "MISS"
    assert upstream.calls[1].headers["openai-beta"] == "images=v2"


async def test_the_order_of_members_and_spaces_between_them_do_not_matter(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.ask(size="1024x1024", quality="low")
    body = b'{ "quality":"low",\n "prompt" : "a \\u0072ed fox","size":"1024x1024","model":"gpt-image-2"}'
    again = await proxy.client.post("/images/generations", content=body, headers={"content-type": "application/json"})
    assert again.headers["x-imagegate-cache"] == "HIT"
    assert len(upstream.calls) == 1


async def test_what_is_sent_is_what_was_hashed_and_what_is_no_part_of_the_key(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    await proxy.ask(n=2, quality="low", user="u-1", safety_identifier="s-1", response_format="url", size="auto")
    assert upstream.calls[0].json == {
        "model": "gpt-image-2",
        "n": 2,
        "prompt": "a red fox",
        "quality": "low",
        "safety_identifier": "s-1",
        "user": "u-1",
    }
    assert upstream.calls[0].headers["authorization"] == "Bearer sk-of-upstream-1"

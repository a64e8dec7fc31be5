"""`generateImage` of the Vercel AI SDK with pictures in its prompt: edits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.expected import picture_of, pictures_in, sent
from tests.clients.sdk import VERCEL, Client, Sdk
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess


@pytest.fixture
def vercel(started: Callable[[str, list[str]], Sdk], proxy: Proxy) -> Client:
    return Client(started("vercel", VERCEL), proxy.url)


def test_a_picture_in_the_prompt_is_edited_once_for_two_equal_calls(
    vercel: Client, upstream: UpstreamProcess, photos: Path
) -> None:
    text = vercel.prompt("ai sdk, edit")
    for cache in "MISS", "HIT":
        outcome = vercel.generate({"text": text, "images": [str(photos / "photo.png")]})
        assert (outcome["cache"], outcome["pictures"]) == (cache, [picture_of(text)])
    [body] = upstream.bodies(text)
    assert pictures_in(body) == [sent("image", photos / "photo.png", "image/png")]
    assert upstream.edits(text) == 1


def test_several_pictures_and_a_mask(vercel: Client, upstream: UpstreamProcess, photos: Path) -> None:
    text, pictures = vercel.prompt("ai sdk, mask"), [str(photos / "photo.png"), str(photos / "hat.jpg")]
    outcome = vercel.generate({"text": text, "images": pictures, "mask": str(photos / "mask.png")})
    assert outcome["pictures"] == [picture_of(text)]
    [body] = upstream.bodies(text)
    assert pictures_in(body) == [
        sent("image[]", photos / "photo.png", "image/png"),
        sent("image[]", photos / "hat.jpg", "image/jpeg"),
        sent("mask", photos / "mask.png", "image/png"),
    ]

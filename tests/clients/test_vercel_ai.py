"""`generateImage` of the Vercel AI SDK, with nothing changed but the base URL of its OpenAI provider."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.expected import TOKENS, picture_of
from tests.clients.sdk import VERCEL, Client, Sdk
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess


@pytest.fixture
def vercel(started: Callable[[str, list[str]], Sdk], proxy: Proxy) -> Client:
    return Client(started("vercel", VERCEL), proxy.url)


def test_a_miss_then_a_hit_give_the_same_picture_for_one_purchase(vercel: Client, upstream: UpstreamProcess) -> None:
    prompt = vercel.prompt("ai sdk")
    first, second = vercel.generate(prompt), vercel.generate(prompt)
    assert (first["cache"], second["cache"]) == ("MISS", "HIT")
    assert first["pictures"] == second["pictures"] == [picture_of(prompt)]
    assert (second["media_types"], second["tokens"], second["warnings"]) == (["image/png"], TOKENS, [])
    assert upstream.calls(prompt) == 1
    assert upstream.bodies(prompt)[0]["prompt"] == prompt


def test_options_of_the_provider_are_parameters_of_the_api(vercel: Client, upstream: UpstreamProcess) -> None:
    prompt = vercel.prompt("ai sdk, options")
    options = {"openai": {"quality": "high", "outputFormat": "webp", "outputCompression": 60, "user": "u-1"}}
    assert vercel.generate(prompt, providerOptions=options)["ok"]
    [body] = upstream.bodies(prompt)
    assert (body["quality"], body["output_format"], body["output_compression"]) == ("high", "webp", 60)


def test_what_the_model_would_refuse_is_an_error_that_was_never_sent_and_is_not_retried(
    vercel: Client, upstream: UpstreamProcess
) -> None:
    prompt = vercel.prompt("ai sdk, bad size")
    refused = vercel.generate(prompt, size="1000x1000")
    assert (refused["name"], refused["status"], refused["is_retryable"]) == ("AI_APICallError", 400, False)
    assert (refused["error"]["param"], refused["error"]["code"]) == ("size", "invalid_value")
    assert "1008x1008" in refused["message"]
    assert upstream.calls(prompt) == 0


def test_without_retries_of_its_own_what_may_have_been_billed_is_bought_once(
    vercel: Client, upstream: UpstreamProcess
) -> None:
    """The AI SDK does not know `x-should-retry`: it goes by the status alone, so its retries must be turned off."""
    prompt = upstream.plan(vercel.prompt("ai sdk, truncated"), {"fault": "truncated"})
    refused: dict[str, Any] = vercel.generate(prompt, maxRetries=0)
    assert (refused["status"], refused["error"]["code"]) == (502, "upstream_connection_lost")
    assert refused["is_retryable"] is True
    assert upstream.calls(prompt) == 1

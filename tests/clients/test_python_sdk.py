"""The official Python SDK, with nothing changed but its base URL."""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, body_of, image_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def client(proxy: Proxy) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-of-the-python-sdk", base_url=proxy.url) as client:
        yield client


def _generate(client: OpenAI, prompt: str, **members: Any) -> Any:
    return client.images.generate(**{"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024", **members})


def _generate_raw(client: OpenAI, prompt: str, **members: Any) -> Any:
    return client.images.with_raw_response.generate(
        **{"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024", **members}
    )


def _refusal(status: int, code: str | None = None, **headers: str) -> dict[str, Any]:
    body = {"error": {"message": f"upstream {status}", "type": "t", "param": None, "code": code, "extra": [status]}}
    return {"status": status, "body": json.dumps(body), "headers": headers}


# --- A miss and a hit -------------------------------------------------------------------------------------------------


def test_a_miss_then_a_hit_give_the_same_picture_for_one_purchase(client: OpenAI, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("python sdk, sync", {"blocks": 3})
    first, second = _generate_raw(client, prompt), _generate_raw(client, prompt)
    assert (first.headers["x-imagegate-cache"], second.headers["x-imagegate-cache"]) == ("MISS", "HIT")
    assert first.content == second.content == body_of(prompt, 3)
    parsed = second.parse()
    assert base64.b64decode(parsed.data[0].b64_json) == image_of(prompt, 3)
    assert parsed.usage.total_tokens == 207
    assert upstream.calls(prompt) == 1


async def test_the_asynchronous_client_shares_the_picture_of_a_call_in_flight(
    proxy: Proxy, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("python sdk, async", {"seconds": 0.5})
    async with AsyncOpenAI(api_key="sk-of-the-python-sdk", base_url=proxy.url) as client:
        request: Any = {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024"}
        replies = await asyncio.gather(*(client.images.generate(**request) for _ in range(5)))
        hit = await client.images.with_raw_response.generate(**request)
    assert {reply.data[0].b64_json for reply in replies if reply.data} == {base64.b64encode(image_of(prompt)).decode()}
    assert hit.headers["x-imagegate-cache"] == "HIT"
    assert upstream.calls(prompt) == 1


def test_the_request_id_is_where_the_sdk_looks_for_it(client: OpenAI) -> None:
    reply = _generate(client, "python sdk, request id")
    assert reply._request_id


def test_the_response_formats_of_the_sdk_are_served(client: OpenAI, proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = "python sdk, response formats"
    reply = _generate(client, prompt, extra_headers={"X-Imagegate-Response-Format": "url"})
    url = reply.data[0].url
    assert url.startswith(proxy.url.removesuffix("/v1"))
    status, headers, picture = proxy.get(url[len(proxy.url.removesuffix("/v1")) :])
    assert (status, headers["content-type"], picture) == (200, "image/png", image_of(prompt))
    shown = _generate(client, prompt, extra_headers={"X-Imagegate-Response-Format": "data_url"})
    assert shown.data[0].url == "data:image/png;base64," + base64.b64encode(image_of(prompt)).decode()
    assert upstream.calls(prompt) == 1


# --- Each class of error ----------------------------------------------------------------------------------------------


def test_what_the_model_would_refuse_is_a_bad_request_that_was_never_sent(
    client: OpenAI, upstream: UpstreamProcess
) -> None:
    prompt = "python sdk, bad size"
    with pytest.raises(openai.BadRequestError) as caught:
        _generate(client, prompt, size="1000x1000")
    error = caught.value
    assert (error.status_code, error.param, error.code) == (400, "size", "invalid_value")
    assert "1008x1008" in error.message
    with pytest.raises(openai.BadRequestError) as caught:
        _generate(client, prompt, n=0)
    assert caught.value.param == "n"
    with pytest.raises(openai.BadRequestError) as caught:
        _generate(client, prompt, extra_body={"nonsense": 1})
    assert (caught.value.param, caught.value.code) == ("nonsense", "unknown_parameter")
    assert upstream.calls(prompt) == 0


def test_a_wrong_key_is_an_authentication_error_of_the_upstreams_own(client: OpenAI, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("python sdk, wrong key", _refusal(401, "invalid_api_key"))
    with pytest.raises(openai.AuthenticationError) as caught:
        _generate(client, prompt)
    assert (caught.value.code, upstream.calls(prompt)) == ("invalid_api_key", 1)


def test_a_missing_key_is_an_authentication_error_of_ours(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = "python sdk, no key"
    with OpenAI(api_key="unused", base_url=proxy.url) as client, pytest.raises(openai.AuthenticationError) as caught:
        _generate(client, prompt, extra_headers={"Authorization": ""})
    assert (caught.value.code, upstream.calls(prompt)) == ("invalid_api_key", 0)


def test_what_is_not_served_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert "/v1/images/generations" in caught.value.message


def test_a_body_past_the_limit_is_413(client: OpenAI, upstream: UpstreamProcess) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        _generate(client, "x" * 2_000_000)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_refusals_of_the_upstream_arrive_as_they_were_sent(client: OpenAI, upstream: UpstreamProcess) -> None:
    once = client.with_options(max_retries=0)
    limited = _refusal(
        429, "rate_limit_exceeded", **{"retry-after": "40", "x-ratelimit-remaining-requests": "0", "set-cookie": "a=b"}
    )
    broken = _refusal(500, None, **{"openai-organization": "org-x"})
    for plan, wanted in ((limited, openai.RateLimitError), (broken, openai.InternalServerError)):
        prompt = upstream.plan(f"python sdk, refused with {plan['status']}", plan)
        with pytest.raises(wanted) as caught:
            _generate(once, prompt)
        error = caught.value
        assert isinstance(error, openai.APIStatusError)
        assert error.response.text == plan["body"], "byte for byte"
        assert error.response.headers["x-request-id"]
        for private in ("set-cookie", "openai-organization"):
            assert private not in error.response.headers
        assert upstream.calls(prompt) == 1
    prompt = "python sdk, refused with 429"
    with pytest.raises(openai.RateLimitError) as caught_again:
        _generate(once, prompt)
    assert caught_again.value.response.headers["retry-after"] == "40"
    assert caught_again.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert upstream.calls(prompt) == 2, "a refusal is remembered by nobody"


def test_the_sdk_gets_its_picture_after_a_refusal_it_retries_by_itself(
    client: OpenAI, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("python sdk, 500 then fine", _refusal(500, None, **{"retry-after-ms": "1"}), {})
    assert _generate(client, prompt).data[0].b64_json
    assert upstream.calls(prompt) == 2


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("truncated", 502, "upstream_connection_lost"),
        ("reset", 502, "upstream_connection_lost"),
        ("html", 502, "upstream_invalid_response"),
    ],
)
def test_what_may_have_been_billed_is_not_retried_by_the_sdk(
    client: OpenAI, upstream: UpstreamProcess, fault: str, status: int, code: str
) -> None:
    prompt = upstream.plan(f"python sdk, {fault}", {"fault": fault})
    assert client.max_retries == 2, "the SDK would pay twice more"
    with pytest.raises(openai.InternalServerError) as caught:
        _generate(client, prompt)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert upstream.calls(prompt) == 1


def test_a_timeout_of_ours_is_not_retried_by_the_sdk(start: Any, upstream: UpstreamProcess) -> None:
    proxy: Proxy = start({"upstream": {"connect_timeout_seconds": 0.4, "total_timeout_seconds": 0.5}})
    prompt = upstream.plan("python sdk, 504", {"hold": True})
    with OpenAI(api_key="sk-x", base_url=proxy.url) as client, pytest.raises(openai.InternalServerError) as caught:
        _generate(client, prompt)
    assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
    assert upstream.calls(prompt) == 1


# --- Timeout and retry ------------------------------------------------------------------------------------------------


def test_a_retry_of_the_sdk_after_its_own_timeout_joins_the_purchase(
    client: OpenAI, proxy: Proxy, upstream: UpstreamProcess
) -> None:
    prompt = upstream.plan("python sdk, timeout and retry", {"seconds": 2})
    reply = _generate_raw(client.with_options(timeout=1.2), prompt)
    assert reply.content == body_of(prompt)
    assert reply.headers["x-imagegate-cache"] in ("COALESCED", "HIT")
    assert reply.retries_taken >= 1, "the first attempt must have timed out"
    assert upstream.calls(prompt) == 1


def test_a_client_that_gave_up_finds_its_picture_later(client: OpenAI, proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("python sdk, gave up", {"hold": True})
    with pytest.raises(openai.APITimeoutError):
        _generate(client.with_options(timeout=0.3, max_retries=1), prompt)
    upstream.release(prompt)
    eventually(lambda: proxy.metric("imagegate_flights_in_flight") == 0)
    assert _generate_raw(client, prompt).headers["x-imagegate-cache"] == "HIT"
    assert upstream.calls(prompt) == 1

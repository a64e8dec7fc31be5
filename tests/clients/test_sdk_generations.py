"""Generations with the official SDKs, each in a process of its own: pictures, exceptions, timeouts and retries."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.expected import TOKENS, picture_of
from tests.clients.sdk import Client, Sdk
from tests.support.process import Proxy, write_config
from tests.support.upstream_process import UpstreamProcess, image_of


def _refusal(status: int, code: str | None, **headers: str) -> dict[str, Any]:
    body = {"error": {"message": f"upstream {status}", "type": "t", "param": None, "code": code, "extra": [status]}}
    return {"status": status, "body": json.dumps(body), "headers": headers}


def test_a_miss_then_a_hit_give_the_same_picture_for_one_purchase(client: Client, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan(client.prompt("sdk"), {"blocks": 20})
    first, second = client.generate(prompt), client.generate(prompt)
    assert (first["cache"], second["cache"]) == ("MISS", "HIT")
    assert first["pictures"] == second["pictures"] == [hashlib.sha256(image_of(prompt, 20)).hexdigest()]
    assert second["tokens"] == TOKENS
    assert first["request_id"] and first["request_id"] != second["request_id"]
    assert upstream.calls(prompt) == 1


def test_a_link_instead_of_base64_for_those_who_ask_as_they_did_of_older_models(
    client: Client, proxy: Proxy, upstream: UpstreamProcess
) -> None:
    prompt = client.prompt("sdk, response_format")
    [link] = client.generate(prompt, response_format="url")["urls"]
    status, headers, picture = proxy.get(link.removeprefix(proxy.url.removesuffix("/v1")))
    assert (status, headers["content-type"], picture) == (200, "image/png", image_of(prompt))
    assert client.generate(prompt)["cache"] == "HIT"
    assert upstream.calls(prompt) == 1


def test_what_the_model_would_refuse_is_a_bad_request_that_was_never_sent(
    client: Client, upstream: UpstreamProcess
) -> None:
    prompt = client.prompt("sdk, bad size")
    refused = client.generate(prompt, size="1000x1000")
    assert (refused["name"], refused["status"], refused["param"]) == ("BadRequestError", 400, "size")
    assert (refused["code"], upstream.calls(prompt)) == ("invalid_value", 0)
    assert "1008x1008" in refused["message"]


@pytest.mark.parametrize(
    ("status", "code", "name", "headers"),
    [
        (401, "invalid_api_key", "AuthenticationError", {}),
        (429, "rate_limit_exceeded", "RateLimitError", {"retry-after": "40"}),
        (500, None, "InternalServerError", {}),
    ],
)
def test_refusals_of_the_upstream_arrive_as_they_were_sent(
    client: Client, upstream: UpstreamProcess, status: int, code: str | None, name: str, headers: dict[str, str]
) -> None:
    plan = _refusal(status, code, **headers)
    prompt = upstream.plan(client.prompt(f"sdk, refused with {status}"), plan)
    refused = client.generate(prompt, options={"max_retries": 0})
    assert (refused["name"], refused["status"], refused["code"]) == (name, status, code)
    assert refused["error"] == json.loads(plan["body"])["error"]
    assert headers.items() <= refused["headers"].items()
    assert upstream.calls(prompt) == 1


def test_a_body_past_the_limit_is_413(client: Client) -> None:
    refused = client.generate("x" * 2_000_000)
    assert (refused["status"], refused["code"]) == (413, "request_too_large")


def test_what_is_not_served_is_not_found(sdk: Sdk, proxy: Proxy) -> None:
    refused = Client(sdk, proxy.url + "/elsewhere").generate("sdk, not found")
    assert (refused["name"], refused["status"], refused["code"]) == ("NotFoundError", 404, "not_found")


@pytest.mark.parametrize(
    ("fault", "code"), [("truncated", "upstream_connection_lost"), ("html", "upstream_invalid_response")]
)
def test_what_may_have_been_billed_is_not_retried_by_the_sdk(
    client: Client, upstream: UpstreamProcess, fault: str, code: str
) -> None:
    prompt = upstream.plan(client.prompt(f"sdk, {fault}"), {"fault": fault})
    refused = client.generate(prompt)
    assert (refused["status"], refused["code"], upstream.calls(prompt)) == (502, code, 1)


def test_a_retry_of_the_sdk_after_its_own_timeout_joins_the_purchase(client: Client, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan(client.prompt("sdk, timeout and retry"), {"seconds": 2})
    reply = client.generate(prompt, options={"timeout": 1.2})
    assert (reply["ok"], reply["pictures"]) == (True, [picture_of(prompt)])
    assert reply["cache"] in ("COALESCED", "HIT"), "the first attempt must have timed out"
    assert upstream.calls(prompt) == 1


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    """A proxy that waits half a second for its upstream."""
    folder = tmp_path_factory.mktemp("impatient")
    limits = {"upstream": {"connect_timeout_seconds": 0.4, "total_timeout_seconds": 0.5}}
    config = write_config(folder / "imagegate.toml", upstream.url, limits)
    process = Proxy("--config", str(config), log=folder / "imagegate.log")
    yield process
    process.kill()


def test_a_timeout_of_ours_is_not_retried_by_the_sdk(sdk: Sdk, impatient: Proxy, upstream: UpstreamProcess) -> None:
    client = Client(sdk, impatient.url)
    prompt = upstream.plan(client.prompt("sdk, 504"), {"hold": True})
    before = impatient.metric("imagegate_requests_total", code="504")
    refused = client.generate(prompt)
    assert (refused["status"], refused["code"]) == (504, "upstream_timeout")
    assert impatient.metric("imagegate_requests_total", code="504") == before + 1
    assert upstream.calls(prompt) <= 1

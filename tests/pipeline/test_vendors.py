"""Vendors: what differs on the wire, and replies that are made OpenAI's."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream, Said, Streamed, completed
from tests.support.images import picture, reply

pytestmark = pytest.mark.anyio

WHOLE = picture("whole", "jpeg")


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def over(tmp_path: Path, upstream: CountingUpstream, vendor: str, **changes: Any) -> Any:
    settings = settings_over(tmp_path, upstream)
    (section,) = settings.upstreams
    return gate(replace(settings, upstreams=(replace(section, vendor=vendor, **changes),)))


async def test_azure_is_called_by_its_deployment_with_its_header(tmp_path: Path, upstream: CountingUpstream) -> None:
    base_url = upstream.base_url.removesuffix("/v1")
    async with over(tmp_path, upstream, "azure", base_url=base_url) as proxy:
        assert (await proxy.ask()).status_code == 200
        refused = await proxy.ask(output_format="webp")
    (call,) = upstream.calls
    assert call.path == "/openai/deployments/gpt-image-2/images/generations?api-version=2025-04-01-preview"
    assert call.headers["api-key"] == "sk-of-upstream-1"
    assert "authorization" not in call.headers
    assert refused.json()["error"]["message"] == "Invalid value: 'webp'. Supported values are: 'png' and 'jpeg'."


async def test_azures_newer_api_has_its_own_path_and_version(tmp_path: Path, upstream: CountingUpstream) -> None:
    base_url = upstream.base_url.removesuffix("/v1") + "/openai/v1"
    async with over(tmp_path, upstream, "azure", base_url=base_url, api_version="2026-01-01") as proxy:
        await proxy.ask()
    assert upstream.calls[0].path == "/openai/v1/images/generations?api-version=2026-01-01"


async def test_together_is_asked_in_its_own_words_and_answers_in_openais(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    item = {"index": 0, "type": "b64_json", "b64_json": text(WHOLE)}
    body = {"id": "x", "model": "m", "object": "list", "data": [item]}
    upstream.script = lambda call: Said(json.dumps(body).encode())
    async with over(tmp_path, upstream, "together") as proxy:
        model = "black-forest-labs/FLUX.1-schnell"
        bought = await proxy.ask(model=model, size="1024x768", safety_identifier="me")
        hit = await proxy.ask(model=model, size="1024x768", headers={"x-imagegate-response-format": "data_url"})
        assert proxy.total("imagegate_upstream_amended_total", member="created") == 1
        assert proxy.total("imagegate_usage_missing_total") == 1
    sent = upstream.calls[0].json
    assert (sent["width"], sent["height"], sent["response_format"]) == (1024, 768, "base64")
    assert "size" not in sent
    answer = bought.json()
    assert answer == {"created": int(proxy.clock.wall()), **body}
    assert hit.headers["x-imagegate-cache"] == "HIT"
    assert hit.json()["data"][0]["url"].startswith("data:image/jpeg;base64,")


async def test_a_refusal_dressed_as_a_reply_is_a_refusal(tmp_path: Path, upstream: CountingUpstream) -> None:
    body = {"data": [{"url": "", "respect_moderation": False}]}
    upstream.script = lambda call: Said(json.dumps(body).encode())
    async with over(tmp_path, upstream, "xai") as proxy:
        answer = await proxy.ask(model="grok-imagine-image")
        assert proxy.total("imagegate_cache_entries", tier="disk") == 0
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "moderation_blocked"


async def test_what_a_vendor_says_it_charged_is_the_cost(tmp_path: Path, upstream: CountingUpstream) -> None:
    usage = {"cost_in_usd_ticks": 700_000_000}
    upstream.script = lambda call: Said(reply(WHOLE, usage=usage))
    async with over(tmp_path, upstream, "xai") as proxy:
        answer = await proxy.ask(model="grok-imagine-image")
    assert answer.headers["x-imagegate-cost-usd"] == "0.07"


async def test_a_generic_upstream_is_asked_for_base64_and_needs_no_created(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    upstream.script = lambda call: Said(json.dumps({"data": [{"b64_json": text(WHOLE)}]}).encode())
    async with over(tmp_path, upstream, "generic") as proxy:
        answer = await proxy.ask(model="my-own-model")
    assert upstream.calls[0].json["response_format"] == "b64_json"
    assert answer.json()["created"] == int(proxy.clock.wall())


async def test_openais_own_replies_are_left_as_they_are(proxy: Gate, upstream: CountingUpstream) -> None:
    body = json.dumps({"data": [{"b64_json": text(WHOLE)}]}).encode()
    upstream.script = lambda call: Said(body)
    assert (await proxy.ask()).content == body


async def test_the_echo_of_a_caller_stands_where_it_stood_although_something_was_added(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    body = {"data": [{"b64_json": text(WHOLE)}], "safety_identifier": "me"}
    upstream.script = lambda call: Said(json.dumps(body).encode())
    async with over(tmp_path, upstream, "generic") as proxy:
        answer = await proxy.ask(safety_identifier="me")
        assert answer.json() == {"created": int(proxy.clock.wall()), **body}
        assert "safety_identifier" not in (await proxy.ask()).json()


async def test_the_input_of_an_edit_without_details_is_billed_as_the_dearer_kind(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    upstream.script = lambda call: Streamed([completed(WHOLE, operation=call.operation, usage=usage)])
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x06\0\0\0"
    answer = await proxy.client.post(
        "/v1/images/edits",
        data={"model": "gpt-image-2", "prompt": "a fox", "stream": "true"},
        files={"image": ("a.png", head, "image/png")},
    )
    assert "image_edit.completed" in answer.text
    assert proxy.total("imagegate_upstream_tokens_total", modality="unknown") == 1000
    assert proxy.total("imagegate_upstream_cost_usd_total") == pytest.approx(0.008 + 0.003)  # 8 and 30 USD a million


async def test_a_stream_without_created_gets_one_as_well(tmp_path: Path, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Streamed([completed(WHOLE, created_at=None, safety_identifier="me")])
    async with over(tmp_path, upstream, "generic") as proxy:
        call = proxy.stream(model="my-own-model", safety_identifier="me")
        await call.over()
        now = int(proxy.clock.wall())
        assert (call.events[0].json["created_at"], call.events[0].json["safety_identifier"]) == (now, "me")
        assert (await proxy.ask(model="my-own-model")).json()["created"] == now


async def test_a_vendor_without_edits_says_so(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with over(tmp_path, upstream, "xai") as proxy:
        form = {"model": "grok-imagine-image", "prompt": "a fox"}
        answer = await proxy.client.post(
            "/v1/images/edits", data=form, files={"image": ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")}
        )
    message = "The model 'grok-imagine-image' is not supported on /v1/images/edits."
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)

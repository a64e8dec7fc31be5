"""The SDKs' classes for Azure, with nothing changed but their endpoint."""

from pathlib import Path
from typing import Any

import pytest

from tests.clients.expected import picture_of
from tests.clients.sdk import Client
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess


@pytest.fixture
def azure(proxy: Proxy) -> dict[str, Any]:
    return {"azure_endpoint": proxy.url.removesuffix("/v1"), "api_version": "2025-04-01-preview"}


def test_a_deployment_is_the_model_of_that_name(
    client: Client, azure: dict[str, Any], upstream: UpstreamProcess
) -> None:
    prompt = client.prompt("azure")
    first, second = (client.generate(prompt, options=azure) for _ in range(2))
    assert first["pictures"] == second["pictures"] == [picture_of(prompt)]
    assert (first["cache"], second["cache"]) == ("MISS", "HIT")
    [body] = upstream.bodies(prompt)
    assert body["model"] == "gpt-image-2"


def test_a_stream_from_a_deployment(client: Client, azure: dict[str, Any]) -> None:
    prompt = client.prompt("azure, streamed")
    outcome = client.stream(prompt, partial_images=1, options=azure)
    assert [event["picture"] for event in outcome["events"]] == [picture_of(prompt, 0), picture_of(prompt)]


def test_an_edit_by_a_deployment(
    client: Client, azure: dict[str, Any], upstream: UpstreamProcess, photos: Path
) -> None:
    prompt = client.prompt("azure, edit")
    for cache in "MISS", "HIT":
        outcome = client.edit(prompt, image=str(photos / "photo.png"), options=azure)
        assert (outcome["cache"], outcome["pictures"]) == (cache, [picture_of(prompt)])
    [body] = upstream.bodies(prompt)
    assert body["model"] == "gpt-image-2"


def test_a_refusal_is_the_exception_of_the_sdk(client: Client, azure: dict[str, Any]) -> None:
    refused = client.generate("azure, bad size", size="1000x1000", options=azure)
    assert (refused["name"], refused["status"], refused["param"]) == ("BadRequestError", 400, "size")


def test_the_newer_address_without_deployments_works_with_the_ordinary_class(
    client: Client, azure: dict[str, Any], upstream: UpstreamProcess, photos: Path
) -> None:
    newer = client.at(azure["azure_endpoint"] + "/openai/v1")
    prompt = client.prompt("azure, newer address")
    assert newer.generate(prompt)["pictures"] == [picture_of(prompt)]
    assert client.generate(prompt)["cache"] == "HIT", "one picture under every address"
    assert newer.edit(prompt, image=str(photos / "photo.png"))["pictures"] == [picture_of(prompt)]
    assert (upstream.calls(prompt), upstream.edits(prompt)) == (2, 1)


def test_the_models_are_listed_at_the_endpoint_too(client: Client, azure: dict[str, Any]) -> None:
    assert "gpt-image-2" in client.models(**azure)["ids"]

"""Callers that speak Azure's dialect: their paths and their header lead to the same place."""

from pathlib import Path

import pytest

from proxy.settings import AuthSection
from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

BODY = {"prompt": "a red fox"}
DEPLOYMENT = "/openai/deployments/gpt-image-2/images/generations?api-version=2025-04-01-preview"


async def test_all_paths_lead_to_one_entry(proxy: Gate, upstream: CountingUpstream) -> None:
    bought = await proxy.ask()
    for path, model in (
        (DEPLOYMENT, {}),
        ("/openai/v1/images/generations?api-version=preview", {"model": "gpt-image-2"}),
    ):
        answer = await proxy.client.post(path, json={**BODY, **model})
        assert (answer.headers["x-imagegate-cache"], answer.content) == ("HIT", bought.content)
    assert len(upstream.calls) == 1


async def test_the_model_of_the_path_goes_before_that_of_the_body(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.client.post(DEPLOYMENT, json={**BODY, "model": "something-else"})
    assert upstream.calls[0].json["model"] == "gpt-image-2"
    assert upstream.calls[0].path == "/v1/images/generations"


async def test_a_deployment_may_be_an_alias_in_any_spelling(proxy: Gate) -> None:
    answer = await proxy.client.post("/openai/deployments/dall-e-2/images/generations", json=BODY)
    assert answer.json()["error"]["message"] == "The model 'dall-e-2' does not exist."


async def test_the_api_key_header_is_a_credential(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream, auth=AuthSection(mode="passthrough"))) as proxy:
        assert (await proxy.client.post(DEPLOYMENT, json=BODY)).status_code == 401
        answer = await proxy.client.post(DEPLOYMENT, json=BODY, headers={"api-key": "azure-key"})
    assert answer.status_code == 200
    assert upstream.calls[0].headers["api-key"] == "azure-key"
    assert "authorization" not in upstream.calls[0].headers


async def test_another_method_names_what_is_served(proxy: Gate) -> None:
    answer = await proxy.client.get("/openai/v1/images/generations")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

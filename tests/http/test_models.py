"""`GET /v1/models`: what may be asked for, in OpenAI's shape."""

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.settings import AuthSection, RulesSection
from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("root", ["/v1", "", "/openai/v1"])
async def test_the_catalogue_is_listed(proxy: Gate, root: str) -> None:
    document = (await proxy.client.get(f"{root}/models")).json()
    models = {model["id"]: model for model in document["data"]}
    assert document["object"] == "list"
    assert {"gpt-image-2", "gpt-image-1-mini"} <= models.keys()
    assert "dall-e-2" not in models
    assert models["gpt-image-1-mini"]["shutdown_date"] == "2026-12-01"
    assert models["gpt-image-2"]["shutdown_date"] is None
    for model in models.values():
        assert model.keys() == {"id", "object", "created", "owned_by", "shutdown_date"}
        assert (model["object"], type(model["created"])) == ("model", int)


async def test_one_model_is_told(proxy: Gate) -> None:
    answer = await proxy.client.get("/v1/models/gpt-image-2")
    assert answer.json()["id"] == "gpt-image-2"


@pytest.mark.parametrize("name", ["gpt-5", "dall-e-2", "a%2Fb"])
async def test_an_unknown_model_is_not_found(proxy: Gate, name: str) -> None:
    answer = await proxy.client.get(f"/v1/models/{name}")
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")


async def test_a_model_with_a_slash_in_its_name_is_found(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    (section,) = settings.upstreams
    settings = replace(settings, upstreams=(replace(section, models=("*", "maker/painter")),))
    async with gate(settings) as proxy:
        assert (await proxy.client.get("/v1/models/maker%2Fpainter")).json()["id"] == "maker/painter"


async def test_the_list_is_narrowed_to_what_the_upstreams_serve(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream, rules=RulesSection(aliases={"dall-e-3": "gpt-image-2"}))
    (section,) = settings.upstreams
    settings = replace(settings, upstreams=(replace(section, models=("gpt-image-2",)),))
    async with gate(settings) as proxy:
        names = [model["id"] for model in (await proxy.client.get("/v1/models")).json()["data"]]
    assert names == ["dall-e-3", "gpt-image-2"]


async def test_the_list_is_for_who_has_a_key(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream, auth=AuthSection(mode="passthrough"))) as proxy:
        assert (await proxy.client.get("/v1/models")).status_code == 401
        known = {"authorization": "Bearer sk-x"}
        assert (await proxy.client.get("/v1/models", headers=known)).status_code == 200
        assert (await proxy.client.get("/v1/models/gpt-image-2", headers={"api-key": "x"})).status_code == 200


async def test_another_method_is_refused(proxy: Gate) -> None:
    answer = await proxy.client.delete("/v1/models/gpt-image-2")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")

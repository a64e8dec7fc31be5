"""The catalogue of the vendors beside OpenAI and apiyi: what is shipped agrees with what was read."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from proxy.catalogue import load
from proxy.errors import InvalidRequest, UnsupportedByModel
from proxy.model import Document, ImageRequest, Operation, Price
from proxy.rule import Endpoint, ModelRule, estimate
from proxy.settings import RulesSection
from proxy.sizes import Grid, Listed
from proxy.validation import Validator

CATALOGUE = load()
VENDORS = ("azure", "xai", "together", "generic")
NAMES = {
    "azure": [
        "gpt-image-1",
        "gpt-image-1-mini",
        "gpt-image-1.5",
        "gpt-image-1.5-2025-12-16",
        "gpt-image-2",
        "gpt-image-2-2026-04-21",
        "gpt-image-2.5-flare",
        "gpt-image-2.5-sunburst",
    ],
    "xai": [
        "grok-imagine-image",
        "grok-imagine-image-2.0",
        "grok-imagine-image-2026-03-02",
        "grok-imagine-image-pro",
        "grok-imagine-image-quality",
        "grok-imagine-image-quality-20260403",
        "grok-imagine-image-quality-latest",
    ],
    "together": [
        "black-forest-labs/FLUX.1-dev",
        "black-forest-labs/FLUX.1-dev-lora",
        "black-forest-labs/FLUX.1-kontext-dev",
        "black-forest-labs/FLUX.1-kontext-max",
        "black-forest-labs/FLUX.1-kontext-pro",
        "black-forest-labs/FLUX.1-pro",
        "black-forest-labs/FLUX.1-schnell",
        "black-forest-labs/FLUX.1-schnell-Free",
        "black-forest-labs/FLUX.1.1-pro",
        "stabilityai/stable-diffusion-xl-base-1.0",
    ],
    "generic": [],
}
MODELS = [model for vendor in VENDORS for model in CATALOGUE.models(vendor)]


def rule(vendor: str, model: str) -> ModelRule:
    found = CATALOGUE.rule(vendor, model)
    assert found is not None
    return found


def generations(model: ModelRule) -> Endpoint:
    return model.endpoints[Operation.GENERATION]


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_model_of_the_vendor_is_there(vendor: str) -> None:
    assert vendor in CATALOGUE.vendors
    assert [model.name for model in CATALOGUE.models(vendor)] == NAMES[vendor]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.vendor}/{model.name}")
def test_every_model_names_its_source_and_date_and_none_is_refused(model: ModelRule) -> None:
    assert model.source
    assert model.checked == date(2026, 11, 22)
    assert model.known
    assert not model.retired
    assert model.price is None or model.price.version == f"{model.vendor} 2026-11-22"


DATES = {
    "azure/gpt-image-1": date(2026, 10, 23),
    "azure/gpt-image-1-mini": date(2027, 4, 7),
    "azure/gpt-image-1.5": date(2026, 12, 16),
    "azure/gpt-image-1.5-2025-12-16": date(2026, 12, 16),
    "azure/gpt-image-2": date(2027, 10, 21),
    "azure/gpt-image-2-2026-04-21": date(2027, 10, 21),
    "azure/gpt-image-2.5-flare": date(2027, 9, 9),
    "azure/gpt-image-2.5-sunburst": date(2027, 9, 9),
    "xai/grok-imagine-image-quality": date(2026, 11, 2),
    "xai/grok-imagine-image-quality-20260403": date(2026, 11, 2),
    "xai/grok-imagine-image-quality-latest": date(2026, 11, 2),
    "xai/grok-imagine-image-pro": date(2026, 5, 15),
}


def test_life_cycles_are_the_vendors_own() -> None:
    assert {f"{model.vendor}/{model.name}": model.shutdown_date for model in MODELS if model.shutdown_date} == DATES


# --- Azure ------------------------------------------------------------------------------------------------------------

AZURE = [model for model in MODELS if model.vendor == "azure"]


@pytest.mark.parametrize("model", AZURE, ids=lambda model: model.name)
def test_azure_takes_no_webp_and_has_no_default_of_quality(model: ModelRule) -> None:
    for endpoint in model.endpoints.values():
        output_format = endpoint.parameters["output_format"]
        assert output_format.values == ("png", "jpeg")
        assert "webp" not in output_format.unconfirmed
        assert output_format.default == "png"
        assert endpoint.parameters["quality"].default is None
        assert not endpoint.takes_response_format
        assert not endpoint.open


@pytest.mark.parametrize("model", AZURE, ids=lambda model: model.name)
def test_azure_s_models_are_openai_s_but_for_that(model: ModelRule) -> None:
    openai = CATALOGUE.rule("openai", model.name)
    assert openai is not None
    assert model.endpoints.keys() == openai.endpoints.keys()
    for operation, endpoint in model.endpoints.items():
        theirs = openai.endpoints[operation].parameters
        assert endpoint.parameters.keys() == theirs.keys()
        assert endpoint.parameters["quality"].values == theirs["quality"].values
        for name in endpoint.parameters.keys() - {"quality", "output_format"}:
            assert endpoint.parameters[name] == theirs[name]
    assert model.size == openai.size
    assert model.tokens == openai.tokens
    assert model.auto_estimate == openai.auto_estimate
    assert set(model.refused) == {combination for combination in openai.refused if not combination.preview}


@pytest.mark.parametrize("model", AZURE, ids=lambda model: model.name)
def test_azure_s_prices_are_those_that_were_published(model: ModelRule) -> None:
    openai = CATALOGUE.rule("openai", model.name)
    assert openai is not None
    assert openai.price is not None
    assert model.price is not None
    ours, theirs = model.price, openai.price
    for amount in ("text_in", "cached_text_in", "image_in", "cached_image_in", "text_out", "image_out"):
        assert getattr(ours, amount) == getattr(theirs, amount)


def test_azure_knows_the_sizes_of_its_models() -> None:
    assert isinstance(rule("azure", "gpt-image-1").size, Listed)
    assert isinstance(rule("azure", "gpt-image-2").size, Grid)


def test_what_azure_leaves_to_the_model_is_estimated_dearly() -> None:
    model = rule("azure", "gpt-image-2")
    auto = estimate(model, size="auto", quality="auto", n=1, prompt="")
    assert auto is not None
    assert auto == estimate(model, size="1024x1024", quality="high", n=1, prompt="")


# --- xAI and Together -------------------------------------------------------------------------------------------------

OPEN = [model for model in MODELS if model.vendor in ("xai", "together")]


@pytest.mark.parametrize("model", OPEN, ids=lambda model: model.name)
def test_models_of_others_are_open_and_are_asked_for_base64(model: ModelRule) -> None:
    assert list(model.endpoints) == [Operation.GENERATION]
    endpoint = generations(model)
    assert endpoint.open
    assert endpoint.takes_response_format
    assert endpoint.parameters["prompt"].required


@pytest.mark.parametrize("model", NAMES["xai"])
def test_xai_has_ratios_and_resolutions_and_no_size(model: str) -> None:
    grok = rule("xai", model)
    parameters = generations(grok).parameters
    assert (parameters["n"].minimum, parameters["n"].maximum) == (1, 10)
    assert parameters["aspect_ratio"].default is None
    assert {"1:1", "16:9", "19.5:9", "auto"} <= set(parameters["aspect_ratio"].values)
    assert parameters["resolution"].values == ("1k", "2k")
    assert parameters["resolution"].default == "1k"
    assert parameters["quality"].unconfirmed == ("high",)
    (refused,) = grok.refused
    assert refused.parameter == "size"
    assert [(condition.parameter, condition.given) for condition in refused.when] == [("size", True)]
    assert not refused.preview


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("grok-imagine-image", "0.02"),
        ("grok-imagine-image-2026-03-02", "0.02"),
        ("grok-imagine-image-2.0", "0.06"),
        ("grok-imagine-image-quality", "0.05"),
        ("grok-imagine-image-quality-latest", "0.05"),
    ],
)
def test_xai_bills_by_the_image(model: str, usd: str) -> None:
    assert rule("xai", model).price == Price(per_image=Decimal(usd), version="xai 2026-11-22")


def test_what_is_not_known_to_cost_anything_has_no_price() -> None:
    assert rule("xai", "grok-imagine-image-pro").price is None
    assert all(model.price is None for model in CATALOGUE.models("together"))


@pytest.mark.parametrize("model", NAMES["together"])
def test_together_makes_jpeg_unless_asked(model: str) -> None:
    parameters = generations(rule("together", model)).parameters
    assert parameters["output_format"].default == "jpeg"
    assert parameters["output_format"].values == ("jpeg", "png")
    assert (parameters["width"].type, parameters["height"].type) == ("integer", "integer")
    assert parameters["size"].default is None


# --- any model that is not listed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_model_that_is_not_listed_is_nobody_s_to_refuse(vendor: str) -> None:
    assert CATALOGUE.rule(vendor, "my-own-deployment") is None


# --- as a caller meets it ---------------------------------------------------------------------------------------------


REJECT = RulesSection()


def asked(vendor: str, rules: RulesSection = REJECT, **members: Any) -> ImageRequest:
    validator = Validator(CATALOGUE, rules)
    return validator.validate(Document({"prompt": "a fox", **members}), Operation.GENERATION, vendor)


def test_azure_s_refusal_of_webp_is_worded_as_azure_words_it() -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked("azure", model="gpt-image-2", output_format="webp")
    assert caught.value.message == "Invalid value: 'webp'. Supported values are: 'png' and 'jpeg'."
    assert caught.value.param == "output_format"


def test_what_a_caller_says_of_quality_reaches_azure() -> None:
    for quality in ("auto", "high"):
        assert f'"quality":"{quality}"'.encode() in asked("azure", model="gpt-image-2", quality=quality).canonical
    assert b"quality" not in asked("azure", model="gpt-image-2").canonical


def test_a_deployment_of_any_name_passes() -> None:
    request = asked("azure", model="my-deployment", output_format="webp", size="640x480")
    assert not request.known
    assert not request.wants_b64_json


@pytest.mark.parametrize("size", ["1024x1024", "auto"])
def test_a_size_is_refused_for_xai_or_dropped_where_that_is_allowed(size: str) -> None:
    with pytest.raises(UnsupportedByModel, match="aspect_ratio") as caught:
        asked("xai", model="grok-imagine-image", size=size)
    assert (caught.value.param, caught.value.code) == ("size", "unknown_parameter")
    request = asked("xai", RulesSection(on_invalid="adjust"), model="grok-imagine-image", size=size)
    assert b"size" not in request.canonical
    assert request.adjusted == ("size dropped",)


def test_what_xai_is_known_to_take_passes() -> None:
    members: dict[str, Any] = {"aspect_ratio": "16:9", "resolution": "2k", "quality": "high", "n": 10, "seed": 7}
    request = asked("xai", model="grok-imagine-image-2.0", **members)
    assert request.wants_b64_json
    assert request.n == 10
    assert set(json.loads(request.canonical)) == {"model", "prompt", *members}


def test_what_together_is_known_to_take_passes() -> None:
    model = "black-forest-labs/FLUX.1-schnell"
    request = asked("together", model=model, size="1024x768", steps=4, guidance_scale=3.5, output_format="jpeg")
    assert request.wants_b64_json
    assert request.output_format == "jpeg"
    assert set(json.loads(request.canonical)) == {"model", "prompt", "size", "steps", "guidance_scale"}


@pytest.mark.parametrize(
    ("vendor", "takes_response_format", "operations"),
    [
        ("azure", False, set(Operation)),
        ("xai", True, {Operation.GENERATION}),
        ("together", True, {Operation.GENERATION}),
        ("generic", True, set(Operation)),
    ],
)
def test_a_model_that_is_not_listed_is_asked_for_base64_where_its_vendor_can(
    vendor: str, takes_response_format: bool, operations: set[Operation]
) -> None:
    unlisted = CATALOGUE.unlisted(vendor, "a-new-model")
    assert (unlisted.name, unlisted.base, unlisted.known) == ("a-new-model", "a-new-model", False)
    assert set(unlisted.endpoints) == operations
    for endpoint in unlisted.endpoints.values():
        assert endpoint.open
        assert endpoint.takes_response_format is takes_response_format

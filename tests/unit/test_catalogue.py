"""The catalogue: what is shipped agrees with the published facts, and a faulty file is told everything at once."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from proxy.catalogue import Catalogue, from_documents, load
from proxy.errors import ConfigurationError
from proxy.model import Operation, Price
from proxy.rule import Endpoint, ModelRule, estimate, shape_only
from proxy.sizes import Grid, Listed

CATALOGUE = load()


def openai(model: str) -> ModelRule:
    found = CATALOGUE.rule("openai", model)
    assert found is not None
    return found


def generations(model: ModelRule) -> Endpoint:
    return model.endpoints[Operation.GENERATION]


def test_every_model_of_the_vendors_is_there() -> None:
    assert {"apiyi", "openai"} <= set(CATALOGUE.vendors)
    assert [model.name for model in CATALOGUE.models("openai")] == [
        "chatgpt-image-latest",
        "dall-e-2",
        "dall-e-3",
        "gpt-image-1",
        "gpt-image-1-mini",
        "gpt-image-1.5",
        "gpt-image-1.5-2025-12-16",
        "gpt-image-2",
        "gpt-image-2-2026-04-21",
        "gpt-image-2.5-flare",
        "gpt-image-2.5-flare-2026-09-08",
        "gpt-image-2.5-sunburst",
        "gpt-image-2.5-sunburst-2026-09-08",
        "gpt-image-2.6-flare",
        "gpt-image-2.6-sunburst",
    ]
    assert [model.name for model in CATALOGUE.models("apiyi")] == [
        "gpt-image-2",
        "gpt-image-2-all",
        "gpt-image-2.6-all",
    ]
    assert CATALOGUE.models("nobody") == ()
    assert CATALOGUE.rule("openai", "gpt-image-2.5") is None


def test_life_cycles_are_as_announced() -> None:
    assert {model.name for model in CATALOGUE.models("openai") if model.retired} == {
        "dall-e-2",
        "dall-e-3",
        "gpt-image-1",
    }
    for name in ("gpt-image-1-mini", "gpt-image-1.5", "gpt-image-1.5-2025-12-16", "chatgpt-image-latest"):
        assert openai(name).shutdown_date == date(2026, 12, 1)
    assert openai("gpt-image-2").shutdown_date is None


def test_every_model_names_its_source_and_date() -> None:
    for vendor in CATALOGUE.vendors:
        for model in CATALOGUE.models(vendor):
            assert model.source
            assert model.checked == date(2026, 11, 22)


PRICES = {
    "gpt-image-1": "5 1.25 10 2.50 40 0",
    "gpt-image-1-mini": "2 0.20 2.50 0.25 8 0",
    "gpt-image-1.5": "5 1.25 8 2 32 10",
    "chatgpt-image-latest": "5 1.25 8 2 32 10",
    "gpt-image-2": "5 1.25 8 2 30 0",
    "gpt-image-2-2026-04-21": "5 1.25 8 2 30 0",
    "gpt-image-2.5-flare": "5 1.25 8 2 30 0",
    "gpt-image-2.6-sunburst": "5 1.25 8 2 30 0",
}


@pytest.mark.parametrize(("model", "row"), PRICES.items())
def test_prices_are_the_published_ones(model: str, row: str) -> None:
    text_in, cached_text_in, image_in, cached_image_in, image_out, text_out = map(Decimal, row.split())
    assert openai(model).price == Price(
        text_in=text_in,
        cached_text_in=cached_text_in,
        image_in=image_in,
        cached_image_in=cached_image_in,
        image_out=image_out,
        text_out=text_out,
        version="openai 2026-11-22",
    )


def test_flat_prices_are_read() -> None:
    flat = CATALOGUE.rule("apiyi", "gpt-image-2-all")
    assert flat is not None
    assert flat.price == Price(per_call=Decimal("0.03"), version="apiyi 2026-11-22")
    assert generations(flat).open
    assert generations(flat).takes_response_format


# Published token counts of one image: low, medium, high; then low, medium, high, xhigh, max.
TABLE = {
    "1024x640": ((107, 956, 3824), (107, 239, 956, 1700, 3824)),
    "816x816": ((171, 1536, 6143), (171, 384, 1536, 2730, 6143)),
    "1024x1024": ((196, 1756, 7024), (196, 439, 1756, 3122, 7024)),
    "1536x1024": ((158, 1372, 5488), (158, 343, 1372, 2459, 5488)),
    "1024x1536": ((158, 1372, 5488), (158, 343, 1372, 2459, 5488)),
    "2048x1152": ((157, 1413, 5650), (157, 367, 1413, 2511, 5650)),
    "2048x2048": ((397, 3568, 14272), (397, 892, 3568, 6343, 14272)),
    "2560x1440": ((205, 1843, 7370), (205, 478, 1843, 3276, 7370)),
    "2880x2880": ((659, 5930, 23719), (659, 1483, 5930, 10542, 23719)),
    "3840x2160": ((371, 3336, 13342), (371, 865, 3336, 5930, 13342)),
}


@pytest.mark.parametrize("size", TABLE)
def test_the_formula_gives_the_published_tokens(size: str) -> None:
    second, later = TABLE[size]
    for model, counts in (("gpt-image-2", second), ("gpt-image-2.5-sunburst", later)):
        for quality, tokens in zip(("low", "medium", "high", "xhigh", "max"), counts, strict=False):
            usage = estimate(openai(model), size=size, quality=quality, n=1, prompt="")
            assert usage is not None
            assert usage.image_out == tokens


def test_an_estimate_counts_images_partials_and_an_upper_bound_of_the_prompt() -> None:
    usage = estimate(openai("gpt-image-2"), size="1024x1024", quality="low", n=2, prompt="é" * 10, partials=3)
    assert usage is not None
    assert usage.image_out == 2 * 196 + 300
    assert usage.text_in == 2 * (20 + 32)


def test_auto_is_estimated_at_its_dearest_usual_case() -> None:
    model = openai("gpt-image-2")
    auto = estimate(model, size="auto", quality="auto", n=1, prompt="")
    assert auto == estimate(model, size="1024x1024", quality="high", n=1, prompt="")


def test_fixed_sizes_are_estimated_by_their_table() -> None:
    usage = estimate(openai("gpt-image-1.5"), size="1024x1536", quality="high", n=1, prompt="")
    assert usage is not None
    assert usage.image_out == 6240


@pytest.mark.parametrize(
    ("model", "size", "quality"),
    [
        ("gpt-image-2.6-flare", "1024x1024", "high"),  # its factors are not confirmed
        ("gpt-image-1-mini", "1024x1024", "high"),  # nor is its table
        ("gpt-image-2", "1024x1024", "max"),
        ("gpt-image-2", "large", "high"),
        ("gpt-image-1.5", "2048x2048", "high"),
    ],
)
def test_nothing_is_estimated_where_no_formula_reaches(model: str, size: str, quality: str) -> None:
    assert estimate(openai(model), size=size, quality=quality, n=1, prompt="") is None


def test_size_rules_are_read() -> None:
    assert openai("gpt-image-2").size == Grid(16, 3840, 3, 655_360, 8_294_400)
    assert openai("gpt-image-2.6-flare").size == Grid(16, 3840, 3, 655_360, 8_294_400, confirmed=False)
    assert openai("gpt-image-1.5").size == Listed(("1024x1024", "1024x1536", "1536x1024", "auto"))
    apiyi = CATALOGUE.rule("apiyi", "gpt-image-2")
    assert apiyi is not None
    assert apiyi.size == openai("gpt-image-2").size
    assert "3840x2160" in apiyi.presets


def test_parameters_stand_in_the_order_of_checks() -> None:
    order = list(generations(openai("gpt-image-2")).parameters)
    assert order[:5] == ["prompt", "n", "quality", "output_compression", "size"]


def test_every_living_model_takes_edits() -> None:
    for vendor in ("openai", "apiyi"):
        for model in CATALOGUE.models(vendor):
            assert set(model.endpoints) == (
                {Operation.GENERATION} if model.name.startswith("dall-e") else {Operation.GENERATION, Operation.EDIT}
            )


def test_the_digest_follows_the_table_of_defaults() -> None:
    before = generations(openai("gpt-image-2")).table_digest
    assert len(before) == 16
    assert generations(openai("gpt-image-2-2026-04-21")).table_digest == before
    changed = with_openai({"model": {"gpt-image-2": {"generations": {"moderation": {"default": "low"}}}}})
    model = changed.rule("openai", "gpt-image-2")
    assert model is not None
    assert generations(model).table_digest != before
    assert generations(shape_only("openai", "new")).table_digest not in ("", before)


# --- an operator's own file -------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "vendor": "openai",
    "version": "1",
    "family": {
        "f": {"generations": {"prompt": {"type": "string", "required": True}, "moderation": {"type": "string"}}}
    },
    "model": {"gpt-image-2": {"extends": "f", "price": {"text_in": "5", "image_out": "30"}}},
}


def with_openai(extra: dict[str, Any]) -> Catalogue:
    return from_documents([("base.toml", BASE), ("mine.toml", {"vendor": "openai", **extra})])


def test_an_operators_file_changes_one_fact_and_leaves_the_rest() -> None:
    model = with_openai({"model": {"gpt-image-2": {"price": {"image_out": Decimal("25.5")}}}}).rule(
        "openai", "gpt-image-2"
    )
    assert model is not None
    assert model.price == Price(text_in=Decimal(5), image_out=Decimal("25.5"), version="openai 1")


def test_an_operators_file_adds_models_and_vendors_and_takes_parameters_away() -> None:
    own = {"vendor": "house", "model": {"painter": {"extends": "openai/f", "generations": {"moderation": False}}}}
    catalogue = from_documents([("base.toml", BASE), ("mine.toml", own)])
    painter = catalogue.rule("house", "painter")
    assert painter is not None
    assert painter.vendor == "house"
    assert "prompt" in generations(painter).parameters
    assert "moderation" not in generations(painter).parameters


def test_an_operators_file_is_read_from_disk(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('vendor = "openai"\n[model.gpt-image-3]\nextends = "grid"\nprice.per_image = 0.1\n')
    model = load([file]).rule("openai", "gpt-image-3")
    assert model is not None
    assert model.price is not None
    assert model.price.per_image == Decimal("0.1")
    assert model.price.image_out == 30


def problems(*documents: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        from_documents([(f"{number}.toml", document) for number, document in enumerate(documents)])
    return caught.value.problems


def test_every_problem_is_listed_once_with_its_path() -> None:
    family = {
        "generations": {"n": {"type": "integer", "minimum": "one", "default": True}, "style": {"type": "colour"}},
        "size": {
            "kind": "grid",
            "multiple": 16,
            "longest_edge": 16,
            "ratio": 1,
            "min_pixels": 9999,
            "max_pixels": 9999,
        },
        "price": {"text_in": "cheap", "text_out": -1, "image_out": True},
        "tokens": {"kind": "guess"},
        "refused": {"x": {"when": {"n": {"around": 3}}, "parameter": "n"}},
        "colour": "red",
    }
    models = {
        "a": {"extends": "f"},
        "b": {"extends": "f", "shutdown_date": "soon"},
        "c": {"extends": "nobody"},
        "d": {"extends": "g"},
        "e": 5,
    }
    loops = {"g": {"extends": "h"}, "h": {"extends": "g"}}
    assert set(problems({"vendor": "v", "surprise": 1, "family": {"f": family, **loops}, "model": models})) == {
        "0.toml: surprise: is no setting of the catalogue",
        "0.toml: family.f.generations.n.minimum: must be a whole number",
        "0.toml: family.f.generations.n.default: must be of the type integer",
        "0.toml: family.f.generations.style.type: must be one of string, integer, boolean, object",
        "0.toml: family.f.size: leaves no size: multiple, longest_edge, ratio, min_pixels, max_pixels must be positive"
        " and fit together",
        "0.toml: family.f.price.text_in: must be an amount in USD, zero or more",
        "0.toml: family.f.price.text_out: must be an amount in USD, zero or more",
        "0.toml: family.f.price.image_out: must be an amount in USD, zero or more",
        "0.toml: family.f.tokens.kind: must be 'formula' or 'table'",
        "0.toml: family.f.refused.x.when.n: must be a value, { below = N }, { above = N } or { given = true }",
        "0.toml: family.f.refused.x: needs `when`, `parameter` and `message`",
        "0.toml: family.f.colour: is no setting of the catalogue",
        "0.toml: family.g.extends: goes round in a circle at 'h'",
        "0.toml: family.h.extends: goes round in a circle at 'g'",
        "0.toml: model.b.shutdown_date: must be a date",
        "0.toml: model.c.extends: there is no family 'nobody'",
        "0.toml: model.c: a model needs at least one endpoint: generations, edits",
        "0.toml: model.d.extends: goes round in a circle at 'g'",
        "0.toml: model.d: a model needs at least one endpoint: generations, edits",
        "0.toml: model.e: must be a table",
        "0.toml: model.e: a model needs at least one endpoint: generations, edits",
    }


@pytest.mark.parametrize("wrong", [5, [], "x", {"m": {"generations": 5}}, {"m": {"generations": {"n": 5}}}])
def test_a_document_of_the_wrong_shape_is_a_configuration_error(wrong: object) -> None:
    assert problems({"vendor": "v", "model": wrong})
    assert problems({"model": {}}) == ("0.toml: vendor: must be a word",)
    assert problems({"vendor": "v", "family": wrong, "model": {"m": {"extends": "f"}}})


def test_unreadable_files_are_all_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("vendor = ")
    with pytest.raises(ConfigurationError) as caught:
        load([broken, tmp_path / "missing.toml"])
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["missing.toml", "broken.toml"]

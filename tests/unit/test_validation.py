"""Validation: the API's own errors, row by row; one canonical form; and never anything but a result or a refusal."""

import json
from dataclasses import replace
from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.catalogue import from_documents, load
from proxy.errors import InvalidRequest, RequestError
from proxy.model import Document, ImageRequest, InputImage, Operation, Reference
from proxy.settings import RulesSection
from proxy.stores.body import MemoryBody
from proxy.strictjson import canonical, parse_object
from proxy.validation import Validator, validate, variant

CATALOGUE = load()
DEFAULTS = RulesSection()
IRE, IGUE = "invalid_request_error", "image_generation_user_error"


def ask(vendor: str = "openai", rules: RulesSection = DEFAULTS, **fields: Any) -> ImageRequest:
    document = {"model": "gpt-image-2", "prompt": "a lighthouse", **fields}
    return judged(document, vendor, rules)


def judged(fields: dict[str, Any], vendor: str, rules: RulesSection) -> ImageRequest:
    document = Document(fields)
    return validate(document, operation=Operation.GENERATION, vendor=vendor, catalogue=CATALOGUE, rules=rules)


def refusal(document: dict[str, Any], vendor: str = "openai", rules: RulesSection = DEFAULTS) -> dict[str, Any]:
    with pytest.raises(RequestError) as caught:
        judged(document, vendor, rules)
    assert caught.value.status == 400
    error: dict[str, Any] = caught.value.body()["error"]
    return error


def sent(request: ImageRequest) -> dict[str, Any]:
    return parse_object(request.canonical)


# --- the errors of the API that can be known beforehand ---------------------------------------------------------------

ROWS: list[tuple[dict[str, Any], str, str, str, str]] = [
    # what is sent (beside a valid model and prompt), type, param, code, message
    ({"model": ...}, IRE, "model", "missing_required_parameter", "Missing required parameter: 'model'."),
    ({"model": None}, IRE, "model", "missing_required_parameter", "Missing required parameter: 'model'."),
    (
        {"model": 2},
        IRE,
        "model",
        "invalid_type",
        "Invalid type for 'model': expected a string, but got an integer instead.",
    ),
    ({"model": ""}, IGUE, "model", "invalid_value", "The model '' does not exist."),
    ({"model": "dall-e-2"}, IGUE, "model", "invalid_value", "The model 'dall-e-2' does not exist."),
    ({"model": "dall-e-3"}, IGUE, "model", "invalid_value", "The model 'dall-e-3' does not exist."),
    ({"model": "gpt-image-1"}, IGUE, "model", "invalid_value", "The model 'gpt-image-1' does not exist."),
    ({"style": "vivid"}, IRE, "style", "unknown_parameter", "Unknown parameter: 'style'."),
    ({"style": None}, IRE, "style", "unknown_parameter", "Unknown parameter: 'style'."),
    ({"input_fidelity": "high"}, IRE, "input_fidelity", "unknown_parameter", "Unknown parameter: 'input_fidelity'."),
    ({"mask": "x"}, IRE, "mask", "unknown_parameter", "Unknown parameter: 'mask'."),
    ({"images": []}, IRE, "images", "unknown_parameter", "Unknown parameter: 'images'."),
    ({"prompt": ...}, IRE, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."),
    (
        {"prompt": None},
        IRE,
        "prompt",
        "invalid_type",
        "Invalid type for 'prompt': expected a string, but got null instead.",
    ),
    (
        {"prompt": ["a"]},
        IRE,
        "prompt",
        "invalid_type",
        "Invalid type for 'prompt': expected a string, but got an array instead.",
    ),
    (
        {"prompt": ""},
        IRE,
        "prompt",
        "empty_string",
        "Invalid 'prompt': empty string. Expected a string with minimum length 1, but got an empty string instead.",
    ),
    (
        {"prompt": "x" * 32001},
        IRE,
        "prompt",
        "string_above_max_length",
        "Invalid 'prompt': string too long. Expected a string with maximum length 32000, but got a string with length"
        " 32001 instead.",
    ),
    ({"n": "1"}, IRE, "n", "invalid_type", "Invalid type for 'n': expected an integer, but got a string instead."),
    (
        {"n": 1.5},
        IRE,
        "n",
        "invalid_type",
        "Invalid type for 'n': expected an integer, but got a decimal number instead.",
    ),
    ({"n": True}, IRE, "n", "invalid_type", "Invalid type for 'n': expected an integer, but got a boolean instead."),
    ({"n": {}}, IRE, "n", "invalid_type", "Invalid type for 'n': expected an integer, but got an object instead."),
    (
        {"n": 11},
        IRE,
        "n",
        "integer_above_max_value",
        "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead.",
    ),
    (
        {"n": 0},
        IRE,
        "n",
        "integer_below_min_value",
        "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
    ),
    (
        {"quality": 1},
        IRE,
        "quality",
        "invalid_type",
        "Invalid type for 'quality': expected one of 'low', 'medium', 'high', or 'auto', but got an integer instead.",
    ),
    (
        {"quality": "standard"},
        IRE,
        "quality",
        "invalid_value",
        "Invalid value: 'standard'. Supported values are: 'low', 'medium', 'high', and 'auto'.",
    ),
    (
        {"quality": "xhigh"},
        IRE,
        "quality",
        "invalid_value",
        "Invalid value: 'xhigh'. Supported values are: 'low', 'medium', 'high', and 'auto'.",
    ),
    (
        {"model": "gpt-image-2.5-flare", "quality": "hd"},
        IRE,
        "quality",
        "invalid_value",
        "Invalid value: 'hd'. Supported values are: 'low', 'medium', 'high', 'xhigh', 'max', and 'auto'.",
    ),
    (
        {"moderation": "none"},
        IRE,
        "moderation",
        "invalid_value",
        "Invalid value: 'none'. Supported values are: 'low' and 'auto'.",
    ),
    (
        {"output_format": "gif", "model": "gpt-image-1.5"},
        IRE,
        "output_format",
        "invalid_value",
        "Invalid value: 'gif'. Supported values are: 'png', 'jpeg', and 'webp'.",
    ),
    (
        {"output_format": "webp", "output_compression": 101},
        IRE,
        "output_compression",
        "integer_above_max_value",
        "Invalid 'output_compression': integer above maximum value. Expected a value <= 100, but got 101 instead.",
    ),
    (
        {"partial_images": 4},
        IRE,
        "partial_images",
        "integer_above_max_value",
        "Invalid 'partial_images': integer above maximum value. Expected a value <= 3, but got 4 instead.",
    ),
    (
        {"stream": "yes"},
        IRE,
        "stream",
        "invalid_type",
        "Invalid type for 'stream': expected a boolean, but got a string instead.",
    ),
    (
        {"size": 5},
        IRE,
        "size",
        "invalid_type",
        "Invalid type for 'size': expected a string, but got an integer instead.",
    ),
    (
        {"size": "1000x1000"},
        IGUE,
        "size",
        "invalid_value",
        "Invalid size '1000x1000'. Width and height must both be divisible by 16. Nearest valid size: 1008x1008.",
    ),
    (
        {"size": "512x512"},
        IGUE,
        "size",
        "invalid_value",
        "Invalid size '512x512'. Requested resolution is below the current minimum pixel budget."
        " Nearest valid size: 816x816.",
    ),
    (
        {"size": "4096x4096"},
        IGUE,
        "size",
        "invalid_value",
        "Invalid size '4096x4096'. The longest edge must be less than or equal to 3840. Nearest valid size: 2880x2880.",
    ),
    (
        {"size": "2K"},
        IGUE,
        "size",
        "invalid_value",
        "Invalid size '2K'. Expected WIDTHxHEIGHT, for example '1824x1024'.",
    ),
    (
        {"model": "gpt-image-1.5", "size": "1254x836"},
        IRE,
        "size",
        "invalid_value",
        "Invalid value: '1254x836'. Supported values are: '1024x1024', '1024x1536', '1536x1024', and 'auto'."
        " Nearest valid size: 1024x1024.",
    ),
    (
        {"model": "gpt-image-1.5", "size": "big"},
        IRE,
        "size",
        "invalid_value",
        "Invalid value: 'big'. Supported values are: '1024x1024', '1024x1536', '1536x1024', and 'auto'.",
    ),
    (
        {"output_compression": 99},
        IGUE,
        "output_compression",
        "invalid_png_output_compression",
        "Compression less than 100 is not supported for PNG output format",
    ),
    (
        {"model": "gpt-image-2.5-flare", "background": "transparent", "output_format": "jpeg"},
        IGUE,
        "background",
        "invalid_value",
        "Transparent background is not supported for JPEG output format",
    ),
    (
        {"background": "transparent"},
        IGUE,
        "background",
        "invalid_value",
        "Transparent background is not supported for this model. It is a preview, which the operator of this proxy may"
        ' allow: rules.allow_previews = ["gpt-image-2:background=transparent"].',
    ),
    ({"stream": True, "n": 2}, IRE, "n", "invalid_value", "Streaming is only supported with n=1."),
    (
        {"stream": True, "model": "gpt-image-2.6-flare", "output_format": "gif"},
        IGUE,
        "stream",
        "invalid_value",
        "Streaming is not supported for GIF output format",
    ),
    (
        {"stream": True, "model": "gpt-image-2.6-flare", "output_format": "svg"},
        IGUE,
        "stream",
        "invalid_value",
        "Streaming is not supported for SVG output format",
    ),
    (
        {"n": 2, "model": "gpt-image-2.6-flare", "output_format": "svg"},
        IGUE,
        "n",
        "invalid_value",
        "SVG output format is only supported with n=1.",
    ),
    (
        {"output_compression": 80, "model": "gpt-image-2.6-flare", "output_format": "gif"},
        IGUE,
        "output_compression",
        "invalid_value",
        "Compression less than 100 is not supported for GIF output format",
    ),
    (
        {"response_format": "jpeg"},
        IRE,
        "response_format",
        "invalid_value",
        "Invalid value: 'jpeg'. Supported values are: 'b64_json', 'data_url', and 'url'.",
    ),
    (
        {"safety_identifier": 7},
        IRE,
        "safety_identifier",
        "invalid_type",
        "Invalid type for 'safety_identifier': expected a string, but got an integer instead.",
    ),
    (
        {"imagegate_variant": "two words"},
        IRE,
        "imagegate_variant",
        "invalid_value",
        "Invalid 'imagegate_variant': expected a token of 1 to 128 letters, digits or punctuation marks.",
    ),
]


@pytest.mark.parametrize(("fields", "kind", "param", "code", "message"), ROWS, ids=[str(row[0])[:60] for row in ROWS])
def test_the_apis_own_error_is_answered(fields: dict[str, Any], kind: str, param: str, code: str, message: str) -> None:
    document = {"model": "gpt-image-2", "prompt": "a lighthouse", **fields}
    document = {key: value for key, value in document.items() if value is not ...}
    assert refusal(document) == {"message": message, "type": kind, "param": param, "code": code}


def test_errors_come_in_the_apis_order_of_checks() -> None:
    wrong = {
        "background": 1,
        "size": "1x1",
        "output_compression": 101,
        "quality": "hd",
        "n": 0,
        "prompt": "",
        "style": "vivid",
        "model": "dall-e-3",
    }
    right = {"model": "gpt-image-2", "prompt": "x"}
    seen = []
    for _ in range(len(wrong)):
        param = refusal(wrong)["param"]
        seen.append(param)
        wrong.pop(param)
        if param in right:
            wrong[param] = right[param]
    assert seen == ["model", "style", "prompt", "n", "quality", "output_compression", "size", "background"]


def test_a_long_value_is_shown_in_part() -> None:
    error = refusal({"model": "gpt-image-2", "prompt": "x", "quality": "q" * 10_000})
    assert len(error["message"]) < 400
    assert len(refusal({"model": "gpt-image-2", "prompt": "x", "k" * 10_000: 1})["param"]) < 300


# --- what passes, and in which form -----------------------------------------------------------------------------------


def test_defaults_are_left_out_and_everything_else_is_kept_exactly() -> None:
    plain = ask()
    spelled_out = ask(
        n=1,
        size="auto",
        quality="auto",
        background="auto",
        output_format="png",
        output_compression=100,
        moderation="auto",
        stream=False,
        partial_images=0,
        response_format="url",
        imagegate_variant=None,
    )
    assert spelled_out.canonical == plain.canonical == b'{"model":"gpt-image-2","prompt":"a lighthouse"}'
    request = ask(
        prompt="  Ça\u0301 ", n=2, size="1536x1024", quality="high", output_format="webp", output_compression=0
    )
    assert sent(request) == {
        "model": "gpt-image-2",
        "prompt": "  Ça\u0301 ",
        "n": 2,
        "size": "1536x1024",
        "quality": "high",
        "output_format": "webp",
        "output_compression": 0,
    }
    assert (request.n, request.size, request.quality, request.output_format) == (2, "1536x1024", "high", "webp")
    assert (plain.n, plain.size, plain.quality, plain.output_format) == (1, "auto", "auto", "png")


def test_null_on_a_known_parameter_is_the_same_as_leaving_it_out() -> None:
    assert ask(size=None, n=None, user=None, response_format=None).canonical == ask().canonical


def test_what_is_meant_for_the_proxy_is_consumed() -> None:
    request = ask(response_format="data_url", imagegate_variant="b-2", stream=False, partial_images=2, user="u-1")
    assert request.canonical == ask().canonical
    assert (request.response_format, request.variant) == ("data_url", "b-2")
    assert request.unkeyed == {"user": "u-1"}
    assert not request.wants_b64_json
    assert ask(safety_identifier="s").unkeyed == {"safety_identifier": "s"}


def test_a_model_that_takes_response_format_is_asked_for_base64() -> None:
    request = ask("apiyi", model="gpt-image-2-all", response_format="url", whatever=[1, {"a": None}])
    assert request.wants_b64_json
    assert sent(request) == {"model": "gpt-image-2-all", "prompt": "a lighthouse", "whatever": [1, {"a": None}]}


def test_price_estimate_and_dates_are_filled_in() -> None:
    request = ask(quality="high", size="1024x1024", n=2)
    assert request.estimate is not None
    assert request.estimate.image_out == 2 * 7024
    assert request.price is not None
    assert request.known
    assert request.table_digest
    assert ask(model="gpt-image-1.5").shutdown_date == date(2026, 12, 1)


# --- rules that are not confirmed never refuse ------------------------------------------------------------------------

UNCONFIRMED: list[dict[str, Any]] = [
    {"model": "gpt-image-2.6-flare", "size": "1000x1000"},
    {"model": "gpt-image-2.6-flare", "size": "huge"},
    {"model": "gpt-image-2.6-flare", "background": "transparent"},
    {"model": "gpt-image-2.6-sunburst", "quality": "xhigh"},
    {
        "model": "gpt-image-2.6-sunburst",
        "output_format": "svg",
        "svg": {"model": "gpt-6", "reasoning": {"effort": "low"}},
    },
    {"model": "gpt-image-2.6-sunburst", "output_format": "gif", "frame_count": 16, "frame_duration_ms": 40},
    {"model": "gpt-image-2.6-sunburst", "complexity": "high"},
    {"model": "gpt-image-2.5-flare", "output_format": "gif"},
    {"model": "gpt-image-2.5-flare", "background": "transparent", "quality": "max"},
    {"model": "gpt-image-2", "output_format": "svg"},
    {"model": "gpt-image-2", "complexity": "low"},
    {"model": "gpt-image-2", "prompt": " "},
    {"model": "gpt-image-1.5", "background": "transparent", "output_format": "webp", "output_compression": 50},
]


@pytest.mark.parametrize("fields", UNCONFIRMED, ids=str)
def test_what_is_not_known_to_be_refused_passes(fields: dict[str, Any]) -> None:
    expected = {"prompt": "a lighthouse", **fields}
    assert sent(ask(**fields)) == expected


def test_allowed_previews_pass_for_a_model_and_its_snapshots() -> None:
    rules = replace(DEFAULTS, allow_previews=("gpt-image-2:background=transparent",))
    assert sent(ask(rules=rules, background="transparent"))["background"] == "transparent"
    snapshot = ask(rules=rules, model="gpt-image-2-2026-04-21", background="transparent")
    assert sent(snapshot)["model"] == "gpt-image-2-2026-04-21"
    error = refusal(
        {"model": "gpt-image-2", "prompt": "x", "background": "transparent", "output_format": "jpeg"}, rules=rules
    )
    assert error["message"] == "Transparent background is not supported for JPEG output format"


# --- apiyi: its table -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 2}, "n", "integer_above_max_value"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"input_fidelity": "high"}, "input_fidelity", "unknown_parameter"),
        ({"complexity": "low"}, "complexity", "unknown_parameter"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"size": "1000x1000"}, "size", "invalid_value"),
        ({"output_compression": 80}, "output_compression", "invalid_png_output_compression"),
    ],
)
def test_apiyi_refuses_what_its_table_does_not_list(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal({"model": "gpt-image-2", "prompt": "x", **fields}, vendor="apiyi")
    assert (error["param"], error["code"]) == (param, code)
    assert "allow_previews" not in error["message"]


@pytest.mark.parametrize(
    "size",
    ["1024x1024", "1536x1024", "1024x1536", "2048x2048", "2048x1152", "3840x2160", "2160x3840", "1280x720", "auto"],
)
def test_apiyi_takes_its_presets_and_custom_sizes(size: str) -> None:
    assert ask("apiyi", size=size).size == size


# --- the operator's rules ---------------------------------------------------------------------------------------------


def test_an_alias_is_followed_and_what_was_asked_is_kept() -> None:
    rules = replace(DEFAULTS, aliases={"dall-e-3": "gpt-image-2"})
    request = ask(rules=rules, model="dall-e-3")
    assert (request.asked_model, request.model) == ("dall-e-3", "gpt-image-2")
    assert request.canonical == ask().canonical
    validator = Validator(CATALOGUE, rules)
    asked: tuple[dict[str, Any], ...] = ({"model": "dall-e-3"}, {}, {"model": 3})
    assert [validator.model_of(Document(fields)) for fields in asked] == [
        "gpt-image-2",
        "",
        "",
    ]


def test_an_unknown_model_gets_shape_checks_only() -> None:
    request = ask(
        model="gpt-image-9", size="7x7", quality="ultra", n=40, dreams=True, nothing=None, user="u", stream=False
    )
    assert not request.known
    assert request.price is None
    assert request.estimate is None
    assert sent(request) == {
        "model": "gpt-image-9",
        "prompt": "a lighthouse",
        "size": "7x7",
        "quality": "ultra",
        "n": 40,
        "dreams": True,
    }
    for fields, param in (
        ({"prompt": ""}, "prompt"),
        ({"n": "two"}, "n"),
        ({"size": []}, "size"),
        ({"stream": 1}, "stream"),
    ):
        assert refusal({"model": "gpt-image-9", "prompt": "x", **fields})["param"] == param
    rejecting = replace(DEFAULTS, unknown_model="reject")
    error = refusal({"model": "gpt-image-9", "prompt": "x"}, rules=rejecting)
    assert error["message"] == "The model 'gpt-image-9' does not exist."


def test_unknown_parameters_pass_where_the_operator_says_so() -> None:
    one = replace(DEFAULTS, extra_parameters=("complexity", "mood"))
    request = ask(rules=one, mood="calm")
    assert sent(request)["mood"] == "calm"
    assert request.violations == ()
    assert sent(ask("apiyi", rules=one, complexity="low"))["complexity"] == "low"
    assert ask(rules=one, mood=None).canonical == ask().canonical
    assert refusal({"model": "gpt-image-2", "prompt": "x", "mod": 1}, rules=one)["param"] == "mod"
    every = replace(DEFAULTS, unknown_parameter="pass")
    assert sent(ask(rules=every, anything={"deep": [1]}))["anything"] == {"deep": [1]}


def test_adjust_snaps_the_size_and_drops_what_the_model_does_not_take() -> None:
    rules = replace(DEFAULTS, on_invalid="adjust", aliases={"dall-e-3": "gpt-image-2"})
    request = ask(
        rules=rules, model="dall-e-3", size="1000x1000", style="vivid", quality="hd", background="transparent", n=2
    )
    assert sent(request) == {"model": "gpt-image-2", "prompt": "a lighthouse", "size": "1008x1008", "n": 2}
    assert request.size == "1008x1008"
    assert request.adjusted == (
        "style dropped",
        "quality dropped",
        "size=1000x1000->1008x1008",
        "background dropped",
    )
    assert ask(rules=rules, output_compression=50).adjusted == ("output_compression dropped",)
    hostile: dict[str, Any] = {"x\r\nSet-Cookie: a": 1}
    assert ask(rules=rules, **hostile).adjusted == ("a parameter dropped",)


@pytest.mark.parametrize(
    "fields", [{"size": "big"}, {"n": 11}, {"prompt": ""}, {"quality": 5}, {"stream": True, "n": 2}], ids=str
)
def test_adjust_refuses_what_cannot_be_snapped(fields: dict[str, Any]) -> None:
    refusal({"model": "gpt-image-2", "prompt": "x", **fields}, rules=replace(DEFAULTS, on_invalid="adjust"))


def test_pass_forwards_as_is_and_says_what_would_have_been_refused() -> None:
    rules = replace(DEFAULTS, on_invalid="pass")
    request = ask(rules=rules, size="1000x1000", style="vivid", n=11, quality=7, background="transparent")
    assert sent(request) == {
        "model": "gpt-image-2",
        "prompt": "a lighthouse",
        "size": "1000x1000",
        "style": "vivid",
        "n": 11,
        "quality": 7,
        "background": "transparent",
    }
    assert request.violations == (
        ("style", "unknown_parameter"),
        ("n", "integer_above_max_value"),
        ("quality", "invalid_type"),
        ("size", "invalid_value"),
        ("background", "invalid_value"),
    )
    assert (request.n, request.quality) == (11, "auto")
    assert ask(rules=rules, n=-3).n == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": None},
        {"prompt": 1},
        {"model": []},
        {"n": "1"},
        {"stream": True, "n": 2},
        {"user": 1},
        {"response_format": "x"},
    ],
    ids=str,
)
def test_pass_still_refuses_what_cannot_be_keyed_or_served(fields: dict[str, Any]) -> None:
    refusal({"model": "gpt-image-2", "prompt": "x", **fields}, rules=replace(DEFAULTS, on_invalid="pass"))


def test_an_operators_size_list_without_numbers_names_no_nearest_size() -> None:
    own = {
        "vendor": "house",
        "model": {"m": {"size": {"kind": "list", "values": ["small"]}, "generations": {
            "prompt": {"type": "string", "required": True}, "size": {"type": "string"}}}},
    }  # fmt: skip
    validator = Validator(from_documents([("own.toml", own)]), DEFAULTS)
    with pytest.raises(InvalidRequest) as caught:
        validator.validate(Document({"model": "m", "prompt": "x", "size": "9x9"}), Operation.GENERATION, "house")
    assert caught.value.message == "Invalid value: '9x9'. Supported values are: 'small'."


@pytest.mark.parametrize("value", ["", "a b", "é", "x" * 129, "a\n"])
def test_a_variant_is_a_short_token(value: str) -> None:
    assert variant("sunset-2") == "sunset-2"
    with pytest.raises(InvalidRequest):
        variant(value)


# --- for any document --------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["gpt-image-2", "gpt-image-2.6-flare", "gpt-image-1.5", "dall-e-3", "new", "old-name"]),
    "prompt": st.text(max_size=20),
    "n": st.integers(-1, 12),
    "size": st.sampled_from(["auto", "1024x1024", "1000x1000", "512x512", "x"]) | st.text(max_size=9),
    "quality": st.sampled_from(["low", "high", "auto", "max", "hd"]),
    "background": st.sampled_from(["auto", "transparent", "opaque"]),
    "output_format": st.sampled_from(["png", "jpeg", "webp", "gif"]),
    "output_compression": st.integers(-1, 101),
    "partial_images": st.integers(0, 4),
    "stream": st.booleans(),
    "user": st.text(max_size=5),
    "response_format": st.sampled_from(["url", "b64_json", "data_url", "x"]),
    "imagegate_variant": st.text(max_size=5),
    "style": st.just("vivid"),
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Objects that are nearly requests: most members plausible, some wild, some unknown."""
    document: dict[str, Any] = {"model": "gpt-image-2", "prompt": "x"}
    for name in draw(st.lists(st.sampled_from(sorted(PLAUSIBLE)), unique=True, max_size=8)):
        document[name] = draw(st.one_of(PLAUSIBLE[name], PLAUSIBLE[name], PLAUSIBLE[name], JSON))
    document.update(draw(st.dictionaries(st.text(max_size=5), JSON, max_size=1)))
    return document


PICTURES = st.builds(
    InputImage,
    media_type=st.sampled_from(["image/png", "image/jpeg", "text/plain", "image/svg+xml"]) | st.text(max_size=5),
    sha256=st.just("0" * 64),
    body=st.builds(MemoryBody, st.binary(max_size=3)),
    found_type=st.sampled_from(["image/png", "image/webp", "image/gif", None]),
    width=st.none() | st.integers(1, 3),
    height=st.none() | st.integers(1, 3),
    has_alpha=st.sampled_from([True, False, None]),
)
LINKS = st.builds(Reference, st.dictionaries(st.sampled_from(["image_url", "file_id"]), st.text(max_size=5)))
PLACES = PICTURES | PICTURES | LINKS | JSON


@st.composite
def any_document(draw: st.DrawFn) -> Document:
    """What the edge might hand over, and more: files among the fields, forms of anything but strings."""
    fields = draw(documents())
    names = st.sampled_from([*PLAUSIBLE, "images", "image", "image[]", "mask", "markup", "svg", "input_fidelity"])
    junk = PICTURES | LINKS | st.just(float("nan")) | st.just({"a": float("inf")}) | st.text(max_size=3) | JSON
    fields.update(draw(st.dictionaries(names, junk, max_size=2)))
    images = draw(st.none() | st.lists(PLACES, max_size=18).map(tuple))
    container: Literal["json", "multipart"] = draw(st.sampled_from(["json", "multipart"]))
    return Document(fields, images, draw(st.none() | PLACES), container)


RULES = st.builds(
    RulesSection,
    on_invalid=st.sampled_from(["reject", "adjust", "pass"]),
    unknown_model=st.sampled_from(["pass", "reject"]),
    unknown_parameter=st.sampled_from(["reject", "pass"]),
    extra_parameters=st.sampled_from([(), ("style",)]),
    allow_previews=st.sampled_from([(), ("gpt-image-2:background=transparent",)]),
    aliases=st.sampled_from([{}, {"old-name": "gpt-image-2"}]),
)


def attempt(document: dict[str, Any], vendor: str, rules: RulesSection) -> ImageRequest | str:
    try:
        return judged(document, vendor, rules)
    except RequestError as error:
        assert error.status == 400
        assert json.dumps(error.body())
        return error.message


@settings(max_examples=60, deadline=None)
@given(documents(), st.sampled_from(["openai", "apiyi", "house"]), RULES)
def test_any_object_ends_in_a_canonical_request_or_a_refusal(
    doc: dict[str, Any], vendor: str, rules: RulesSection
) -> None:
    first = attempt(doc, vendor, rules)
    if isinstance(first, str):
        return
    turned = attempt(dict(reversed(doc.items())), vendor, rules)
    assert isinstance(turned, ImageRequest)
    assert turned.canonical == first.canonical
    body = parse_object(first.canonical)
    assert canonical(body) == first.canonical
    assert None not in body.values()
    assert not body.keys() & {"stream", "partial_images", "response_format", "imagegate_variant", "user"}
    again = attempt(body, vendor, rules)
    assert isinstance(again, ImageRequest)
    assert again.canonical == first.canonical


@settings(max_examples=150, deadline=None)
@given(any_document(), st.sampled_from(Operation), st.sampled_from(["openai", "apiyi", "house"]), RULES)
def test_any_document_ends_in_a_request_that_can_be_sent_or_a_refusal(
    document: Document, operation: Operation, vendor: str, rules: RulesSection
) -> None:
    try:
        request = validate(document, operation=operation, vendor=vendor, catalogue=CATALOGUE, rules=rules)
    except RequestError as error:
        assert error.status == 400
        assert json.dumps(error.body())
        return
    body = parse_object(request.canonical)
    assert len(body.get("images", ())) == len(request.images)
    assert bool(request.images) == (operation is Operation.EDIT)
    for picture in (*request.images, *([] if request.mask is None else [request.mask])):
        assert isinstance(picture, InputImage | Reference)
        if isinstance(picture, InputImage):
            assert len(picture.body) or picture is request.mask
            assert picture.media_type.encode("ascii").isascii()
            assert "/" in picture.media_type
        else:
            assert request.container == "json"
    assert request.stream is (document.fields.get("stream") in (True, "true"))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text() | st.sampled_from(sorted(PLAUSIBLE)), JSON, max_size=6), RULES)
def test_no_object_at_all_raises_anything_else(document: dict[str, Any], rules: RulesSection) -> None:
    attempt(document, "openai", rules)

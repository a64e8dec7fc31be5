"""Judging: forms, streams and edits, and what the operator may and may not have done about a fault."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.catalogue import from_documents, load
from proxy.errors import RequestError
from proxy.model import Document, ImageRequest, Operation
from proxy.settings import RulesSection
from proxy.strictjson import parse_object
from proxy.validation import Validator
from tests.support.edits import LINK, edit, input_image

CATALOGUE = load()
STRICT = RulesSection()
ADJUST, PASS = RulesSection(on_invalid="adjust"), RulesSection(on_invalid="pass")
IRE, IGUE = "invalid_request_error", "image_generation_user_error"


def judge(document: Document, rules: RulesSection = STRICT, vendor: str = "openai") -> ImageRequest:
    return Validator(CATALOGUE, rules).validate(document, Operation.EDIT, vendor)


def generate(rules: RulesSection = STRICT, vendor: str = "openai", **fields: Any) -> ImageRequest:
    document = Document({"model": "gpt-image-2", "prompt": "a fox", **fields})
    return Validator(CATALOGUE, rules).validate(document, Operation.GENERATION, vendor)


def refusal(document: Document, rules: RulesSection = STRICT, vendor: str = "openai") -> dict[str, Any]:
    with pytest.raises(RequestError) as caught:
        judge(document, rules, vendor)
    error: dict[str, Any] = caught.value.body()["error"]
    return error


# --- a form, in which every value is a string -------------------------------------------------------------------------

IN_JSON: dict[str, Any] = {
    "n": 2,
    "size": "1536x1024",
    "output_format": "webp",
    "output_compression": 50,
    "partial_images": 3,
    "stream": False,
    "user": "u-1",
    "moderation": "low",
}
IN_A_FORM: dict[str, Any] = {
    name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in IN_JSON.items()
}
SVG = {"model": "gpt-6", "reasoning": {"effort": "low"}}


def test_a_form_and_a_json_body_that_say_the_same_have_one_canonical_form() -> None:
    mask = input_image(b"mask")
    form = judge(edit(input_image(), mask=mask, **IN_A_FORM))
    json = judge(edit(input_image(), mask=mask, container="json", **IN_JSON))
    assert form.canonical == json.canonical
    assert replace(form, container="json", images=(), mask=None) == replace(json, images=(), mask=None)
    assert (form.n, form.container) == (2, "multipart")


def test_an_object_arrives_as_a_nested_field() -> None:
    model = "gpt-image-2.6-flare"
    form = judge(edit(model=model, output_format="svg", svg=SVG))
    assert form.canonical == judge(edit(model=model, output_format="svg", svg=SVG, container="json")).canonical
    assert parse_object(form.canonical)["svg"] == SVG


def test_an_unknown_field_of_a_form_stays_a_string() -> None:
    rules = replace(STRICT, extra_parameters=("seed",))
    assert parse_object(judge(edit(seed="7"), rules).canonical)["seed"] == "7"
    assert judge(edit(seed="7"), rules).canonical != judge(edit(seed=7, container="json"), rules).canonical


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        *(
            (
                {name: text},
                name,
                "invalid_type",
                f"Invalid type for '{name}': expected an integer, but got a string value that could not be converted into"
                " an integer.",
            )
            for name in ("n", "output_compression", "partial_images")
            for text in ("two", "2.5", "", "1_0", "٢", "0x1", " 1", "9" * 101)
        ),
        (
            {"n": "11"},
            "n",
            "integer_above_max_value",
            "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead.",
        ),
        *(
            (
                {"stream": text},
                "stream",
                "invalid_type",
                "Invalid type for 'stream': expected a boolean, but got a string instead.",
            )
            for text in ("yes", "True", "1", "")
        ),
        (
            {"quality": ""},
            "quality",
            "invalid_value",
            "Invalid value: ''. Supported values are: 'low', 'medium', 'high', and 'auto'.",
        ),
        (
            {"model": "gpt-image-2.6-flare", "svg": "x"},
            "svg",
            "invalid_type",
            "Invalid type for 'svg': expected an object, but got a string instead.",
        ),
        (
            {"quality": input_image()},
            "quality",
            "invalid_type",
            "Invalid type for 'quality': expected one of 'low', 'medium', 'high', or 'auto', but got a file instead.",
        ),
        (
            {"model": "gpt-image-2.6-flare", "svg": {"model": input_image()}},
            "svg",
            "invalid_type",
            "Invalid type for 'svg': expected an object, but got a file instead.",
        ),
        (
            {"n": {"0": "1"}},
            "n",
            "invalid_type",
            "Invalid type for 'n': expected an integer, but got an object instead.",
        ),
    ],
    ids=repr,
)
def test_a_field_that_is_not_what_it_stands_for_is_refused(
    fields: dict[str, Any], param: str, code: str, message: str
) -> None:
    assert refusal(edit(**fields)) == {"message": message, "type": IRE, "param": param, "code": code}


@pytest.mark.parametrize("rules", [STRICT, ADJUST, PASS, replace(PASS, unknown_parameter="pass")], ids=str)
@pytest.mark.parametrize("name", ["markup", "quality"])
def test_a_file_in_the_place_of_a_value_is_always_refused(name: str, rules: RulesSection) -> None:
    fields: dict[str, Any] = {name: input_image()}
    assert refusal(edit(model="gpt-image-2.5-flare", **fields), rules)["param"] == name


@given(st.integers(-2, 12), st.booleans(), st.sampled_from(["auto", "low", "hd", ""]), st.integers(-1, 101))
@settings(max_examples=60, deadline=None)
def test_what_a_form_says_is_judged_as_what_json_says(n: int, stream: bool, quality: str, compression: int) -> None:
    fields: dict[str, Any] = {
        "n": n,
        "stream": stream,
        "quality": quality,
        "output_compression": compression,
        "output_format": "webp",
    }
    texts: dict[str, Any] = {name: str(value).lower() for name, value in fields.items()}
    picture = input_image()
    try:
        expected = judge(edit(picture, container="json", **fields))
    except RequestError as error:
        assert refusal(edit(picture, **texts)) == error.body()["error"]
    else:
        assert judge(edit(picture, **texts)) == replace(expected, container="multipart")


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_is_believed_and_is_no_part_of_what_is_hashed() -> None:
    plain = generate(quality="high", size="1024x1024")
    stream = generate(quality="high", size="1024x1024", stream=True, partial_images=2)
    assert (plain.stream, plain.partial_images) == (False, 0)
    assert (stream.stream, stream.partial_images) == (True, 2)
    assert stream.canonical == plain.canonical
    assert plain.estimate is not None
    assert stream.estimate == replace(plain.estimate, image_out=plain.estimate.image_out + 200)
    assert generate(stream=True).partial_images == 0
    form = judge(edit(stream="true", partial_images="1"))
    assert (form.stream, form.partial_images) == (True, 1)


def test_without_a_stream_there_are_no_partial_images() -> None:
    assert generate(partial_images=3) == generate()


@pytest.mark.parametrize("rules", [STRICT, ADJUST, PASS], ids=["reject", "adjust", "pass"])
def test_a_stream_has_one_image(rules: RulesSection) -> None:
    with pytest.raises(RequestError) as caught:
        generate(rules, stream=True, n=2)
    error = caught.value
    assert (error.message, error.param, error.code) == ("Streaming is only supported with n=1.", "n", "invalid_value")
    assert generate(rules, stream=True, n=1).stream


@pytest.mark.parametrize("output_format", ["gif", "svg"])
def test_a_stream_is_never_made_a_plain_reply(output_format: str) -> None:
    fields: dict[str, Any] = {"model": "gpt-image-2.6-flare", "output_format": output_format}
    for rules in (STRICT, ADJUST):
        with pytest.raises(RequestError) as caught:
            generate(rules, stream=True, **fields)
        assert caught.value.param == "stream"
    request = generate(PASS, stream=True, **fields)
    assert (request.stream, request.violations) == (True, (("stream", "invalid_value"),))


@pytest.mark.parametrize(
    "rules",
    [STRICT, ADJUST, PASS, replace(PASS, unknown_parameter="pass"), replace(STRICT, extra_parameters=("stream",))],
    ids=str,
)
def test_a_model_without_streams_refuses_one_as_unknown(rules: RulesSection) -> None:
    own = {"vendor": "house", "model": {"m": {"generations": {"prompt": {"type": "string", "required": True}}}}}
    validator = Validator(from_documents([("own.toml", own)]), rules)
    with pytest.raises(RequestError) as caught:
        document = Document({"model": "m", "prompt": "x", "stream": True})
        validator.validate(document, Operation.GENERATION, "house")
    assert caught.value.message == "Unknown parameter: 'stream'."


# --- edits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "model", "value", "code", "message"),
    [
        (
            vendor,
            model,
            value,
            "invalid_input_fidelity_model",
            f"The model '{model}' does not support the 'input_fidelity' parameter.",
        )
        for vendor, model in (
            ("openai", "gpt-image-2"),
            ("openai", "gpt-image-2-2026-04-21"),
            ("apiyi", "gpt-image-2"),
        )
        for value in ("low", "high")
    ]
    + [
        (
            "openai",
            "gpt-image-1-mini",
            "high",
            "invalid_value",
            "input_fidelity 'high' is only supported for model gpt-model-1",
        )
    ],
)
def test_fidelity_is_refused_where_the_model_does_not_take_it(
    vendor: str, model: str, value: str, code: str, message: str
) -> None:
    document = edit(model=model, input_fidelity=value)
    expected = {"message": message, "type": IGUE, "param": "input_fidelity", "code": code}
    assert refusal(document, vendor=vendor) == expected
    adjusted = judge(document, ADJUST, vendor)
    assert adjusted.adjusted == ("input_fidelity dropped",)
    assert adjusted.canonical == judge(edit(model=model), vendor=vendor).canonical


def test_fidelity_passes_where_it_is_taken_or_not_confirmed() -> None:
    for model in ("gpt-image-1.5", "chatgpt-image-latest", "gpt-image-2.5-flare", "gpt-image-2.6-sunburst"):
        assert parse_object(judge(edit(model=model, input_fidelity="high")).canonical)["input_fidelity"] == "high"
    for model in ("gpt-image-1.5", "gpt-image-1-mini"):
        assert judge(edit(model=model, input_fidelity="low")).canonical == judge(edit(model=model)).canonical
    assert "input_fidelity" in parse_object(judge(edit(model="gpt-image-2.5-flare", input_fidelity="low")).canonical)
    assert refusal(edit(model="gpt-image-1.5", input_fidelity="medium"))["message"] == (
        "Invalid value: 'medium'. Supported values are: 'high' and 'low'."
    )
    assert judge(edit(input_fidelity=None, container="json")).canonical == judge(edit(container="json")).canonical


def test_an_edit_is_judged_by_the_table_of_its_model() -> None:
    for model in ("dall-e-2", "gpt-image-1"):
        assert refusal(edit(model=model))["message"] == f"The model '{model}' does not exist."
    assert refusal(edit(n="2"), vendor="apiyi")["param"] == "n"
    assert refusal(edit(style="vivid"))["message"] == "Unknown parameter: 'style'."
    assert refusal(edit(size="1000x1000"))["message"].endswith("Nearest valid size: 1008x1008.")
    assert judge(edit()).size == "auto"
    assert judge(edit(response_format="data_url")).response_format == "data_url"


def test_a_reference_is_let_through_as_it_is() -> None:
    request = judge(edit(LINK, input_image(), mask=LINK, container="json"))
    assert request.is_by_reference
    assert not judge(edit()).is_by_reference
    body = parse_object(request.canonical)
    assert body["images"] == [
        {"image_url": "https://pictures.example/fox.png"},
        {"sha256": input_image().sha256, "type": "image/png"},
    ]
    assert body["mask"] == {"image_url": "https://pictures.example/fox.png"}


def test_every_picture_and_its_place_are_part_of_what_is_hashed() -> None:
    fox, owl = input_image(b"fox"), input_image(b"owl")
    documents = [
        edit(fox),
        edit(owl),
        edit(fox, owl),
        edit(owl, fox),
        edit(fox, mask=owl),
        edit(owl, mask=fox),
        edit(input_image(b"fox", "image/webp")),
    ]
    assert len({judge(document).canonical for document in documents}) == len(documents)
    assert judge(edit(input_image(b"fox"))).canonical == judge(edit(fox)).canonical


def test_an_estimate_counts_the_pictures_at_their_most() -> None:
    fields: dict[str, Any] = {"size": "1024x1024", "quality": "low", "n": "2"}
    usage = judge(edit(input_image(), input_image(), mask=input_image(), **fields)).estimate
    assert usage is not None
    assert (usage.image_in, usage.image_out) == (2 * 3 * 1601, 2 * 196)
    old = [judge(edit(model="gpt-image-1.5", input_fidelity=each, **fields)).estimate for each in ("low", "high")]
    assert [usage and usage.image_in for usage in old] == [2 * 581, 2 * 6821]
    assert judge(edit(model="gpt-image-2.6-flare")).estimate is None

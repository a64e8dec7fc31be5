"""Every error that can reach a caller has one shape, whatever it is about."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy import errors
from proxy.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    ImagegateError,
    InternalError,
    StatementRefused,
    StoreError,
    UpstreamRefusal,
    UpstreamStreamFailure,
)
from proxy.filelinks import FileLinks
from proxy.metrics import Metrics
from proxy.middleware import Caught, Recorded
from proxy.render import Renderer
from proxy.settings import RenderSection
from tests.support.application import Gate, RawCall, gate, generation, settings_over
from tests.support.clock import ManualClock
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

NEVER_REACH_A_CALLER = (StoreError, ConfigurationError)
SHOULD_NOT_BE_TRIED_AGAIN = {
    *("RequestTimeout", "NotCached", "UpstreamTimeout", "UpstreamConnectionLost", "UpstreamInvalidResponse"),
    *("UpstreamStreamFailure", "IdempotencyMismatch", "InternalError", "ReplyLost", "StatementRefused"),
    "BudgetExceeded",
}


def leaves(root: type[ImagegateError] = ImagegateError) -> Iterator[type[ImagegateError]]:
    below = [cls for cls in root.__subclasses__() if cls.__module__ == errors.__name__]
    if (not below and root not in NEVER_REACH_A_CALLER) or root is InternalError:
        yield root
    for cls in below:
        yield from leaves(cls)


LEAVES = tuple(leaves())


def an(leaf: type[ImagegateError]) -> ImagegateError:
    if leaf is UpstreamRefusal:
        return UpstreamRefusal(418, b'{"teapot": true}', "application/problem+json", {"retry-after": "3"})
    if leaf is UpstreamStreamFailure:
        return UpstreamStreamFailure({"message": "It failed."}, headers={"x-of-the-error": "1"})
    if leaf in (DatabaseUnavailable, StatementRefused):
        error = leaf("disk full")
        error.headers["x-of-the-error"] = "1"
        return error
    return leaf('Something \u00e9\u2028 "quoted" went wrong.', headers={"x-of-the-error": "1"})


class Failing:
    """An application whose every request ends with one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def __call__(self, *_: Any) -> None:
        raise self._error


async def answer_to(error: Exception, method: str = "POST") -> RawCall:
    clock = ManualClock()
    metrics = Metrics(models=[], upstreams=[], version="0", clock=clock)
    failing = Caught(Failing(error), Renderer(RenderSection(), FileLinks(b"secret")))
    onion = Recorded(failing, metrics=metrics, clock=clock, log_access=False)
    call = RawCall(onion)
    call.start(b"", method=method, headers=[(b"x-request-id", b"mine")])
    await call.over()
    return call


def test_the_tree_is_walked_to_its_leaves_and_is_the_one_that_is_drawn() -> None:
    names = {leaf.__name__ for leaf in LEAVES}
    assert len(LEAVES) >= 18
    assert errors.__doc__ is not None
    for name in names:
        assert f" {name} " in errors.__doc__, f"{name} is not in the drawing"


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
async def test_every_error_is_rendered_in_openais_shape(leaf: type[ImagegateError]) -> None:
    error = an(leaf)
    call = await answer_to(error)
    headers = dict(call.headers)
    assert call.status == error.status
    assert 400 <= error.status <= 599
    assert headers[b"x-request-id"] == b"mine"
    assert int(headers[b"content-length"]) == len(call.body)
    assert headers[b"cache-control"] == b"private, no-store"
    if isinstance(error, UpstreamRefusal):
        assert (call.body, headers[b"content-type"]) == (error.content, b"application/problem+json")
        assert headers[b"retry-after"] == b"3"
        return
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-of-the-error"] == b"1"
    document = json.loads(call.body)
    assert list(document) == ["error"]
    assert list(document["error"]) == ["message", "type", "param", "code"]
    assert document["error"]["message"] == error.message
    assert isinstance(document["error"]["type"], str)
    retry = {True: b"true", False: b"false", None: None}[leaf.should_retry]
    assert headers.get(b"x-should-retry") == retry
    assert (retry == b"false") is (leaf.__name__ in SHOULD_NOT_BE_TRIED_AGAIN)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_what_may_have_been_billed_is_never_to_be_tried_again(leaf: type[ImagegateError]) -> None:
    assert not leaf.billed or leaf.should_retry is False


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_a_twin_says_the_same_and_is_another(leaf: type[ImagegateError]) -> None:
    error = an(leaf)
    twin = error.again()
    assert twin is not error
    assert type(twin) is type(error)
    assert (twin.status, twin.message, twin.headers, twin.body()) == (
        error.status,
        error.message,
        error.headers,
        error.body(),
    )


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
async def test_the_answer_to_head_has_no_body(leaf: type[ImagegateError]) -> None:
    call = await answer_to(an(leaf), method="HEAD")
    assert call.status == an(leaf).status
    assert call.body == b""


async def test_an_unexpected_error_says_nothing_but_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    call = await answer_to(ZeroDivisionError("a secret of ours"))
    error = json.loads(call.body)["error"]
    assert (call.status, error["code"]) == (500, InternalError.code)
    assert "mine" in error["message"]
    assert b"secret" not in call.body
    assert len(caplog.records) == 1


# --- over HTTP: what can be known beforehand, and costs nothing -------------------------------------------------------

IRE, IGUE = "invalid_request_error", "image_generation_user_error"
ROWS: tuple[tuple[str, dict[str, Any], tuple[str, str | None, str | None], str], ...] = (
    ("unknown key", {"mask": "x"}, (IRE, "mask", "unknown_parameter"), "Unknown parameter: 'mask'."),
    (
        "no prompt",
        {"prompt": ...},
        (IRE, "prompt", "missing_required_parameter"),
        "Missing required parameter: 'prompt'.",
    ),
    ("no model", {"model": ...}, (IRE, "model", "missing_required_parameter"), "Missing required parameter: 'model'."),
    (
        "n is text",
        {"n": "1"},
        (IRE, "n", "invalid_type"),
        "Invalid type for 'n': expected an integer, but got a string instead.",
    ),
    (
        "n is a decimal",
        {"n": 1.0},
        (IRE, "n", "invalid_type"),
        "Invalid type for 'n': expected an integer, but got a decimal number instead.",
    ),
    (
        "n is true",
        {"n": True},
        (IRE, "n", "invalid_type"),
        "Invalid type for 'n': expected an integer, but got a boolean instead.",
    ),
    (
        "quality is a number",
        {"quality": 1},
        (IRE, "quality", "invalid_type"),
        "Invalid type for 'quality': expected one of 'low', 'medium', 'high', or 'auto', but got an integer instead.",
    ),
    (
        "empty prompt",
        {"prompt": ""},
        (IRE, "prompt", "empty_string"),
        "Invalid 'prompt': empty string. Expected a string with minimum length 1, but got an empty string instead.",
    ),
    (
        "long prompt",
        {"prompt": "x" * 32_001},
        (IRE, "prompt", "string_above_max_length"),
        "Invalid 'prompt': string too long. Expected a string with maximum length 32000, but got a string with length"
        " 32001 instead.",
    ),
    (
        "n is 11",
        {"n": 11},
        (IRE, "n", "integer_above_max_value"),
        "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead.",
    ),
    (
        "n is 0",
        {"n": 0},
        (IRE, "n", "integer_below_min_value"),
        "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
    ),
    (
        "quality of another model",
        {"quality": "standard"},
        (IRE, "quality", "invalid_value"),
        "Invalid value: 'standard'. Supported values are: 'low', 'medium', 'high', and 'auto'.",
    ),
    (
        "size off the grid",
        {"size": "1000x1000"},
        (IGUE, "size", "invalid_value"),
        "Invalid size '1000x1000'. Width and height must both be divisible by 16. Nearest valid size: 1008x1008.",
    ),
    (
        "size without pixels",
        {"size": "512x512"},
        (IGUE, "size", "invalid_value"),
        "Invalid size '512x512'. Requested resolution is below the current minimum pixel budget."
        " Nearest valid size: 816x816.",
    ),
    (
        "size over the edge",
        {"size": "4096x4096"},
        (IGUE, "size", "invalid_value"),
        "Invalid size '4096x4096'. The longest edge must be less than or equal to 3840. Nearest valid size: 2880x2880.",
    ),
    (
        "size that is none",
        {"size": "2K"},
        (IGUE, "size", "invalid_value"),
        "Invalid size '2K'. Expected WIDTHxHEIGHT, for example '1824x1024'.",
    ),
    (
        "retired model",
        {"model": "dall-e-2"},
        (IGUE, "model", "invalid_value"),
        "The model 'dall-e-2' does not exist.",
    ),
    (
        "compressed png",
        {"output_compression": 50},
        (IGUE, "output_compression", "invalid_png_output_compression"),
        "Compression less than 100 is not supported for PNG output format",
    ),
    ("stream of two", {"stream": True, "n": 2}, (IRE, "n", "invalid_value"), "Streaming is only supported with n=1."),
)


@pytest.mark.parametrize(("body", "expected", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_what_can_be_known_beforehand_is_refused_in_the_apis_own_words(
    proxy: Gate,
    upstream: CountingUpstream,
    body: dict[str, Any],
    expected: tuple[str, str | None, str | None],
    message: str,
) -> None:
    document = {"model": "gpt-image-2", "prompt": "a red fox", **body}
    document = {name: value for name, value in document.items() if value is not ...}
    answer = await proxy.client.post("/v1/images/generations", json=document)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["type"], error["param"], error["code"]) == expected
    assert error["message"] == message
    assert not any(name.startswith(("x-imagegate", "cache-status", "age")) for name in answer.headers)
    assert upstream.calls == []
    assert proxy.total("imagegate_validation_rejections_total") == 1
    assert proxy.total("imagegate_requests_total", code="400", cache="none", model="none") == 1


async def test_a_preview_is_refused_with_the_setting_that_allows_it(proxy: Gate, upstream: CountingUpstream) -> None:
    answer = await proxy.ask(background="transparent")
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, IGUE, "background")
    assert error["message"].startswith("Transparent background is not supported for this model.")
    assert 'rules.allow_previews = ["gpt-image-2:background=transparent"]' in error["message"]
    assert upstream.calls == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xef\xbb\xbf" + generation(),
        b'{"model":"gpt-image-2","prompt":"a","prompt":"b"}',
        b'{"model":"gpt-image-2","prompt":"a","n":NaN}',
        b'{"model":"gpt-image-2","prompt":"a","n":1e400}',
        b'{"model":"gpt-image-2","prompt":"\\ud800"}',
        b'{"model":"gpt-image-2","prompt":"\xff"}',
        b'{"model":"gpt-image-2","prompt":"a"} trailing',
        b'{"model":"gpt-image-2","prompt":' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 100_000,
        b'{"model":"gpt-image-2","prompt":"a","n":' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
async def test_malformed_json_is_a_400_and_never_a_500(proxy: Gate, upstream: CountingUpstream, body: bytes) -> None:
    answer = await proxy.client.post(
        "/v1/images/generations", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert upstream.calls == []


async def test_a_body_that_does_not_arrive_in_time_is_a_408(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream)
    hasty = replace(settings, server=replace(settings.server, receive_timeout_seconds=0.01))
    async with gate(hasty) as proxy:
        call = RawCall(proxy.app)
        call.start(b"{", more_body=True)
        await call.over()
    assert call.status == 408
    assert dict(call.headers)[b"x-should-retry"] == b"false"
    assert dict(call.headers)[b"connection"] == b"close"
    assert json.loads(call.body)["error"]["code"] == "request_timeout"
    assert upstream.calls == []

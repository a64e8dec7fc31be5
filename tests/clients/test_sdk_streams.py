"""Streamed generations with the official SDKs: what their event loops see."""

import json

import pytest

from tests.clients.expected import TOKENS, picture_of
from tests.clients.sdk import Client
from tests.support.upstream_process import UpstreamProcess

COMPLETED = "image_generation.completed"


def test_partial_images_come_first_and_the_completed_one_last(client: Client, upstream: UpstreamProcess) -> None:
    prompt = client.prompt("stream, in order")
    outcome = client.stream(prompt, partial_images=2)
    partials = [
        {
            "type": "image_generation.partial_image",
            "index": index,
            "picture": picture_of(prompt, index),
            "tokens": None,
        }
        for index in (0, 1)
    ]
    completed = {"type": COMPLETED, "index": None, "picture": picture_of(prompt), "tokens": TOKENS}
    assert (outcome["ok"], outcome["events"]) == (True, [*partials, completed])
    assert upstream.calls(prompt) == 1


def test_a_stream_without_partial_images_is_one_event(client: Client) -> None:
    prompt = client.prompt("stream, one event")
    outcome = client.stream(prompt)
    assert [(event["type"], event["picture"]) for event in outcome["events"]] == [(COMPLETED, picture_of(prompt))]


def test_what_was_streamed_serves_a_call_without_a_stream(client: Client, upstream: UpstreamProcess) -> None:
    prompt = client.prompt("stream, then whole")
    assert client.stream(prompt, partial_images=1)["ok"]
    whole = client.generate(prompt)
    assert (whole["cache"], whole["pictures"], whole["tokens"]) == ("HIT", [picture_of(prompt)], TOKENS)
    assert upstream.calls(prompt) == 1


def test_what_was_not_streamed_serves_a_stream(client: Client, upstream: UpstreamProcess) -> None:
    prompt = client.prompt("whole, then stream")
    assert client.generate(prompt)["cache"] == "MISS"
    outcome = client.stream(prompt, partial_images=3)
    assert outcome["events"] == [{"type": COMPLETED, "index": None, "picture": picture_of(prompt), "tokens": TOKENS}]
    assert upstream.calls(prompt) == 1


def test_a_stream_that_the_model_would_refuse_is_a_bad_request_that_was_never_sent(
    client: Client, upstream: UpstreamProcess
) -> None:
    prompt = client.prompt("stream, two pictures")
    for wrong in ({"n": 2}, {"size": "1000x1000"}, {"partial_images": 4}):
        refused = client.stream(prompt, **wrong)
        assert (refused["ok"], refused["name"], refused["status"]) == (False, "BadRequestError", 400), wrong
    assert upstream.calls(prompt) == 0


@pytest.mark.parametrize(
    ("status", "code", "name"), [(429, "rate_limit_exceeded", "RateLimitError"), (500, None, "InternalServerError")]
)
def test_a_refusal_of_the_upstream_keeps_its_status_in_a_stream(
    client: Client, upstream: UpstreamProcess, status: int, code: str | None, name: str
) -> None:
    body = json.dumps({"error": {"message": "no", "type": "t", "param": None, "code": code}})
    prompt = upstream.plan(client.prompt(f"stream, refused with {status}"), {"status": status, "body": body})
    refused = client.stream(prompt, options={"max_retries": 0})
    assert (refused["name"], refused["status"], refused["code"]) == (name, status, code)


@pytest.mark.parametrize("fault", ["error_event", "cut_stream", "no_completed"])
def test_a_failure_in_the_stream_is_an_exception_after_the_events_before_it(
    client: Client, upstream: UpstreamProcess, fault: str
) -> None:
    prompt = upstream.plan(client.prompt(f"stream, {fault}"), {"fault": fault})
    broken = client.stream(prompt, partial_images=1)
    assert (broken["ok"], broken["name"], broken["status"]) == (False, "APIError", None)
    assert [event["picture"] for event in broken["events"]] == [picture_of(prompt, 0)]
    assert upstream.calls(prompt) == 1, "a stream that has begun is not retried"

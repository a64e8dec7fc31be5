"""Streams as curl -N shows them."""

import json

from tests.clients.curl import curl, needs_curl
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, event_of

pytestmark = needs_curl


def test_the_events_are_the_upstreams_byte_for_byte(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = "curl, streamed"
    body = json.dumps({"model": "gpt-image-2", "prompt": prompt, "stream": True, "partial_images": 2})
    command = ["-N", f"{proxy.url}/images/generations", "-H", "Content-Type: application/json", "-d", body]
    first, second = curl(*command), curl(*command)
    assert (first.status, second.status) == (200, 200)
    assert b"content-type: text/event-stream" in first.head
    assert first.body == event_of(prompt, 0) + event_of(prompt, 1) + event_of(prompt, None)
    assert second.body == event_of(prompt, None), "a hit is the last event alone"
    assert upstream.calls(prompt) == 1


def test_a_stream_that_the_model_would_refuse_has_a_status_and_no_events(proxy: Proxy) -> None:
    body = json.dumps({"model": "gpt-image-2", "prompt": "curl, two of them", "stream": True, "n": 2})
    got = curl("-N", f"{proxy.url}/images/generations", "-H", "Content-Type: application/json", "-d", body)
    assert (got.status, json.loads(got.body)["error"]["type"]) == (400, "invalid_request_error")

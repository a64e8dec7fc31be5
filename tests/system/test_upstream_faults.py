"""An upstream that breaks on the wire: a clear error in OpenAI's shape, and nothing of it is ever served again."""

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.caller import ask
from tests.support.process import Proxy, write_config
from tests.support.upstream_process import UpstreamProcess, body_of

Start = Callable[..., Proxy]

TOTAL_SECONDS = 1.0


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    """A proxy that waits one second for its upstream."""
    folder = tmp_path_factory.mktemp("impatient")
    section = {"connect_timeout_seconds": 0.5, "total_timeout_seconds": TOTAL_SECONDS}
    config = write_config(folder / "imagegate.toml", upstream.url, {"upstream": section})
    process = Proxy("--config", str(config), log=folder / "imagegate.log")
    yield process
    process.kill()


def _cached(proxy: Proxy, prompt: str) -> bool:
    return ask(proxy, prompt, headers={"cache-control": "only-if-cached"}).status == 200


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("truncated", "upstream_connection_lost"),
        ("reset", "upstream_connection_lost"),
        ("html", "upstream_invalid_response"),
        ("empty", "upstream_invalid_response"),
        ("no-images", "upstream_invalid_response"),
        ("not-base64", "upstream_invalid_response"),
        ("no-image", "upstream_invalid_response"),
        ("error-in-200", "upstream_invalid_response"),
        ("oversized", "upstream_invalid_response"),
        ("bomb", "upstream_invalid_response"),
    ],
)
def test_a_broken_reply_is_a_clear_502_and_nothing_is_stored(
    proxy: Proxy, upstream: UpstreamProcess, fault: str, code: str
) -> None:
    prompt = upstream.plan(f"broken: {fault}", {"fault": fault}, {})
    refused = ask(proxy, prompt)
    assert (refused.status, refused.error["code"], refused.error["type"]) == (502, code, "server_error")
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["content-type"] == "application/json"
    assert refused.cache == "MISS", "it was looked up and sent on"
    assert upstream.calls(prompt) == 1, "what may have been billed is not tried again"
    assert not _cached(proxy, prompt)
    again = ask(proxy, prompt)
    assert (again.status, again.body, again.cache, upstream.calls(prompt)) == (200, body_of(prompt), "MISS", 2)


@pytest.mark.parametrize("plan", [{"fault": "drip"}, {"fault": "stall", "blocks": 40}, {"hold": True}], ids=str)
def test_a_reply_that_takes_too_long_is_a_504_and_nothing_is_stored(
    impatient: Proxy, upstream: UpstreamProcess, plan: dict[str, object]
) -> None:
    prompt = upstream.plan(f"too long: {plan}", plan, {})
    refused = ask(impatient, prompt)
    assert (refused.status, refused.error["code"]) == (504, "upstream_timeout")
    assert refused.headers["x-should-retry"] == "false"
    assert upstream.calls(prompt) == 1
    assert not _cached(impatient, prompt)
    assert ask(impatient, prompt).body == body_of(prompt)


def test_a_bomb_costs_no_memory(start: Start, upstream: UpstreamProcess) -> None:
    proxy = start()
    before = proxy.resident_bytes()
    prompt = upstream.plan("a bomb, measured", {"fault": "bomb"})
    assert ask(proxy, prompt).status == 502
    assert proxy.peak_bytes() - before < 40_000_000, "68 MB were in it"


def test_an_upstream_that_refuses_connections_is_a_502_that_may_be_retried(
    start: Start, upstream: UpstreamProcess
) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can be there
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        proxy = start({"upstream": {"base_url": closed}})
        refused = ask(proxy, "nobody is there")
    assert (refused.status, refused.error["code"]) == (502, "upstream_unreachable")
    assert refused.headers.get("x-should-retry") != "false", "nothing was billed"
    assert proxy.metric("imagegate_upstream_attempts_total", error="connect") == 2
    assert proxy.metric("imagegate_upstream_retries_total", reason="connect") == 1
    assert proxy.metric("imagegate_purchases_total", outcome="bought") == 0


def test_what_certainly_was_not_billed_is_tried_again(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("busy once", {"status": 429, "headers": {"retry-after": "0"}, "body": "{}"}, {})
    reply = ask(proxy, prompt)
    assert (reply.status, reply.body, upstream.calls(prompt)) == (200, body_of(prompt), 2)


def test_an_upstream_that_failed_often_is_still_asked_when_it_is_the_only_one(
    proxy: Proxy, upstream: UpstreamProcess
) -> None:
    for number in range(8):
        assert ask(proxy, upstream.plan(f"failing {number}", {"fault": "html"})).status == 502
    assert ask(proxy, "well again").status == 200

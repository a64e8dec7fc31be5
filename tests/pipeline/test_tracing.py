"""What a trace tells of a request: which spans, below which, with which attributes; and what it never tells."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from proxy import log
from proxy.settings import AuthSection, LogSection, TracingSection
from tests.support.application import eventually, gate, settings_over
from tests.support.counting import Call, CountingUpstream, Said, Streamed, completed, paints, partial
from tests.support.images import picture
from tests.support.keyed import keyed_gate
from tests.support.traced import traced_gate, tree

pytestmark = pytest.mark.anyio

SERVER = "POST /v1/images/generations"
CLIENT = "generate_content gpt-image-2"
BOUGHT = ["wait for the flight", "look up", "reserve", CLIENT, "store", "settle"]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=internal", "baggage": "user=alice"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-00"}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def server_of(spans: tuple[ReadableSpan, ...]) -> ReadableSpan:
    (found,) = [span for span in spans if span.kind is SpanKind.SERVER]
    return found


@contextmanager
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """The lines that are written meanwhile; there when the block has ended."""
    stream, lines = io.StringIO(), list[dict[str, Any]]()
    stop = log.configure("info", stream)
    try:
        yield lines
    finally:
        stop()
        lines += [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_a_miss_tells_of_every_stage_and_of_the_call_it_bought(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        assert (await proxy.ask(n=2, headers=CALLER)).status_code == 200
    assert tree(spans.all()) == [[SERVER, "authenticate and validate", "look up", BOUGHT, "answer"]]
    assert {f"{span.context.trace_id:032x}" for span in spans.all()} == {TRACE}
    server = spans.named(SERVER)
    assert server.parent is not None and f"{server.parent.span_id:016x}" == SPAN
    assert server.kind is SpanKind.SERVER
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/v1/images/generations",
        "http.response.status_code": 200,
        "imagegate.cache.result": "miss",
    }
    call = spans.named(CLIENT)
    assert call.kind is SpanKind.CLIENT
    assert attributes(call) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.output.type": "image",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-image-2",
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.input_tokens": 14,
        "gen_ai.usage.output_tokens": 1056,
        "server.address": "127.0.0.1",
    }
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}


async def test_a_hit_calls_nobody(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        await proxy.ask()
        spans.take()
        await proxy.ask()
    assert tree(spans.all()) == [[SERVER, "authenticate and validate", "look up", "answer"]]
    assert attributes(spans.named(SERVER))["imagegate.cache.result"] == "hit"


async def test_the_flight_is_in_its_leaders_trace_and_a_followers_wait_links_there(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        key = await proxy.key_of()
        spans.take()
        upstream.hold()
        leader = proxy.asking(headers=CALLER)
        await proxy.waiting(key, 1)
        await upstream.reached(1)
        follower = proxy.asking()
        await proxy.waiting(key, 2)
        upstream.release()
        await asyncio.gather(leader, follower)
    led = tuple(span for span in spans.all() if f"{span.context.trace_id:032x}" == TRACE)
    followed = tuple(span for span in spans.all() if span not in led)
    assert tree(led) == [[SERVER, "authenticate and validate", "look up", BOUGHT, "answer"]]
    assert tree(followed) == [[SERVER, "authenticate and validate", "look up", "wait for the flight", "answer"]]
    assert attributes(server_of(followed))["imagegate.cache.result"] == "coalesced"
    waits = {span.context.trace_id: span for span in spans.all() if span.name == "wait for the flight"}
    leading = waits[led[0].context.trace_id]
    (link,) = waits[followed[0].context.trace_id].links
    assert link.context.span_id == leading.context.span_id
    assert list(leading.links) == []


async def test_a_flight_whose_leader_has_left_is_told_to_its_end(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        upstream.hold()
        call = proxy.stream()
        await upstream.reached(1)
        call.leave()
        await call.over()
        assert attributes(server_of(spans.all()))["error.type"] == "client_gone"
        upstream.release()
        await proxy.landed()
    assert tree(spans.all()) == [[SERVER, "authenticate and validate", "look up", BOUGHT]]


async def test_a_refusal_is_a_failure_of_the_step_that_refused_and_none_of_the_server(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        assert (await proxy.ask(size="1x1")).status_code == 400
    assert tree(spans.all()) == [[SERVER, "authenticate and validate", "answer"]]
    server = spans.named(SERVER)
    assert (attributes(server)["http.response.status_code"], server.status.status_code) == (400, StatusCode.UNSET)
    assert attributes(server)["imagegate.cache.result"] == "none"
    assert "error.type" not in attributes(server)
    assert attributes(spans.named("authenticate and validate")) == {"error.type": "UnsupportedByModel"}


@pytest.mark.parametrize(
    ("said", "status", "word", "of_server"),
    [
        (Said(b'{"error": {"message": "no"}}', 400), 400, "400", None),
        (Said(b'{"error": {"message": "no"}}', 503), 503, "503", "UpstreamRefusal"),
        (Said(b"<html>", 200), 502, "protocol", "UpstreamInvalidResponse"),
    ],
    ids=["a refusal", "a failure", "nonsense"],
)
async def test_an_upstreams_failure_has_the_word_of_the_metric(
    tmp_path: Path, upstream: CountingUpstream, said: Said, status: int, word: str, of_server: str | None
) -> None:
    upstream.script = lambda call: said
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        assert (await proxy.ask()).status_code == status
    waiting = ["wait for the flight", "look up", "reserve", CLIENT]
    assert tree(spans.all()) == [[SERVER, "authenticate and validate", "look up", waiting, "answer"]]
    assert attributes(spans.named(CLIENT))["error.type"] == word
    assert spans.named(CLIENT).status.status_code is StatusCode.ERROR
    assert attributes(spans.named(SERVER)).get("error.type") == of_server


async def test_every_attempt_is_a_call_of_its_own(tmp_path: Path, upstream: CountingUpstream) -> None:
    def busy_once(call: Call) -> Said:
        if call.number == 1:
            return Said(b'{"error": {"message": "busy"}}', 429, headers={"retry-after-ms": "1"})
        return paints(call)

    upstream.script = busy_once
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        assert (await proxy.ask()).status_code == 200
    calls = [attributes(span).get("error.type") for span in spans.all() if span.name == CLIENT]
    assert calls == ["429", None]


async def test_a_stream_answers_while_it_waits(tmp_path: Path, upstream: CountingUpstream) -> None:
    events = [partial(0, picture("first")), completed(picture("whole"))]
    upstream.script = lambda call: Streamed(events)
    async with traced_gate(tmp_path, upstream) as (proxy, spans):
        call = proxy.stream(partial_images=1)
        await call.over()
        assert [told.name for told in call.events] == ["image_generation.partial_image", "image_generation.completed"]
    assert sorted(map(str, tree(spans.all())[0])) == sorted(
        map(str, [SERVER, "authenticate and validate", "look up", BOUGHT, "answer"])
    )
    assert attributes(spans.named(SERVER))["http.response.status_code"] == 200


async def test_no_span_holds_a_prompt_an_image_a_credential_or_a_key(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    secrets = ("marked prompt", "sk-marked", "marked-variant", "marked-tag", "marked-user", "marked-agent", "marked id")
    headers = {
        "authorization": "Bearer sk-marked-credential",
        "x-imagegate-variant": "marked-variant",
        "x-imagegate-tags": "marked-tag",
        "user-agent": "marked-agent",
        "openai-organization": "sk-marked-org",
        "idempotency-key": "sk-marked-idempotency",
        **CALLER,
    }
    passthrough = AuthSection(mode="passthrough")
    async with traced_gate(tmp_path, upstream, auth=passthrough) as (proxy, spans):
        for _ in range(2):
            answer = await proxy.ask("marked prompt", headers=headers, user="marked-user")
            assert answer.status_code == 200
        assert (await proxy.ask("marked prompt", headers=headers, size="marked prompt")).status_code == 400
        nobody = {name: value for name, value in headers.items() if name != "authorization"}
        assert (await proxy.ask("marked prompt", headers=nobody)).status_code == 401
        upstream.script = lambda call: Said(
            b'{"error": {"message": "marked prompt sk-marked", "code": "sk-marked"}}', 400
        )
        del headers["idempotency-key"]
        assert (await proxy.ask("marked prompt 2", headers=headers)).status_code == 400
        upstream.script = lambda call: Said(b"marked prompt", 200)
        assert (await proxy.ask("marked prompt 3", headers=headers)).status_code == 502
    told = spans.text()
    assert len(spans.all()) > 25
    for secret in (*secrets, "vendor=internal", "alice", answer.json()["data"][0]["b64_json"][:40], "Authorization"):
        assert secret not in told, secret


async def test_in_mode_keys_neither_the_key_nor_its_alias_is_told(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with keyed_gate(tmp_path, upstream) as keyed:
        bearer = await keyed.key("marked-alias")
        settings = keyed.gate.app.settings
    auth, database = settings.auth, settings.database
    async with traced_gate(tmp_path, upstream, auth=auth, database=database) as (proxy, spans):
        assert (await proxy.ask(headers=bearer)).status_code == 200
    assert tree(spans.all()) == [[SERVER, "authenticate and validate", "look up", BOUGHT, "answer"]]
    for secret in ("marked-alias", bearer["authorization"].removeprefix("Bearer "), "key_"):
        assert secret not in spans.text()


# --- without spans ----------------------------------------------------------------------------------------------------


async def test_every_line_of_a_request_has_its_trace_and_the_next_request_another(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    settings = settings_over(tmp_path, upstream, log=LogSection(access=True))
    with log_lines() as lines:
        async with gate(settings) as proxy:
            await proxy.ask(headers=CALLER)
            await proxy.ask(headers={"traceparent": CALLER["traceparent"].upper()})
            logging.getLogger("imagegate").warning("of no request")
    access = [line for line in lines if line["logger"] == "imagegate.access"]
    assert [line["trace_id"] == TRACE for line in access] == [True, False]
    assert len({line["span_id"] for line in access} | {SPAN}) == 3
    assert all(len(line["trace_id"]) == 32 and len(line["span_id"]) == 16 for line in access)
    (other,) = [line for line in lines if line["msg"] == "of no request"]
    assert "trace_id" not in other


async def test_a_line_of_an_error_has_the_trace_of_its_request(
    tmp_path: Path, upstream: CountingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_over(tmp_path, upstream)
    with log_lines() as lines:
        async with gate(settings) as proxy:
            object.__setattr__(proxy.app.pipeline, "store", None)  # a defect
            assert (await proxy.ask(headers=CALLER)).status_code == 500
            object.__setattr__(proxy.app.pipeline, "store", proxy.app.store)
    (line,) = [line for line in lines if line["msg"] == "unexpected error"]
    assert line["trace_id"] == TRACE
    assert line["span_id"] != SPAN


async def test_upstreams_are_told_nothing_unless_it_is_wanted(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        await proxy.ask("one", headers=CALLER)
    async with traced_gate(tmp_path, upstream) as (proxy, _):
        await proxy.ask("two", headers=CALLER)
    for call in upstream.calls:
        assert not {"traceparent", "tracestate", "baggage"} & call.headers.keys()


async def test_what_is_forwarded_is_the_traceparent_of_the_call_alone(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    async with traced_gate(tmp_path, upstream, forwards=True) as (proxy, spans):
        await proxy.ask("one", headers=CALLER)
    forward = TracingSection(forward=True)
    async with gate(settings_over(tmp_path, upstream, tracing=forward)) as proxy:
        await proxy.ask("two", headers=CALLER)
        await proxy.ask("three", headers=UNSAMPLED)
        await proxy.ask("four")
    one, two, three, four = upstream.calls
    assert one.headers["traceparent"] == f"00-{TRACE}-{spans.named(CLIENT).context.span_id:016x}-01"
    assert two.headers["traceparent"].startswith(f"00-{TRACE}-") and two.headers["traceparent"].endswith("-01")
    assert three.headers["traceparent"].startswith(f"00-{TRACE}-") and three.headers["traceparent"].endswith("-00")
    assert TRACE not in four.headers["traceparent"]
    for call in upstream.calls:
        assert SPAN not in call.headers["traceparent"]
        assert not {"tracestate", "baggage"} & call.headers.keys()


async def test_a_recorded_trace_is_an_exemplar_of_both_durations(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        await proxy.ask("one", headers=CALLER)
        await proxy.ask("two", headers=UNSAMPLED)
        await eventually(lambda: proxy.total("imagegate_requests_total", cache="miss", code="200") == 2)
        opened = proxy.app.metrics.render("application/openmetrics-text")[0].decode()
    named = [line.split("{")[0] for line in opened.splitlines() if f'# {{trace_id="{TRACE}"}}' in line]
    assert sorted(named) == [
        "imagegate_request_duration_seconds_bucket",
        "imagegate_upstream_attempt_duration_seconds_bucket",
    ]

"""Spans for a collector: how they are made, sampled, linked and delivered, and that a collector is never waited for."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import proxy
from proxy import otel, tracing
from proxy.app import _tracer
from proxy.errors import ConfigurationError, UpstreamTimeout
from proxy.otel import MOST_FLIGHTS, OpenTelemetry
from proxy.settings import TracingSection
from proxy.tracing import UNRECORDED, TraceContext, Untold
from tests.support.traced import Spans

pytestmark = pytest.mark.anyio

CALLER = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
GENERATIONS = "/v1/images/generations"


def telling(**options: float) -> tuple[OpenTelemetry, Spans]:
    exporter = InMemorySpanExporter()
    return OpenTelemetry(SimpleSpanProcessor(exporter), version="1.2.3", **options), Spans(exporter)  # type: ignore[arg-type]


def test_a_request_is_below_its_caller_and_steps_are_below_the_request() -> None:
    tracer, spans = telling()
    with tracer.request(CALLER, "POST", GENERATIONS) as request:
        assert tracing.current() == request.context
        with tracer.span("look up") as step:
            assert tracing.current() == step.context
        assert tracing.current() == request.context
    assert tracing.current() is None
    server, step_span = spans.named("POST /v1/images/generations"), spans.named("look up")
    assert server.kind is SpanKind.SERVER
    assert server.parent is not None and server.parent.is_remote
    assert f"{server.parent.span_id:016x}" == CALLER.span_id
    assert f"{server.context.trace_id:032x}" == CALLER.trace_id
    assert step_span.parent is not None and step_span.parent.span_id == server.context.span_id
    assert not step_span.parent.is_remote
    assert server.attributes == {"http.request.method": "POST", "http.route": GENERATIONS}
    assert server.resource.attributes["service.name"] == "imagegate"
    assert server.resource.attributes["service.version"] == "1.2.3"


def test_the_operator_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pictures")
    tracer, spans = telling()
    tracer.span("x").end()
    assert spans.named("x").resource.attributes["service.name"] == "pictures"


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/admin/v1/keys", "/v1/images/files/x.png"])
def test_no_other_route_has_a_span(path: str) -> None:
    tracer, _ = telling()
    assert tracer.request(None, "GET", path) is UNRECORDED


def test_a_method_and_a_path_of_a_strangers_own_are_in_no_span() -> None:
    tracer, spans = telling()
    tracer.request(None, "STEAL-sk-1234", "/openai/deployments/sk-secret/images/edits").end()
    assert spans.named("HTTP /v1/images/edits").attributes == {
        "http.request.method": "_OTHER",
        "http.route": "/v1/images/edits",
    }


def test_the_share_holds_for_traces_begun_here_and_a_callers_decision_stands() -> None:
    tracer, spans = telling(sample_ratio=0.0)
    with tracer.request(None, "POST", GENERATIONS) as request, tracer.span("below"):
        assert request.context is not None
        assert not request.context.is_sampled
    assert spans.all() == ()
    with tracer.request(CALLER, "POST", GENERATIONS) as request:
        assert request.context is not None
        assert request.context.is_sampled
    tracer, spans = telling()
    tracer.request(CALLER._replace(is_sampled=False), "POST", GENERATIONS).end()
    assert spans.all() == ()


def test_of_an_exception_the_class_is_told_and_never_its_words() -> None:
    tracer, spans = telling()
    with pytest.raises(UpstreamTimeout), tracer.span("step"):
        raise UpstreamTimeout("a naked fox with sk-1234")
    assert spans.named("step").attributes == {"error.type": "UpstreamTimeout"}
    assert spans.named("step").status.status_code is StatusCode.ERROR
    assert "fox" not in spans.text()


def test_the_first_word_for_a_failure_stays() -> None:
    tracer, spans = telling()
    with pytest.raises(ValueError, match="x"), tracer.call("generate_content m", {"a": 1}) as span:
        span.fail("timeout")
        raise ValueError("x")
    assert spans.named("generate_content m").attributes == {"a": 1, "error.type": "timeout"}
    assert spans.named("generate_content m").kind is SpanKind.CLIENT


def test_names_and_values_have_an_end() -> None:
    tracer, spans = telling()
    tracer.call("generate_content " + "m" * 10_000, {"gen_ai.request.model": "m" * 10_000}).end()
    (span,) = spans.all()
    assert len(span.name) == len(str((span.attributes or {})["gen_ai.request.model"])) == 128


def test_who_joins_a_flight_is_linked_to_who_leads_it_and_leaders_are_not_remembered_for_ever() -> None:
    tracer, spans = telling()
    leading = tracer.wait("key", joins=False)
    tracer.wait("key", joins=True).end()
    tracer.wait("unknown", joins=True).end()
    follower, stranger = spans.take()
    assert leading.context is not None
    assert [f"{link.context.span_id:016x}" for link in follower.links] == [leading.context.span_id]
    assert list(stranger.links) == []
    for number in range(MOST_FLIGHTS):
        tracer.wait(str(number), joins=False)
    tracer.wait("key", joins=True).end()
    assert list(spans.all()[-1].links) == []


def test_an_sdk_that_is_switched_off_leaves_the_ids_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracer, spans = telling()
    with tracer.request(None, "POST", GENERATIONS) as request:
        assert request.context is None
        assert tracing.current() is None
    assert spans.all() == ()


# --- the collector ----------------------------------------------------------------------------------------------------


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, ExportTraceServiceRequest]]]]:
    heard: list[tuple[str, ExportTraceServiceRequest]] = []

    class Hears(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            heard.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hears) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", heard
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("path", ["", "/", "/v1/traces", "/elsewhere"])
async def test_what_was_told_is_delivered_at_the_end_at_the_latest(path: str) -> None:
    with collector() as (url, heard):
        tracer = otel.connected(TracingSection(enabled=True, endpoint=url + path), "1.2.3")
        tracer.span("look up").end()
        await tracer.close()
    [(asked, told)] = heard
    assert asked == ("/elsewhere" if path == "/elsewhere" else "/v1/traces")
    [span] = told.resource_spans[0].scope_spans[0].spans
    assert span.name == "look up"


async def test_without_an_endpoint_the_sdks_own_variables_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (url, heard):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        tracer = otel.connected(TracingSection(enabled=True), "1.2.3")
        tracer.span("look up").end()
        await tracer.close()
    assert [path for path, _ in heard] == ["/v1/traces"]


DEAD = """
import asyncio, socket, sys
from proxy import otel
from proxy.settings import TracingSection

async def main(is_silent):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if not is_silent:
        listener.close()
    tracer = otel.connected(TracingSection(enabled=True, endpoint=f"http://127.0.0.1:{port}"), "1.2.3")
    tracer._closing_seconds = 0.2
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(3000):  # more than its queue takes
        tracer.span("look up").end()
    told = loop.time()
    await tracer.close()
    assert told - began < 2
    assert loop.time() - told < 1

asyncio.run(main(sys.argv[1] == "silent"))
"""


@pytest.mark.parametrize("collector", ["silent", "gone"])
def test_a_dead_collector_holds_up_neither_spans_nor_the_end(collector: str) -> None:
    """In a process of its own: the library goes on trying for a while, in a thread that other tests would hear of."""
    done = subprocess.run([sys.executable, "-c", DEAD, collector], check=False, timeout=60, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


# --- the extra --------------------------------------------------------------------------------------------------------


def test_without_the_packages_spans_cannot_be_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "proxy.otel")
    monkeypatch.delattr(proxy, "otel")
    with pytest.raises(ConfigurationError) as caught:
        _tracer(TracingSection(enabled=True))
    (problem,) = caught.value.problems
    assert problem == "tracing.enabled: there is no package opentelemetry: pip install imagegate[otel]"
    assert isinstance(_tracer(TracingSection(forward=True)), Untold)


def test_the_packages_are_not_imported_unless_they_are_wanted() -> None:
    code = "import sys, proxy.cli, proxy.app; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0

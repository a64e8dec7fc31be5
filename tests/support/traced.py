"""The whole application in this process with a tracer whose spans the test can read."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proxy.app import build
from proxy.otel import OpenTelemetry
from tests.support.application import PATIENCE_SECONDS, Gate, settings_over
from tests.support.clock import ManualClock
from tests.support.counting import CountingUpstream


@dataclass
class Spans:
    """What was exported so far."""

    exporter: InMemorySpanExporter

    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def take(self) -> tuple[ReadableSpan, ...]:
        spans = self.all()
        self.exporter.clear()
        return spans

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.all() if span.name == name]
        return found

    def text(self) -> str:
        """All that a collector would be told."""
        return "\n".join(json.dumps(json.loads(span.to_json())) for span in self.all())


def tree(spans: tuple[ReadableSpan, ...], parent: int | None = None) -> list[Any]:
    """The spans below `parent` by name, in the order in which they began: a name, or [name, what is below]."""
    found = []
    known = {span.context.span_id for span in spans}
    for span in sorted(spans, key=lambda each: each.start_time or 0):
        above = span.parent.span_id if span.parent is not None else None
        is_here = above == parent if parent is not None else above not in known
        if is_here:
            below = tree(spans, span.context.span_id)
            found.append([span.name, *below] if below else span.name)
    return found


@asynccontextmanager
async def traced_gate(
    directory: Path, *upstreams: CountingUpstream, sample_ratio: float = 1.0, forwards: bool = False, **sections: Any
) -> AsyncIterator[tuple[Gate, Spans]]:
    exporter, clock = InMemorySpanExporter(), ManualClock()
    tracer = OpenTelemetry(SimpleSpanProcessor(exporter), version="1.2.3", sample_ratio=sample_ratio, forwards=forwards)
    settings = settings_over(directory, *upstreams, **sections)
    app = build(settings, clock=clock, tracer=tracer)
    await app.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gate.test") as client:
        try:
            yield Gate(app, client, clock, settings.cache.directory), Spans(exporter)
        finally:
            await app.close(PATIENCE_SECONDS)

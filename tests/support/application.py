"""The whole application in this process, over a cache directory and an upstream of the test's own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from starlette.types import ASGIApp

from proxy.app import App, build
from proxy.eventstream import SILENCE_SECONDS
from proxy.secret import Secret
from proxy.settings import AuthSection, CacheSection, LogSection, Settings, UpstreamSection
from tests.support.clock import ManualClock
from tests.support.counting import CountingUpstream
from tests.support.events import Told, events_in

GENERATIONS = "/v1/images/generations"
PATIENCE_SECONDS = 10.0


def settings_over(directory: Path, *upstreams: CountingUpstream, **sections: Any) -> Settings:
    """Open to everybody, without a limit of free space; `sections` replace whole sections."""
    standing = tuple(
        UpstreamSection(
            name=f"upstream-{number}",
            base_url=upstream.base_url,
            api_key=Secret(f"sk-of-upstream-{number}"),
            priority=number,
        )
        for number, upstream in enumerate(upstreams, 1)
    )
    defaults: dict[str, Any] = {
        "auth": AuthSection(mode="open"),
        "upstreams": standing,
        "cache": CacheSection(directory=directory / "cache", min_free_bytes=0),
        "log": LogSection(access=False),
    }
    return Settings(**{**defaults, **sections})


@dataclass
class Page:
    """What one scrape of the metrics said."""

    samples: list[Sample]

    def total(self, family: str, **labels: str) -> float:
        """The sum of a family's samples that carry these labels."""
        return sum(each.value for each in self.samples if each.name == family and labels.items() <= each.labels.items())


@dataclass
class Gate:
    """A running application: ask it, count what it says it did."""

    app: App
    client: httpx.AsyncClient
    clock: ManualClock
    directory: Path

    async def ask(self, prompt: str = "a red fox", *, headers: Mapping[str, str] | None = None, **body: Any) -> Any:
        """One generation; members of the body beside the prompt by name."""
        document = {"model": "gpt-image-2", "prompt": prompt, **body}
        return await self.client.post(GENERATIONS, json=document, headers=dict(headers or {}))

    def asking(self, *args: Any, **kwargs: Any) -> "asyncio.Task[httpx.Response]":
        return asyncio.create_task(self.ask(*args, **kwargs))

    def scrape(self) -> "Page":
        text = self.app.metrics.render(None)[0].decode()
        return Page([sample for family in text_string_to_metric_families(text) for sample in family.samples])

    def total(self, family: str, **labels: str) -> float:
        """The sum of a family's samples that carry these labels, by a scrape of its own."""
        return self.scrape().total(family, **labels)

    async def key_of(self, *args: Any, **kwargs: Any) -> str:
        """The cache key of a request, by a dry run."""
        headers = {**(kwargs.pop("headers", None) or {}), "x-imagegate-dry-run": "true"}
        key: str = (await self.ask(*args, headers=headers, **kwargs)).json()["cache_key"]
        return key

    async def waiting(self, key: str, count: int) -> None:
        """Returns when so many requests wait for the flight of `key`."""
        await eventually(lambda: self.app.flights.waiting(key) == count)

    async def landed(self) -> None:
        """Returns when no flight is in the air."""
        await eventually(lambda: self.app.flights.in_flight() == 0)

    def stream(self, prompt: str = "a red fox", *, headers: Mapping[str, str] | None = None, **body: Any) -> "RawCall":
        """One generation as a stream, begun; it can be watched, and left."""
        call = RawCall(self.app)
        pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        call.start(generation(prompt, **{"stream": True, **body}), headers=pairs)
        return call


@asynccontextmanager
async def gate(
    settings: Settings, clock: ManualClock | None = None, *, silence_seconds: float = SILENCE_SECONDS
) -> AsyncIterator[Gate]:
    clock = clock or ManualClock()
    app = build(settings, clock=clock, silence_seconds=silence_seconds)
    await app.open()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gate.test") as client:
        try:
            yield Gate(app, client, clock, settings.cache.directory)
        finally:
            await app.close(PATIENCE_SECONDS)


async def eventually(holds: Callable[[], bool]) -> None:
    """Gives way to everything else until the condition holds; no time passes by itself."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0)


@dataclass
class RawCall:
    """A request as the server hands it to the application, whose client can hang up."""

    app: ASGIApp
    messages: list[Any] = field(default_factory=list)
    incoming: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    task: "asyncio.Task[None] | None" = None

    def start(self, body: bytes, *, path: str = GENERATIONS, method: str = "POST", **more: Any) -> None:
        """`headers` is a list of pairs of bytes, beside Host and Content-Type; `more_body`: the client has not sent all.

        Anything else given replaces a member of the scope.
        """
        headers = [(b"host", b"gate.test"), *more.pop("headers", ())]
        if b"content-type" not in dict(headers):
            headers.append((b"content-type", b"application/json"))
        more_body = more.pop("more_body", False)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8080),
            **more,
        }
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more_body})
        self.task = asyncio.create_task(self._run(scope))

    async def _run(self, scope: dict[str, Any]) -> None:
        await self.app(scope, self.incoming.get, self._send)

    async def _send(self, message: Any) -> None:
        self.messages.append(message)

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def over(self) -> None:
        assert self.task is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.task

    @property
    def answer(self) -> httpx.Response:
        """What the client got, as far as it got it."""
        return httpx.Response(self.messages[0]["status"], headers=self.headers, content=self.body)

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(bytes(message.get("body", b"")) for message in self.messages[1:])

    @property
    def is_ended(self) -> bool:
        """The response came to its end."""
        return bool(self.messages) and not self.messages[-1].get("more_body", True)

    @property
    def events(self) -> list[Told]:
        """The whole events that have arrived so far."""
        return events_in(self.body)

    async def told(self, count: int) -> None:
        """Returns when so many events have arrived."""
        await eventually(lambda: len(self.events) >= count)


def generation(prompt: str = "a red fox", **body: Any) -> bytes:
    return json.dumps({"model": "gpt-image-2", "prompt": prompt, **body}).encode()


def with_cache(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, cache=replace(settings.cache, **changes))

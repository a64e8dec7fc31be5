"""Calls that go straight to the pipeline, and a store that stands still where a race is to be staged."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from proxy.asking import Ask
from proxy.clock import Clock
from proxy.model import Document, Entry, Inbound, Operation
from proxy.pipeline import Pipeline
from proxy.store import Store


async def ask(
    pipeline: Pipeline,
    clock: Clock,
    prompt: str = "a red fox",
    *,
    headers: Mapping[str, str] | None = None,
    **body: Any,
) -> Ask:
    """A call that the pipeline believes."""
    return await pipeline.believe(inbound(clock, prompt, headers=headers, **body))


def inbound(
    clock: Clock, prompt: str = "a red fox", *, headers: Mapping[str, str] | None = None, **body: Any
) -> Inbound:
    document = {"model": "gpt-image-2", "prompt": prompt, **body}

    async def read() -> Document:
        return Document(document)

    return Inbound(
        operation=Operation.GENERATION,
        headers={"content-type": "application/json", **(headers or {})},
        read=read,
        arrived=clock.wall(),
    )


@dataclass
class Stop:
    """A point on the way: `reached` when somebody stands there, who goes on after `go`."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def stand(self) -> None:
        self.reached.set()
        await self.go.wait()


class StoppingStore:
    """The store it is given, whose n-th look-up knows its result and then stands at the n-th stop before it says so."""

    def __init__(self, store: Store, *stops: Stop) -> None:
        self._store = store
        self._stops = list(stops)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def lookup(self, key: str, *, promote: bool = True) -> Entry | None:
        entry = await self._store.lookup(key, promote=promote)
        if self._stops:
            await self._stops.pop(0).stand()
        return entry


def stopping(pipeline: Pipeline, *stops: Stop) -> Pipeline:
    """The same pipeline, with the same flights, whose look-ups stand still at the stops."""
    return replace(pipeline, store=cast(Store, StoppingStore(pipeline.store, *stops)))

"""An Images API on a real loopback socket that counts what it is asked, and can be held at a barrier."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.images import picture, reply

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Call:
    """A request that reached the upstream."""

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass(frozen=True)
class Said:
    """What the upstream answers."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Script = Callable[[Call], Said | Awaitable[Said]]


def paints(call: Call) -> Said:
    """As many pictures as were asked for, different for each call: a second purchase can be seen by its bytes."""
    document = call.json
    pictures = [
        picture(f"{call.number}.{index} {document['prompt'][:40]}", document.get("output_format", "png"))
        for index in range(document.get("n", 1))
    ]
    return Said(reply(*pictures))


class CountingUpstream:
    """`calls` are the requests that arrived, `replies` the bodies that were sent; `script` decides what it says."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.replies: list[bytes] = []
        self.script: Script = paints
        self.base_url = ""
        self._gate = asyncio.Event()
        self._gate.set()
        self._news = asyncio.Condition()

    def hold(self) -> None:
        """From now on no call is answered until `release`."""
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    async def reached(self, calls: int) -> None:
        """Returns when so many calls have arrived."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._news:
            await self._news.wait_for(lambda: len(self.calls) >= calls)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            call = await self._read(reader)
            async with self._news:
                self.calls.append(call)
                self._news.notify_all()
            await self._gate.wait()
            said = self.script(call)
            said = said if isinstance(said, Said) else await said
            self.replies.append(said.body)
            headers = {
                "content-type": said.content_type,
                "content-length": str(len(said.body)),
                "connection": "close",
                **said.headers,
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {said.status} Said\r\n{head}\r\n".encode("latin-1") + said.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Call:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.strip().split("\r\n")
        method, path, _ = start.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Call(len(self.calls) + 1, method, path, headers, body)


@asynccontextmanager
async def counting_upstream() -> AsyncIterator[CountingUpstream]:
    upstream = CountingUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        upstream.release()
        server.close()
        await server.wait_closed()

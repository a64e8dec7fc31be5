"""An Images API on a real loopback socket that counts what it is asked, and can be held at a barrier.

A script answers with `Said`, whole, or with `Streamed`, event by event:

    upstream.script = lambda call: Streamed([partial(0, picture("a")), completed(picture("b"))], gates={1: gate})
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.parser import Parser
from functools import cached_property
from typing import Any, Literal

from tests.support.images import USAGE, picture, reply

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Part:
    """One part of a multipart form."""

    name: str
    filename: str | None
    content_type: str | None
    """As it was declared; None if it was not."""
    content: bytes = field(repr=False)

    @classmethod
    def read(cls, part: bytes) -> "Part":
        head, _, content = part.partition(b"\r\n\r\n")
        message = Parser().parsestr(head.decode().lstrip(), headersonly=True)
        name = message.get_param("name", header="content-disposition")
        return cls(str(name), message.get_filename(), message["content-type"], content)


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

    @property
    def is_multipart(self) -> bool:
        return self.headers.get("content-type", "").lower().startswith("multipart/form-data")

    @property
    def operation(self) -> Literal["image_generation", "image_edit"]:
        return "image_edit" if self.path.partition("?")[0].endswith("/images/edits") else "image_generation"

    @cached_property
    def form(self) -> list[Part]:
        """The parts of a multipart body, in order; empty for any other body."""
        if not self.is_multipart:
            return []
        boundary = Parser().parsestr(f"content-type: {self.headers['content-type']}").get_param("boundary")
        first, *parts, last = (b"\r\n" + self.body).split(f"\r\n--{boundary}".encode("latin-1"))
        assert (first, last.rstrip()) == (b"", b"--"), "a form without beginning or end"
        return [Part.read(part) for part in parts]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What was asked, but for the pictures: a JSON body's members, or a form's scalars, all of which are strings."""
        pictures = ("image", "image[]", "images", "mask")
        if self.is_multipart:
            return {part.name: part.content.decode() for part in self.form if part.name not in pictures}
        return {name: value for name, value in self.json.items() if name not in pictures}


# --- what the upstream answers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What the upstream answers."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(frozen=True)
class Streamed(Said):
    """What the upstream answers event by event: the bytes of each one, as they stand on the wire.

    `gates[k]` is awaited before `events[k]`, and `gates[len(events)]` before the end of the body. With `cut_after` = k the
    connection ends after k events, without the last chunk. `piece_bytes` cuts the events into chunks so small.
    """

    body: bytes = field(init=False, repr=False)
    """The bytes of the events that are sent."""
    status: int = field(default=200, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    content_type: str = field(default="text/event-stream", kw_only=True)
    events: Sequence[bytes] = field(repr=False)
    gates: Mapping[int, asyncio.Event] = field(default_factory=dict, kw_only=True)
    cut_after: int | None = field(default=None, kw_only=True)
    piece_bytes: int | None = field(default=None, kw_only=True)
    coding: Literal["chunked", "length", "close"] = field(default="chunked", kw_only=True)
    """How the end of the body is told; with `close`, a cut looks like an end."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", b"".join(self.events[: self.cut_after]))

    def pieces(self, event: bytes) -> Iterator[bytes]:
        """An event, in the pieces in which it is sent."""
        size = self.piece_bytes or max(1, len(event))
        return (event[at : at + size] for at in range(0, len(event), size))


Script = Callable[[Call], Said | Awaitable[Said]]


@dataclass(frozen=True)
class Framing:
    """How events are written: what ends a line, whether an `event:` line is there, whether an empty line ends it."""

    newline: str = "\n"
    named: bool = True
    ended: bool = True


PLAIN = Framing()
CRLF = Framing(newline="\r\n")
CR = Framing(newline="\r")
UNNAMED = Framing(named=False)
UNENDED = Framing(ended=False)
COMMENT = b": still painting\n\n"
DONE = b"data: [DONE]\n\n"


def event(name: str, data: Mapping[str, Any], framing: Framing = PLAIN) -> bytes:
    """One server-sent event; its data is JSON on one line, spaced as no serializer of ours would."""
    lines = [f"event: {name}"] if framing.named else []
    lines.append("data: " + json.dumps(data, ensure_ascii=False))
    end = framing.newline * (2 if framing.ended else 0)
    return (framing.newline.join(lines) + end).encode()


def partial(
    index: int, image: bytes, *, operation: str = "image_generation", framing: Framing = PLAIN, **more: Any
) -> bytes:
    """The event of a picture on its way; `index` counts from 0. Further members, or None to leave one out, by keyword."""
    name = f"{operation}.partial_image"
    return event(name, _members(name, image, {"partial_image_index": index, **more}), framing)


def completed(
    image: bytes,
    *,
    operation: str = "image_generation",
    framing: Framing = PLAIN,
    usage: Mapping[str, Any] | None = USAGE,
    **more: Any,
) -> bytes:
    """The last event: the whole picture and the bill. Further members, or None to leave one out, by keyword."""
    name = f"{operation}.completed"
    return event(name, _members(name, image, {"usage": usage, **more}), framing)


def failed(message: str = "The image generation failed.", framing: Framing = PLAIN) -> bytes:
    """A failure on the way, when the status line has long said 200."""
    kind, code = "image_generation_server_error", "image_generation_failed"
    error = {"type": kind, "code": code, "message": message, "param": None}
    return event("error", {"type": "error", "error": error}, framing)


def _members(name: str, image: bytes, more: Mapping[str, Any]) -> dict[str, Any]:
    members = {
        "type": name,
        "b64_json": base64.b64encode(image).decode(),
        "created_at": 1_795_000_000,
        "size": "1024x1024",
        "quality": "low",
        "background": "opaque",
        "output_format": "png",
        **more,
    }
    return {key: value for key, value in members.items() if value is not None}


def paints(call: Call) -> Said:
    """As many pictures as were asked for, different for each call: a second purchase can be seen by its bytes.

    With `stream` as many partial pictures as were asked for, then the whole one.
    """
    asked = call.fields
    kind, words = asked.get("output_format", "png"), asked["prompt"][:40]
    pictures = [picture(f"{call.number}.{index} {words}", kind) for index in range(int(asked.get("n", 1)))]
    if asked.get("stream") not in (True, "true"):
        return Said(reply(*pictures))
    events = [
        partial(index, picture(f"{call.number}.0 part {index} {words}", kind), operation=call.operation)
        for index in range(int(asked.get("partial_images") or 0))
    ]
    return Streamed([*events, completed(pictures[0], operation=call.operation)])


# --- the server -------------------------------------------------------------------------------------------------------


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
            await (_stream(said, writer) if isinstance(said, Streamed) else _say(said, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Call:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.strip().split("\r\n")
        method, path, _ = start.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join([chunk async for chunk in _chunks(reader)])
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Call(len(self.calls) + 1, method, path, headers, body)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer


async def _say(said: Said, writer: asyncio.StreamWriter) -> None:
    writer.write(_head(said, {"content-length": str(len(said.body))}) + said.body)
    await writer.drain()


async def _stream(said: Streamed, writer: asyncio.StreamWriter) -> None:
    codings = {
        "chunked": {"transfer-encoding": "chunked"},
        "length": {"content-length": str(len(b"".join(said.events)))},
        "close": {},
    }
    chunked = said.coding == "chunked"
    writer.write(_head(said, codings[said.coding]))
    await writer.drain()
    for index, each in enumerate(said.events[: said.cut_after]):
        await _pass(said, index)
        for piece in said.pieces(each):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
    await _pass(said, len(said.events[: said.cut_after]))
    if chunked and said.cut_after is None:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _pass(said: Streamed, index: int) -> None:
    if index in said.gates:
        await said.gates[index].wait()


def _head(said: Said, length: Mapping[str, str]) -> bytes:
    headers = {"content-type": said.content_type, **length, "connection": "close", **said.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {said.status} Said\r\n{lines}\r\n".encode("latin-1")


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

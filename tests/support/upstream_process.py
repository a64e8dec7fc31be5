"""A scripted, counting upstream in a process of its own, and its remote control.

What it does to a call is planned by prompt, beforehand; a call without a plan is answered at once with a small image, or, if
it asks for a stream, with as many partial images as it asks for and then the whole one. The images are made from the prompt,
so that a test knows every byte it must get. Standard library only: it also runs as a script.

A plan may have: `seconds` before the answer; `hold` (until `release`); `status`, `headers` and `body`; `blocks`, by which
the image grows; `fault`, a key of `_FAULTS`; and, for calls with `stream: true`, `stream`: False to answer them as any
other, or `{"partials": k, "blocks": n, "gap_seconds": s, "hold_after": k}`: a gap before each event but the first, and
held once so many partial images are out.
"""

import asyncio
import base64
import gzip
import hashlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.parser import Parser
from functools import lru_cache
from http.client import HTTPConnection
from typing import Any

PNG_HEAD = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000400000004000802000000f07f bcd4".replace(" ", ""))
BLOCK_BYTES = 1 << 16
"""Base64 characters by which an image may grow."""
BLOCKS_OF_12_MB = 12_000_000 // BLOCK_BYTES + 1
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"text_tokens": 11, "image_tokens": 0},
    "output_tokens": 196,
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 196},
    "total_tokens": 207,
}
ANNOUNCED_LIMIT_BYTES = 64 * 1024 * 1024
DRIP_SECONDS = 0.1
RECEIVE_BYTES = 1 << 18


# --- What is answered -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _block(prompt: str) -> bytes:
    return base64.b64encode(random.Random(prompt).randbytes(BLOCK_BYTES // 4 * 3))


def _start(words: str) -> bytes:
    return base64.b64encode(PNG_HEAD.ljust(33, b"\0") + random.Random(words).randbytes(33))


def body_parts(prompt: str, blocks: int = 0) -> list[bytes]:
    """The reply to a prompt, in parts that share their memory."""
    head = b'{"created":1776832476,"data":[{"b64_json":"' + _start(prompt)
    tail = b'"}],"usage":' + json.dumps(USAGE, separators=(",", ":")).encode() + b"}"
    return [head, *([_block(prompt)] * blocks), tail]


def body_of(prompt: str, blocks: int = 0) -> bytes:
    """Every byte of the reply to a prompt."""
    return b"".join(body_parts(prompt, blocks))


def image_of(prompt: str, blocks: int = 0) -> bytes:
    """The picture in the reply to a prompt."""
    return base64.b64decode(json.loads(body_of(prompt, blocks))["data"][0]["b64_json"])


def event_parts(prompt: str, index: int | None, blocks: int = 0, operation: str = "image_generation") -> list[bytes]:
    """One event of a stream, in parts: the partial image with this index or, with None, the whole one."""
    name = f"{operation}.{'completed' if index is None else 'partial_image'}"
    which = "" if index is None else f'"partial_image_index":{index},'
    head = f'event: {name}\ndata: {{"type":"{name}",{which}"b64_json":"'.encode()
    rest: dict[str, Any] = {"created_at": 1776832476, "size": "1024x1024", "quality": "low", "output_format": "png"}
    rest |= {"background": "opaque"} if index is not None else {"background": "opaque", "usage": USAGE}
    tail = b'",' + json.dumps(rest, separators=(",", ":")).encode()[1:] + b"\n\n"
    start = _start(prompt if index is None else f"{prompt} part {index}")
    return [head + start, *([_block(prompt)] * blocks), tail]


def event_of(prompt: str, index: int | None, blocks: int = 0, operation: str = "image_generation") -> bytes:
    """Every byte of one event of a stream."""
    return b"".join(event_parts(prompt, index, blocks, operation))


# --- What is asked ----------------------------------------------------------------------------------------------------


async def _received(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """A request's body as it comes, by its announced length or in chunks."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        async for part in _exactly(reader, int(headers.get("content-length", "0"))):
            yield part
        return
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        async for part in _exactly(reader, size):
            yield part
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer


async def _exactly(reader: asyncio.StreamReader, left: int) -> AsyncIterator[bytes]:
    while left:
        part = await reader.read(min(left, RECEIVE_BYTES))
        if not part:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(part)
        yield part


async def _document(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> dict[str, Any]:
    """What was asked; of pictures only their length, digest and declared type (and `field`, the name of their place)."""
    if headers.get("content-type", "").startswith("multipart/form-data"):
        form = _Form(headers["content-type"])
        async for part in _received(reader, headers):
            form.feed(part)
        return form.document()
    body = b"".join([part async for part in _received(reader, headers)])
    document: dict[str, Any] = json.loads(body) if body else {}
    if "images" in document:
        document["images"] = [_described(each, "images") for each in document["images"]]
    if "mask" in document:
        document["mask"] = _described(document["mask"], "mask")
    return document


def _described(member: dict[str, Any], field_name: str) -> dict[str, Any]:
    url = str(member.get("image_url", ""))
    if not url.startswith("data:"):
        return member
    head, _, text = url.partition(",")
    data = base64.b64decode(text)
    media_type = head.removeprefix("data:").partition(";")[0]
    return {"field": field_name, "type": media_type, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


class _Form:
    """A multipart body, read as it comes: scalars are kept, pictures are measured. Takes no more memory than a scalar."""

    def __init__(self, content_type: str) -> None:
        boundary = Parser().parsestr(f"content-type: {content_type}").get_param("boundary")
        self._mark = f"\r\n--{boundary}".encode("latin-1")
        self._held = b"\r\n"
        self._in_head = False
        self._part: dict[str, Any] | None = None
        self._digest = hashlib.sha256()
        self._text = b""
        self._scalars: dict[str, Any] = {}
        self._pictures: list[dict[str, Any]] = []

    def feed(self, chunk: bytes) -> None:
        self._held += chunk
        while self._step():
            pass

    def document(self) -> dict[str, Any]:
        """The scalars, all strings; `images` in their order, and `mask`."""
        if not (self._in_head and self._held.startswith(b"--")):
            raise ValueError("a form without end")
        images = [each for each in self._pictures if each["field"] != "mask"]
        masks = [each for each in self._pictures if each["field"] == "mask"]
        return {**self._scalars, "images": images, **({"mask": masks[0]} if masks else {})}

    def _step(self) -> bool:
        if self._in_head:
            head, found, rest = self._held.partition(b"\r\n\r\n")
            if found:
                self._open(head)
                self._held, self._in_head = rest, False
            return bool(found)
        at = self._held.find(self._mark)
        content = self._held[: max(0, len(self._held) - len(self._mark) + 1) if at < 0 else at]
        self._held = self._held[len(content) :]
        self._add(content)
        if at >= 0:
            self._close()
            self._held, self._in_head = self._held[len(self._mark) :], True
        return at >= 0

    def _open(self, head: bytes) -> None:
        message = Parser().parsestr(head.decode().lstrip(), headersonly=True)
        name, filename = message.get_param("name", header="content-disposition"), message.get_filename()
        self._part = {"field": name, "filename": filename, "type": message["content-type"], "bytes": 0}
        self._digest, self._text = hashlib.sha256(), b""

    def _add(self, content: bytes) -> None:
        if self._part is None:
            return
        self._part["bytes"] += len(content)
        self._digest.update(content)
        if self._part["filename"] is None:
            self._text += content

    def _close(self) -> None:
        part = self._part
        if part is None:
            return
        if part["filename"] is None and part["field"] not in ("image", "image[]", "mask"):
            self._scalars[part["field"]] = self._text.decode()
        else:
            self._pictures.append({**part, "sha256": self._digest.hexdigest()})


# --- The process ------------------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """One call at the upstream. `echo` is everything secret about it, for errors that quote it."""

    prompt: str
    plan: Mapping[str, Any]
    echo: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    operation: str
    wants_stream: bool
    wants_partials: int
    hold: Callable[[], Awaitable[None]]
    """Waits for `release`, and counts while it does."""

    @property
    def stream(self) -> dict[str, Any]:
        """How it is streamed: as planned, with what was asked for where the plan is silent."""
        own = {"partials": self.wants_partials, "blocks": self.plan.get("blocks", 0), "gap_seconds": 0}
        return own | (self.plan.get("stream") or {})


@dataclass
class _Upstream:
    plans: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    edits: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    credentials: dict[str, list[str]] = field(default_factory=dict)
    bodies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    released: dict[str, asyncio.Event] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the proxy, or the test, has gone
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, value in (line.split(":", 1) for line in head.split("\r\n")[1:] if ":" in line)
        }
        document = await _document(reader, headers)
        if path.startswith("/control/"):
            await _whole(writer, 200, json.dumps(self._control(path, document)).encode())
        elif method == "POST" and path.partition("?")[0].endswith(("/images/generations", "/images/edits")):
            operation = "image_edit" if "/images/edits" in path else "image_generation"
            await self._sell(operation, document, headers, reader, writer)
        else:
            await _whole(writer, 404, b'{"error":{"message":"?","type":"invalid_request_error"}}')

    def _control(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        match path:
            case "/control/plan":
                self.plans |= document["plans"]
            case "/control/release":
                self._gate(document["prompt"]).set()
            case "/control/release-all":
                for held in list(self.held):
                    self._gate(held).set()
        if path != "/control/state":
            return {}
        state = ("calls", "edits", "held", "credentials", "bodies")
        return {name: getattr(self, name) for name in state}

    def _gate(self, prompt: str) -> asyncio.Event:
        return self.released.setdefault(prompt, asyncio.Event())

    async def _hold(self, prompt: str) -> None:
        self.held[prompt] = self.held.get(prompt, 0) + 1
        await self._gate(prompt).wait()
        self.held[prompt] -= 1

    async def _sell(
        self,
        operation: str,
        document: dict[str, Any],
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        prompt = document["prompt"]
        self.calls[prompt] = self.calls.get(prompt, 0) + 1
        if operation == "image_edit":
            self.edits[prompt] = self.edits.get(prompt, 0) + 1
        credential = headers.get("authorization", headers.get("api-key", ""))
        self.credentials.setdefault(prompt, []).append(credential)
        self.bodies.setdefault(prompt, []).append(document)
        plans = self.plans.get(prompt, [{}])
        plan = plans[min(self.calls[prompt], len(plans)) - 1]
        await asyncio.sleep(plan.get("seconds", 0))
        if plan.get("hold"):
            await self._hold(prompt)
        call = _Call(
            prompt,
            plan,
            f"{credential} {prompt}",
            reader,
            writer,
            operation,
            document.get("stream") in (True, "true"),
            int(document.get("partial_images") or 0),
            lambda: self._hold(prompt),
        )
        await _FAULTS[plan["fault"]](call) if "fault" in plan else await _answer(call)


async def _answer(call: _Call) -> None:
    plan, writer = call.plan, call.writer
    if "status" in plan:
        body = plan.get("body", "").replace("{echo}", call.echo).encode()
        await _whole(writer, plan["status"], body, plan.get("headers", {}))
        return
    if call.wants_stream and plan.get("stream") is not False:
        await _streamed(call)
        return
    parts = body_parts(call.prompt, plan.get("blocks", 0))
    writer.write(_head(200, sum(map(len, parts)), plan.get("headers", {})))
    for part in parts:
        writer.write(part)
        await writer.drain()


async def _streamed(call: _Call) -> None:
    await _partials(call)
    await asyncio.sleep(call.stream["gap_seconds"] if call.stream["partials"] else 0)
    await _chunks(call, *event_parts(call.prompt, None, call.stream["blocks"], call.operation))
    await _chunks(call, b"")


async def _partials(call: _Call) -> None:
    """The head of a stream, and all of its partial images."""
    call.writer.write(_stream_head(call))
    await call.writer.drain()
    plan = call.stream
    for index in range(plan["partials"]):
        if plan.get("hold_after") == index:
            await call.hold()
        await asyncio.sleep(plan["gap_seconds"] if index else 0)
        await _chunks(call, *event_parts(call.prompt, index, plan["blocks"], call.operation))
    if plan.get("hold_after") == plan["partials"]:
        await call.hold()


async def _chunks(call: _Call, *parts: bytes) -> None:
    """Each part in a chunk of its own; an empty one is the last."""
    for part in parts:
        call.writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        await call.writer.drain()


def _stream_head(call: _Call) -> bytes:
    given = {"content-type": "text/event-stream", "transfer-encoding": "chunked", "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**given, **call.plan.get("headers", {})}.items())
    return f"HTTP/1.1 200 X\r\n{lines}\r\n".encode("latin-1")


async def _whole(writer: asyncio.StreamWriter, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
    writer.write(_head(status, len(body), headers) + body)
    await writer.drain()


def _head(status: int, length: int, headers: Mapping[str, str] = {}) -> bytes:
    given = {"content-type": "application/json", "content-length": str(length), "connection": "close", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1")


# --- Faults -----------------------------------------------------------------------------------------------------------


async def _truncated(call: _Call) -> None:
    body = body_of(call.prompt, 4)
    call.writer.write(_head(200, len(body)) + body[: len(body) // 2])
    await call.writer.drain()


async def _stall(call: _Call) -> None:
    """Half of the reply, and then nothing, until the proxy hangs up."""
    body = body_of(call.prompt, call.plan.get("blocks", 0))
    call.writer.write(_head(200, len(body)) + body[: len(body) // 2])
    await call.writer.drain()
    await call.reader.read()


async def _reset(call: _Call) -> None:
    call.writer.transport.abort()


async def _html(call: _Call) -> None:
    page = b"<html><body>502 Bad Gateway</body></html>"
    await _whole(call.writer, 200, page, {"content-type": "text/html"})


async def _empty(call: _Call) -> None:
    await _whole(call.writer, 200, b"")


async def _no_images(call: _Call) -> None:
    await _whole(call.writer, 200, b'{"created":1,"data":[]}')


async def _not_base64(call: _Call) -> None:
    await _whole(call.writer, 200, body_of(call.prompt, 2)[:-200] + b"***" + body_of(call.prompt, 2)[-200:])


async def _no_image(call: _Call) -> None:
    text = base64.b64encode(b"this is no picture, it is a sentence of some length")
    await _whole(call.writer, 200, b'{"created":1,"data":[{"b64_json":"' + text + b'"}]}')


async def _error_in_200(call: _Call) -> None:
    await _whole(call.writer, 200, b'{"error":{"message":"' + call.echo.encode() + b'","type":"server_error"}}')


async def _oversized(call: _Call) -> None:
    call.writer.write(_head(200, ANNOUNCED_LIMIT_BYTES + 1))
    await call.writer.drain()
    await call.reader.read()  # until the proxy hangs up: not one byte of the body is sent


async def _bomb(call: _Call) -> None:
    await _whole(call.writer, 200, _bomb_bytes(), {"content-encoding": "gzip"})


@lru_cache(maxsize=1)
def _bomb_bytes() -> bytes:
    return gzip.compress(b'{"created":1,"data":[{"b64_json":"' + b"A" * (ANNOUNCED_LIMIT_BYTES + (4 << 20)), 1)


async def _drip(call: _Call) -> None:
    """One byte now and then: no read ever times out."""
    body = body_of(call.prompt)
    call.writer.write(_head(200, len(body)))
    for at in range(len(body)):
        call.writer.write(body[at : at + 1])
        await call.writer.drain()
        await asyncio.sleep(DRIP_SECONDS)


async def _cut_stream(call: _Call) -> None:
    """All partial images, and then the end of the connection."""
    await _partials(call)


async def _cut_event(call: _Call) -> None:
    """All partial images and half of the whole one."""
    await _partials(call)
    event = event_of(call.prompt, None, call.stream["blocks"], call.operation)
    await _chunks(call, event[: len(event) // 2])


async def _stall_stream(call: _Call) -> None:
    """All partial images, and then nothing, until the proxy hangs up."""
    await _partials(call)
    await call.reader.read()


async def _error_event(call: _Call) -> None:
    """All partial images, and then an error that quotes what it should not."""
    await _partials(call)
    kind, code = "image_generation_server_error", "image_generation_failed"
    error = {"type": kind, "code": code, "message": call.echo, "param": None}
    await _chunks(call, f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n".encode(), b"")


async def _no_completed(call: _Call) -> None:
    """All partial images and an orderly end, without the whole one."""
    await _partials(call)
    await _chunks(call, b"")


async def _drip_stream(call: _Call) -> None:
    """All partial images, and then the whole one, one byte now and then: no read ever times out."""
    await _partials(call)
    event = event_of(call.prompt, None, call.stream["blocks"], call.operation)
    for at in range(len(event)):
        await _chunks(call, event[at : at + 1])
        await asyncio.sleep(DRIP_SECONDS)


_FAULTS: dict[str, Callable[[_Call], Awaitable[None]]] = {
    "truncated": _truncated,
    "stall": _stall,
    "reset": _reset,
    "html": _html,
    "empty": _empty,
    "no-images": _no_images,
    "not-base64": _not_base64,
    "no-image": _no_image,
    "error-in-200": _error_in_200,
    "oversized": _oversized,
    "bomb": _bomb,
    "drip": _drip,
    "cut_stream": _cut_stream,
    "cut_event": _cut_event,
    "stall_stream": _stall_stream,
    "error_event": _error_event,
    "no_completed": _no_completed,
    "drip_stream": _drip_stream,
}


async def _main() -> None:
    server = await asyncio.start_server(_Upstream().serve, "127.0.0.1", 0, backlog=1024, limit=1 << 21)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the starter reads it
    async with server:
        # Whoever started us holds the other end: when that closes, we have nobody to serve.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- The remote control -----------------------------------------------------------------------------------------------


class UpstreamProcess:
    """Starts the upstream; plans, releases and counts its calls. Prompts tell tests apart."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._lock = threading.Lock()

    def plan(self, prompt: str, *plans: dict[str, Any]) -> str:
        """What happens to the calls with this prompt: the first plan to the first, the last one to all that follow."""
        self._tell("plan", {"plans": {prompt: plans}})
        return prompt

    def plan_each(self, plans: Mapping[str, dict[str, Any]]) -> None:
        """What happens to all calls with these prompts."""
        self._tell("plan", {"plans": {prompt: [plan] for prompt, plan in plans.items()}})

    def release(self, prompt: str) -> None:
        """Lets calls go that are held, now and from now on."""
        self._tell("release", {"prompt": prompt})

    def release_all(self) -> None:
        self._tell("release-all", {})

    def calls(self, prompt: str) -> int:
        return int(self._state()["calls"].get(prompt, 0))

    def calls_of(self, prompts: Iterable[str]) -> int:
        """Of all of them."""
        calls = self._state()["calls"]
        return sum(calls.get(prompt, 0) for prompt in prompts)

    def held_of(self, prompts: Iterable[str]) -> int:
        held = self._state()["held"]
        return sum(held.get(prompt, 0) for prompt in prompts)

    def edits(self, prompt: str) -> int:
        """Those of its calls that were edits."""
        return int(self._state()["edits"].get(prompt, 0))

    def held(self, prompt: str) -> int:
        return int(self._state()["held"].get(prompt, 0))

    def held_in_all(self) -> int:
        return sum(self._state()["held"].values())

    def credentials(self, prompt: str) -> list[str]:
        return list(self._state()["credentials"].get(prompt, []))

    def bodies(self, prompt: str) -> list[dict[str, Any]]:
        """What was asked, call by call. In place of a picture stand its `field`, `type`, `bytes` and `sha256`."""
        return list(self._state()["bodies"].get(prompt, []))

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()

    def _state(self) -> dict[str, Any]:
        return self._tell("state", {})

    def _tell(self, what: str, document: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("POST", f"/control/{what}", json.dumps(document))
                answer: dict[str, Any] = json.loads(connection.getresponse().read())
            finally:
                connection.close()
            return answer


if __name__ == "__main__":
    asyncio.run(_main())

"""A scripted, counting upstream in a process of its own, and its remote control.

What it does to a call is planned by prompt, beforehand; a call without a plan is answered at once with a small image. The
image is made from the prompt, so that a test knows every byte it must get. Standard library only: it also runs as a script.
"""

import asyncio
import base64
import gzip
import json
import random
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
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


# --- What is answered -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _block(prompt: str) -> bytes:
    return base64.b64encode(random.Random(prompt).randbytes(BLOCK_BYTES // 4 * 3))


def body_parts(prompt: str, blocks: int = 0) -> list[bytes]:
    """The reply to a prompt, in parts that share their memory."""
    start = PNG_HEAD.ljust(33, b"\0") + random.Random(prompt).randbytes(33)
    head = b'{"created":1776832476,"data":[{"b64_json":"' + base64.b64encode(start)
    tail = b'"}],"usage":' + json.dumps(USAGE, separators=(",", ":")).encode() + b"}"
    return [head, *([_block(prompt)] * blocks), tail]


def body_of(prompt: str, blocks: int = 0) -> bytes:
    """Every byte of the reply to a prompt."""
    return b"".join(body_parts(prompt, blocks))


def image_of(prompt: str, blocks: int = 0) -> bytes:
    """The picture in the reply to a prompt."""
    return base64.b64decode(json.loads(body_of(prompt, blocks))["data"][0]["b64_json"])


# --- The process ------------------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """One call at the upstream. `echo` is everything secret about it, for errors that quote it."""

    prompt: str
    plan: Mapping[str, Any]
    echo: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass
class _Upstream:
    plans: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
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
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        document = json.loads(body) if body else {}
        if path.startswith("/control/"):
            await _whole(writer, 200, json.dumps(self._control(path, document)).encode())
        elif (method, path) == ("POST", "/v1/images/generations"):
            await self._sell(document, headers, reader, writer)
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
        return {"calls": self.calls, "held": self.held, "credentials": self.credentials, "bodies": self.bodies}

    def _gate(self, prompt: str) -> asyncio.Event:
        return self.released.setdefault(prompt, asyncio.Event())

    async def _sell(
        self,
        document: dict[str, Any],
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        prompt = document["prompt"]
        self.calls[prompt] = self.calls.get(prompt, 0) + 1
        credential = headers.get("authorization", headers.get("api-key", ""))
        self.credentials.setdefault(prompt, []).append(credential)
        self.bodies.setdefault(prompt, []).append(document)
        plans = self.plans.get(prompt, [{}])
        plan = plans[min(self.calls[prompt], len(plans)) - 1]
        await asyncio.sleep(plan.get("seconds", 0))
        if plan.get("hold"):
            self.held[prompt] = self.held.get(prompt, 0) + 1
            await self._gate(prompt).wait()
            self.held[prompt] -= 1
        call = _Call(prompt, plan, f"{credential} {prompt}", reader, writer)
        await _FAULTS[plan["fault"]](call) if "fault" in plan else await _answer(call)


async def _answer(call: _Call) -> None:
    plan, writer = call.plan, call.writer
    if "status" in plan:
        body = plan.get("body", "").replace("{echo}", call.echo).encode()
        await _whole(writer, plan["status"], body, plan.get("headers", {}))
        return
    parts = body_parts(call.prompt, plan.get("blocks", 0))
    writer.write(_head(200, sum(map(len, parts)), plan.get("headers", {})))
    for part in parts:
        writer.write(part)
        await writer.drain()


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

    def held(self, prompt: str) -> int:
        return int(self._state()["held"].get(prompt, 0))

    def held_in_all(self) -> int:
        return sum(self._state()["held"].values())

    def credentials(self, prompt: str) -> list[str]:
        return list(self._state()["credentials"].get(prompt, []))

    def bodies(self, prompt: str) -> list[dict[str, Any]]:
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

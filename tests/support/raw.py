"""A peer on a raw socket, who need not keep to HTTP."""

import json
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from tests.support.caller import CREDENTIAL, request_of
from tests.support.process import Proxy


@dataclass(frozen=True)
class RawReply:
    """One response as it stood on the wire. `status` is 0 if the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        """The error's code."""
        return json.loads(self.body)["error"]["code"]


class Peer:
    """A connection. What it receives is kept until it is asked for."""

    def __init__(self, proxy: Proxy, *, port: int | None = None, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", proxy.port if port is None else port))
        self.received = b""
        self.is_closed = False

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether the other end took it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def drip(self, data: bytes, *, every: float, seconds: float) -> float:
        """Sends a byte now and then until the other end closes; how many seconds that took."""
        began = time.monotonic()
        for at in range(len(data)):
            if not self.send(data[at : at + 1]):
                break
            self.receive(every)
            if self.is_closed:
                break
            assert time.monotonic() - began < seconds, "nobody minded"
        return time.monotonic() - began

    def sip(self, size: int, *, pause: float, seconds: float) -> None:
        """Takes so many bytes at a time, with pauses in which it takes nothing."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.received += self.socket.recv(size)
            time.sleep(pause)

    def receive(self, seconds: float) -> None:
        """Takes what arrives within so many seconds, or up to the end."""
        deadline = time.monotonic() + seconds
        while not self.is_closed and (left := deadline - time.monotonic()) > 0:
            if not select.select([self.socket], [], [], left)[0]:
                return
            try:
                part = self.socket.recv(1 << 16)
            except ConnectionError:
                part = b""
            self.received += part
            self.is_closed = not part

    def reply(self, seconds: float = 20.0) -> RawReply:
        """The next response, whole, or what there was of it when the connection ended."""
        deadline = time.monotonic() + seconds
        while not self._is_whole() and not self.is_closed:
            assert time.monotonic() < deadline, "no answer, and no end"
            self.receive(0.05)
        head, _, rest = self.received.partition(b"\r\n\r\n")
        if not head:
            return RawReply(0, {}, b"")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        self.received = rest[length:]
        return RawReply(int(lines[0].split()[1]), headers, rest[:length])

    def _is_whole(self) -> bool:
        head, end, rest = self.received.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return bool(end) and len(rest) >= int(line.split(b":")[1])
        return bool(end)


def message(
    prompt: str = "a raw peer",
    *,
    method: str = "POST",
    target: str = "/v1/images/generations",
    extra: bytes = b"",
    body: bytes | None = None,
    framing: bytes | None = None,
    close: bool = True,
) -> bytes:
    """A request that is sound but for what is given. `extra` are header lines with their ends."""
    content = json.dumps(request_of(prompt)).encode() if body is None else body
    framing = b"Content-Length: %d\r\n" % len(content) if framing is None else framing
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {CREDENTIAL}\r\n".encode()
    head += b"Content-Type: application/json\r\n" + (b"Connection: close\r\n" if close else b"")
    return head + framing + extra + b"\r\n" + content


def tell(proxy: Proxy, data: bytes) -> RawReply:
    """The response to these bytes on a connection of their own."""
    with Peer(proxy) as peer:
        peer.send(data)
        return peer.reply()

"""Single calls from Python, for what the load client cannot do: to leave early, and to ask the upstream what it counted."""

import http.client
import json
import socket
import time
from dataclasses import dataclass

from bench.system import System

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    seconds: float
    length: int


@dataclass(frozen=True)
class Calls:
    """What the upstream has counted since it was started."""

    calls: int
    aborted: int


def ask(system: System, body: str, *headers: str) -> Answer:
    """One request on a connection of its own, read to the end."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=TIMEOUT_SECONDS)
    began = time.perf_counter()
    try:
        connection.request("POST", system.path, body.encode(), _fields(system, headers))
        reply = connection.getresponse()
        length = 0
        while piece := reply.read(1 << 20):
            length += len(piece)
        return Answer(reply.status, time.perf_counter() - began, length)
    finally:
        connection.close()


def leave(system: System, body: str, after_seconds: float) -> None:
    """One request whose caller does not wait for the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", system.path, body.encode(), _fields(system, ()))
        time.sleep(after_seconds)
        assert isinstance(connection.sock, socket.socket)
        connection.sock.shutdown(socket.SHUT_RDWR)
    finally:
        connection.close()


def count(upstream_port: int) -> Calls:
    connection = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/calls")
        found = json.loads(connection.getresponse().read())
        return Calls(found["calls"], found["aborted"])
    finally:
        connection.close()


def _fields(system: System, more: tuple[str, ...]) -> dict[str, str]:
    fields = {"content-type": "application/json"}
    for header in (*system.headers, *more):
        name, _, value = header.partition(": ")
        fields[name] = value
    return fields

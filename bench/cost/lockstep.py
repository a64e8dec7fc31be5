"""A client whose every request may have another key: it asks over all of its connections, then takes all the replies."""

import socket
import time
from collections.abc import Sequence

from bench.cost.rig import expect
from bench.system import PATH, System

PIECE_BYTES = 1 << 16
TIMEOUT_SECONDS = 30


def turns(system: System, body: str, keys: Sequence[str], connections: int, count: int) -> list[float]:
    """So many requests, each with the next key, over connections in lockstep; seconds of each, as seen from here."""
    requests = [request_bytes(body, key) for key in keys]
    sockets = [
        socket.create_connection(("127.0.0.1", system.port), timeout=TIMEOUT_SECONDS) for _ in range(connections)
    ]
    found = []
    try:
        for first in range(0, count, connections):
            began = time.perf_counter()
            for turn, each in enumerate(sockets):
                each.sendall(requests[(first + turn) % len(requests)])
            for each in sockets:
                take(each)
                found.append(time.perf_counter() - began)
    finally:
        for each in sockets:
            each.close()
    return found


def request_bytes(body: str, key: str) -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


def take(connection: socket.socket) -> None:
    """One reply with status 200."""
    taken = b""
    while (stop := taken.find(b"\r\n\r\n")) < 0:
        taken += _more(connection)
    head = taken[:stop].lower()
    expect(head.startswith(b"http/1.1 200"), f"a hit: {head[:40]!r}")
    length = int(head.partition(b"content-length:")[2].split()[0])
    while len(taken) < stop + 4 + length:
        taken += _more(connection)


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(PIECE_BYTES)
    expect(bool(piece), "the connection was closed")
    return piece

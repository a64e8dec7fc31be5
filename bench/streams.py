"""How much later the first partial image of a stream is there, whole, than without a proxy; one run, taking turns.

    make bench-streams

The upstream sends partial images of a fixed size at a fixed pace; a client notes when the first event is whole and when the
stream is over. Every client keeps its connection, to the upstream as to the proxy. Calls at c=8 begin a fraction of the pace
apart, as callers do who know nothing of each other; "at once" is the worst case, eight pictures in the same instant.
"""

import contextlib
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.process import Process, free_port

LATENCY_SECONDS = 0.15
GAP_SECONDS = 0.1
PARTIALS = 2
GOAL_MILLISECONDS = 20.0
END = b"\r\n0\r\n\r\n"
CONFIGURATION = """\
[server]
port = {proxy}

[[upstreams]]
name = "bench"
base_url = "http://127.0.0.1:{upstream}/v1"

[cache]
directory = "cache"
min_free_bytes = 0
"""


@dataclass(frozen=True)
class Timing:
    """Milliseconds from the request's last byte to the end of the first event, and of the stream."""

    first: float
    total: float


class Reader:
    """One keep-alive connection that reads chunked streams and keeps nothing of them."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._buffer = bytearray(1 << 20)

    def call(self, prompt: str) -> Timing:
        body = json.dumps({"model": "gpt-image-2", "prompt": prompt, "stream": True, "partial_images": PARTIALS})
        self._socket.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer bench\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body.encode())
        )
        began = time.perf_counter()
        first = 0.0
        tail = b""
        while tail != END:
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise ConnectionError("the stream ended early")
            if not first and (self._buffer.find(b"\n\n", 0, count) >= 0 or tail[-1:] == self._buffer[:1] == b"\n"):
                first = time.perf_counter()
            tail = (tail + self._buffer[max(0, count - len(END)) : count])[-len(END) :]
        return Timing((first - began) * 1000, (time.perf_counter() - began) * 1000)

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def pair(size: int) -> Iterator[tuple[int, int]]:
    """The port of an upstream of streams, and of a proxy before it."""
    upstream, proxy = free_port(), free_port()
    pace = ["--latency", str(LATENCY_SECONDS), "--partials", str(PARTIALS), "--gap", str(GAP_SECONDS)]
    program = str(Path(__file__).with_name("eventupstream.py"))
    events = [sys.executable, program, "--port", str(upstream), "--bytes", str(size), *pace]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configuration = folder / "bench.toml"
        configuration.write_text(CONFIGURATION.format(proxy=proxy, upstream=upstream))
        serve = [sys.executable, "-m", "proxy", "serve", "--config", str(configuration)]
        with (
            Process(events, port=upstream, log=folder / "upstream.log"),
            Process(serve, port=proxy, log=folder / "proxy.log"),
        ):
            yield upstream, proxy


def timings(port: int, name: str, connections: int, calls: int, spread_seconds: float) -> list[Timing]:
    """Of so many calls on each of so many connections, which begin so far apart."""

    def work(number: int) -> list[Timing]:
        reader = Reader(port)
        try:
            time.sleep(number * spread_seconds)
            return [reader.call(f"{name} {number} {turn}") for turn in range(calls)]
        finally:
            reader.close()

    with ThreadPoolExecutor(connections) as pool:
        return [each for some in pool.map(work, range(connections)) for each in some]


def compare(name: str, size: int, connections: int, *, at_once: bool = False, rounds: int = 4) -> None:
    spread = 0 if at_once else (GAP_SECONDS + LATENCY_SECONDS) / 2 / connections
    calls = 5 if connections == 1 else 2
    direct: list[Timing] = []
    through: list[Timing] = []
    with pair(size) as (upstream, proxy):
        timings(proxy, "warm", connections, 1, 0)
        for turn in range(rounds):
            direct += timings(upstream, f"direct {turn}", connections, calls, spread)
            through += timings(proxy, f"through {turn}", connections, calls, spread)
    how = f"stream {name:>6}, c={connections}{' at once' if at_once else '':8}"
    added = report(f"{how} first", [each.first for each in direct], [each.first for each in through])
    report(f"{how} total", [each.total for each in direct], [each.total for each in through])
    if added > GOAL_MILLISECONDS:
        print(f"  the goal, at most {GOAL_MILLISECONDS:g} ms added to the first partial image, is missed")


def report(what: str, direct: Sequence[float], through: Sequence[float]) -> float:
    """Prints a row; what the proxy adds in the median."""
    added = statistics.median(through) - statistics.median(direct)
    print(
        f"{what}: direct {statistics.median(direct):7.1f} p90 {_p90(direct):7.1f}   "
        f"through {statistics.median(through):7.1f} p90 {_p90(through):7.1f}   "
        f"added {added:6.1f} p90 {_p90(through) - _p90(direct):6.1f} ms"
    )
    return added


def _p90(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10)[-1]


def main() -> None:
    for name, size in (("300 KB", 300_000), ("3 MB", 3_000_000)):
        compare(name, size, 1)
        compare(name, size, 8)
        compare(name, size, 8, at_once=True)


if __name__ == "__main__":
    main()

"""A first measurement, in about a minute: hits and misses beside the same upstream without a proxy, in one run.

    make bench

Absolute figures say more about the machine than about the program: read the ratios. Everything is on loopback, bounded in
count, and stopped at the end. The client is a raw socket that discards what it reads.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = 5
CONNECTIONS = 16


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.buffer = bytearray(1 << 20)

    def call(self, prompt: str) -> dict[str, str]:
        body = json.dumps({"model": "gpt-image-2", "prompt": prompt}).encode()
        self.socket.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer bench\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        return self._discard()

    def get(self, path: str) -> str:
        self.socket.sendall(b"GET %s HTTP/1.1\r\nhost: bench\r\n\r\n" % path.encode())
        return self._discard()["content"]

    def _discard(self) -> dict[str, str]:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(1 << 16)
        top, _, rest = head.partition(b"\r\n\r\n")
        headers = dict(line.lower().split(": ", 1) for line in top.decode().split("\r\n")[1:])
        left = int(headers["content-length"]) - len(rest)
        headers["content"] = rest[:100].decode("latin-1")
        while left > 0:
            count = self.socket.recv_into(self.buffer)
            if not count:
                raise ConnectionError("the reply ended early")
            left -= count
        return headers


@contextlib.contextmanager
def process(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield started
    finally:
        started.terminate()
        started.wait(timeout=30)


def rate(port: int, prompts: list[str], seconds: float = 1.5) -> float:
    """Calls per second over CONNECTIONS connections, each with its own prompts in turn."""

    def work(number: int) -> int:
        client, done, end = Client(port), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            client.call(prompts[(number + done) % len(prompts)])
            done += 1
        return done

    began = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        total = sum(pool.map(work, range(CONNECTIONS)))
    return total / (time.monotonic() - began)


def milliseconds(port: int, prefix: str, count: int = 20) -> float:
    client, times = Client(port), []
    for number in range(count):
        began = time.perf_counter()
        client.call(f"{prefix} {number}")
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def resident_mb(pid: int, field: str = "VmHWM") -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1000
    return 0.0


@contextlib.contextmanager
def pair(size: int, latency: float, *options: str) -> Iterator[tuple[int, int, int]]:
    """The upstream's port, the proxy's port and the proxy's process id. `options` are more of the upstream's."""
    upstream, proxy = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "bench.toml"
        config.write_text(
            f'[server]\nport = {proxy}\n[cache]\ndirectory = "cache"\nmin_free_bytes = 0\n'
            f'[[upstreams]]\nname = "bench"\nbase_url = "http://127.0.0.1:{upstream}/v1"\n'
        )
        command = [sys.executable, str(HERE / "upstream.py"), "--port", str(upstream)]
        serve = [sys.executable, "-m", "proxy", "serve", "--config", str(config)]
        with (
            process([*command, "--bytes", str(size), "--latency", str(latency), *options], upstream),
            process(serve, proxy) as started,
        ):
            yield upstream, proxy, started.pid


def hits(name: str, size: int) -> None:
    with pair(size, 0) as (upstream, proxy, _):
        Client(proxy).call("hot")
        Client(proxy).call("hot")
        rows = [(rate(upstream, ["hot"]), rate(proxy, ["hot"])) for _ in range(ROUNDS)]
    direct, through = statistics.median(row[0] for row in rows), statistics.median(row[1] for row in rows)
    ratio = statistics.median(row[1] / row[0] for row in rows)
    print(f"hit {name:>6}, c={CONNECTIONS}: {through:8.0f} /s   direct {direct:8.0f} /s   ratio {ratio:.2f}")


def misses(name: str, size: int) -> None:
    with pair(size, 0) as (upstream, proxy, _):
        rows = [(milliseconds(upstream, f"d{n}"), milliseconds(proxy, f"p{n}")) for n in range(ROUNDS)]
    direct, through = statistics.median(row[0] for row in rows), statistics.median(row[1] for row in rows)
    print(f"miss {name:>5}, c=1 : {through:8.2f} ms   direct {direct:8.2f} ms   added {through - direct:.2f} ms")


def identical(count: int = 100) -> None:
    with pair(300_000, 2.0) as (upstream, proxy, _), ThreadPoolExecutor(count) as pool:
        labels = list(pool.map(lambda _: Client(proxy).call("same")["x-imagegate-cache"], range(count)))
        calls = Client(upstream).get("/calls")
    print(f"{count} identical at once: {calls} upstream call(s), {labels.count('coalesced')} coalesced")


def memory(count: int = 64, size: int = 12_000_000) -> None:
    with pair(size, 1.0) as (_, proxy, pid), ThreadPoolExecutor(count) as pool:
        idle = resident_mb(pid, "VmRSS")
        began = time.monotonic()
        list(pool.map(lambda number: Client(proxy).call(f"big {number}"), range(count)))
        seconds = time.monotonic() - began
        print(
            f"{count} x 12 MB misses at once: peak {resident_mb(pid):.0f} MB resident, idle {idle:.0f} MB, {seconds:.1f} s"
        )


def start() -> None:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "IMAGEGATE_CACHE__DIRECTORY": folder, "IMAGEGATE_SERVER__PORT": str(port)}
        began = time.monotonic()
        command = [sys.executable, "-m", "proxy", "serve"]
        started = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            while True:
                with contextlib.suppress(OSError):
                    Client(port).get("/healthz")
                    break
            print(f"start to first reply: {time.monotonic() - began:.2f} s")
        finally:
            started.terminate()
            started.wait(timeout=30)


def main() -> None:
    start()
    identical()
    memory()
    for name, size in (("2 KB", 2_000), ("300 KB", 300_000), ("3 MB", 3_000_000), ("12 MB", 12_000_000)):
        hits(name, size)
    for name, size in (("300 KB", 300_000), ("3 MB", 3_000_000)):
        misses(name, size)


if __name__ == "__main__":
    main()

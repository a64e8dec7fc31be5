"""The process: listens, hardens the connection against slow and oversized peers, and leaves without losing anything.

uvicorn's httptools protocol refuses CL+TE, but has no limit for headers and no deadline for receiving or sending; this
module adds them where they belong, at the connection.
"""

import asyncio
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy import __version__, log
from proxy.addresses import listen_address
from proxy.app import App, build
from proxy.configuration import environment, load
from proxy.errors import ConfigurationError
from proxy.secret import Secret
from proxy.settings import Settings

logger = logging.getLogger("imagegate")

MAX_HEAD_BYTES = 64 * 1024
KEEP_ALIVE_SECONDS = 75
KILLED_BY_SECOND_SIGNAL = 130
KEEPALIVE_PROBES = 4
"""Unanswered probes after which the kernel gives a silent peer up."""


def serve(settings: Settings, *, with_sandbox: bool = False) -> int:
    """Runs until SIGTERM or SIGINT; gives the process's exit code. Raises ConfigurationError before anything listens."""
    if not with_sandbox:
        return _serve(settings, with_sandbox=False)
    with _sandbox() as base_url:
        return _serve(_over_sandbox(settings, base_url), with_sandbox=True)


def _serve(settings: Settings, *, with_sandbox: bool) -> int:
    stop_logging = log.configure(settings.log.level)
    try:
        app = build(settings)
        server = Server(app, with_sandbox=with_sandbox)
        asyncio.Runner(loop_factory=server.config.get_loop_factory()).run(server.run_all())
        return 0 if server.lost == 0 else 1
    finally:
        stop_logging()


class Protocol(HttpToolsProtocol):
    """One connection, with deadlines and limits: for a request's head, and for a reader that has stopped reading."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        app = self.config.app
        assert isinstance(app, App)
        self._limits = app.settings.server
        self._head_bytes = 0
        self._heads_begun = 0
        self._in_head = True
        self._head_deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._untaken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_deadline, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        begun = self._heads_begun
        super().data_received(data)
        if self._in_head:
            # Where in its first data a head began is not told: it is measured from the next on.
            self._head_bytes += len(data) if self._heads_begun == begun else 1
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "headers_too_large", "The headers of your request are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._heads_begun += 1
        if self._head_deadline is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_progress()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._untaken = sys.maxsize  # that was progress

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Whatever is left of the reply: neither close() nor the kernel would ever give it up.
        if self._stall is None and self.transport.get_write_buffer_size():
            self._watch_progress()

    def timeout_keep_alive_handler(self) -> None:
        if self._stall is None:
            super().timeout_keep_alive_handler()
        else:  # the end of a reply is still being taken
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_http_request", "This is not an HTTP request that can be understood.")

    def _watch_progress(self) -> None:
        self._untaken = self._measure_untaken()
        if self._stall is None:
            self._stall = self.loop.call_later(self._limits.send_timeout_seconds, self._check_progress)

    def _check_progress(self) -> None:
        """A reader may be as slow as it likes; one that took nothing at all since the last look is gone."""
        self._stall = None
        before = self._untaken
        if not self.transport.get_write_buffer_size():
            return
        if self._measure_untaken() >= before:
            self.transport.abort()
        else:
            self._watch_progress()

    def _measure_untaken(self) -> int:
        """Bytes that the peer has not acknowledged. The kernel holds megabytes of them and takes no more from us until a
        third of that is gone, so that our own buffer alone would make a slow reader look like none."""
        ours: int = self.transport.get_write_buffer_size()
        try:
            kernels = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):  # the descriptor has just been closed
            return ours
        return ours + int.from_bytes(kernels, sys.byteorder)

    def _expect_head(self) -> None:
        self._head_deadline = self.loop.call_later(self._limits.receive_timeout_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_deadline = None
        if self._head_bytes:
            self._refuse(408, "request_timeout", "The headers of your request did not arrive in time.")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """An answer without a request: in OpenAI's shape, then the end of the connection."""
        if self.transport.is_closing():
            return
        body = (
            f'{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{code}"}}}}'
        ).encode("ascii")
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "x-should-retry: false\r\nconnection: close\r\n\r\n"
        ).encode("ascii")
        self.transport.write(head + body)
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, with our way out: not ready, then deaf, then done; a second signal ends it at once."""

    def __init__(self, app: App, *, with_sandbox: bool) -> None:
        section = app.settings.server
        super().__init__(
            uvicorn.Config(
                app,
                host=section.host,
                port=section.port,
                http=Protocol,
                loop="uvloop",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=4096,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(section.drain_seconds) + 1,
                ssl_certfile=section.tls_certificate,
                ssl_keyfile=section.tls_key,
            )
        )
        self._app = app
        self._with_sandbox = with_sandbox
        self._listener = _listen(section.host, section.port)
        _keep_alive(self._listener, section.tcp_keepalive_seconds)
        self._leave_at: float | None = None
        self.lost = 0
        """Flights that had not landed when `server.drain_seconds` were over."""

    async def run_all(self) -> None:
        """The main listener, and the one for metrics if it has an address of its own."""
        listen = self._app.settings.metrics.listen
        if not listen:
            await self.serve(sockets=[self._listener])
            return
        page = _Beside(
            uvicorn.Config(self._app.metrics_asgi, log_config=None, access_log=False, server_header=False, ws="none")
        )
        beside = asyncio.create_task(page.serve(sockets=[_listen(*listen_address(listen))]))
        try:
            await self.serve(sockets=[self._listener])
        finally:
            page.should_exit = True
            await beside

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        host, port = self._listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "https" if self._app.settings.server.tls_certificate else "http"
        if self._with_sandbox:
            _write_welcome(f"{scheme}://{address}")
        logger.info("serving", extra={"version": __version__, "url": f"{scheme}://{address}/v1"})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts the way out. Not passed on to uvicorn, which would die of it instead of exiting 0."""
        if self._leave_at is not None:
            os._exit(KILLED_BY_SECOND_SIGNAL)  # safe at any moment, as kill -9 is
        self._leave_at = self._app.pipeline.clock.monotonic() + self._app.settings.server.drain_delay_seconds
        self._app.health.leaving = True

    async def on_tick(self, counter: int) -> bool:
        if self._leave_at is not None and self._app.pipeline.clock.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The listener closes; what was accepted is answered; flights land; then the store closes (in the lifespan)."""
        self._app.health.draining = True
        self._app.recorded.draining = True
        logger.info("draining", extra={"count": self._app.flights.in_flight()})
        await super().shutdown(sockets)
        self.lost = self._app.flights.in_flight()

    def _reload(self) -> None:
        """SIGHUP: rules, aliases, catalogue and prices anew; a bad file changes nothing."""
        try:
            self._app.reload(load(self._app.settings.file, environment()))
        except ConfigurationError as error:
            logger.error("the new configuration was refused; the old one stays", extra={"problems": error.problems})
        else:
            logger.info("the configuration was read again")


class _Beside(uvicorn.Server):
    """A second listener of the same process; signals are the first one's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ConfigurationError, with what to do, when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        problem = f"server: cannot listen on {host}:{port}: {error.strerror or error}. Is another process using it?"
        raise ConfigurationError([problem]) from error
    return listener


def _keep_alive(listener: socket.socket, seconds: int) -> None:
    """Probes the connections it accepts: they are silent for as long as an image takes (Linux: options are inherited)."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


@contextmanager
def _sandbox() -> Iterator[str]:
    """A sandbox upstream in a process of its own, so that painting does not slow the proxy; its base URL."""
    command = [sys.executable, "-m", "proxy", "sandbox", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http" not in line:
            raise ConfigurationError(["the sandbox upstream did not start"])
        yield line[line.index("http") :].split()[0]
    finally:
        process.terminate()
        process.wait(timeout=10)
        if process.stdout is not None:
            process.stdout.close()


def _over_sandbox(settings: Settings, base_url: str) -> Settings:
    """The same settings with the sandbox as the only upstream; on this machine it needs no key of anybody."""
    upstream = replace(
        settings.upstreams[0],
        name="sandbox",
        cache_group="sandbox",
        vendor="openai",
        base_url=base_url,
        api_key=Secret("sk-sandbox"),
        models=("*",),
    )
    loopback = settings.server.host in ("127.0.0.1", "::1", "localhost")
    mode = "open" if loopback or settings.auth.allow_open else settings.auth.mode
    return replace(settings, upstreams=(upstream,), auth=replace(settings.auth, mode=mode))


def _write_welcome(url: str) -> None:
    """What a newcomer types next."""
    body = '{"model":"gpt-image-2","prompt":"A lighthouse in a storm, oil on canvas","size":"1536x1024"}'
    curl = f"curl -sS {url}/v1/images/generations -H 'Content-Type: application/json' -d '{body}'"
    save = 'python3 -c \'import sys,json,base64; open("image.png","wb").write(base64.b64decode(json.load(sys.stdin)'
    save += '["data"][0]["b64_json"]))\''
    sys.stdout.write(
        f"""
imagegate {__version__} is serving images from its own sandbox: no key, no network, no cost.

1. A miss: the upstream paints for a second, and the reply is stored.
   {curl} -D - -o /dev/null | grep -i x-imagegate

2. The same again: a hit, in milliseconds; nothing is bought.
   {curl} -D - -o /dev/null | grep -i x-imagegate

3. The picture, as a file:
   {curl} | {save}

Metrics: {url}/metrics      Stop: Ctrl-C
"""
    )
    sys.stdout.flush()

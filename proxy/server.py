"""The process: listens, reads its configuration again when told to, and leaves without losing anything."""

import asyncio
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from proxy import __version__, log
from proxy.addresses import listen_address
from proxy.app import App, build
from proxy.connection import Connection
from proxy.errors import ConfigurationError
from proxy.health import Phase
from proxy.replay import Replays
from proxy.secret import Secret
from proxy.settings import Settings

logger = logging.getLogger("imagegate")

KEEP_ALIVE_SECONDS = 75
STANDING = ("server", "auth", "upstreams", "cache", "render", "database", "metrics", "tracing", "log")
"""Sections of which a reload changes nothing."""
KEEPALIVE_PROBES = 4
"""Unanswered probes after which the kernel gives a silent peer up."""


Read = Callable[[], Settings]
"""Reads the configuration: at the start, and again on SIGHUP, with the same file and the same flags."""


def serve(read: Read, *, with_sandbox: bool = False) -> int:
    """Runs until SIGTERM or SIGINT; gives the process's exit code. Raises ConfigurationError before anything listens."""
    settings = read()
    if not with_sandbox:
        return _serve(settings, read, with_sandbox=False)
    with _sandbox(settings.rules.allow_previews) as base_url:
        return _serve(_over_sandbox(settings, base_url), read, with_sandbox=True)


def _serve(settings: Settings, read: Read, *, with_sandbox: bool) -> int:
    stop_logging = log.configure(settings.log.level)
    try:
        app = build(settings)
        server = Server(app, read, with_sandbox=with_sandbox)
        asyncio.Runner(loop_factory=server.config.get_loop_factory()).run(server.run_all())
        if app.failure is not None:
            raise app.failure
        return 0 if server.lost == 0 else 1
    finally:
        stop_logging()


class Server(uvicorn.Server):
    """uvicorn, with our way out: not ready, then deaf, then done; a second signal ends it at once."""

    def __init__(self, app: App, read: Read, *, with_sandbox: bool) -> None:
        section = app.settings.server
        super().__init__(
            _listening(
                app,
                app,
                replays=app.replays,
                lifespan="on",
                backlog=4096,
                # A backstop: at the end of the drain we cut the connections ourselves.
                timeout_graceful_shutdown=int(section.drain_seconds) + 1,
                ssl_certfile=section.tls_certificate,
                ssl_keyfile=section.tls_key,
            )
        )
        self._app = app
        self._read = read
        self._with_sandbox = with_sandbox
        self._listener = _listen(section.host, section.port, section.tcp_keepalive_seconds)
        self.lost = 0
        """Flights that had not landed when `server.drain_seconds` were over."""

    async def run_all(self) -> None:
        """The main listener, and the one for metrics if it has an address of its own."""
        listen = self._app.settings.metrics.listen
        if not listen:
            await self.serve(sockets=[self._listener])
            return
        page = _Beside(_listening(self._app, self._app.metrics_asgi, lifespan="off", timeout_graceful_shutdown=1))
        listener = _listen(*listen_address(listen), self._app.settings.server.tcp_keepalive_seconds)
        beside = asyncio.create_task(page.serve(sockets=[listener]))
        try:
            await self.serve(sockets=[self._listener])
        finally:
            page.should_exit = True
            await beside

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _look_for_garbage()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        host, port = self._listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "https" if self._app.settings.server.tls_certificate else "http"
        if self._with_sandbox:
            _write_welcome(f"{scheme}://{address}", needs_key=self._app.settings.auth.mode != "open")
        logger.info("serving", extra={"version": __version__, "url": f"{scheme}://{address}/v1"})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts the way out. Not passed on to uvicorn, which would die of it instead of exiting 0."""
        if self._app.health.phase is not Phase.SERVING:
            os._exit(128 + sig)  # as if it had killed us; safe at any moment, as kill -9 is
        self._app.health.leave(self._app.settings.server.drain_delay_seconds)

    async def on_tick(self, counter: int) -> bool:
        if self._app.health.phase is Phase.LEAVING and not self._app.health.seconds_left:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The listener closes; what was accepted is answered; flights land; then the store closes (in the lifespan).
        All of it has `server.drain_seconds` from here on."""
        health = self._app.health
        health.drain(self._app.settings.server.drain_seconds)
        logger.info("draining", extra={"count": self._app.flights.in_flight()})
        end = asyncio.get_running_loop().call_later(health.seconds_left, self._cut)
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()
        self.lost = self._app.flights.in_flight()

    def _cut(self) -> None:
        """Whoever is still connected is not waited for any more; to a request it is as if its client had hung up."""
        connections = list(self.server_state.connections)
        if connections:
            logger.warning("connections were cut at the end of server.drain_seconds", extra={"count": len(connections)})
        for connection in connections:
            connection.transport.abort()

    def _reload(self) -> None:
        """SIGHUP: rules, aliases, catalogue and prices anew; a bad file changes nothing."""
        try:
            fresh = self._read()
            self._app.reload(fresh)
        except ConfigurationError as error:
            self._app.metrics.reloaded(ok=False)
            logger.error(
                "the new configuration was refused; the old one stays", extra={"problems": "; ".join(error.problems)}
            )
        else:
            self._app.metrics.reloaded(ok=True)
            logger.info("the configuration was read again")
            self._tell_what_waits(fresh)

    def _tell_what_waits(self, fresh: Settings) -> None:
        """Sections that were changed in the file and are not exchanged in a running process."""
        if self._with_sandbox:
            return  # some of them are not the file's
        changed = [name for name in STANDING if getattr(fresh, name) != getattr(self._app.settings, name)]
        if changed:
            logger.warning("changed, but only a restart applies it", extra={"setting": ", ".join(changed)})


class _Beside(uvicorn.Server):
    """A second listener of the same process; signals are the first one's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listening(app: App, asgi: ASGIApp, *, replays: Replays | None = None, **more: Any) -> uvicorn.Config:
    """How uvicorn serves `asgi`, a part of `app`: through our connections, in silence."""
    return uvicorn.Config(
        asgi,
        http=partial(Connection, limits=app.settings.server, health=app.health, replays=replays),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        **more,
    )


def _look_for_garbage() -> None:
    """From here on, and not in what the start has made: a search through that holds up the event loop for 30 ms."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _listen(host: str, port: int, probe_seconds: int) -> socket.socket:
    """A bound socket; its connections are probed. Raises ConfigurationError, with what to do, if there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        problem = f"server: cannot listen on {host}:{port}: {error.strerror or error}. Is another process using it?"
        raise ConfigurationError([problem]) from error
    # Connections are silent for as long as an image takes; Linux passes these options on to them.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_seconds)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_seconds)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    return listener


@contextmanager
def _sandbox(allow_previews: tuple[str, ...]) -> Iterator[str]:
    """A sandbox upstream in a process of its own, so that painting does not slow the proxy; its base URL.

    Its standard input ends with this process, however that ends, and it with its input.
    """
    command = [sys.executable, "-m", "proxy.sandbox", *allow_previews]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    try:
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        if "http" not in line:
            raise ConfigurationError(["the sandbox upstream did not start"])
        yield line[line.index("http") :].split()[0]
    finally:
        process.terminate()
        process.wait(timeout=10)
        for end in (process.stdin, process.stdout):
            if end is not None:
                end.close()


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
    is_open = settings.auth.mode == "passthrough" and (loopback or settings.auth.allow_open)
    mode = "open" if is_open else settings.auth.mode
    return replace(settings, upstreams=(upstream,), auth=replace(settings.auth, mode=mode))


def _write_welcome(url: str, *, needs_key: bool) -> None:
    """What a newcomer types next."""
    key = " -H 'Authorization: Bearer YOUR-KEY'" if needs_key else ""
    cost = "no network, no cost" if needs_key else "no key, no network, no cost"
    body = '{"model":"gpt-image-2","prompt":"A lighthouse in a storm, oil on canvas","size":"1536x1024"}'
    curl = f"curl -sS {url}/v1/images/generations -H 'Content-Type: application/json'{key} -d '{body}'"
    save = 'python3 -c \'import sys,json,base64; open("image.png","wb").write(base64.b64decode(json.load(sys.stdin)'
    save += '["data"][0]["b64_json"]))\''
    sys.stdout.write(
        f"""
imagegate {__version__} is serving images from its own sandbox: {cost}.

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

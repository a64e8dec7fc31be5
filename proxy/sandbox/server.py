"""The sandbox on a socket."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from proxy.sandbox.options import SandboxOptions


class _Server(uvicorn.Server):
    """Uvicorn raises the signal again once it has stopped; for us a signal is an ordinary end."""

    leave_with_input = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.leave_with_input:
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._look_at_input)

    def _look_at_input(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.should_exit = self.force_exit = True  # whoever asked for pictures is gone, too

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(app: ASGIApp, options: SandboxOptions, *, leave_with_input: bool = False) -> int:
    """0 after a signal or, if asked for, the end of standard input; 1 if the address is taken."""
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        print(f"sandbox: cannot listen on {options.host}:{options.port}: {error.strerror}", flush=True)  # noqa: T201
        return 1
    with listener:
        port = listener.getsockname()[1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=30,
        )
        print(f"sandbox upstream on http://{host}:{port}/v1", flush=True)  # noqa: T201 - the address is the product
        server = _Server(config)
        server.leave_with_input = leave_with_input
        server.run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)  # from here on a client may connect: the address printed is true
    except OSError:
        listener.close()
        raise
    return listener

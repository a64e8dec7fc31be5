"""The sandbox on a socket."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from proxy.sandbox.options import SandboxOptions


class _Server(uvicorn.Server):
    """Uvicorn raises the signal again once it has stopped; for us a signal is an ordinary end."""

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


def run(app: ASGIApp, options: SandboxOptions) -> int:
    """0 after a signal, 1 if the address is taken."""
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
        _Server(config).run(sockets=[listener])
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

"""An offline stand-in for OpenAI's Images API: validates like it, answers like it, and paints real pictures.

Used by `make run`, by `imagegate sandbox` and by tests. What differs from the real API stands in docs/sandbox.md.
"""

from typing import TYPE_CHECKING

from proxy.sandbox.options import SandboxOptions

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from proxy.catalogue import Catalogue
    from proxy.clock import Clock

__all__ = ["SandboxOptions", "build", "serve"]


def build(options: SandboxOptions, catalogue: "Catalogue | None" = None, clock: "Clock | None" = None) -> "ASGIApp":
    """The sandbox as an ASGI application, with the shipped catalogue unless another is given."""
    # Late, so that `imagegate serve` does not load Pillow.
    from proxy.catalogue import load
    from proxy.clock import SystemClock
    from proxy.sandbox.app import application

    return application(options, load() if catalogue is None else catalogue, clock or SystemClock())


def serve(options: SandboxOptions, *, leave_with_input: bool = False) -> int:
    """Runs until SIGTERM or SIGINT and returns the exit code; prints its address once it listens.

    With `leave_with_input` also until standard input ends, which a parent holds open for as long as it lives.
    """
    from proxy.sandbox.server import run

    return run(build(options), options, leave_with_input=leave_with_input)

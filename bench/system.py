"""The noun of the measurements: a server that answers image requests, and the word for one that cannot be measured."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MODEL = "gpt-image-2"
PATH = "/v1/images/generations"


class Skipped(Exception):
    """A system, or the whole run, is not measured; the message says why, and what would help."""


class System(Protocol):
    """A running server. All of them take the same request, so that one load fits all."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Empty, if it has none of its own."""

    @property
    def port(self) -> int: ...

    @property
    def pid(self) -> int:
        """The first process of its tree: CPU and memory are counted over the tree."""

    @property
    def began(self) -> float:
        """`time.perf_counter()` when that process was started; what was prepared before does not count as its start."""

    @property
    def headers(self) -> tuple[str, ...]:
        """What a caller has to send, each as `name: value`: credentials, and settings that travel with a request."""

    @property
    def path(self) -> str: ...

    @property
    def caches(self) -> bool:
        """An equal request is answered without asking the upstream again."""

    @property
    def coalesces(self) -> bool:
        """Equal requests at the same time make one call to the upstream."""

    @property
    def configuration(self) -> dict[str, str]:
        """What it ran with: the name of a file (or of what else it was) to its text; keys masked."""


@dataclass(frozen=True)
class Running:
    """A system as every module of `bench.systems` yields it."""

    name: str
    version: str
    port: int
    pid: int
    began: float
    headers: tuple[str, ...] = ()
    path: str = PATH
    caches: bool = True
    coalesces: bool = True
    configuration: dict[str, str] = field(default_factory=dict)


# Starts a system in an empty folder, before the upstream on this port, and ends it with the context.
# Raises Skipped where it is not installed, or does not start.
Start = Callable[[Path, int], AbstractContextManager[System]]

"""Server-sent events as a client reads them."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Told:
    """One event: its name, and its data as it stood on the wire."""

    name: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def events_in(body: bytes) -> list[Told]:
    """The whole events of a stream in our own framing; comments are left out."""
    *blocks, _ = body.decode().split("\n\n")
    lines = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks if not block.startswith(":")]
    return [Told(each["event"], each["data"]) for each in lines]

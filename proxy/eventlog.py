"""What a flight tells before it lands: the events of its stream, for any number of readers, each at its own pace.

An event's bytes lie on disk; a reader is a place in the list of them, so that one who comes late has every event from the
start, and one who is slow holds up nobody. What ends a stream is no event of the log: it is how the flight lands.
Belongs to one event loop.
"""

import asyncio
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.model import Body


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event, whole: its name, and its data, which is JSON on one line."""

    name: str
    data: Body = field(repr=False)


class EventLog:
    """The events of one flight, in order. `is_open` once the upstream has begun to answer with a stream."""

    def __init__(self) -> None:
        self.is_open = False
        self.headers: Mapping[str, str] = {}
        """Of the upstream's head, for who pays."""
        self.events: list[Event] = []
        # Weakly: who listens knows the log, and the log has the pictures on the way.
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()

    def open(self, headers: Mapping[str, str]) -> None:
        self.is_open, self.headers = True, headers
        self._tell()

    def add(self, event: Event) -> None:
        self.events.append(event)
        self._tell()

    def heard_by(self, listener: "Listener") -> None:
        """From now on the listener is told that there is something new."""
        self._listeners.add(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.tell()


class Listener:
    """One call's ear: the log of the flight that it is in, once it is in one."""

    def __init__(self) -> None:
        self.log: EventLog | None = None
        self._news = asyncio.Event()

    @property
    def events(self) -> list[Event]:
        return self.log.events if self.log is not None else []

    @property
    def headers(self) -> Mapping[str, str]:
        return self.log.headers if self.log is not None else {}

    @property
    def hears_stream(self) -> bool:
        """The upstream has begun to answer with a stream."""
        return self.log is not None and self.log.is_open

    def join(self, log: EventLog) -> None:
        self.log = log
        log.heard_by(self)
        self.tell()

    def tell(self) -> None:
        self._news.set()

    async def news(self) -> None:
        """Returns when something has changed since the last time."""
        await self._news.wait()
        self._news.clear()

"""Takes in a stream: each event before the last one goes to the flight's log, whole; the last one is the reply.

An event's data goes to a spool of its own while it arrives: what is held of it in memory does not grow with it. The reply
is complete with its `completed` event, however long the upstream then keeps the connection. A stream that ends before it,
in whatever way, was cut. Source: OpenAI API reference, "Image streaming events"; WHATWG HTML, "Server-sent events".
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from proxy import mediatype
from proxy.errors import UpstreamConnectionLost, UpstreamStreamFailure
from proxy.eventlog import Event, EventLog
from proxy.reply import Peek
from proxy.spool import Spool, Spools
from proxy.sse import Data, EventParser
from proxy.stores.body import body_of
from proxy.upstream.checker import Checker
from proxy.upstream.receive import relayed_with_id
from proxy.upstream.slots import ReceiveSlots
from proxy.upstream.wire import Reply

MAX_EVENTS = 64
"""Told of one stream, each a file; the API sends at most three pictures on the way, and their end."""
_NAME = re.compile(r"[\w.-]{1,256}", re.ASCII)
COMPLETED = ".completed"
PARTIAL = ".partial_image"


def is_event_stream(headers: Mapping[str, str]) -> bool:
    return mediatype.of(headers) == "text/event-stream"


@dataclass(slots=True)
class Intake:
    """The events of one reply, and where they go."""

    spools: Spools
    checker: Checker
    log: EventLog
    partials: int = 0
    """Pictures on the way that came; they are billed."""
    _spool: Spool | None = field(default=None, repr=False)
    """The data of the event that is arriving."""

    async def receive(self, reply: Reply, slots: ReceiveSlots, limit: int, deadline: asyncio.Timeout) -> Spool:
        """The data of the event that completes the stream; the spool is the caller's to discard.

        The deadline is for what the upstream sends: it stands still while an event that has come is worked on. Raises
        UpstreamStreamFailure for an error among the events, UpstreamConnectionLost if the stream ends before its time,
        UpstreamInvalidResponse if it is none.
        """
        self.log.open(relayed_with_id(reply.headers))
        try:
            async with slots.receiving(at_once=False) as slot, aclosing(reply.chunks(limit)) as chunks:
                parser = EventParser()
                async for chunk in chunks:
                    await slot.moved(len(chunk))
                    for token in parser.feed(chunk):
                        if isinstance(token, Data):
                            await self._data(token.piece)
                        elif (completed := await self._whole(token.name, deadline)) is not None:
                            return completed
                # The last blank line may be missing: the body ended as announced, and what came says whether it is whole.
                if parser.ends_inside() and (completed := await self._whole("", deadline)) is not None:
                    return completed
        finally:
            if self._spool is not None:
                self._spool.discard()
        raise UpstreamConnectionLost("The upstream's stream ended before its image was complete.")

    async def _data(self, piece: bytes) -> None:
        if self._spool is None:
            self._spool = self.spools.open(scans=True)
        # Lines of one event's data are joined by a line feed, which in JSON can only be white space.
        await self._spool.write(b" " if piece == b"\n" else piece)

    async def _whole(self, name: str, deadline: asyncio.Timeout) -> Spool | None:
        """One event, of which all has come: the reply if it is the last one, else None."""
        spool = self._spool
        if spool is None:  # an event whose data is empty
            return None
        began, until = asyncio.get_running_loop().time(), deadline.when()
        deadline.reschedule(None)
        await spool.finish()
        seen = await self.checker.peek(spool)
        kind = seen.type or name
        if seen.error is not None or "error" in (kind, name):
            raise UpstreamStreamFailure(seen.error or {}, billed=self.partials > 0)
        self._spool = None
        if kind.endswith(COMPLETED):
            return spool
        await self._tell(kind, spool, seen)
        if until is not None:
            deadline.reschedule(until + asyncio.get_running_loop().time() - began)
        return None

    async def _tell(self, kind: str, spool: Spool, seen: Peek) -> None:
        """To all who listen, without what concerns the payer alone; `[DONE]` and what else is no event to nobody."""
        self.partials += kind.endswith(PARTIAL)
        if _NAME.fullmatch(kind) is None or len(self.log.events) >= MAX_EVENTS:
            spool.discard()
            return
        if seen.echo is not None:
            await self.checker.cut(spool, seen.echo)
        self.log.add(Event(kind, await body_of(spool, self.spools.executor)))

"""One call over one connection: asks, and takes in what comes back.

The deadline ends with the last byte of the reply: what was received whole is paid for, and is kept however long it then
waits to be checked.
"""

import asyncio
from dataclasses import dataclass

from proxy.errors import UpstreamInvalidResponse, UpstreamRefusal, UpstreamTimeout
from proxy.model import Candidate
from proxy.settings import UpstreamSection
from proxy.spool import Spool
from proxy.upstream.calls import Caller
from proxy.upstream.receive import is_refusal, receive, refusal, unread_refusal
from proxy.upstream.slots import ReceiveSlots
from proxy.upstream.wire import Post, Reply, Wire

PATHS = {"image_generation": "/images/generations"}


@dataclass(slots=True)
class Attempt:
    """Who is asked for what, where the reply is spooled, and how far it got."""

    section: UpstreamSection
    candidate: Candidate
    caller: Caller
    spool: Spool
    reply: Reply | None = None
    """The head of what came back, if anything did."""
    seconds: float = 0.0
    """Until the last byte, or until it failed."""

    async def receive(self, wire: Wire, slots: ReceiveSlots, seconds: float) -> None:
        """The reply of a 200, whole, into the spool. Raises UpstreamError, StoreError, or InvalidRequest."""
        post = _post(self.section, self.candidate, self.caller)
        # TCP, then TLS: both together end before the deadline, which thus passes only on what was sent.
        connect_seconds = min(self.section.connect_timeout_seconds, seconds / 2)
        io_seconds = self.section.total_timeout_seconds
        try:
            async with (
                asyncio.timeout(seconds) as deadline,
                wire.exchange(post, connect_seconds=connect_seconds, io_seconds=io_seconds) as self.reply,
            ):
                await self._take_in(self.reply, slots)
                deadline.reschedule(None)
        except TimeoutError:
            raise self._too_late() from None
        await self.spool.finish()

    async def _take_in(self, reply: Reply, slots: ReceiveSlots) -> None:
        if is_refusal(reply):
            raise await refusal(reply, secret=_own_key(self.section, self.caller))
        if reply.status != 200:
            raise UpstreamInvalidResponse(f"The upstream answered {reply.status}, which is no answer to a request.")
        await receive(reply, self.spool, slots, images=self.candidate.request.n)

    def _too_late(self) -> UpstreamRefusal | UpstreamTimeout:
        if self.reply is not None and is_refusal(self.reply):
            return unread_refusal(self.reply)
        return UpstreamTimeout(
            f"The upstream did not answer within {self.section.total_timeout_seconds:g} seconds. "
            "The image may have been billed; imagegate does not try again by itself."
        )


def _post(section: UpstreamSection, candidate: Candidate, caller: Caller) -> Post:
    """The request as it goes out: the canonical body, and no header that is not named here."""
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "imagegate",
    }
    if caller.openai_beta:
        headers["openai-beta"] = caller.openai_beta
    if caller.credential is not None:
        headers[caller.credential.header] = caller.credential.value
        if caller.credential.organization:
            headers["openai-organization"] = caller.credential.organization
        if caller.credential.project:
            headers["openai-project"] = caller.credential.project
    elif section.api_key is not None:
        headers["authorization"] = f"Bearer {section.api_key.reveal()}"
    path = PATHS[candidate.request.operation.value]
    return Post("POST", section.base_url.rstrip("/") + path, headers, candidate.request.wire_body())


def _own_key(section: UpstreamSection, caller: Caller) -> str | None:
    return section.api_key.reveal() if caller.credential is None and section.api_key is not None else None

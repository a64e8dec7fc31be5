"""One call over one connection: asks, and takes in what comes back.

The deadline ends with the last byte of the reply: what was received whole is paid for, and is kept however long it then
waits to be checked.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from proxy import vendors
from proxy.errors import UpstreamInvalidResponse, UpstreamRefusal, UpstreamStreamFailure, UpstreamTimeout
from proxy.model import Candidate, Usage
from proxy.settings import UpstreamSection
from proxy.spool import Spool
from proxy.tracing import UNRECORDED, Span, Value
from proxy.upstream.calls import Caller
from proxy.upstream.outgoing import outgoing
from proxy.upstream.receive import is_refusal, receive, refusal, reply_limit, unread_refusal
from proxy.upstream.slots import ReceiveSlots
from proxy.upstream.stream import Intake, is_event_stream
from proxy.upstream.wire import Post, Reply, Wire

_PROVIDERS = {"azure": "azure.ai.openai", "xai": "x_ai"}
"""Vendors whose name the GenAI conventions spell differently."""


@dataclass(slots=True)
class Attempt:
    """Who is asked for what, where the reply is spooled, and how far it got."""

    section: UpstreamSection
    candidate: Candidate
    caller: Caller
    spool: Spool
    intake: Intake
    """What takes in a stream, if one comes."""
    reply: Reply | None = None
    """The head of what came back, if anything did."""
    is_event: bool = False
    """The spool holds the data of a stream's last event."""
    seconds: float = 0.0
    """Until the last byte, or until it failed."""
    span: Span = UNRECORDED
    """What tells of it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What is sent beside what every call has: the place in the trace, if that is wanted."""

    def described(self) -> Mapping[str, Value]:
        """What a span says of the call before it is made. Source: OpenTelemetry semantic conventions, GenAI spans."""
        request = self.candidate.request
        return {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.output.type": "image",
            "gen_ai.provider.name": _PROVIDERS.get(self.section.vendor, self.section.vendor),
            "gen_ai.request.model": request.model,
            "gen_ai.request.choice.count": request.n,
            "server.address": urlsplit(self.section.base_url).hostname or "",
        }

    def tell_usage(self, usage: Usage | None) -> None:
        if usage is not None:
            tokens_in = usage.text_in + usage.image_in + usage.unknown_in
            tokens_out = usage.text_out + usage.image_out
            self.span.tell({"gen_ai.usage.input_tokens": tokens_in, "gen_ai.usage.output_tokens": tokens_out})

    async def receive(self, wire: Wire, slots: ReceiveSlots, seconds: float) -> None:
        """The reply of a 200, whole, into the spool. Raises UpstreamError, StoreError, or InvalidRequest."""
        post = _post(self.section, self.candidate, self.caller, self.headers)
        # TCP, then TLS: both together end before the deadline, which thus passes only on what was sent.
        connect_seconds = min(self.section.connect_timeout_seconds, seconds / 2)
        io_seconds = self.section.total_timeout_seconds
        try:
            async with (
                asyncio.timeout(seconds) as deadline,
                wire.exchange(post, connect_seconds=connect_seconds, io_seconds=io_seconds) as self.reply,
            ):
                await self._take_in(self.reply, slots, deadline)
                deadline.reschedule(None)
        except TimeoutError:
            raise self._too_late() from None
        await self.spool.finish()

    async def _take_in(self, reply: Reply, slots: ReceiveSlots, deadline: asyncio.Timeout) -> None:
        if is_refusal(reply):
            raise await refusal(reply, secret=_own_key(self.section, self.caller))
        if reply.status != 200:
            raise UpstreamInvalidResponse(f"The upstream answered {reply.status}, which is no answer to a request.")
        request = self.candidate.request
        if not (request.stream and is_event_stream(reply.headers)):  # a stream that was asked for may come as a reply
            await receive(reply, self.spool, slots, images=request.n)
            return
        limit = reply_limit(request.n + request.partial_images)
        try:
            self.spool = await self.intake.receive(reply, slots, limit, deadline)
        except UpstreamStreamFailure as error:
            raise _without(_own_key(self.section, self.caller), error) from None
        self.is_event = True

    def _too_late(self) -> UpstreamRefusal | UpstreamTimeout:
        if self.reply is not None and is_refusal(self.reply):
            return unread_refusal(self.reply)
        return UpstreamTimeout(
            f"The upstream did not answer within {self.section.total_timeout_seconds:g} seconds. "
            "The image may have been billed; imagegate does not try again by itself."
        )


def _post(section: UpstreamSection, candidate: Candidate, caller: Caller, more: Mapping[str, str]) -> Post:
    """The request as it goes out: the body that was believed, and no header that is not named here."""
    vendor, request = vendors.of(section.vendor), candidate.request
    body = outgoing(request, vendor)
    headers = {
        "content-type": body.content_type,
        "accept": "application/json",  # also for streams, as the SDKs do: the body's `stream` decides
        "accept-encoding": "identity",
        "user-agent": "imagegate",
        **more,
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
        name, value = vendor.key_header(section.api_key.reveal())
        headers[name] = value
    return Post("POST", vendor.target(section, request.operation, request.model), headers, body)


def _own_key(section: UpstreamSection, caller: Caller) -> str | None:
    return section.api_key.reveal() if caller.credential is None and section.api_key is not None else None


def _without(secret: str | None, failure: UpstreamStreamFailure) -> UpstreamStreamFailure:
    """The same, but for our key if the upstream quotes it."""
    if not secret:
        return failure
    told = json.loads(json.dumps(failure.error).replace(secret, "[our key]"))
    return UpstreamStreamFailure(told, billed=failure.billed)

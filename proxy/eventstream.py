"""An answer as server-sent events: what the flight tells, as it tells it, then the image; and signs of life in silences.

The head waits for the upstream's own, so that a refusal keeps its status, but no longer than a silence may last. From then
on a failure is an event, and a stream that the upstream cut is not ended cleanly either. Bodies go out in windows, each
awaited: a slow reader holds one window, and nobody else. Source: OpenAI API reference, "Image streaming events".
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Send

from proxy import shapes, sse
from proxy.asking import Ask
from proxy.errors import ImagegateError, StoreError, UpstreamError, UpstreamRefusal, UpstreamStreamFailure
from proxy.model import Answer, Body, Outcome, Relay, Rendering
from proxy.replyheaders import (
    Headers,
    Moment,
    cache_headers,
    forward_headers,
    notices,
    relayed,
    server_timing,
    standing_headers,
)
from proxy.splice import Face, Piece, length_of, pieces, windows

SILENCE_SECONDS = 15.0
"""The longest; some proxies close what says nothing for a minute."""
_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # else nginx holds events back until a buffer is full
]
_AS_IT_IS = Face(Rendering.B64_JSON, "b64_json", lambda index, image: "")


@dataclass(slots=True)
class EventStream:
    """One response. `moment` tells the time when the head is written; `known` is told the answer once there is one."""

    send: Send
    ask: Ask
    moment: Callable[[], Moment]
    known: Callable[[Answer], None]
    silence_seconds: float = SILENCE_SECONDS
    _sent: int = field(default=0, init=False)
    """Events of the flight's log that are out."""

    async def answer(self, generate: Coroutine[Any, Any, Answer]) -> None:
        """Writes the whole response. Raises what `generate` raises: before the head as it is, after it when told."""
        answering = asyncio.create_task(generate)
        try:
            await self._until_head(answering)
            if answering.done() and not self.ask.listener.events:
                answer = answering.result()
                self.known(answer)
                await self._at_once(answer)
                return
            await self._begin([*_early(self.ask), *notices(self.ask.first.request, self.moment())])
            await self._follow(answering)
            try:
                answer = answering.result()
            except ImagegateError as error:
                await self._fail(error)
                raise
            self.known(answer)
            await self._frame(*await _completed(answer.outcome))
            await self._end()
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _until_head(self, answering: "asyncio.Task[Answer]") -> None:
        """Returns when the upstream streams, all is over, or it was silent for long enough."""
        try:
            async with asyncio.timeout(self.silence_seconds):
                while not answering.done() and not self.ask.listener.hears_stream:
                    await self._news(answering)
        except TimeoutError:
            pass

    async def _follow(self, answering: "asyncio.Task[Answer]") -> None:
        """Sends the events of the log, from the first, until there is an answer, or none."""
        while True:
            is_over = answering.done()
            while self._sent < len(self.ask.listener.events):
                event = self.ask.listener.events[self._sent]
                await self._frame(event.name, event.data, [(0, len(event.data))])
                self._sent += 1
            if is_over:
                return
            try:
                async with asyncio.timeout(self.silence_seconds):
                    await self._news(answering)
            except TimeoutError:
                await self._chunk(sse.COMMENT)

    async def _news(self, answering: "asyncio.Task[Answer]") -> None:
        """Returns when there is an answer, or something new in the log."""
        news = asyncio.create_task(self.ask.listener.news())
        try:
            await asyncio.wait((answering, news), return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    # --- what is written ----------------------------------------------------------------------------------------------

    async def _at_once(self, answer: Answer) -> None:
        """All is known: the head tells how the cache took part, and how long the body is."""
        outcome = answer.outcome
        name, body, data = await _completed(outcome)
        before, after = sse.framed(name)
        headers = [
            (b"content-length", b"%d" % (len(before) + length_of(data) + len(after))),
            *cache_headers(outcome),
            *notices(answer.request, self.moment()),
            *standing_headers(answer.standing),
            *relayed(outcome.relay.headers, answer.standing),
            (b"server-timing", server_timing(outcome, self.moment())),
        ]
        await self._begin(headers)
        await self._frame(name, body, data)
        await self._end()

    async def _begin(self, headers: Headers) -> None:
        await self.send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *headers]})

    async def _frame(self, name: str, body: Body, data: Sequence[Piece]) -> None:
        before, after = sse.framed(name)
        await self._chunk(before)
        with body.reading():
            for window in windows(data, body.window_bytes):
                await self._chunk(window if isinstance(window, bytes) else await body.window(*window))
        await self._chunk(after)

    async def _fail(self, error: ImagegateError) -> None:
        """The failure as an event, as the SDKs read it; a stream that was cut is then left without its end."""
        before, after = sse.framed("error")
        told = json.dumps({"type": "error", "error": _error_object(error)}).encode("ascii")
        await self._chunk(before + told + after)
        was_cut = isinstance(error, UpstreamError) and not isinstance(error, UpstreamStreamFailure) and error.billed
        if not (was_cut and self.ask.listener.hears_stream):
            await self._end()

    async def _chunk(self, content: bytes | memoryview) -> None:
        await self.send({"type": "http.response.body", "body": content, "more_body": True})

    async def _end(self) -> None:
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def _early(ask: Ask) -> Headers:
    """What is known before there is an answer: that it was sent on, and why."""
    own = {} if ask.progress.collapsed else ask.listener.headers
    standing = ask.progress.standing
    return [
        (b"cache-control", b"private, no-store"),
        *forward_headers(ask.progress),
        *standing_headers(standing),
        *relayed(own, standing),
    ]


def _error_object(error: ImagegateError) -> dict[str, Any]:
    """The error as it would have been told with a status; an upstream's own in its own words."""
    if isinstance(error, UpstreamRefusal):
        try:
            told = json.loads(error.content)["error"]
        except (ValueError, TypeError, KeyError):
            told = None
        if isinstance(told, dict):
            return told
    body: dict[str, Any] = error.body()["error"]
    return body


async def _completed(outcome: Outcome) -> tuple[str, Body, list[Piece]]:
    """The event that completes a stream: its name, and its data as pieces of the stored body."""
    metadata, body, echo = outcome.entry.metadata, outcome.entry.body, outcome.relay.echo
    name = f"{metadata.operation}.completed"
    if metadata.event is not None:  # it came as such an event
        return name, body, pieces(len(body), (), _AS_IT_IS, echo)
    return name, body, await _from_reply(name, outcome)


async def _from_reply(name: str, outcome: Outcome) -> list[Piece]:
    """What came as a reply, in the shape of an event: its first image as it is, and the little text around it anew."""
    body, images = outcome.entry.body, outcome.entry.metadata.images
    texts: list[bytes] = []
    at = 0
    for start, stop in [*(image.value for image in images), (len(body), len(body))]:
        texts.append(bytes(await body.window(at, start)))
        at = stop
    if images:
        try:
            before, after = shapes.as_event(texts[0], b"".join(texts[1:]), name)
        except StoreError:
            pass  # a reply that is not stored: its first item is an address
        else:
            return [before, images[0].value, _echoed(after, outcome.relay)]
    return [_echoed(shapes.link_event(b"".join(texts), name), outcome.relay)]


def _echoed(text: bytes, relay: Relay) -> bytes:
    """The end of an object with the caller's own member, which has the comma of where it was cut out."""
    if relay.echo is None:
        return text
    return text.rstrip()[:-1] + b"," + relay.echo[1].translate(None, b"\r\n").strip(b", \t") + b"}"

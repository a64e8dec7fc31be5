"""Outcome or error to response: the only place that writes responses of the data plane.

Bodies go out in windows, each awaited, so that a slow reader holds one window and not a picture. `Content-Length` is
always exact; a body that cannot be read to its end is never ended cleanly.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pybase64
from starlette.types import Send

from proxy.errors import ImagegateError, UpstreamRefusal
from proxy.filelinks import EXTENSIONS, FileLink, FileLinks
from proxy.model import Answer, Body, Entry, ImageSpan, Progress, Rehearsal, Rendering
from proxy.money import dollars, estimated_cost
from proxy.replyheaders import (
    Headers,
    Moment,
    cache_headers,
    encoded,
    forward_headers,
    notices,
    relayed,
    server_timing,
    standing_headers,
)
from proxy.settings import RenderSection
from proxy.splice import Face, Piece, length_of, pieces, windows

FILES_PATH = "/v1/images/files/"


@dataclass(frozen=True, slots=True)
class Renderer:
    """Writes responses. `clock` is not needed: whatever depends on time is passed in."""

    section: RenderSection
    links: FileLinks

    async def answer(self, send: Send, answer: Answer, *, asked: str | None, origin: str, moment: Moment) -> None:
        """A reply with its images; `asked` is `X-Imagegate-Response-Format`, `origin` what links begin with."""
        outcome = answer.outcome
        metadata, body = outcome.entry.metadata, outcome.entry.body
        face = self._face(answer, asked, origin, moment)
        parts = pieces(len(body), metadata.images, face, outcome.relay.echo, metadata.event)
        headers = [
            (b"content-length", b"%d" % length_of(parts)),
            *cache_headers(outcome),
            *notices(answer.request, moment),
            *standing_headers(answer.standing),
            (b"content-type", outcome.relay.content_type.encode("latin-1")),
            *relayed(outcome.relay.headers, answer.standing),
            (b"server-timing", server_timing(outcome, moment)),
        ]
        await _start(send, 200, headers)
        with body.reading():
            await _send_pieces(send, body, parts)

    def _face(self, answer: Answer, asked: str | None, origin: str, moment: Moment) -> Face:
        word = asked or answer.request.response_format
        rendering = Rendering(word) if word else self.section.default
        expires_at = int(moment.wall) + self.section.url_ttl_seconds
        metadata = answer.outcome.entry.metadata

        def link(index: int, image: ImageSpan) -> str:
            name = self.links.name(FileLink.to(metadata, index, expires_at))
            return f"{origin}{FILES_PATH}{name}.{EXTENSIONS[image.media_type]}"

        if rendering is Rendering.URL and not answer.outcome.stored:
            rendering = Rendering.DATA_URL  # nothing to link to; this is an address that works, too
        return Face(rendering, self.section.data_url_field if word != "url" else "url", link)

    async def rehearsal(self, send: Send, rehearsal: Rehearsal) -> None:
        """What a dry run found."""
        request, candidate = rehearsal.candidate.request, rehearsal.candidate
        usage, cost = request.estimate, estimated_cost(request)
        document = {
            "object": "imagegate.dry_run",
            "request": json.loads(request.canonical),
            "upstream": candidate.upstream,
            "cache_key": candidate.key,
            "would_hit": rehearsal.forward is None,
            "forward": rehearsal.forward.value if rehearsal.forward else None,
            "estimated_input_tokens": usage.text_in + usage.image_in if usage else None,
            "estimated_output_tokens": usage.image_out + usage.text_out if usage else None,
            "estimated_cost_usd": dollars(cost) if cost is not None else None,
            "adjusted": list(request.adjusted),
        }
        await _whole(send, 200, json.dumps(document).encode(), [])

    async def error(self, send: Send, error: ImagegateError, progress: Progress, *, head_only: bool = False) -> None:
        """An error in OpenAI's shape; an upstream's own refusal as it came."""
        headers: Headers = [*encoded(error.headers), *forward_headers(progress), *standing_headers(progress.standing)]
        if error.should_retry is not None:
            headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
        content, media_type = json.dumps(error.body()).encode(), "application/json"
        if isinstance(error, UpstreamRefusal):
            content, media_type = error.content, error.media_type
        await _whole(send, error.status, content, headers, media_type=media_type, head_only=head_only)

    async def image(self, send: Send, entry: Entry, index: int, *, seconds_left: int, head_only: bool) -> None:
        """The bytes of one stored image. Raises StoreError if they give out: the response then ends visibly broken."""
        span = entry.metadata.images[index]
        headers = [
            (b"content-type", span.media_type.encode("ascii")),
            (b"content-length", b"%d" % span.size),
            (b"cache-control", b"private, max-age=%d, immutable" % max(0, seconds_left)),
            # Of the purchase, not of the key: a refresh puts another picture under the same key.
            (b"etag", b'"%s-%d"' % (entry.metadata.purchase_id.encode("ascii"), index)),
            # An SVG is a document that may carry scripts: it gets an origin of its own and may load nothing.
            (b"content-security-policy", b"sandbox; default-src 'none'; style-src 'unsafe-inline'"),
            (b"x-content-type-options", b"nosniff"),
            (b"cross-origin-resource-policy", b"cross-origin"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not head_only:
            with entry.body.reading():
                await _send_decoded(send, entry.body, span)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _whole(
    send: Send,
    status: int,
    content: bytes,
    headers: Headers,
    *,
    media_type: str = "application/json",
    head_only: bool = False,
) -> None:
    base: Headers = [
        (b"content-type", media_type.encode("latin-1", "replace")),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"private, no-store"),
    ]
    await _start(send, status, base + headers)
    await send({"type": "http.response.body", "body": b"" if head_only else content, "more_body": False})


async def _send_pieces(send: Send, body: Body, parts: Sequence[Piece]) -> None:
    """The parts in order, in windows; the last message is the one that ends the response."""
    every = list(windows(parts, body.window_bytes))
    last = len(every) - 1
    for number, window in enumerate(every):
        content = window if isinstance(window, bytes) else await body.window(*window)
        await send({"type": "http.response.body", "body": content, "more_body": number != last})


async def _send_decoded(send: Send, body: Body, span: ImageSpan) -> None:
    start, stop = span.value
    if span.escaped:  # a vendor that escapes `/`: rare enough to be read whole
        text = json.loads(b'"' + bytes(await body.window(start, stop)) + b'"')
        await send({"type": "http.response.body", "body": pybase64.b64decode(text, validate=True), "more_body": True})
        return
    for at in range(start, stop, body.window_bytes):  # multiples of four characters: each decodes by itself
        window = await body.window(at, min(at + body.window_bytes, stop))
        await send({"type": "http.response.body", "body": pybase64.b64decode(window, validate=True), "more_body": True})

"""Outcome or error to response: the only place that writes responses of the data plane.

Bodies go out in windows, each awaited, so that a slow reader holds one window and not a picture. `Content-Length` is
always exact; a body that cannot be read to its end is never ended cleanly.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pybase64
from starlette.types import Send

from proxy.errors import ImagegateError, UpstreamRefusal
from proxy.filelinks import EXTENSIONS, FileLink, FileLinks
from proxy.memo import Memo
from proxy.model import Answer, Body, Entry, ImageRequest, ImageSpan, Outcome, Progress, Rehearsal, Rendering
from proxy.money import dollars, estimated_cost
from proxy.replyheaders import (
    Headers,
    Moment,
    encoded,
    forward_headers,
    lasting_headers,
    notices,
    passing_headers,
    relayed,
    server_timing,
    standing_headers,
)
from proxy.settings import RenderSection
from proxy.splice import Face, Piece, length_of, pieces, windows

FILES_PATH = "/v1/images/files/"
SHAPES_BYTES = 4 << 20
_SHAPE_BYTES, _PIECE_BYTES = 1500, 150
"""What a kept shape takes, about, and each piece of it."""


class Wish(NamedTuple):
    """How a caller wants its images, beside what its body says."""

    rendering: str | None
    """`X-Imagegate-Response-Format`."""
    origin: str
    """What links to images begin with."""


class Shape(NamedTuple):
    """What a reply looks like whenever it is sent: the headers that do not depend on the moment, and its windows."""

    headers: Headers
    lines: bytes
    """The same as they are written."""
    windows: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Writes responses. `clock` is not needed: whatever depends on time is passed in."""

    section: RenderSection
    links: FileLinks
    shapes: Memo[tuple[str, int, Rendering], Shape] = field(default_factory=lambda: Memo(SHAPES_BYTES), repr=False)
    """Of what was bought by which purchase, in windows of which size, in which rendering."""

    async def answer(self, send: Send, answer: Answer, wish: Wish, moment: Moment) -> None:
        """A reply with its images."""
        shape, body = self._shape(answer, wish, moment), answer.outcome.entry.body
        await _start(send, 200, [*shape.headers, *_momentary(answer, moment)])
        with body.reading():
            await _send_windows(send, body, shape.windows)

    def written(self, answer: Answer, wish: Wish, moment: Moment) -> tuple[bytes, Sequence[Piece]]:
        """The same reply, for whoever writes it: the lines of its head, and what its body is made of."""
        shape = self._shape(answer, wish, moment)
        return shape.lines + _lines(_momentary(answer, moment)), shape.windows

    def rendering(self, request: ImageRequest, wish: Wish) -> Rendering:
        word = wish.rendering or request.response_format
        return Rendering(word) if word else self.section.default

    def _shape(self, answer: Answer, wish: Wish, moment: Moment) -> Shape:
        """Kept for hits, unless it has links in it, which expire."""
        rendering, entry = self.rendering(answer.request, wish), answer.outcome.entry
        if answer.outcome.forward is not None or rendering is Rendering.URL:
            return _shaped(answer.outcome, self._face(answer, rendering, wish, moment))
        known = (entry.metadata.purchase_id, entry.body.window_bytes, rendering)
        shape = self.shapes.get(known)
        if shape is None:
            shape = _shaped(answer.outcome, self._face(answer, rendering, wish, moment))
            self.shapes.keep(known, shape, _SHAPE_BYTES + _PIECE_BYTES * len(shape.windows))
        return shape

    def _face(self, answer: Answer, rendering: Rendering, wish: Wish, moment: Moment) -> Face:
        expires_at = int(moment.wall) + self.section.url_ttl_seconds
        metadata = answer.outcome.entry.metadata

        def link(index: int, image: ImageSpan) -> str:
            name = self.links.name(FileLink.to(metadata, index, expires_at))
            return f"{wish.origin}{FILES_PATH}{name}.{EXTENSIONS[image.media_type]}"

        if rendering is Rendering.URL and not answer.outcome.stored:
            rendering = Rendering.DATA_URL  # nothing to link to; this is an address that works, too
        asks_for_links = (wish.rendering or answer.request.response_format) == Rendering.URL
        return Face(rendering, "url" if asks_for_links else self.section.data_url_field, link)

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


def goes_out_at_once(answer: Answer) -> bool:
    """Its body lies in memory and is one window: there is no moment at which a client that hangs up could spare us work."""
    entry = answer.outcome.entry
    return entry.tier == "memory" and len(entry.body) <= entry.body.window_bytes


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


def _shaped(outcome: Outcome, face: Face) -> Shape:
    metadata, body = outcome.entry.metadata, outcome.entry.body
    parts = pieces(len(body), metadata.images, face, outcome.relay.echo, metadata.event)
    headers = [
        (b"content-length", b"%d" % length_of(parts)),
        (b"content-type", outcome.relay.content_type.encode("latin-1")),
        *lasting_headers(outcome),
    ]
    return Shape(headers, _lines(headers), tuple(windows(parts, body.window_bytes)))


def _momentary(answer: Answer, moment: Moment) -> Headers:
    """The headers that depend on the moment."""
    outcome = answer.outcome
    return [
        *passing_headers(outcome),
        *notices(answer.request, moment),
        *standing_headers(answer.standing),
        *relayed(outcome.relay.headers, answer.standing),
        (b"server-timing", server_timing(outcome, moment)),
    ]


def _lines(headers: Headers) -> bytes:
    """As they stand in a head (RFC 9112 §5). Of a hit all of them are our own words."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])


async def _send_windows(send: Send, body: Body, every: Sequence[Piece]) -> None:
    """In order; the last message is the one that ends the response."""
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

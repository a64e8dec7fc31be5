"""Outcome or error to response: the only place that writes responses of the data plane.

Bodies go out in windows, each awaited, so that a slow reader holds one window and not a picture. `Content-Length` is
always exact; a body that cannot be read to its end is never ended cleanly.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pybase64
from starlette.types import Send

from proxy.clock import midnight
from proxy.errors import ImagegateError, UpstreamRefusal
from proxy.filelinks import EXTENSIONS, FileLink, FileLinks
from proxy.model import Answer, Body, Entry, ImageSpan, Outcome, Progress, Rehearsal, Rendering
from proxy.money import dollars, estimated_cost
from proxy.settings import RenderSection
from proxy.splice import Face, Piece, length_of, pieces

SUNSET_NOTICE = timedelta(days=60)
FILES_PATH = "/v1/images/files/"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Writes responses. `clock` is not needed: whatever depends on time is passed in."""

    section: RenderSection
    links: FileLinks

    async def answer(self, send: Send, answer: Answer, *, asked: str | None, origin: str, moment: "Moment") -> None:
        """A reply with its images; `asked` is `X-Imagegate-Response-Format`, `origin` what links begin with."""
        outcome = answer.outcome
        metadata, body = outcome.entry.metadata, outcome.entry.body
        face = self._face(answer, asked, origin, moment)
        parts = pieces(len(body), metadata.images, face, outcome.relay.echo)
        headers = [
            (b"content-length", b"%d" % length_of(parts)),
            *_cache_headers(outcome),
            *_notices(answer, moment),
            *_encoded({"content-type": "application/json", **outcome.relay.headers}),
            (b"server-timing", _server_timing(outcome, moment)),
        ]
        await _start(send, 200, headers)
        with body.reading():
            await _send_pieces(send, body, parts)

    def _face(self, answer: Answer, asked: str | None, origin: str, moment: "Moment") -> Face:
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
        headers: Headers = [*_encoded(error.headers), *_forward_headers(progress)]
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


@dataclass(frozen=True, slots=True)
class Moment:
    """When a response is written: wall clock, and seconds since the request arrived."""

    wall: float
    elapsed_seconds: float


def cache_status(outcome: Outcome) -> str:
    """The member of `Cache-Status` that is ours (RFC 9211 §2)."""
    if outcome.forward is None:
        return f"imagegate; hit; ttl={outcome.ttl_seconds}; detail={outcome.entry.tier}"
    parameters = ["imagegate", f"fwd={outcome.forward.value}"]
    if outcome.stored:
        parameters.append("stored")
    if outcome.collapsed:
        parameters.append("collapsed")
    return "; ".join(parameters)


def _forward_headers(progress: Progress) -> Iterable[tuple[bytes, bytes]]:
    """How the cache took part in a call that was sent on and failed there."""
    if progress.forward is not None:
        collapsed = "; collapsed" if progress.collapsed else ""
        yield b"cache-status", f"imagegate; fwd={progress.forward.value}{collapsed}".encode("ascii")
        yield b"x-imagegate-cache", progress.forward.label(collapsed=progress.collapsed).upper().encode("ascii")
        yield b"x-imagegate-cache-key", progress.key[:12].encode("ascii")


def _cache_headers(outcome: Outcome) -> Iterable[tuple[bytes, bytes]]:
    metadata = outcome.entry.metadata
    yield b"cache-control", b"private, no-store"
    yield b"cache-status", cache_status(outcome).encode("ascii")
    yield b"x-imagegate-cache", outcome.label.upper().encode("ascii")
    yield b"x-imagegate-cache-key", metadata.key[:12].encode("ascii")
    if outcome.forward is None:
        yield b"age", b"%d" % outcome.age_seconds
    if outcome.cost is not None:
        yield b"x-imagegate-cost-usd", dollars(outcome.cost).encode("ascii")
    if outcome.saved is not None:
        yield b"x-imagegate-saved-usd", dollars(outcome.saved).encode("ascii")
    if outcome.forward is not None and not outcome.collapsed and metadata.upstream_request_id:
        yield b"x-imagegate-upstream-request-id", metadata.upstream_request_id.encode("ascii")


def _notices(answer: Answer, moment: Moment) -> Iterable[tuple[bytes, bytes]]:
    """What the caller should know: what was adjusted, and a model's end (RFC 8594, RFC 9745)."""
    request = answer.request
    if request.adjusted:
        yield b"x-imagegate-adjusted", ", ".join(request.adjusted).encode("ascii", "replace")
    if request.shutdown_date is None:
        return
    sunset = midnight(request.shutdown_date)
    if sunset - SUNSET_NOTICE <= datetime.fromtimestamp(moment.wall, UTC):
        deprecated = midnight(request.announced_date or request.shutdown_date)
        yield b"sunset", format_datetime(sunset, usegmt=True).encode("ascii")
        yield b"deprecation", b"@%d" % int(deprecated.timestamp())


def _server_timing(outcome: Outcome, moment: Moment) -> bytes:
    """Milliseconds in all, upstream, and here (W3C Server Timing)."""
    total = moment.elapsed_seconds * 1000
    upstream = min(outcome.upstream_seconds * 1000, total)
    return b"total;dur=%.1f, upstream;dur=%.1f, proxy;dur=%.1f" % (total, upstream, total - upstream)


def _encoded(headers: Mapping[str, str]) -> Iterable[tuple[bytes, bytes]]:
    return ((name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items())


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
    windows = [window for part in parts for window in _windows(part, body.window_bytes)]
    last = len(windows) - 1
    for number, window in enumerate(windows):
        content = window if isinstance(window, bytes) else await body.window(*window)
        await send({"type": "http.response.body", "body": content, "more_body": number != last})


def _windows(part: Piece, size: int) -> Iterable[Piece]:
    if isinstance(part, bytes):
        return [part]
    start, stop = part
    return [(at, min(at + size, stop)) for at in range(start, stop, size)]


async def _send_decoded(send: Send, body: Body, span: ImageSpan) -> None:
    start, stop = span.value
    if span.escaped:  # a vendor that escapes `/`: rare enough to be read whole
        text = json.loads(b'"' + bytes(await body.window(start, stop)) + b'"')
        await send({"type": "http.response.body", "body": pybase64.b64decode(text, validate=True), "more_body": True})
        return
    for piece in _windows((start, stop), body.window_bytes):  # multiples of four characters: each decodes by itself
        window = await body.window(*piece)
        await send({"type": "http.response.body", "body": pybase64.b64decode(window, validate=True), "more_body": True})

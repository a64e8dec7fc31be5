"""The sandbox as an ASGI application: an Images API that needs no network, no key and no model.

Law: painting never runs on the event loop, and nothing a call asks for outlives the call except what is counted.
"""

import random
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256

import anyio
import anyio.to_thread
from PIL.Image import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from proxy import ids
from proxy.catalogue import Catalogue
from proxy.clock import Clock
from proxy.errors import RequestError
from proxy.sandbox import painter, wire
from proxy.sandbox.believe import Believer, Order
from proxy.sandbox.options import SandboxOptions, Wishes, wishes
from proxy.strictjson import parse_object

_MOST_BODY_BYTES = 4 << 20
_KEPT_PICTURES = 64
_COUNTED_PROMPTS = 10_000


@dataclass(slots=True)
class Tally:
    """What has been asked and what would have been paid, since the start."""

    calls: int = 0
    billed: int = 0
    images: int = 0
    in_flight: int = 0
    by_prompt_digest: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def bill(self, order: Order) -> None:
        self.billed += 1
        self.images += order.n
        digest = sha256(order.prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.by_prompt_digest[digest] = self.by_prompt_digest.pop(digest, 0) + 1
        if len(self.by_prompt_digest) > _COUNTED_PROMPTS:
            self.by_prompt_digest.popitem(last=False)


@dataclass(slots=True)
class Call:
    """One call on its way: who it is, since when, and what it wishes of the sandbox."""

    request_id: str
    started: float
    wishes: Wishes
    latency_seconds: float
    base_url: str


def application(options: SandboxOptions, catalogue: Catalogue, clock: Clock) -> ASGIApp:
    """The sandbox for one set of options."""
    sandbox = Sandbox(options, catalogue, clock)
    routes = [Route(prefix + "/images/generations", sandbox.generate, methods=["POST"]) for prefix in ("/v1", "")]
    routes += [
        Route("/v1/images/sandbox/{name}", sandbox.picture, methods=["GET"]),
        Route("/sandbox/calls", sandbox.calls, methods=["GET"]),
        Route("/healthz", sandbox.alive, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _not_served})


class Sandbox:
    """The handlers and the little they remember."""

    def __init__(self, options: SandboxOptions, catalogue: Catalogue, clock: Clock) -> None:
        self._options = options
        self._believer = Believer(catalogue, options)
        self._clock = clock
        self._chance = random.Random(options.seed)  # noqa: S311 - weather, not secrets
        self._painters = anyio.CapacityLimiter(options.painters)
        self._pictures: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._tally = Tally()

    async def generate(self, request: Request) -> Response:
        """POST /v1/images/generations."""
        self._tally.calls += 1
        self._tally.in_flight += 1
        call = Call(ids.request_id(), self._clock.monotonic(), Wishes(), 0.0, str(request.base_url))
        try:
            return await self._answer(request, call)
        except RequestError as error:
            return self._refusal(wire.from_request_error(error), call)
        except wire.Refusal as refusal:
            return self._refusal(refusal, call)
        finally:
            self._tally.in_flight -= 1

    async def picture(self, request: Request) -> Response:
        """GET of an image that was answered as a `url`."""
        kept = self._pictures.get(request.path_params["name"])
        if kept is None:
            raise HTTPException(404)
        return Response(kept[0], media_type=kept[1])

    async def calls(self, _: Request) -> Response:
        """GET /sandbox/calls: shows that a second, cached call never got here."""
        tally = self._tally
        return JSONResponse({
            "calls": tally.calls,
            "billed": tally.billed,
            "images": tally.images,
            "in_flight": tally.in_flight,
            "by_prompt_digest": tally.by_prompt_digest,
        })  # fmt: skip

    async def alive(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _answer(self, request: Request, call: Call) -> Response:
        self._admit(request)
        document = parse_object(await _json_body(request))
        call.wishes = wishes(document.get("prompt"), request.headers.get("x-sandbox", ""))
        call.latency_seconds = self._latency(call.wishes)
        order = self._believer.order(document)
        await self._weather(order, call)
        self._tally.bill(order)
        if order.stream:
            images = await self._paint(order)
            events = self._events(order, call, images[0])
            return StreamingResponse(events, media_type="text/event-stream", headers=self._headers(call))
        images = await self._paint(order)
        await self._wait(call.started + call.latency_seconds)
        return await self._reply(order, call, images)

    def _admit(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")
        if not key and self._options.require_key:
            raise wire.missing_key()
        if key.startswith("sk-wrong"):
            raise wire.wrong_key(key)

    def _latency(self, wished: Wishes) -> float:
        if wished.latency_seconds is not None:
            return wished.latency_seconds
        return self._options.latency_seconds + self._chance.uniform(0, self._options.jitter_seconds)

    async def _weather(self, order: Order, call: Call) -> None:
        """What may befall a valid call: by wish, or by chance."""
        if "wrong-key" in call.wishes:
            raise wire.wrong_key("sk-wrong")
        if "moderation" in call.wishes:
            raise wire.moderation_blocked(call.request_id, "input")
        if "moderation-output" in call.wishes:
            await self._wait(call.started + call.latency_seconds)
            raise wire.moderation_blocked(call.request_id, "output")
        if "rate-limit" in call.wishes or self._chance.random() < self._options.rate_limit_rate:
            raise wire.rate_limited(order.model)
        if "error" in call.wishes or self._chance.random() < self._options.failure_rate:
            await self._wait(call.started + call.latency_seconds)
            raise wire.server_error(call.request_id)

    async def _paint(self, order: Order) -> list[Image]:
        def work() -> list[Image]:
            clear = order.background == "transparent"
            return [
                painter.picture(order.prompt, order.width, order.height, number=number, transparent=clear)
                for number in range(order.n)
            ]

        return await anyio.to_thread.run_sync(work, limiter=self._painters)

    async def _reply(self, order: Order, call: Call, images: list[Image]) -> Response:
        links = "url" in call.wishes or self._options.answer_with_urls
        usage = self._options.report_usage and "no-usage" not in call.wishes
        created = int(self._clock.wall())

        def work() -> tuple[bytes, list[bytes]]:
            files = [painter.encode(image, order.output_format, order.compression) for image in images]
            urls = [f"{call.base_url}v1/images/sandbox/{_name(file, order)}" for file in files] if links else []
            return wire.reply(order, files, urls, created, usage=usage), files

        body, files = await anyio.to_thread.run_sync(work, limiter=self._painters)
        if links:
            self._keep(files, order)
        return Response(body, media_type="application/json", headers=self._headers(call))

    def _keep(self, files: list[bytes], order: Order) -> None:
        for file in files:
            self._pictures[_name(file, order)] = (file, f"image/{order.output_format}")
            while len(self._pictures) > _KEPT_PICTURES:
                self._pictures.popitem(last=False)

    async def _events(self, order: Order, call: Call, image: Image) -> AsyncIterator[bytes]:
        """Partial pictures at even distances over the latency, then the whole one."""
        created, steps = int(self._clock.wall()), order.partial_images
        usage = self._options.report_usage and "no-usage" not in call.wishes
        for step in range(steps + 1):
            last = step == steps

            def work(step: int = step, last: bool = last) -> bytes:
                shown = image if last else painter.sketch(image, step, steps)
                file = painter.encode(shown, order.output_format, order.compression)
                if last:
                    return wire.completed_event(order, file, created, usage=usage)
                return wire.partial_event(order, file, step, created)

            event = await anyio.to_thread.run_sync(work, limiter=self._painters)
            await self._wait(call.started + call.latency_seconds * (step + 1) / (steps + 1))
            if last and "stream-error" in call.wishes:
                event = wire.framed("error", wire.stream_failure())
            yield event

    async def _wait(self, until: float) -> None:
        remaining = until - self._clock.monotonic()
        if remaining > 0:
            await anyio.sleep(remaining)

    def _headers(self, call: Call) -> dict[str, str]:
        return wire.headers(call.request_id, self._clock.monotonic() - call.started, self._tally.calls)

    def _refusal(self, refusal: wire.Refusal, call: Call) -> Response:
        headers = {**self._headers(call), **refusal.headers}
        return JSONResponse({"error": refusal.error}, refusal.status, headers=headers)


def _name(file: bytes, order: Order) -> str:
    return f"{sha256(file).hexdigest()[:32]}.{order.output_format}"


async def _json_body(request: Request) -> bytes:
    """The whole body. Refuses what is not announced as JSON, and what is too large."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        message = (
            f"Unsupported content type: '{kind[:100]}'. This API method only accepts 'application/json' requests, but "
            f"you specified the header 'Content-Type: {kind[:100]}'. Please try again with a supported content type."
        )
        raise wire.Refusal(400, wire.error_object("invalid_request_error", message, code="unsupported_content_type"))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY_BYTES:
            raise wire.Refusal(413, wire.error_object("invalid_request_error", "Request body is too large."))
    return bytes(body)


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    message = f"Invalid URL ({where})" if error.status_code == 404 else f"Not allowed to {where}."
    body = {"error": wire.error_object("invalid_request_error", message)}
    return JSONResponse(body, error.status_code, headers=error.headers)

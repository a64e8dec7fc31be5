"""The sandbox as an ASGI application: an Images API that needs no network, no key and no model.

Law: painting never runs on the event loop, and nothing a call asks for outlives the call except what is counted.
"""

import random
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256

import anyio
import anyio.to_thread
from PIL.Image import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from proxy import ids, models
from proxy.catalogue import Catalogue
from proxy.clock import Clock
from proxy.errors import ImagegateError
from proxy.model import Operation
from proxy.sandbox import painter, wire
from proxy.sandbox.believe import Believer, Order
from proxy.sandbox.intake import Intake
from proxy.sandbox.options import SandboxOptions, Wishes, wishes
from proxy.sandbox.retoucher import retouch
from proxy.sandbox.tally import Tally
from proxy.settings import UpstreamSection

_KEPT_PICTURES = 64


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
    routes = [
        Route(prefix + path, endpoint, methods=[method])
        for prefix in ("/v1", "")
        for method, path, endpoint in (
            ("POST", "/images/generations", sandbox.generate),
            ("POST", "/images/edits", sandbox.edit),
            ("GET", "/models", sandbox.models),
            ("GET", "/models/{model:path}", sandbox.model),
        )
    ]
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
        self._intake = Intake(options.painters)
        self._catalogue = catalogue
        self._clock = clock
        self._chance = random.Random(options.seed)  # noqa: S311 - weather, not secrets
        self._painters = anyio.CapacityLimiter(options.painters)
        self._pictures: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._tally = Tally()

    async def generate(self, request: Request) -> Response:
        """POST /v1/images/generations."""
        return await self._called(request, Operation.GENERATION)

    async def edit(self, request: Request) -> Response:
        """POST /v1/images/edits."""
        return await self._called(request, Operation.EDIT)

    async def models(self, _: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": models.listing(self._catalogue, self._as_upstream(), {})})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        try:
            found = models.find(self._catalogue, self._as_upstream(), {}, request.path_params["model"])
        except ImagegateError as error:
            return JSONResponse(error.body(), error.status)
        return JSONResponse(found)

    async def picture(self, request: Request) -> Response:
        """GET of an image that was answered as a `url`."""
        kept = self._pictures.get(request.path_params["name"])
        if kept is None:
            raise HTTPException(404)
        return Response(kept[0], media_type=kept[1])

    async def calls(self, _: Request) -> Response:
        """GET /sandbox/calls: shows that a second, cached call never got here."""
        return JSONResponse(self._tally.shown())

    async def alive(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def _as_upstream(self) -> list[UpstreamSection]:
        """The catalogue of one vendor, as of an upstream that serves all of it."""
        return [UpstreamSection(name="sandbox", vendor=self._options.vendor, base_url="http://sandbox/v1")]

    async def _called(self, request: Request, operation: Operation) -> Response:
        self._tally.calls += 1
        self._tally.in_flight += 1
        call = Call(ids.request_id(), self._clock.monotonic(), Wishes(), 0.0, str(request.base_url))
        try:
            return await self._answer(request, call, operation)
        except ImagegateError as error:
            return self._refusal(wire.from_error(error), call)
        except wire.Refusal as refusal:
            return self._refusal(refusal, call)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        finally:
            self._tally.in_flight -= 1

    async def _answer(self, request: Request, call: Call, operation: Operation) -> Response:
        order = await self._order(request, call, operation)
        await self._weather(order, call)
        self._tally.bill(order)
        images = await self._paint(order)
        if order.stream:
            events = self._events(order, call, images[0])
            return StreamingResponse(events, media_type="text/event-stream", headers=self._headers(call))
        await self._wait(call.started + call.latency_seconds)
        return await self._reply(order, call, images)

    async def _order(self, request: Request, call: Call, operation: Operation) -> Order:
        self._admit(request)
        document = await self._intake.document(request, operation)
        call.wishes = wishes(document.fields.get("prompt"), request.headers.get("x-sandbox", ""))
        call.latency_seconds = self._latency(call.wishes)
        asked = self._believer.request(document, operation)
        return self._believer.order(asked, await self._intake.originals(asked))

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
            return [_painted(order, number) for number in range(order.n)]

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


def _painted(order: Order, number: int) -> Image:
    is_clear = order.background == "transparent"
    if order.operation is Operation.GENERATION:
        return painter.picture(order.prompt, order.width, order.height, number=number, transparent=is_clear)
    image = retouch(order.prompt, order.originals, (order.width, order.height), number)
    return painter.vignette(image) if is_clear else image


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    message = f"Invalid URL ({where})" if error.status_code == 404 else f"Not allowed to {where}."
    body = {"error": wire.error_object("invalid_request_error", message)}
    return JSONResponse(body, error.status_code, headers=error.headers)

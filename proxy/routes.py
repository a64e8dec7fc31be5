"""HTTP in: what is served, and how a request becomes an Inbound.

The Images API is answered by a short raw-ASGI stage in front of Starlette's router, because a hit is little more than its
own bytes: router and Request cost a third of the hits per second at 300 KB. Everything else is ordinary Starlette.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from secrets import compare_digest
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy import allowance, models
from proxy.addresses import is_authority
from proxy.asking import Ask, Doorkeeper
from proxy.bodies import Bodies, ClientGone, Incoming
from proxy.catalogue import Catalogue
from proxy.clock import Clock
from proxy.errors import InvalidRequest, MethodNotAllowed, NotFound, Unauthenticated
from proxy.eventstream import SILENCE_SECONDS, EventStream
from proxy.filelinks import EXTENSIONS, FileLinks
from proxy.health import Health
from proxy.metrics import Metrics
from proxy.middleware import Call, call_of, headers_of
from proxy.model import Answer, Document, Inbound, Rendering, Unparsed
from proxy.pipeline import Pipeline
from proxy.render import Renderer, Wish, goes_out_at_once
from proxy.replay import WHOLE_REQUEST, Heard, Replays, is_repeatable
from proxy.replyheaders import Moment
from proxy.settings import MetricsSection, ServerSection, UpstreamSection
from proxy.store import Store
from proxy.targets import Target, target_of

SERVED = (
    "POST /v1/images/generations, POST /v1/images/edits, GET /v1/models, GET /v1/models/{id}, "
    "GET /v1/images/files/{id}, GET /healthz, GET /readyz, GET /metrics"
)

_KNOWN = {
    name.encode(): name
    for name in (
        "authorization",
        "api-key",
        "openai-organization",
        "openai-project",
        "openai-beta",
        "origin",
        "cache-control",
        "content-type",
        "content-length",
        "content-encoding",
        "host",
        "x-forwarded-host",
        "x-forwarded-proto",
        "idempotency-key",
        "x-api-key",
        "x-imagegate-tags",
        "x-imagegate-variant",
        "x-imagegate-response-format",
        "x-imagegate-cache-ttl",
        "x-imagegate-dry-run",
    )
}


@dataclass(frozen=True, slots=True)
class ImagesApi:
    """`POST /v1/images/generations` and `/v1/images/edits`; passes everything else on to `others`."""

    pipeline: Pipeline
    bodies: Bodies
    renderer: Renderer
    server: ServerSection
    metrics: Metrics
    clock: Clock
    others: ASGIApp
    replays: Replays
    silence_seconds: float = SILENCE_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = target_of(scope["path"]) if scope["type"] == "http" else None
        if target is None:
            await self.others(scope, receive, send)
            return
        call = call_of(scope)
        call.operation, call.route = target.operation, target.route
        self.metrics.started(call.operation.value)
        try:
            await self._images(target, scope, receive, send)
        finally:
            self.metrics.finished(call.operation.value)

    async def _images(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        if scope["method"] != "POST":
            raise MethodNotAllowed(
                f"Not allowed to {scope['method']} on {target.route}. It takes POST.", headers={"allow": "POST"}
            )
        headers = headers_of(scope, _KNOWN)
        incoming = Incoming(receive, self.server.receive_timeout_seconds)

        async def read() -> Document | Unparsed:
            try:
                return await self.bodies.read(target, headers, incoming)
            finally:
                call.received_bytes = incoming.received_bytes
                self.metrics.body_bytes(target.operation.value, incoming.received_bytes)

        try:
            ask = await self.pipeline.believe(
                Inbound(target.operation, headers, read, call.arrived_wall, call.progress, call.request_id)
            )
        except ClientGone:
            call.gone = True
            return
        rules = self.pipeline.doorkeeper.validator  # which judged it: a reload may come before the last byte is out
        try:
            asked = _asked_rendering(headers.get("x-imagegate-response-format"))
            is_dry_run = _is_dry_run(headers.get("x-imagegate-dry-run"))
        except InvalidRequest as error:
            self.metrics.rejected(error.param, error.code)
            raise
        if is_dry_run:
            await self.renderer.rehearsal(send, await self.pipeline.rehearse(ask))
            return
        if ask.first.request.stream:
            await _unless_gone(self._stream(send, ask, call), receive, call)
            return
        wish, entry = Wish(asked, self._origin(scope, headers)), self.pipeline.at_hand(ask)
        answer = None if entry is None else self.pipeline.serve(ask, entry)
        answering = self._answer(send, ask, call, answer, wish)
        if answer is not None and goes_out_at_once(answer):
            await answering
        else:
            await _unless_gone(answering, receive, call)
        if answer is not None and not call.gone and is_repeatable(scope):
            still_stands = self.pipeline.doorkeeper.authenticator.witness(headers, ask.principal)
            self.replays.keep(
                scope["extensions"][WHOLE_REQUEST]["bytes"], Heard(ask, still_stands, rules, wish, call, {})
            )

    async def _answer(self, send: Send, ask: Ask, call: Call, answer: Answer | None, wish: Wish) -> None:
        answer = answer or await self.pipeline.generate(ask)
        call.outcome = answer.outcome
        await self.renderer.answer(send, answer, wish, self._moment(call))

    async def _stream(self, send: Send, ask: Ask, call: Call) -> None:
        call.is_stream = True

        def known(answer: Answer) -> None:
            call.outcome = answer.outcome

        stream = EventStream(send, ask, lambda: self._moment(call), known, self.silence_seconds)
        await stream.answer(self.pipeline.generate(ask))

    def _moment(self, call: Call) -> Moment:
        return Moment(self.clock.wall(), self.clock.monotonic() - call.arrived_monotonic)

    def _origin(self, scope: Scope, headers: dict[str, str]) -> str:
        """What links to images begin with: `server.public_url`, else what a trusted proxy or the client called us."""
        if self.server.public_url:
            return self.server.public_url.rstrip("/")
        scheme: str = scope.get("scheme", "http")
        host = headers.get("host", "")
        if _is_trusted(scope, self.server.trusted_proxies):
            scheme = _first(headers.get("x-forwarded-proto", scheme))
            host = _first(headers.get("x-forwarded-host", host))
        if scheme not in ("http", "https") or not is_authority(host):
            scheme, host = "http", f"{self.server.host}:{self.server.port}"
        return f"{scheme}://{host}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ordinary route: its methods, and what it answers to them."""

    name: str
    handle: Callable[[Request], Awaitable[Response]]
    methods: tuple[str, ...] = ("GET", "HEAD")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call_of(scope).route = self.name
        if scope["method"] not in self.methods:
            raise MethodNotAllowed(
                f"Not allowed to {scope['method']} on {self.name}. It takes {' and '.join(self.methods)}.",
                headers={"allow": ", ".join(self.methods)},
            )
        response = await self.handle(Request(scope, receive))
        await response(scope, receive, send)


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(f"Unknown request URL: {scope['method']} {scope['path']}. imagegate serves {SERVED}.")


class LateRoutes:
    """Routes that are made, in a thread, by the first request for one of them: no start waits for what they import.

    An ASGI application. `roots` is what their paths begin with; what is none of them is answered with what is served.
    """

    def __init__(self, roots: tuple[str, ...], make: Callable[[], Sequence[Route]]) -> None:
        self._roots = roots
        self._make = make
        self._making = asyncio.Lock()
        self._router: Router | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = await self.router() if scope["path"].startswith(self._roots) else _unknown
        await answering(scope, receive, send)

    async def router(self) -> Router:
        """The same one each time."""
        async with self._making:  # two at once would make each its own: what they count would be counted apart
            if self._router is None:
                routes = await to_thread.run_sync(self._make)
                self._router = Router(routes, redirect_slashes=False, default=_unknown)
        return self._router


def other_routes(
    *, models: "Models", files: "Files", metrics_page: "MetricsPage | None", health: Health, more: LateRoutes
) -> Router:
    """Models, files, health and metrics, then `more`; everything else is answered with what is served."""

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        problems = health.problems()
        status = 503 if problems else 200
        return JSONResponse({"status": "not ready" if problems else "ok", "problems": problems}, status)

    alive_paths = ("/healthz", "/health", "/health/liveliness", "/health/liveness")
    routes = [Route(path, Endpoint("/healthz", alive)) for path in alive_paths]
    routes += [Route(path, Endpoint("/readyz", ready)) for path in ("/readyz", "/health/readiness")]
    for root in ("/v1", "", "/openai/v1", "/openai"):
        routes.append(Route(f"{root}/models", Endpoint("/v1/models", models.list)))
        # The SDKs percent-encode a name; some have a slash in them.
        routes.append(Route(f"{root}/models/{{name:path}}", Endpoint("/v1/models/{id}", models.retrieve)))
    routes.append(Route("/v1/images/files/{name}", files))
    if metrics_page is not None:
        routes.append(Route("/metrics", Endpoint("/metrics", metrics_page)))
    return Router(routes, redirect_slashes=False, default=more)


@dataclass(frozen=True, slots=True)
class Models:
    """`GET /v1/models` and `/v1/models/{id}`: what the catalogue lists of what the upstreams serve and the key may use."""

    doorkeeper: Doorkeeper

    async def list(self, request: Request) -> Response:
        may_use = self._may_use(request)
        found = [model for model in models.listing(*self._sources()) if may_use(model["id"])]
        return JSONResponse({"object": "list", "data": found})

    async def retrieve(self, request: Request) -> Response:
        may_use, name = self._may_use(request), request.path_params["name"]
        found = models.find(*self._sources(), name)
        if not may_use(name):
            raise models.unknown(name)
        return JSONResponse(found)

    def _may_use(self, request: Request) -> Callable[[str], bool]:
        """What the caller's key may ask for, or everything without one. Raises Unauthenticated."""
        holder = self.doorkeeper.authenticate(request.headers).holder
        return partial(allowance.may_use, holder) if holder is not None else lambda name: True

    def _sources(self) -> tuple[Catalogue, Sequence[UpstreamSection], Mapping[str, str]]:
        validator = self.doorkeeper.validator  # exchanged whole on a reload
        return validator.catalogue, self.doorkeeper.upstreams, validator.rules.aliases


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """`GET /metrics`: for this machine without a token, for others with `metrics.token`; rendered in a thread."""

    metrics: Metrics
    section: MetricsSection

    async def __call__(self, request: Request) -> Response:
        self._authorize(request)
        content, media_type = await to_thread.run_sync(self.metrics.render, request.headers.get("accept"))
        return Response(content, media_type=None, headers={"content-type": media_type, "cache-control": "no-store"})

    def _authorize(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        token = self.section.token
        if token is not None and compare_digest(given, b"Bearer " + token.reveal().encode()):
            return
        # A reverse proxy on this machine makes everybody look local: what was forwarded is not.
        forwarded = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
        if request.client is not None and _is_loopback(request.client.host) and not forwarded and not given:
            return
        raise Unauthenticated(
            "Metrics are for this machine only, or for who sends the token set as metrics.token: "
            "Authorization: Bearer TOKEN.",
            code="invalid_metrics_token",
        )


@dataclass(frozen=True, slots=True)
class Files:
    """`GET /v1/images/files/{id}.{ext}`: one stored image, for whoever holds a link that we signed."""

    store: Store
    links: FileLinks
    renderer: Renderer
    clock: Clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call_of(scope).route = "/v1/images/files"
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed(
                f"Not allowed to {scope['method']} on an image. It takes GET and HEAD.", headers={"allow": "GET, HEAD"}
            )
        name, _, extension = scope["path_params"]["name"].rpartition(".")
        now = self.clock.wall()
        link = self.links.read(name, now=now)
        entry = await self.store.lookup(link.key)
        gone = NotFound("This image is no longer stored. Ask for it again.", code="file_not_found")
        if entry is None or not link.is_to(entry.metadata):
            raise gone
        if EXTENSIONS[entry.metadata.images[link.index].media_type] != extension:
            raise gone
        left = int(link.expires_at - now)
        await self.renderer.image(send, entry, link.index, seconds_left=left, head_only=scope["method"] == "HEAD")


async def _unless_gone(answer: Coroutine[Any, Any, None], receive: Receive, call: Call) -> None:
    """Answers until the client hangs up, then no further. The purchase goes on: it belongs to its flight."""
    answering = asyncio.create_task(answer)
    leaving = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
        else:
            call.gone = True
    finally:
        leaving.cancel()
        if not answering.done():
            answering.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_dry_run(word: str | None) -> bool:
    """Raises InvalidRequest for a word that is neither yes nor no: who wrote it did not mean to buy."""
    match (word or "false").strip().lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise InvalidRequest("Invalid 'X-Imagegate-Dry-Run': expected true or false.", code="invalid_header")


def _asked_rendering(word: str | None) -> str | None:
    if word is not None and word not in {rendering.value for rendering in Rendering}:
        listed = ", ".join(repr(rendering.value) for rendering in Rendering)
        raise InvalidRequest(
            f"Invalid 'X-Imagegate-Response-Format'. Supported values are: {listed}.", code="invalid_header"
        )
    return word


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_trusted(scope: Scope, networks: Sequence[str]) -> bool:
    """Whether the peer is one of `server.trusted_proxies`."""
    if not networks or not scope.get("client"):
        return False
    try:
        peer = ipaddress.ip_address(scope["client"][0])
    except ValueError:
        return False
    return any(peer in ipaddress.ip_network(network, strict=False) for network in networks)


def _first(listed: str) -> str:
    """What the proxy nearest to the client wrote."""
    return listed.partition(",")[0].strip()

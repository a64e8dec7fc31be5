"""The admin API as it is served, in this process, over a database and a cache of the test's own."""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy import admin as admin_api
from proxy import envelope
from proxy.admin import AdminParts
from proxy.clock import Clock
from proxy.database.background import BackgroundDatabase
from proxy.errors import NotFound
from proxy.filelinks import FileLinks
from proxy.metrics import Metrics
from proxy.middleware import Caught, Guarded, Recorded
from proxy.model import ImageSpan, Metadata, Usage
from proxy.render import Renderer
from proxy.secret import Secret
from proxy.settings import AuthSection, CacheSection, ServerSection, Settings
from proxy.stores.disk import DiskTier, Verdict
from proxy.stores.eviction import Limits
from proxy.stores.files import PrivateFile
from proxy.stores.purges import PurgeLog
from tests.support.clock import ManualClock

TOKEN = "marked-admin-token"
ADDRESS = "10.0.0.1"


@dataclass
class Admin:
    """A running admin API. `client` is at ADDRESS and has the token."""

    app: ASGIApp
    parts: AdminParts
    client: httpx.AsyncClient
    clock: ManualClock
    changes: list[float] = field(default_factory=list)
    """When `on_change` was called."""

    async def ask(
        self, method: str, path: str, body: Any = None, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> Any:
        """The JSON of the answer, which must have this status."""
        sent: dict[str, Any] = {} if body is None else {"json": body}
        answer = await self.client.request(method, path, headers=headers or {}, **sent)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refusal(self, method: str, path: str, body: Any = None, *, status: int = 400) -> tuple[str, str | None]:
        """Code and `param` of an error in OpenAI's shape."""
        error = (await self.ask(method, path, body, status=status))["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error["code"], error["param"]

    @asynccontextmanager
    async def at(self, address: str | None, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client elsewhere, without a token."""
        transport = httpx.ASGITransport(self.app, client=(address, 50_000))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://gate.test", headers=headers) as client:
            yield client

    def failures(self) -> float:
        """By the metrics."""
        for line in self.parts.metrics.render(None)[0].decode().splitlines():
            if line.startswith('imagegate_auth_failures_total{reason="admin"}'):
                return float(line.split()[-1])
        return 0


def settings_of(tmp_path: Path, **sections: Any) -> Settings:
    defaults: dict[str, Any] = {
        "auth": AuthSection(admin_token=Secret(TOKEN)),
        "cache": CacheSection(directory=tmp_path / "cache", min_free_bytes=0),
        "server": ServerSection(),
    }
    return Settings(**{**defaults, **sections})


@asynccontextmanager
async def serving(
    settings: Settings,
    database: BackgroundDatabase,
    clock: ManualClock,
    on_change: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Admin]:
    changes: list[float] = []

    async def heard() -> None:
        changes.append(clock.wall())

    metrics = Metrics(models=(), upstreams=(), version="0", clock=clock)
    parts = AdminParts(
        settings=settings,
        database=database,
        reports=database.beside(threads=1),
        clock=clock,
        metrics=metrics,
        on_change=on_change or heard,
    )
    app = an_app(parts, metrics, clock)
    admin = Admin(app, parts, httpx.AsyncClient(), clock, changes)
    try:
        async with admin.at(ADDRESS, authorization=f"Bearer {TOKEN}") as client:
            admin.client = client
            yield admin
    finally:
        await database.close()


def an_app(parts: AdminParts, metrics: Metrics, clock: Clock) -> ASGIApp:
    """In what every request passes."""

    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotFound("Unknown request URL.")

    router = Router(admin_api.routes(parts), redirect_slashes=False, default=unknown)
    renderer = Renderer(parts.settings.render, FileLinks(b"secret"))
    return Recorded(Caught(Guarded(router), renderer), metrics=metrics, clock=clock, log_access=False)


def cached(directory: Path, clock: Clock, *prompts: str, keys: Sequence[str] = ()) -> Sequence[str]:
    """Entries as the proxy stores them, each of another model (`model-0`, …) and ten days older; their keys."""
    keys = keys or [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts]
    directory.mkdir(parents=True, exist_ok=True)
    purges = PurgeLog(directory)
    with ThreadPoolExecutor(1) as executor:
        tier = DiskTier(directory, Limits(10**9, 0), clock, purges, executor, lambda reason, count: None)
        tier.open()
        for number, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
            metadata, body = _entry(number, key, prompt, clock.wall())
            file = PrivateFile(directory / f"{number}.part")
            os.write(file.fd, envelope.MAGIC + body)
            assert tier.put(file, metadata, len(body), purges.epoch) is Verdict.STORED
            os.close(file.release())
        tier.close()
    return keys


def _entry(number: int, key: str, prompt: str, now: float) -> tuple[Metadata, bytes]:
    metadata = Metadata(
        key=key,
        scope="ab" * (number + 8),
        purchase_id=f"buy_{number}",
        stored_at=now - number * 10 * 86_400,
        expires_at=now + 86_400,
        operation="image_generation",
        model=f"model-{number}",
        upstream="openai",
        cache_group="openai",
        size="1024x1024",
        quality="low",
        images=(ImageSpan(key=(10, 20), value=(22, 34), url=None, media_type="image/png", size=8),),
        cost=Decimal("0.0110"),
        usage=Usage(text_in=10, image_out=272),
        request={"model": f"model-{number}", "prompt": prompt},
    )
    return metadata, b'{"data":[{"b64_json":"iVBORw0KGgo="}]}'

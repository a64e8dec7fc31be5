"""Who may read the metrics, and how they are asked for."""

from pathlib import Path

import pytest

from proxy.secret import Secret
from proxy.settings import MetricsSection
from tests.support.application import RawCall, gate, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

TOKEN = "the-token-of-the-metrics"


async def status_for(
    directory: Path, upstream: CountingUpstream, peer: str, headers: list[tuple[bytes, bytes]], token: str | None
) -> int | None:
    section = MetricsSection(token=Secret(token) if token else None)
    async with gate(settings_over(directory, upstream, metrics=section)) as proxy:
        call = RawCall(proxy.app)
        call.start(b"", path="/metrics", method="GET", client=(peer, 1), headers=headers)
        await call.over()
        assert (call.status == 200) is (b"imagegate_requests_total" in call.body)
        return call.status


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_this_machine_needs_no_token(
    tmp_path: Path, upstream: CountingUpstream, peer: str, token: str | None
) -> None:
    assert await status_for(tmp_path, upstream, peer, [], token) == 200


@pytest.mark.parametrize("peer", ["10.0.0.1", "192.0.2.1", "2001:db8::1", "::ffff:10.0.0.1", "not an address"])
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_others_need_the_token(tmp_path: Path, upstream: CountingUpstream, peer: str, token: str | None) -> None:
    assert await status_for(tmp_path, upstream, peer, [], token) == 401


@pytest.mark.parametrize("header", [b"x-forwarded-for", b"forwarded", b"x-real-ip"])
async def test_what_a_proxy_on_this_machine_forwards_is_not_this_machine(
    tmp_path: Path, upstream: CountingUpstream, header: bytes
) -> None:
    assert await status_for(tmp_path, upstream, "127.0.0.1", [(header, b"192.0.2.1")], None) == 401


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"Bearer {TOKEN} ", 401),
        (TOKEN, 401),
        ("Bearer wrong", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
    ],
)
async def test_only_the_token_itself_is_the_token(
    tmp_path: Path, upstream: CountingUpstream, given: str, status: int
) -> None:
    headers = [(b"authorization", given.encode())]
    assert await status_for(tmp_path, upstream, "192.0.2.1", headers, TOKEN) == status


async def test_a_refusal_has_the_shape_of_every_error(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        answer = await proxy.client.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"})
    assert answer.json()["error"]["code"] == "invalid_metrics_token"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
async def test_it_is_written_in_the_format_that_is_asked_for(
    tmp_path: Path, upstream: CountingUpstream, accept: str, media_type: str
) -> None:
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        answer = await proxy.client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"] == media_type
    assert answer.headers["cache-control"] == "no-store"
    assert (b"# EOF" in answer.content) is ("openmetrics" in media_type)


async def test_with_a_listener_of_its_own_the_main_port_knows_no_metrics(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    section = MetricsSection(listen="127.0.0.1:9999")
    async with gate(settings_over(tmp_path, upstream, metrics=section)) as proxy:
        assert (await proxy.client.get("/metrics")).status_code == 404
        beside = RawCall(proxy.app.metrics_asgi)
        beside.start(b"", path="/metrics", method="GET")
        await beside.over()
        assert beside.status == 200
        nowhere = RawCall(proxy.app.metrics_asgi)
        nowhere.start(b"", path="/v1/images/generations", method="POST")
        await nowhere.over()
        assert nowhere.status == 404

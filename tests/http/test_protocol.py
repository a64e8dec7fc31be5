"""What is served where, and what is refused before anybody believes it."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import AuthSection, ServerSection
from tests.support.application import GENERATIONS, Gate, RawCall, gate, generation, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

JSON = (b"content-type", b"application/json")
ORIGIN = "https://app.example"


def refused(call: RawCall) -> Any:
    return json.loads(call.body)["error"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/images/generations/", "/v1/images/variations", "/openai/deployments", "/x"]
)
async def test_anything_else_is_a_404_that_names_what_is_served(proxy: Gate, path: str) -> None:
    answer = await proxy.client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert f"GET {path}. " in answer.json()["error"]["message"]
    assert "POST /v1/images/generations" in answer.json()["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/v1/images/generations", "/images/generations", "/v1/images/edits"])
async def test_the_images_api_by_another_method_is_a_405(proxy: Gate, method: str, path: str) -> None:
    answer = await proxy.client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert (answer.content == b"") is (method == "HEAD")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/images/files/x.png"])
async def test_a_served_path_by_another_method_is_a_405(proxy: Gate, path: str) -> None:
    answer = await proxy.client.post(path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_with_and_without_v1_is_one_endpoint(proxy: Gate, upstream: CountingUpstream) -> None:
    document = {"model": "gpt-image-2", "prompt": "a red fox"}
    first = await proxy.client.post("/images/generations", json=document)
    second = await proxy.client.post("/v1/images/generations", json=document)
    assert (first.headers["x-imagegate-cache"], second.headers["x-imagegate-cache"]) == ("MISS", "HIT")
    assert upstream.calls[0].path == "/v1/images/generations"


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_a_413(tmp_path: Path, upstream: CountingUpstream, announced: bool) -> None:
    settings = settings_over(tmp_path, upstream, server=ServerSection(max_json_bytes=2000))
    async with gate(settings) as proxy:
        body = generation("x" * 2000)
        call = RawCall(proxy.app)
        length = [(b"content-length", str(len(body)).encode())] if announced else []
        call.start(b"" if announced else body, headers=[JSON, *length], more_body=True)
        await call.over()
        assert call.status == 413
        assert refused(call)["code"] == "request_too_large"
        assert dict(call.headers)[b"connection"] == b"close"
        assert proxy.total("imagegate_validation_rejections_total", param="body", reason="request_too_large") == 1
        exactly = generation("x" * (2000 - len(generation(""))))
        assert len(exactly) == 2000
        fits = await proxy.client.post(GENERATIONS, content=exactly, headers={"content-type": "application/json"})
        assert fits.status_code == 200
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "br"},
    ],
    ids=lambda headers: headers.get("content-encoding", headers["content-type"]),
)
async def test_what_is_not_plain_json_is_a_415(
    proxy: Gate, upstream: CountingUpstream, headers: dict[str, str]
) -> None:
    answer = await proxy.client.post(GENERATIONS, content=generation(), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"
    assert upstream.calls == []
    assert proxy.total("imagegate_validation_rejections_total", param="body", reason="unsupported_media_type") == 1


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
async def test_json_by_any_of_its_names_is_taken(proxy: Gate, content_type: str) -> None:
    answer = await proxy.client.post(GENERATIONS, content=generation(), headers={"content-type": content_type})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"another")],
        [(b"content-length", b"10"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"10"), (b"content-length", b"11")],
        [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")],
        [(b"api-key", b"a"), (b"api-key", b"b")],
        [JSON, (b"content-type", b"text/plain")],
    ],
    ids=lambda headers: headers[-1][0].decode(),
)
async def test_what_different_servers_read_differently_is_refused(
    proxy: Gate, upstream: CountingUpstream, headers: list[tuple[bytes, bytes]]
) -> None:
    call = RawCall(proxy.app)
    call.start(generation(), headers=headers)
    await call.over()
    assert call.status == 400
    assert refused(call)["code"] == "invalid_header"
    assert upstream.calls == []


@pytest.mark.parametrize("headers", [[(b"x-many", b"1")] * 101, [(b"x-long", b"1" * 40_000)]], ids=["many", "long"])
async def test_headers_without_measure_are_a_431(proxy: Gate, headers: list[tuple[bytes, bytes]]) -> None:
    call = RawCall(proxy.app)
    call.start(generation(), headers=headers)
    await call.over()
    assert call.status == 431


# --- request ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["mine", "a.b_c-D9", "x" * 128])
async def test_a_plain_request_id_is_kept(proxy: Gate, given: str) -> None:
    for answer in (
        await proxy.ask(headers={"x-request-id": given}),
        await proxy.ask(n=99, headers={"x-request-id": given}),
        await proxy.client.get("/nowhere", headers={"x-request-id": given}),
    ):
        assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "a\tb", "a,b", '"quoted"', "<script>"])
async def test_any_other_request_id_is_replaced(proxy: Gate, given: str) -> None:
    answers = [await proxy.ask(headers={"x-request-id": given}) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert all(each.startswith("req_") and len(each) == 36 for each in ids)


async def test_the_upstreams_request_id_is_not_taken_for_ours(proxy: Gate) -> None:
    answer = await proxy.ask()
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/healthz", "/health", "/health/liveliness", "/health/liveness"])
async def test_it_is_alive_under_every_name(proxy: Gate, path: str) -> None:
    proxy.app.health.drain(10)
    answer = await proxy.client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert (await proxy.client.head(path)).content == b""


@pytest.mark.parametrize("path", ["/readyz", "/health/readiness"])
async def test_it_is_ready_until_it_leaves(proxy: Gate, path: str) -> None:
    ready = await proxy.client.get(path)
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "problems": []})
    proxy.app.health.leave(10)
    leaving = await proxy.client.get(path)
    assert (leaving.status_code, leaving.json()) == (503, {"status": "not ready", "problems": ["shutting down"]})


async def test_health_needs_no_credential(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream, auth=AuthSection(mode="passthrough"))) as proxy:
        assert (await proxy.client.get("/healthz")).status_code == 200
        assert (await proxy.client.get("/readyz")).status_code == 200


# --- browsers ---------------------------------------------------------------------------------------------------------


async def with_origins(proxy: Gate, method: str, origin: str, **headers: str) -> Any:
    document = {"model": "gpt-image-2", "prompt": "a red fox"}
    given = {"origin": origin, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await proxy.client.request(method, GENERATIONS, json=document if method == "POST" else None, headers=given)


@pytest.mark.parametrize("origins", [(ORIGIN,), ("*",)])
async def test_a_browser_may_ask_from_an_allowed_origin_and_see_our_headers(
    tmp_path: Path, upstream: CountingUpstream, origins: tuple[str, ...]
) -> None:
    server = ServerSection(cors_origins=origins)
    async with gate(settings_over(tmp_path, upstream, server=server)) as proxy:
        preflight = await with_origins(
            proxy,
            "OPTIONS",
            ORIGIN,
            access_control_request_method="POST",
            access_control_request_headers="authorization,content-type,x-imagegate-variant",
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] in (ORIGIN, "*")
        assert "POST" in preflight.headers["access-control-allow-methods"]
        allowed = preflight.headers["access-control-allow-headers"].lower()
        assert "authorization" in allowed or allowed == "*"
        assert "x-request-id" in preflight.headers
        answer = await with_origins(proxy, "POST", ORIGIN)
        assert answer.headers["access-control-allow-origin"] in (ORIGIN, "*")
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        ours = {name for name in answer.headers if name.startswith("x-imagegate")}
        assert ours | {"cache-status", "age", "server-timing", "x-request-id"} <= exposed


async def test_a_browser_sees_errors_too(tmp_path: Path, upstream: CountingUpstream) -> None:
    server = ServerSection(cors_origins=(ORIGIN,))
    async with gate(settings_over(tmp_path, upstream, server=server)) as proxy:
        for method, path in (("GET", GENERATIONS), ("GET", "/nowhere"), ("POST", GENERATIONS)):
            answer = await proxy.client.request(method, path, headers={"origin": ORIGIN})
            assert answer.status_code >= 400
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert "x-should-retry" not in answer.headers


async def test_another_origin_is_allowed_nothing(tmp_path: Path, upstream: CountingUpstream) -> None:
    server = ServerSection(cors_origins=(ORIGIN,))
    async with gate(settings_over(tmp_path, upstream, server=server)) as proxy:
        preflight = await with_origins(proxy, "OPTIONS", "https://evil.example", access_control_request_method="POST")
        assert preflight.status_code == 400
        assert "access-control-allow-origin" not in preflight.headers


async def test_without_origins_no_browser_is_told_anything(proxy: Gate) -> None:
    answer = await with_origins(proxy, "POST", ORIGIN)
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_an_unknown_header_of_ours_does_not_reach_the_upstream(proxy: Gate, upstream: CountingUpstream) -> None:
    await proxy.ask(headers={"x-imagegate-anything": "1", "accept-encoding": "gzip", "cookie": "a=b"})
    (call,) = upstream.calls
    assert call.headers["accept-encoding"] == "identity"
    assert not {"cookie", "x-imagegate-anything", "x-request-id"} & set(call.headers)

"""What one client can do to the others, or to the operator's purse: nothing."""

import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy import accessline
from proxy.accessline import Same
from proxy.settings import AuthSection, RulesSection, ServerSection
from tests.support.application import GENERATIONS, Gate, RawCall, gate, settings_over
from tests.support.counting import CountingUpstream, Said
from tests.support.images import picture, reply

pytestmark = pytest.mark.anyio

PASSTHROUGH = AuthSection(mode="passthrough")


@pytest.fixture
async def guarded(upstream: CountingUpstream, tmp_path: Any) -> AsyncIterator[Gate]:
    async with gate(settings_over(tmp_path, upstream, auth=PASSTHROUGH)) as proxy:
        yield proxy


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/plain"}, {"content-length": "99000000"}, {"content-encoding": "gzip"}]
)
async def test_who_is_nobody_is_told_so_before_their_body_is_judged(guarded: Gate, headers: dict[str, str]) -> None:
    call = RawCall(guarded.app)
    call.start(b"{}", headers=[(name.encode(), value.encode()) for name, value in headers.items()], more_body=True)
    await call.over()
    assert call.status == 401


@pytest.mark.parametrize("origin", ["https://evil.example", "http://gate.test", "null"])
async def test_in_mode_open_a_strange_web_page_cannot_spend_the_key(
    proxy: Gate, upstream: CountingUpstream, origin: str
) -> None:
    answer = await proxy.ask(headers={"origin": origin})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert upstream.calls == []
    assert proxy.total("imagegate_auth_failures_total", reason="origin") == 1


async def test_in_mode_open_a_page_of_an_allowed_origin_may_call(upstream: CountingUpstream, tmp_path: Any) -> None:
    server = ServerSection(cors_origins=("https://app.example",))
    async with gate(settings_over(tmp_path, upstream, server=server)) as proxy:
        assert (await proxy.ask(headers={"origin": "https://app.example"})).status_code == 200
        assert (await proxy.ask(headers={"origin": "https://evil.example"})).status_code == 403


async def test_a_request_without_a_content_type_is_no_json(proxy: Gate, upstream: CountingUpstream) -> None:
    body = json.dumps({"model": "gpt-image-2", "prompt": "x"}).encode()
    answer = await proxy.client.post(GENERATIONS, content=body)
    assert answer.status_code == 415
    assert "Invalid Content-Type header (none)" in answer.json()["error"]["message"]
    assert upstream.calls == []


async def test_white_space_around_a_header_is_no_part_of_it(proxy: Gate, upstream: CountingUpstream) -> None:
    call = RawCall(proxy.app)
    body = json.dumps({"model": "gpt-image-2", "prompt": "x"}).encode()
    call.start(body, headers=[(b"openai-beta", b" images=v2 \t")])
    await call.over()
    assert call.status == 200
    assert upstream.calls[0].headers["openai-beta"] == "images=v2"


async def test_nobody_who_waits_holds_the_body_that_they_sent(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    small = json.dumps({"model": "gpt-image-2", "prompt": "x"})
    key = await proxy.key_of("x")
    waiting = [RawCall(proxy.app) for _ in range(20)]
    tracemalloc.start()
    try:
        for call in waiting:
            call.start(b"%s%s" % (small.encode(), b" " * 900_000))
        await proxy.waiting(key, len(waiting))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2_000_000  # 18 MB were sent
    finally:
        tracemalloc.stop()
    upstream.release()
    for call in waiting:
        await call.over()
    assert [call.status for call in waiting] == [200] * len(waiting)


async def test_a_model_with_an_endless_name_does_not_exist(proxy: Gate, upstream: CountingUpstream) -> None:
    answer = await proxy.ask(model="m" * 300_000)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "model"
    assert len(answer.content) < 1000
    assert upstream.calls == []


def test_a_long_text_is_cut_before_it_is_searched_for_secrets() -> None:
    same = Same(method="POST", route="/", status=400, model="bearer " * 142_000)
    began = time.thread_time()
    accessline.told(same)
    assert time.thread_time() - began < 0.02  # it took a tenth of a second and more on the event loop


async def test_fifty_thousand_adjustments_are_told_in_a_header_that_fits(
    upstream: CountingUpstream, tmp_path: Any
) -> None:
    async with gate(settings_over(tmp_path, upstream, rules=RulesSection(on_invalid="adjust"))) as proxy:
        members: dict[str, Any] = {f"unknown_{number}": 1 for number in range(50_000)}
        answer = await proxy.ask(**members)
        assert answer.status_code == 200
        assert len(answer.headers["x-imagegate-adjusted"]) < 1000
        assert answer.headers["x-imagegate-adjusted"].endswith("49980 more")


async def test_a_usage_that_cannot_be_is_not_counted(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Said(reply(picture("x"), usage={"input_tokens": 10**90, "output_tokens": 10**90}))
    answer = await proxy.ask()
    assert answer.status_code == 200
    assert proxy.total("imagegate_upstream_cost_usd_total") < 10

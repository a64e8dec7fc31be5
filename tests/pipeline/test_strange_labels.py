"""Whatever callers send, the number of series stays: what is not expected is counted as `other`."""

import json
from pathlib import Path

import pytest

from proxy.settings import RulesSection
from tests.support.application import Gate, RawCall, gate, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

STRANGERS = 10_000
DRY = (b"x-imagegate-dry-run", b"true")


async def stranger(proxy: Gate, number: int) -> None:
    """Two calls nobody has made before: one that is believed (every fifth time: it costs more), one that is refused."""
    name = f"model-{number}"
    headers = [(b"user-agent", f"agent/{number}".encode()), (b"x-request-id", f"id-{number}".encode()), DRY]
    bodies = [{"model": "gpt-image-2", "prompt": "fox", "size": f"{number}x1", f"param_{number}": 1}]
    if number % 5 == 0:
        bodies.append({"model": name, "prompt": "fox", "size": f"{number}x16", "quality": f"fine-{number}"})
    for body in bodies:
        path = f"/openai/deployments/{body['model']}/images/generations" if number % 2 else "/v1/images/generations"
        call = RawCall(proxy.app)
        call.start(json.dumps(body).encode(), path=path, headers=headers)
        await call.over()
    call = RawCall(proxy.app)
    call.start(b"{}", path=f"/v1/pictures/{number}", headers=headers)
    await call.over()
    assert call.status == 404


@pytest.mark.slow  # thousands of requests: that is what it promises
async def test_ten_thousand_strangers_make_no_series(tmp_path: Path, upstream: CountingUpstream) -> None:
    rules = RulesSection(unknown_model="pass")
    async with gate(settings_over(tmp_path, upstream, rules=rules)) as proxy:
        for number in (1, 2, 5, 10):
            await stranger(proxy, number)
        before = {(each.name, *sorted(each.labels.items())) for each in proxy.scrape().samples}
        for number in range(11, 11 + STRANGERS):
            await stranger(proxy, number)
        page = proxy.scrape()
    assert {(each.name, *sorted(each.labels.items())) for each in page.samples} == before
    overflow = {"metric": "imagegate_requests_total", "label": "model"}
    assert page.total("imagegate_label_overflow_total", **overflow) == STRANGERS // 5 + 2
    assert page.total("imagegate_requests_total", model="other", code="200") == STRANGERS // 5 + 2
    assert upstream.calls == []

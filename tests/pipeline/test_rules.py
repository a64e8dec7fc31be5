"""What is judged before anything is sent: dry runs, what the operator lets through, and models at their end."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import RulesSection
from tests.support.application import Gate, gate, settings_over
from tests.support.clock import ManualClock
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

DRY = {"x-imagegate-dry-run": "true"}
ENDING = "gpt-image-1.5"
END = datetime(2026, 12, 1, tzinfo=UTC)


@asynccontextmanager
async def ruled(directory: Path, upstream: CountingUpstream, **rules: Any) -> AsyncIterator[Gate]:
    async with gate(settings_over(directory, upstream, rules=RulesSection(**rules))) as proxy:
        yield proxy


async def test_a_dry_run_sends_and_stores_nothing_and_says_what_would_happen(
    proxy: Gate, upstream: CountingUpstream
) -> None:
    before = await proxy.ask(headers=DRY, size="1024x1024", quality="high", n=2)
    assert before.status_code == 200
    assert before.json()["request"] == {
        "model": "gpt-image-2",
        "n": 2,
        "prompt": "a red fox",
        "quality": "high",
        "size": "1024x1024",
    }
    assert (before.json()["would_hit"], before.json()["forward"]) == (False, "uri-miss")
    assert float(before.json()["estimated_cost_usd"]) > 0
    assert before.json()["estimated_output_tokens"] > 0
    assert upstream.calls == []
    assert proxy.total("imagegate_purchases_total") == 0
    assert proxy.total("imagegate_requests_total", cache="none", code="200") == 1
    bought = await proxy.ask(size="1024x1024", quality="high", n=2)
    after = await proxy.ask(headers=DRY, size="1024x1024", quality="high", n=2)
    assert (after.json()["would_hit"], after.json()["forward"]) == (True, None)
    assert after.json()["cache_key"].startswith(bought.headers["x-imagegate-cache-key"])
    assert len(upstream.calls) == 1


async def test_a_dry_run_is_refused_like_the_request_itself(proxy: Gate, upstream: CountingUpstream) -> None:
    answer = await proxy.ask(headers=DRY, size="1000x1000")
    assert answer.status_code == 400
    assert "Nearest valid size: 1008x1008." in answer.json()["error"]["message"]


async def test_a_dry_run_of_no_store_would_bypass(proxy: Gate) -> None:
    await proxy.ask()
    answer = await proxy.ask(headers={**DRY, "cache-control": "no-store"})
    assert (answer.json()["would_hit"], answer.json()["forward"]) == (False, "bypass")


async def test_adjust_snaps_the_size_drops_the_rest_and_says_so(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with ruled(tmp_path, upstream, on_invalid="adjust") as proxy:
        adjusted = await proxy.ask(size="1000x1000", style="vivid")
        same = await proxy.ask(size="1008x1008")
        refused = await proxy.ask(size="large")
        assert adjusted.headers["x-imagegate-adjusted"] == "style dropped, size=1000x1000->1008x1008"
        assert upstream.calls[0].json == {"model": "gpt-image-2", "prompt": "a red fox", "size": "1008x1008"}
        assert same.headers["x-imagegate-cache"] == "HIT"
        assert "x-imagegate-adjusted" not in same.headers
        assert refused.status_code == 400


async def test_pass_forwards_as_it_is_and_counts(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with ruled(tmp_path, upstream, on_invalid="pass") as proxy:
        assert (await proxy.ask(size="1000x1000", style="vivid")).status_code == 200
        assert upstream.calls[0].json["size"] == "1000x1000"
        assert upstream.calls[0].json["style"] == "vivid"
        assert proxy.total("imagegate_validation_passed_total", param="size") == 1
        assert proxy.total("imagegate_validation_passed_total", param="unknown", reason="unknown_parameter") == 1
        assert proxy.total("imagegate_validation_rejections_total") == 0


@pytest.mark.parametrize(("unknown_model", "status"), [("pass", 200), ("reject", 400)])
async def test_a_model_nobody_has_heard_of(
    tmp_path: Path, upstream: CountingUpstream, unknown_model: str, status: int
) -> None:
    async with ruled(tmp_path, upstream, unknown_model=unknown_model) as proxy:
        answer = await proxy.ask(model="gpt-image-9")
        assert answer.status_code == status
        assert len(upstream.calls) == (status == 200)
        assert "x-imagegate-cost-usd" not in answer.headers
        if status == 200:
            assert proxy.total("imagegate_unpriced_requests_total", model="other") == 1
            assert (await proxy.ask(model="gpt-image-9")).headers["x-imagegate-cost-usd"] == "0"


async def test_an_alias_is_the_model_it_stands_for(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with ruled(tmp_path, upstream, aliases={"dall-e-3": "gpt-image-2"}) as proxy:
        await proxy.ask(model="dall-e-3")
        assert upstream.calls[0].json["model"] == "gpt-image-2"
        assert (await proxy.ask(model="gpt-image-2")).headers["x-imagegate-cache"] == "HIT"


async def test_a_retired_model_does_not_exist(proxy: Gate, upstream: CountingUpstream) -> None:
    answer = await proxy.ask(model="dall-e-3")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "The model 'dall-e-3' does not exist."
    assert upstream.calls == []


@pytest.mark.parametrize(("days_before", "warned"), [(61, False), (60, True), (1, True), (-30, True)])
async def test_a_model_near_its_end_says_so(
    tmp_path: Path, upstream: CountingUpstream, days_before: int, warned: bool
) -> None:
    clock = ManualClock(wall=END.timestamp() - days_before * 86_400)
    async with gate(settings_over(tmp_path, upstream), clock) as proxy:
        for answer in (await proxy.ask(model=ENDING), await proxy.ask(model=ENDING)):
            assert ("sunset" in answer.headers, "deprecation" in answer.headers) == (warned, warned)
            if warned:
                assert parsedate_to_datetime(answer.headers["sunset"]) == END
                assert answer.headers["deprecation"].startswith("@")
                assert int(answer.headers["deprecation"][1:]) <= END.timestamp()


async def test_a_model_past_its_end_is_forwarded_counted_and_logged(
    tmp_path: Path, upstream: CountingUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(wall=END.timestamp() + 1)
    with caplog.at_level(logging.WARNING, logger="imagegate"):
        async with gate(settings_over(tmp_path, upstream), clock) as proxy:
            assert (await proxy.ask(model=ENDING)).status_code == 200
            assert (await proxy.ask("a red fox")).status_code == 200
            assert proxy.total("imagegate_retired_requests_total", model=ENDING) == 1
            assert proxy.total("imagegate_retired_requests_total") == 1
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert told.__dict__["model"] == ENDING
    assert len(upstream.calls) == 2


async def test_a_model_is_served_in_silence_until_its_last_day(tmp_path: Path, upstream: CountingUpstream) -> None:
    clock = ManualClock(wall=END.timestamp() - 1)
    async with gate(settings_over(tmp_path, upstream), clock) as proxy:
        await proxy.ask(model=ENDING)
        assert proxy.total("imagegate_retired_requests_total") == 0

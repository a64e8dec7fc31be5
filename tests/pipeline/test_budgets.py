"""Budgets on the request path: reserved before a byte goes upstream, settled before the answer, held under any storm."""

import asyncio
import json
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from proxy.errors import UpstreamConnectionLost
from proxy.settings import LimitsSection, RulesSection
from tests.support.application import eventually, settings_over
from tests.support.counting import (
    Call,
    CountingUpstream,
    Said,
    Streamed,
    completed,
    counting_upstream,
    failed,
    paints,
    partial,
)
from tests.support.images import USAGE, picture, reply
from tests.support.keyed import DOLLAR, Keyed, keyed_gate

pytestmark = pytest.mark.anyio

ESTIMATE = Decimal("0.211")
"""A little more than what one image of the default size and quality is expected to cost."""
OTHER_DEFAULT = """
vendor = "mine"
version = "1"
source = "this test"
checked = 2026-11-22

[model.gpt-image-2.generations]
prompt = { type = "string", required = true }
size = { type = "string", default = "1024x1024" }
quality = { type = "string", default = "auto" }
n = { type = "integer", default = 1, minimum = 1, maximum = 10 }
"""
COST = 31_735_000
"""Nano-dollars of the usage that the upstream tells."""
BILLED_USAGE = {**USAGE, "output_tokens": 7024}
"""About what is expected of one such image."""


def bills(call: Call) -> Said:
    return Said(reply(picture(f"{call.number}"), usage=BILLED_USAGE))


async def test_of_200_at_once_a_budget_for_10_buys_exactly_10(keyed: Keyed, upstream: CountingUpstream) -> None:
    upstream.script = bills
    headers = await keyed.key(max_budget=float(10 * ESTIMATE))
    upstream.hold()
    tasks = [keyed.gate.asking(f"fox {number}", headers=headers) for number in range(200)]
    await upstream.reached(10)
    await eventually(lambda: sum(task.done() for task in tasks) == 190)
    refused = [task.result() for task in tasks if task.done()]
    assert {(each.status_code, each.json()["error"]["code"]) for each in refused} == {(429, "budget_reserved")}
    assert {each.headers["retry-after"] for each in refused} == {"10"}
    upstream.release()
    answers = await asyncio.gather(*tasks)
    assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 190}
    assert len(upstream.calls) == 10
    assert keyed.total() <= 10 * ESTIMATE * DOLLAR
    assert keyed.spend() == (keyed.total(), 0)
    late = await keyed.gate.ask("one more", headers=headers)
    error = late.json()["error"]
    assert (late.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "budget_exceeded")
    assert late.headers["x-should-retry"] == "false"
    assert late.headers["x-imagegate-key-max-budget"] == "2.11"
    assert keyed.gate.total("imagegate_rate_limited_total", scope="key", limit="budget") == 191
    assert len(upstream.calls) == 10


async def test_the_budget_of_a_team_is_shared_by_its_keys(keyed: Keyed, upstream: CountingUpstream) -> None:
    upstream.script = bills
    await keyed.team("red", max_budget=float(2 * ESTIMATE))
    keys = [await keyed.key(alias, team="red") for alias in ("a", "b", "c")]
    codes = [(await keyed.gate.ask(f"fox {n}", headers=key)).status_code for n, key in enumerate(keys)]
    assert codes == [200, 200, 429]
    assert keyed.gate.total("imagegate_rate_limited_total", scope="team", limit="budget") == 1


async def test_a_hit_costs_nothing_and_passes_an_exhausted_budget(keyed: Keyed, upstream: CountingUpstream) -> None:
    upstream.script = bills
    headers = await keyed.key(max_budget=float(ESTIMATE))
    miss = await keyed.gate.ask(headers=headers)
    assert (await keyed.gate.ask("another", headers=headers)).json()["error"]["code"] == "budget_exceeded"
    hit = await keyed.gate.ask(headers=headers)
    assert (hit.status_code, hit.headers["x-imagegate-cache"]) == (200, "HIT")
    assert hit.headers["x-imagegate-key-spend"] == miss.headers["x-imagegate-key-spend"] == "0.210775"


async def test_the_window_ends_and_the_budget_is_whole_again(keyed: Keyed, upstream: CountingUpstream) -> None:
    upstream.script = bills
    headers = await keyed.key(max_budget=float(ESTIMATE), budget_duration="1d")
    assert (await keyed.gate.ask("one", headers=headers)).status_code == 200
    refused = await keyed.gate.ask("two", headers=headers)
    assert "It is renewed at" in refused.json()["error"]["message"]
    keyed.gate.clock.advance(86_400)
    answer = await keyed.gate.ask("two", headers=headers)
    assert (answer.status_code, answer.headers["x-imagegate-key-spend"]) == (200, "0.210775")


async def test_a_raised_budget_counts_at_once(keyed: Keyed) -> None:
    headers = await keyed.key(max_budget=0)
    assert (await keyed.gate.ask(headers=headers)).status_code == 429
    await keyed.update("alice", max_budget=1)
    assert (await keyed.gate.ask(headers=headers)).status_code == 200


async def test_a_key_that_was_blocked_a_moment_ago_buys_nothing(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key()
    await to_thread.run_sync(lambda: keyed.store.update_key("alice", {"blocked": True}, "tests"))
    answer = await keyed.gate.ask(headers=headers)  # before the keys were read again
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert upstream.calls == []


# --- who pays for a flight --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poor", [{"max_budget": 0}, {"ipm_limit": 1}, {"max_parallel_requests": 1}])
async def test_payment_passes_to_the_first_who_can_pay(
    keyed: Keyed, upstream: CountingUpstream, poor: dict[str, Any]
) -> None:
    leader, rich = await keyed.key("poor", team="red", **poor), await keyed.key("rich", team="red")
    upstream.hold()
    first = keyed.gate.asking("something else", headers=leader)  # takes the image, or the place, where there is one
    if "max_budget" not in poor:
        await upstream.reached(1)
    tasks = [keyed.gate.asking(headers=headers) for headers in (leader, leader, rich)]
    await upstream.reached(1 if "max_budget" in poor else 2)
    upstream.release()
    answers = await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [429, 200, 200]  # who cannot pay waits on
    assert [answer.headers["x-imagegate-cache"] for answer in answers[1:]] == ["COALESCED", "MISS"]
    await first
    assert len(upstream.calls) == (1 if "max_budget" in poor else 2)


async def test_only_when_nobody_can_pay_has_each_its_own_refusal(keyed: Keyed, upstream: CountingUpstream) -> None:
    poor = await keyed.key("poor", team="red", max_budget=0)
    poorer = await keyed.key("poorer", team="red", max_budget=0.01)
    answers = await asyncio.gather(*(keyed.gate.asking(headers=headers) for headers in (poor, poorer, poor)))
    assert [answer.status_code for answer in answers] == [429] * 3
    assert "0.01 USD" in answers[1].json()["error"]["message"]
    assert "0.01 USD" not in answers[0].json()["error"]["message"]
    assert upstream.calls == []


# --- settlement -------------------------------------------------------------------------------------------------------


def gives_no_usage(call: Call) -> Said:
    return Said(reply(picture("fox"), usage=None))


def breaks_a_stream(call: Call) -> Said:
    return Streamed([partial(0, picture("part")), completed(picture("fox"))], cut_after=1)


def fails_after_a_partial(call: Call) -> Said:
    return Streamed([partial(0, picture("part")), failed()])


def fails_at_once(call: Call) -> Said:
    return Streamed([failed()])


def refuses(status: int) -> Any:
    return lambda call: Said(b'{"error":{"message":"no","type":"x","param":null,"code":null}}', status)


STREAM = {"stream": True, "partial_images": 1}


@pytest.mark.parametrize(
    ("script", "body", "ending", "counts"),
    [
        (paints, {}, "settled", "cost"),
        (gives_no_usage, {}, "estimated", "estimate"),
        (refuses(400), {}, "released", "nothing"),
        (refuses(429), {}, "released", "nothing"),
        (refuses(500), {}, "released", "nothing"),
        (lambda call: Said(b"<html>", content_type="text/html"), {}, "unknown", "estimate"),
        (lambda call: Said(reply(picture("x"))[:-20], headers={"content-length": "9999"}), {}, "unknown", "estimate"),
        (paints, STREAM, "settled", "cost"),
        (breaks_a_stream, STREAM, "unknown", "estimate"),
        (fails_after_a_partial, STREAM, "unknown", "estimate"),
        (fails_at_once, STREAM, "released", "nothing"),
        (paints, {"no-store": True}, "settled", "cost"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_each_outcome_is_settled_as_the_table_says(
    keyed: Keyed, upstream: CountingUpstream, script: Any, body: dict[str, Any], ending: str, counts: str
) -> None:
    upstream.script = script
    headers = await keyed.key(max_budget=1)
    if body.pop("no-store", False):
        headers["cache-control"] = "no-store"
    with suppress(UpstreamConnectionLost):  # what is left of a stream that was cut
        await keyed.gate.ask(headers=headers, **body)
    [(outcome, estimate, cost, images)] = keyed.rows("SELECT outcome, estimate, cost, images FROM purchases")
    assert outcome == ending
    assert cost == {"cost": COST, "estimate": estimate, "nothing": 0}[counts]
    assert keyed.spend() == (cost, 0)
    assert images == (1 if ending in ("settled", "estimated") else 0)
    unknown = keyed.gate.total("imagegate_unknown_cost_usd_total")
    assert unknown == pytest.approx(estimate / DOLLAR if ending == "unknown" else 0)


async def test_a_connection_that_is_not_made_costs_nothing(tmp_path: Path) -> None:
    nobody = CountingUpstream()
    nobody.base_url = "http://127.0.0.1:9/v1"
    async with keyed_gate(tmp_path, nobody) as keyed:
        answer = await keyed.gate.ask(headers=await keyed.key(max_budget=1))
        assert answer.status_code == 502
        assert (keyed.endings(), keyed.spend()) == (["released"], (0, 0))


async def test_the_row_stands_before_a_byte_goes_upstream(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key(team="red", max_budget=1)
    headers["x-imagegate-tags"] = "campaign:spring, web"
    upstream.hold()
    task = keyed.gate.asking(headers={**headers, "x-request-id": "mine"})
    await upstream.reached(1)
    columns = "outcome, model, upstream, size, quality, n, request_id, tags, price_version"
    [row] = keyed.rows(f"SELECT {columns} FROM purchases")
    assert row[:8] == ("open", "gpt-image-2", "upstream-1", "auto", "auto", 1, "mine", '["campaign:spring", "web"]')
    assert row[8]
    settled, reserved = keyed.spend()
    assert (settled, 0 < reserved <= ESTIMATE * DOLLAR) == (0, True)
    assert keyed.spend("team") == (settled, reserved)
    upstream.release()
    answer = await task
    assert keyed.endings() == ["settled"]
    assert answer.headers["x-imagegate-key-spend"] == "0.031735"
    assert keyed.gate.total("imagegate_budget_remaining_usd", name="alice") == pytest.approx(1 - 0.031735)


async def test_the_purchase_outlives_the_caller_who_pays(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key(max_budget=1, max_parallel_requests=1)
    upstream.hold()
    task = keyed.gate.asking(headers=headers)
    await upstream.reached(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await keyed.gate.ask("another", headers=headers)).status_code == 429  # its place is still taken
    upstream.release()
    await keyed.gate.landed()
    assert keyed.endings() == ["settled"]
    assert (await keyed.gate.ask(headers=headers)).headers["x-imagegate-cache"] == "HIT"


@pytest.mark.parametrize("unpriced", ["reject", "allow"])
async def test_what_has_no_price_is_refused_where_money_is_limited(
    tmp_path: Path, upstream: CountingUpstream, unpriced: Any
) -> None:
    rules = RulesSection(unknown_model="pass")
    async with keyed_gate(tmp_path, upstream, rules=rules, limits=LimitsSection(unpriced=unpriced)) as keyed:
        limited, free = await keyed.key("limited", max_budget=5), await keyed.key("free")
        answer = await keyed.gate.ask(headers=limited, model="painter-9")
        if unpriced == "allow":
            assert answer.status_code == 200
            return
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (403, "model_unpriced", "model")
        assert upstream.calls == []
        assert (await keyed.gate.ask(headers=free, model="painter-9")).status_code == 200
        assert keyed.rows("SELECT outcome, cost FROM purchases") == [("estimated", None)] or keyed.endings() == [
            "settled"
        ]


async def test_a_soft_budget_warns_and_refuses_nothing(
    keyed: Keyed, upstream: CountingUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    headers = await keyed.key(soft_budget=0.05)
    with caplog.at_level(logging.WARNING, "imagegate"):
        answers = [await keyed.gate.ask(f"fox {number}", headers=headers) for number in range(3)]
    assert [answer.headers.get("x-imagegate-soft-budget") for answer in answers] == [None, "exceeded", "exceeded"]
    assert keyed.gate.total("imagegate_soft_budget_exceeded_total", scope="key") == 2
    assert [record.message for record in caplog.records] == ["a soft budget is used up"]


async def test_what_goes_beyond_the_estimate_is_counted(keyed: Keyed, upstream: CountingUpstream) -> None:
    upstream.script = lambda call: Said(reply(picture("x"), usage={**USAGE, "output_tokens": 20_000}))
    answer = await keyed.gate.ask(headers=await keyed.key(max_budget=0.22))
    assert answer.headers["x-imagegate-key-spend"] == "0.600055"
    assert keyed.gate.total("imagegate_budget_overshoot_usd_total", scope="key") == pytest.approx(0.380055)
    assert keyed.gate.total("imagegate_budget_remaining_usd", name="alice") == pytest.approx(-0.380055)


# --- what an upstream says of its bill, and of its price --------------------------------------------------------------


@pytest.mark.parametrize("unpriced", ["reject", "allow"])
async def test_a_backup_without_a_price_makes_nothing_free(
    tmp_path: Path, upstream: CountingUpstream, unpriced: Any
) -> None:
    """The seed's vendor has no price for this model: its rows in the catalogue are the backup here."""
    async with counting_upstream() as backup:
        upstream.script = bills
        settings = settings_over(tmp_path, upstream, backup)
        first, second = settings.upstreams
        upstreams = (first, replace(second, vendor="apiyi"))
        limits = LimitsSection(unpriced=unpriced)
        async with keyed_gate(tmp_path, upstream, upstreams=upstreams, limits=limits) as keyed:
            headers = await keyed.key(max_budget=float(2 * ESTIMATE))
            answers = await asyncio.gather(*(keyed.gate.asking(f"fox {n}", headers=headers) for n in range(8)))
            assert Counter(answer.status_code for answer in answers) == {200: 2, 429: 6}
            upstream.script = refuses(503)
            late = await keyed.gate.ask("late", headers=await keyed.key("late", max_budget=1))
            assert (late.status_code, len(backup.calls)) == ((503, 0) if unpriced == "reject" else (200, 1))


@pytest.mark.parametrize(
    "usage", [{"input_tokens": 14, "total_tokens": 1070}, {"input_tokens": 9, "output_tokens": 10**22}]
)
async def test_a_bill_with_a_hole_in_it_is_no_bill(keyed: Keyed, upstream: CountingUpstream, usage: Any) -> None:
    upstream.script = lambda call: Said(reply(picture(f"{call.number}"), usage=usage))
    headers = await keyed.key(max_budget=float(ESTIMATE))
    assert (await keyed.gate.ask("one", headers=headers)).status_code == 200
    assert (await keyed.gate.ask("two", headers=headers)).status_code == 429
    assert keyed.rows("SELECT outcome, cost = estimate FROM purchases") == [("estimated", 1)]
    assert keyed.gate.total("imagegate_usage_missing_total") == 1


async def test_a_refusal_that_was_charged_for_is_paid(tmp_path: Path, upstream: CountingUpstream) -> None:
    usage = {"cost_in_usd_ticks": 700_000_000}
    body = {"data": [{"respect_moderation": False}], "usage": usage}
    upstream.script = lambda call: Said(json.dumps(body).encode())
    [section] = settings_over(tmp_path, upstream).upstreams
    async with keyed_gate(tmp_path, upstream, upstreams=(replace(section, vendor="xai"),)) as keyed:
        answer = await keyed.gate.ask(headers=await keyed.key(max_budget=1), model="grok-imagine-image")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")
        assert keyed.rows("SELECT outcome, cost FROM purchases") == [("settled", 70_000_000)]
        assert keyed.spend() == (70_000_000, 0)
        assert keyed.gate.total("imagegate_upstream_cost_usd_total") == pytest.approx(0.07)


@pytest.mark.parametrize(
    "odd",
    [{"n": 10**30}, {"n": 10**12}, {"size": "x" * 12_000}, {"quality": "a\0b"}, {"size": "\u202e"}],
    ids=lambda odd: next(iter(odd)),
)
async def test_what_a_model_that_is_not_listed_is_asked_can_always_be_written(
    keyed: Keyed, upstream: CountingUpstream, odd: dict[str, Any]
) -> None:
    upstream.script = lambda call: Said(reply(picture("one")))
    headers = await keyed.key()
    assert (await keyed.gate.ask(headers=headers, model="painter-9", **odd)).status_code in (200, 400)
    await keyed.gate.ask(headers=headers, model="painter-9", **odd)
    await keyed.gate.app.ledger.tend()
    assert keyed.gate.total("imagegate_ledger_lost_rows_total") == 0
    assert keyed.gate.total("imagegate_degraded", part="database") == 0
    for size, quality in keyed.rows("SELECT size, quality FROM purchases"):
        assert len(size) <= 64 and quality.isprintable()


async def test_a_model_whose_name_cannot_be_written_does_not_exist(keyed: Keyed, upstream: CountingUpstream) -> None:
    answer = await keyed.gate.ask(headers=await keyed.key(), model="a\0b")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert upstream.calls == []


async def test_what_a_backup_would_not_be_allowed_costs_the_first_nothing(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    """A key for `auto` alone, and a backup whose own default is a size: the first upstream is asked all the same."""
    async with counting_upstream() as backup:
        first, second = settings_over(tmp_path, upstream, backup).upstreams
        table = tmp_path / "mine.toml"
        table.write_text(OTHER_DEFAULT)
        upstreams = (first, replace(second, vendor="mine"))
        rules = RulesSection(catalogue=(table,))
        async with keyed_gate(tmp_path, upstream, upstreams=upstreams, rules=rules) as keyed:
            answer = await keyed.gate.ask(headers=await keyed.key(allowed_sizes=["auto"]))
            assert answer.status_code == 200


# --- the database is gone ---------------------------------------------------------------------------------------------


async def test_without_the_database_nothing_is_bought_and_hits_go_on(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key()
    await keyed.gate.ask(headers=headers)
    hidden = keyed.path.rename(keyed.path.with_suffix(".hidden"))
    refused = await keyed.gate.ask("another", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert refused.headers["retry-after"] == "5"
    assert len(upstream.calls) == 1
    assert (await keyed.gate.ask(headers=headers)).headers["x-imagegate-cache"] == "HIT"
    assert keyed.gate.total("imagegate_degraded", part="database") == 1
    hidden.rename(keyed.path)
    assert (await keyed.gate.ask("another", headers=headers)).status_code == 200
    assert keyed.gate.total("imagegate_degraded", part="database") == 0


async def test_a_reply_that_cannot_be_settled_is_served_and_settled_later(
    keyed: Keyed, upstream: CountingUpstream
) -> None:
    headers = await keyed.key(max_budget=1)
    upstream.hold()
    task = keyed.gate.asking(headers=headers)
    await upstream.reached(1)
    hidden = keyed.path.rename(keyed.path.with_suffix(".hidden"))
    upstream.release()
    assert (await task).status_code == 200
    hidden.rename(keyed.path)
    assert keyed.endings() == ["open"]
    assert keyed.gate.total("imagegate_ledger_waiting_rows") >= 1
    await keyed.gate.app.ledger.tend()
    assert (keyed.endings(), keyed.spend()) == (["settled"], (COST, 0))


async def test_a_purchase_that_the_database_refused_is_no_row_that_is_lost_at_the_end(
    keyed: Keyed, caplog: pytest.LogCaptureFixture
) -> None:
    headers = await keyed.key()
    hidden = keyed.path.rename(keyed.path.with_suffix(".hidden"))
    assert (await keyed.gate.ask(headers=headers)).status_code == 503
    hidden.rename(keyed.path)
    with caplog.at_level(logging.ERROR, "imagegate"):
        await keyed.gate.app.ledger.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert keyed.gate.total("imagegate_ledger_lost_rows_total") == 0

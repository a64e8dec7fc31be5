"""The ledger after a run of everything: it says what the metrics say, and what the upstream sold."""

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import DatabaseSection
from tests.pipeline.test_identities import price
from tests.support.application import gate, settings_over
from tests.support.counting import Call, CountingUpstream, Said, Streamed, completed, failed, partial
from tests.support.edits import EDITS, painted
from tests.support.images import picture, reply
from tests.support.keyed import DOLLAR, Keyed, keyed_gate
from tests.support.multipart import content_type, file, form, text

pytestmark = pytest.mark.anyio

FOX = painted("red")


class Shop:
    """An upstream that keeps books of its own: generations, edits, streams, and failures of each kind."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.sold = Decimal(0)
        self.tokens = 0

    def sells(self, call: Call) -> Said:
        prompt = call.fields["prompt"]
        if prompt.startswith("refused"):
            return Said(b'{"error":{"message":"no","type":"x","param":null,"code":null}}', 400)
        if prompt.startswith("broken"):
            return Said(b"<html>", content_type="text/html")
        image = picture(f"{call.number}")
        if call.fields.get("stream") not in (True, "true"):
            return Said(reply(image, usage=self._usage(call)))
        if prompt.startswith("failing"):
            return Streamed([partial(0, image), failed()])
        end = completed(image, operation=call.operation, usage=self._usage(call))
        return Streamed([partial(0, image, operation=call.operation), end])

    def _usage(self, call: Call) -> dict[str, Any]:
        given, made = self._dice.randrange(5, 200), self._dice.randrange(100, 5000)
        pictured = 500 if call.operation == "image_edit" else 0
        details = {"text_tokens": given, "image_tokens": pictured, "cached_tokens": 0}
        usage = {"input_tokens": given + pictured, "input_tokens_details": details, "output_tokens": made}
        self.sold += price({**usage, "input_tokens": given}) + Decimal(pictured) * 8 / 1_000_000
        self.tokens += given + pictured + made
        return usage


async def edited(keyed: Keyed, headers: dict[str, str], prompt: str) -> Any:
    body = form(text("model", "gpt-image-2"), text("prompt", prompt), file("image", FOX))
    return await keyed.gate.client.post(EDITS, content=body, headers={**headers, "content-type": content_type()})


@pytest.mark.parametrize("seed", range(2))
async def test_the_ledger_the_metrics_and_the_upstream_agree(
    keyed: Keyed, upstream: CountingUpstream, seed: int
) -> None:
    dice = random.Random(seed)
    shop = Shop(dice)
    upstream.script = shop.sells
    keys = [await keyed.key("a", team="red", max_budget=50), await keyed.key("b", team="blue"), await keyed.key("c")]
    prompts = ["fox", "owl", "bear", "refused", "broken", "failing"]
    answers: list[Any] = []
    for _ in range(15):
        burst = []
        for _ in range(dice.randrange(1, 7)):
            prompt, headers = dice.choice(prompts), dice.choice(keys)
            match dice.choice(("plain", "plain", "stream", "edit", "no-store")):
                case "stream":
                    burst.append(keyed.gate.ask(prompt, headers=headers, stream=True, partial_images=1))
                case "edit":
                    burst.append(edited(keyed, headers, prompt))
                case "no-store":
                    burst.append(keyed.gate.ask(prompt, headers={**headers, "cache-control": "no-store"}))
                case _:
                    burst.append(keyed.gate.ask(prompt, headers=headers))
        answers += await asyncio.gather(*burst, return_exceptions=True)
        await keyed.gate.landed()
        keyed.gate.clock.advance(60)
    await keyed.gate.app.ledger.tend()
    page = keyed.gate.scrape()
    assert {"settled", "released", "unknown"} <= set(keyed.endings())
    assert "open" not in keyed.endings()
    # Money: three books, one sum.
    assert keyed.total() == int(shop.sold * DOLLAR)
    assert page.total("imagegate_upstream_cost_usd_total") == pytest.approx(float(shop.sold), abs=1e-9)
    [(unknown,)] = keyed.rows("SELECT coalesce(sum(cost), 0) FROM purchases WHERE outcome = 'unknown'")
    assert page.total("imagegate_unknown_cost_usd_total") == pytest.approx(unknown / DOLLAR, abs=1e-9)
    # What budgets count is what the rows say.
    for column in ("key_id", "team_id"):
        for holder, cost in keyed.rows(f"SELECT {column}, sum(cost) FROM purchases WHERE {column} > '' GROUP BY 1"):
            [(settled, reserved)] = keyed.rows(f"SELECT settled, reserved FROM spends WHERE holder_id = '{holder}'")
            assert (settled, reserved) == (cost, 0)
    # Tokens and images.
    tokens = "sum(text_in + image_in + unknown_in + text_out + image_out)"
    [(counted, images)] = keyed.rows(f"SELECT {tokens}, sum(images) FROM purchases")
    assert counted == shop.tokens == page.total("imagegate_upstream_tokens_total")
    assert images == page.total("imagegate_upstream_images_total")
    # What cost nothing.
    for how in ("hit", "coalesced"):
        [(count, saved)] = keyed.rows(
            f"SELECT coalesce(sum(answers), 0), coalesce(sum(saved), 0) FROM tallies WHERE how = '{how}'"
        )
        assert count == page.total("imagegate_requests_total", cache=how, code="200")
        assert saved / DOLLAR == pytest.approx(page.total("imagegate_saved_cost_usd_total", reason=how), abs=1e-9)
    assert any(getattr(answer, "status_code", 0) == 200 for answer in answers)


async def test_without_keys_the_ledger_is_written_after_the_fact(tmp_path: Path, upstream: CountingUpstream) -> None:
    path = tmp_path / "imagegate.db"
    settings = settings_over(tmp_path, upstream, database=DatabaseSection(url=f"sqlite:///{path}"))
    async with gate(settings) as proxy:
        await proxy.ask()
        await proxy.ask()
        upstream.script = lambda call: Said(b"<html>", content_type="text/html")
        await proxy.ask("broken")
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT outcome, key_id, cost, images FROM purchases ORDER BY outcome").fetchall()
        tallies = connection.execute("SELECT key_id, how, answers, saved FROM tallies").fetchall()
    assert [row[:2] for row in rows] == [("settled", None), ("unknown", None)]
    assert rows[0][2:] == (31_735_000, 1)
    assert tallies == [("", "hit", 1, 31_735_000)]


async def test_without_keys_a_database_that_is_gone_costs_nobody_an_image(
    tmp_path: Path, upstream: CountingUpstream
) -> None:
    (tmp_path / "file").touch()
    settings = settings_over(
        tmp_path, upstream, database=DatabaseSection(url=f"sqlite:///{tmp_path}/file/imagegate.db")
    )
    async with gate(settings) as proxy:
        assert (await proxy.ask()).status_code == 200
        await proxy.app.ledger.tend()
        assert proxy.total("imagegate_degraded", part="database") == 1
        assert (await proxy.client.get("/readyz")).status_code == 200
        assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"


async def test_what_a_dead_process_left_open_is_settled_by_the_next(tmp_path: Path, upstream: CountingUpstream) -> None:
    """One reply is in the store, and its row still open; of another nothing is known."""
    async with keyed_gate(tmp_path, upstream) as first:
        headers = await first.key(max_budget=1)
        await first.gate.ask("stored", headers=headers)
        await first.gate.ask("lost", headers={**headers, "cache-control": "no-store"})
        clock = first.gate.clock
        with closing(sqlite3.connect(first.path)) as connection, connection:
            connection.execute("UPDATE purchases SET outcome = 'open', cost = NULL, closed_at = NULL, images = 0")
            connection.execute("UPDATE spends SET settled = 0, reserved = (SELECT sum(estimate) FROM purchases)")
    async with keyed_gate(tmp_path, upstream, clock=clock) as second:
        ledger = second.gate.app.ledger
        await ledger.recover()
        await ledger.recover()
        assert second.endings() == ["open", "open"]  # their leases have not run out
        clock.advance(700)
        await ledger.recover()
        assert second.endings() == ["open", "open"]  # a process that lives would renew them now
        await ledger.recover()
        rows = second.rows("SELECT outcome, cost = estimate, images, error FROM purchases ORDER BY outcome")
        assert rows == [("settled", 0, 1, None), ("unknown", 1, 0, "lease_expired")]
        [(cost,)] = second.rows("SELECT sum(cost) FROM purchases")
        assert second.spend() == (cost, 0)


async def test_a_purchase_of_this_process_is_never_taken_for_dead(keyed: Keyed, upstream: CountingUpstream) -> None:
    headers = await keyed.key()
    upstream.hold()
    task = keyed.gate.asking(headers=headers)
    await upstream.reached(1)
    keyed.gate.clock.advance(1_000_000)
    for _ in range(3):
        await keyed.gate.app.ledger.recover()
    assert keyed.endings() == ["open"]
    upstream.release()
    assert (await task).status_code == 200
    assert keyed.endings() == ["settled"]


@pytest.mark.parametrize("tags", ["a b", "x" * 65, ",".join("abcdefghijk"), "é", "<script>"])
async def test_tags_that_are_no_words_are_refused(keyed: Keyed, upstream: CountingUpstream, tags: str) -> None:
    headers: Any = {**await keyed.key(), "x-imagegate-tags": tags.encode("latin-1")}
    answer = await keyed.gate.ask(headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_header")
    assert upstream.calls == []


async def test_tags_do_not_make_another_image(keyed: Keyed) -> None:
    headers = await keyed.key()
    await keyed.gate.ask(headers={**headers, "x-imagegate-tags": "one,, two ,one"})
    assert (await keyed.gate.ask(headers=headers)).headers["x-imagegate-cache"] == "HIT"
    assert [json.loads(row[0]) for row in keyed.rows("SELECT tags FROM purchases")] == [["one", "two"]]

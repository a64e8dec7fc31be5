"""The identities that docs/metrics.md publishes, after a random mix of everything a caller and an upstream may do."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.application import GENERATIONS, Gate, Page, RawCall, gate, generation, settings_over
from tests.support.counting import Call, CountingUpstream, Said, counting_upstream
from tests.support.images import picture, reply

pytestmark = pytest.mark.anyio

BOUGHT = ("miss", "refresh", "bypass")
LABELS = ("hit", "coalesced", *BOUGHT)
MIX: tuple[Mapping[str, str], ...] = (
    *({},) * 6,
    {"cache-control": "no-store"},
    {"cache-control": "no-cache"},
    {"cache-control": "max-age=5"},
    {"cache-control": "only-if-cached"},
    {"cache-control": "max-stale"},
    {"x-imagegate-cache-ttl": "3"},
    {"x-imagegate-variant": "other"},
    {"x-imagegate-dry-run": "true"},
)
PROMPTS = ("fox", "owl", "bear", "refused", "broken", "short", "untold")


def price(usage: Mapping[str, Any]) -> Decimal:
    """gpt-image-2: text at 5 USD a million, 1.25 from the upstream's cache, image at 30."""
    cached = usage["input_tokens_details"]["cached_tokens"]
    fresh = usage["input_tokens"] - cached
    return (Decimal(fresh) * 5 + Decimal(cached) * Decimal("1.25") + Decimal(usage["output_tokens"]) * 30) / 1_000_000


@dataclass
class Bookkeeper:
    """The upstream's own books: what it sold, to be compared with what the proxy says it bought."""

    dice: random.Random
    usages: list[Mapping[str, Any]] = field(default_factory=list)
    untold: list[int] = field(default_factory=list)
    """For each reply without usage, how many images it held."""
    images: int = 0

    def sells(self, call: Call) -> Said:
        document = call.json
        if document["prompt"] == "refused":
            return Said(b'{"error":{"message":"no","type":"x","param":null,"code":null}}', 400)
        if document["prompt"] == "broken":
            return Said(b"<html>", content_type="text/html")
        images = 1 if document["prompt"] == "short" else document.get("n", 1)
        self.images += images
        usage = None
        if document["prompt"] == "untold":
            self.untold.append(images)
        else:
            usage = self._usage()
            self.usages.append(usage)
        pictures = [picture(f"{call.number} {number}", size=self.dice.randrange(100, 5000)) for number in range(images)]
        return Said(reply(*pictures, usage=usage))

    def _usage(self) -> Mapping[str, Any]:
        given, made = self.dice.randrange(5, 200), self.dice.randrange(100, 5000)
        details = {"text_tokens": given, "image_tokens": 0, "cached_tokens": self.dice.randrange(given)}
        return {"input_tokens": given, "input_tokens_details": details, "output_tokens": made}


@dataclass
class Seen:
    """What the callers were told, and how many left before their answer."""

    answers: list[httpx.Response] = field(default_factory=list)
    gone: int = 0

    def labels(self) -> Counter[str]:
        return Counter(answer.headers.get("x-imagegate-cache", "none").lower() for answer in self.answers)

    def of(self, label: str) -> list[httpx.Response]:
        """The answers of that label; what was sent on and failed has a label, too, and is no answer."""
        return [
            a for a in self.answers if a.status_code == 200 and a.headers.get("x-imagegate-cache", "").lower() == label
        ]


async def play(proxy: Gate, upstream: CountingUpstream, dice: random.Random, rounds: int) -> Seen:
    """Bursts of requests, some held at the upstream until they have piled up, some begun by a client that leaves."""
    seen = Seen()
    for number in range(rounds):
        prompt, n = dice.choice(PROMPTS), dice.choice((1, 1, 2))
        if held := dice.random() < 0.5:
            upstream.hold()
        leaver = RawCall(proxy.app)
        if leaves := held and dice.random() < 0.7:
            # Nothing that is stored already, so that it cannot be answered before it leaves.
            prompt = dice.choice(("refused", "broken", f"new {number}"))
            leaver.start(generation(prompt, n=n))
        burst = [
            proxy.asking(prompt, headers=dice.choice(MIX), n=n, size=dice.choice(("auto", "auto", "1x1")))
            for _ in range(dice.randrange(1, 6))
        ]
        for _ in range(dice.randrange(60)):
            await asyncio.sleep(0)
        if leaves:
            leaver.leave()
            await leaver.over()
            seen.gone += 1
        upstream.release()
        seen.answers += await asyncio.gather(*burst)
        await proxy.landed()
        proxy.clock.advance(dice.choice((0.5, 1, 4, 1000)))
    return seen


@pytest.mark.parametrize("seed", range(3))
async def test_every_published_identity_holds_after_a_random_mix(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    books = Bookkeeper(dice)
    async with counting_upstream() as upstream:
        upstream.script = books.sells
        async with gate(settings_over(tmp_path, upstream)) as proxy:
            estimates = {n: await estimated(proxy, n) for n in (1, 2)}
            seen = await play(proxy, upstream, dice, 50)
            page = proxy.scrape()
    assert seen.labels().keys() >= {"hit", "miss", "coalesced", "refresh", "bypass", "none"}
    assert seen.gone
    requests_are_counted_once(page, seen, dry_runs=len(estimates))
    answers_are_hits_and_forwards(page, seen, dry_runs=len(estimates))
    purchases_have_one_buyer(page, seen, books)
    tokens_are_counted_where_they_were_spent(page, books)
    the_bill_is_usage_times_price(page, books, estimates)
    savings_are_what_is_repeated(page, seen)
    images_are_counted_where_they_went(page, seen)
    lookups_and_attempts_are_timed(page, len(upstream.calls))
    assert page.total("imagegate_requests_in_flight") == page.total("imagegate_flights_in_flight") == 0


async def estimated(proxy: Gate, n: int) -> Decimal:
    answer = await proxy.ask("untold", n=n, headers={"x-imagegate-dry-run": "true"})
    return Decimal(answer.json()["estimated_cost_usd"])


def requests_are_counted_once(page: Page, seen: Seen, *, dry_runs: int) -> None:
    """Identity 1."""
    counted = page.total("imagegate_requests_total")
    assert counted == len(seen.answers) + seen.gone + dry_runs
    assert counted == page.total("imagegate_request_duration_seconds_count")
    assert page.total("imagegate_requests_total", code="499") == seen.gone
    assert page.total("imagegate_client_disconnects_total") == seen.gone
    for label in (*LABELS, "none"):
        of_label = page.total("imagegate_requests_total", cache=label)
        assert of_label == page.total("imagegate_request_duration_seconds_count", cache=label)
        gone = page.total("imagegate_requests_total", cache=label, code="499")
        assert of_label == seen.labels()[label] + gone + (dry_runs if label == "none" else 0)


def answers_are_hits_and_forwards(page: Page, seen: Seen, *, dry_runs: int) -> None:
    """Identity 2."""
    by_label = sum(page.total("imagegate_requests_total", code="200", cache=label) for label in LABELS)
    dry = page.total("imagegate_requests_total", code="200", cache="none")
    assert dry == dry_runs + sum("imagegate.dry_run" in answer.text[:100] for answer in seen.answers)
    assert page.total("imagegate_requests_total", code="200") == by_label + dry


def purchases_have_one_buyer(page: Page, seen: Seen, books: Bookkeeper) -> None:
    """Identity 3."""
    bought = page.total("imagegate_purchases_total", outcome="bought")
    buyers = sum(page.total("imagegate_requests_total", code="200", cache=label) for label in BOUGHT)
    assert bought == len(books.usages) + len(books.untold)
    assert buyers <= bought <= buyers + seen.gone
    assert bought <= page.total("imagegate_upstream_attempts_total", code="200", error="")


def tokens_are_counted_where_they_were_spent(page: Page, books: Bookkeeper) -> None:
    """Identities 4 and 5."""
    family = "imagegate_upstream_tokens_total"
    given, made = (sum(usage[name] for usage in books.usages) for name in ("input_tokens", "output_tokens"))
    assert page.total(family, direction="input", modality="text") == given
    assert page.total(family, direction="output", modality="image") == made
    assert page.total(family) == given + made
    assert page.total("imagegate_usage_missing_total") == len(books.untold)
    assert page.total("imagegate_upstream_images_total") == books.images
    cached = page.total("imagegate_upstream_cached_input_tokens_total")
    assert cached == sum(usage["input_tokens_details"]["cached_tokens"] for usage in books.usages)
    assert cached <= given


def the_bill_is_usage_times_price(page: Page, books: Bookkeeper, estimates: Mapping[int, Decimal]) -> None:
    """Identity 6; a reply that told no usage costs the estimate for what was asked."""
    told = sum((price(usage) for usage in books.usages), Decimal(0))
    untold = sum((estimates[images] for images in books.untold), Decimal(0))
    assert page.total("imagegate_upstream_cost_usd_total") == pytest.approx(float(told + untold), rel=1e-12)
    assert page.total("imagegate_unpriced_requests_total") == 0


def savings_are_what_is_repeated(page: Page, seen: Seen) -> None:
    """Identity 7."""
    for label in ("hit", "coalesced"):
        answers = seen.of(label)
        told = [answer.json()["usage"] for answer in answers if "usage" in answer.json()]
        tokens = sum(usage["input_tokens"] + usage["output_tokens"] for usage in told)
        assert page.total("imagegate_saved_tokens_total", reason=label) == tokens
        dollars = sum((Decimal(answer.headers["x-imagegate-saved-usd"]) for answer in answers), Decimal(0))
        counted = page.total("imagegate_saved_cost_usd_total", reason=label)
        assert counted == pytest.approx(float(dollars), rel=1e-12)
        for answer in answers:
            if "usage" in answer.json():
                assert Decimal(answer.headers["x-imagegate-saved-usd"]) == price(answer.json()["usage"])
            assert answer.headers["x-imagegate-cost-usd"] == "0"


def images_are_counted_where_they_went(page: Page, seen: Seen) -> None:
    for label in LABELS:
        delivered = sum(len(answer.json()["data"]) for answer in seen.of(label))
        assert page.total("imagegate_images_total", cache=label) == delivered
    assert page.total("imagegate_image_bytes_count") == page.total("imagegate_images_total")


def lookups_and_attempts_are_timed(page: Page, calls: int) -> None:
    """Identities 8 and 9."""
    for tier in ("memory", "disk"):
        looked = page.total("imagegate_cache_lookups_total", tier=tier)
        assert looked == page.total("imagegate_cache_lookup_duration_seconds_count", tier=tier) > 0
    attempts = page.total("imagegate_upstream_attempts_total")
    assert attempts == page.total("imagegate_upstream_attempt_duration_seconds_count") == calls


async def test_a_request_by_another_method_is_counted_too(tmp_path: Path) -> None:
    async with counting_upstream() as upstream, gate(settings_over(tmp_path, upstream)) as proxy:
        assert proxy.total("imagegate_requests_total") == proxy.total("imagegate_purchases_total") == 0
        assert (await proxy.client.get(GENERATIONS)).status_code == 405
        assert proxy.total("imagegate_requests_total", code="405", cache="none", model="none") == 1

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

from tests.support.application import GENERATIONS, Gate, RawCall, gate, generation, settings_over
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


def price(usage: Mapping[str, Any] | None) -> Decimal:
    """gpt-image-2: text at 5 USD a million, 1.25 from the upstream's cache, image at 30."""
    if usage is None:
        return Decimal(0)
    cached = usage["input_tokens_details"]["cached_tokens"]
    fresh = usage["input_tokens"] - cached
    return (Decimal(fresh) * 5 + cached * Decimal("1.25") + usage["output_tokens"] * 30) / 1_000_000


@dataclass
class Bookkeeper:
    """The upstream's own books: what it sold, to be compared with what the proxy says it bought."""

    dice: random.Random
    usages: list[Mapping[str, Any] | None] = field(default_factory=list)
    images: int = 0

    def sells(self, call: Call) -> Said:
        document = call.json
        if document["prompt"] == "refused":
            return Said(b'{"error":{"message":"no","type":"x","param":null,"code":null}}', 400)
        if document["prompt"] == "broken":
            return Said(b"<html>", content_type="text/html")
        wanted = document.get("n", 1)
        images = 1 if document["prompt"] == "short" else wanted
        usage = None if document["prompt"] == "untold" else self._usage()
        self.usages.append(usage)
        self.images += images
        pictures = [picture(f"{call.number} {number}", size=self.dice.randrange(100, 5000)) for number in range(images)]
        return Said(reply(*pictures, usage=usage))

    def _usage(self) -> Mapping[str, Any]:
        given, made = self.dice.randrange(5, 200), self.dice.randrange(100, 5000)
        return {
            "input_tokens": given,
            "input_tokens_details": {
                "text_tokens": given,
                "image_tokens": 0,
                "cached_tokens": self.dice.randrange(given),
            },
            "output_tokens": made,
        }


@dataclass
class Seen:
    """What the callers were told."""

    answers: list[httpx.Response] = field(default_factory=list)
    gone: int = 0

    def labels(self) -> Counter[str]:
        return Counter(answer.headers.get("x-imagegate-cache", "none").lower() for answer in self.answers)

    def of(self, *labels: str) -> list[httpx.Response]:
        return [answer for answer in self.answers if answer.headers.get("x-imagegate-cache", "").lower() in labels]


async def play(proxy: Gate, upstream: CountingUpstream, dice: random.Random, rounds: int) -> Seen:
    """Bursts of requests, some held at the upstream until they have piled up, some from clients that leave."""
    seen = Seen()
    for _ in range(rounds):
        prompt, n = dice.choice(PROMPTS), dice.choice((1, 1, 2))
        if dice.random() < 0.5:
            upstream.hold()
        burst = [
            proxy.asking(prompt, headers=dice.choice(MIX), n=n, size=dice.choice(("auto", "auto", "1x1")))
            for _ in range(dice.randrange(1, 6))
        ]
        leaver = RawCall(proxy.app)
        if leaves := dice.random() < 0.3:
            leaver.start(generation(prompt, n=n))
        for _ in range(dice.randrange(30)):
            await asyncio.sleep(0)
        if leaves:
            leaver.leave()
            await leaver.over()
            seen.gone += not leaver.messages
        upstream.release()
        seen.answers += await asyncio.gather(*burst)
        await proxy.landed()
        proxy.clock.advance(dice.choice((0.5, 1, 4, 1000)))
    return seen


@pytest.mark.parametrize("seed", range(4))
async def test_every_published_identity_holds_after_a_random_mix(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    books = Bookkeeper(dice)
    async with counting_upstream() as upstream:
        upstream.script = books.sells
        async with gate(settings_over(tmp_path, upstream)) as proxy:
            seen = await play(proxy, upstream, dice, 60)
            assert seen.labels().keys() >= {"hit", "miss", "coalesced", "refresh", "bypass", "none"}
            requests_are_counted_once(proxy, seen)
            answers_are_hits_and_forwards(proxy, seen)
            purchases_have_one_buyer(proxy, seen, books)
            the_bill_is_the_upstreams(proxy, books)
            savings_are_what_is_repeated(proxy, seen)
            images_are_counted_where_they_went(proxy, seen)
            lookups_and_attempts_are_timed(proxy, upstream)
            assert proxy.total("imagegate_requests_in_flight") == proxy.total("imagegate_flights_in_flight") == 0


def requests_are_counted_once(proxy: Gate, seen: Seen) -> None:
    counted = proxy.total("imagegate_requests_total")
    assert counted == len(seen.answers) + seen.gone + _answered_although_gone(proxy, seen)
    assert counted == proxy.total("imagegate_request_duration_seconds_count")
    for label, count in seen.labels().items():
        assert proxy.total("imagegate_request_duration_seconds_count", cache=label) >= count
    assert proxy.total("imagegate_client_disconnects_total") == proxy.total("imagegate_requests_total", code="499")


def answers_are_hits_and_forwards(proxy: Gate, seen: Seen) -> None:
    by_label = sum(proxy.total("imagegate_requests_total", code="200", cache=label) for label in LABELS)
    dry = proxy.total("imagegate_requests_total", code="200", cache="none")
    assert dry == sum("imagegate.dry_run" in answer.text[:100] for answer in seen.answers)
    assert proxy.total("imagegate_requests_total", code="200") == by_label + dry


def purchases_have_one_buyer(proxy: Gate, seen: Seen, books: Bookkeeper) -> None:
    bought = proxy.total("imagegate_purchases_total", outcome="bought")
    buyers = sum(proxy.total("imagegate_requests_total", code="200", cache=label) for label in BOUGHT)
    assert bought == len(books.usages)
    assert buyers <= bought <= buyers + seen.gone
    attempts = proxy.total("imagegate_upstream_attempts_total", code="200", error="")
    assert bought <= attempts


def the_bill_is_the_upstreams(proxy: Gate, books: Bookkeeper) -> None:
    told = [usage for usage in books.usages if usage is not None]
    tokens = "imagegate_upstream_tokens_total"
    assert proxy.total(tokens, direction="input", modality="text") == sum(usage["input_tokens"] for usage in told)
    assert proxy.total(tokens, direction="output", modality="image") == sum(usage["output_tokens"] for usage in told)
    assert proxy.total("imagegate_usage_missing_total") == len(books.usages) - len(told)
    assert proxy.total("imagegate_upstream_images_total") == books.images
    cached = proxy.total("imagegate_upstream_cached_input_tokens_total")
    assert cached == sum(usage["input_tokens_details"]["cached_tokens"] for usage in told)
    assert cached <= proxy.total(tokens, direction="input")


def savings_are_what_is_repeated(proxy: Gate, seen: Seen) -> None:
    """The bill with estimates for replies without usage is what the buyers' headers said."""
    for label in ("hit", "coalesced"):
        answers = seen.of(label)
        told = [answer.json()["usage"] for answer in answers if "usage" in answer.json()]
        saved = proxy.total("imagegate_saved_tokens_total", reason=label)
        in_bodies = sum(usage["input_tokens"] + usage["output_tokens"] for usage in told)
        in_headers = sum(Decimal(answer.headers["x-imagegate-saved-usd"]) for answer in answers)
        by_price = sum((price(usage) for usage in told), Decimal(0))
        untold = [answer for answer in answers if "usage" not in answer.json()]
        by_estimate = sum(Decimal(answer.headers["x-imagegate-saved-usd"]) for answer in untold)
        assert saved == pytest.approx(in_bodies) if not _left_early(proxy) else saved >= in_bodies
        assert in_headers == by_price + by_estimate
        assert {answer.headers["x-imagegate-cost-usd"] for answer in answers} <= {"0"}
        counted = proxy.total("imagegate_saved_cost_usd_total", reason=label)
        assert counted == pytest.approx(float(in_headers)) if not _left_early(proxy) else counted >= float(in_headers)


def images_are_counted_where_they_went(proxy: Gate, seen: Seen) -> None:
    delivered = sum(len(answer.json()["data"]) for answer in seen.of(*LABELS))
    counted = proxy.total("imagegate_images_total")
    assert counted == delivered if not _left_early(proxy) else counted >= delivered
    assert proxy.total("imagegate_image_bytes_count") == counted


def lookups_and_attempts_are_timed(proxy: Gate, upstream: CountingUpstream) -> None:
    for tier in ("memory", "disk"):
        looked = proxy.total("imagegate_cache_lookups_total", tier=tier)
        assert looked == proxy.total("imagegate_cache_lookup_duration_seconds_count", tier=tier) > 0
    attempts = proxy.total("imagegate_upstream_attempts_total")
    assert attempts == proxy.total("imagegate_upstream_attempt_duration_seconds_count") == len(upstream.calls)


def _left_early(proxy: Gate) -> bool:
    return proxy.total("imagegate_requests_total", code="499") > 0


def _answered_although_gone(proxy: Gate, seen: Seen) -> float:
    """Clients that left after their answer was written: counted as answered, and not in our list."""
    return proxy.total("imagegate_requests_total") - len(seen.answers) - seen.gone


async def test_a_page_without_a_single_request_has_every_family_at_zero(tmp_path: Path) -> None:
    async with counting_upstream() as upstream, gate(settings_over(tmp_path, upstream)) as proxy:
        assert proxy.total("imagegate_requests_total") == proxy.total("imagegate_purchases_total") == 0
        assert (await proxy.client.get(GENERATIONS)).status_code == 405
        assert proxy.total("imagegate_requests_total", code="405", cache="none", model="none") == 1

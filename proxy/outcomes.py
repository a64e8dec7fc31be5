"""What a look-up or a purchase amounts to: the values that the pipeline's steps hand to each other, made purely."""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any

from proxy import ids, policy
from proxy.asking import Ask
from proxy.model import Entry, Forward, Metadata, Outcome, Relay
from proxy.money import estimated_cost
from proxy.settings import CacheSection
from proxy.upstream import Generation


@dataclass(frozen=True, slots=True)
class Fill:
    """How a flight was satisfied, not only with what: a flight that found an entry is no purchase."""

    entry: Entry
    bought: bool
    stored: bool = False
    relay: Relay = field(default_factory=Relay)
    upstream_seconds: float = 0.0


def is_whole(generation: Generation) -> bool:
    """Whether every image that was asked for came, as bytes. Anything less is delivered, and never stored."""
    inspection = generation.inspection
    return not inspection.links and len(inspection.images) >= generation.candidate.request.n


def describe(ask: Ask, generation: Generation, cache: CacheSection, now: float) -> Metadata:
    """What is kept beside a reply."""
    candidate, request = generation.candidate, generation.candidate.request
    ttl = cache.ttl_seconds if ask.directives.ttl is None else ask.directives.ttl
    images, usage, price = generation.inspection.images, generation.inspection.usage, request.price
    return Metadata(
        key=candidate.key,
        scope=ask.principal.scope,
        purchase_id=ids.purchase_id(),
        stored_at=now,
        expires_at=now + ttl,
        operation=request.operation.value,
        model=request.model,
        upstream=candidate.upstream,
        cache_group=candidate.cache_group,
        size=request.size,
        quality=request.quality,
        images=images,
        usage=usage,
        cost=price.cost(usage, len(images)) if price and usage else estimated_cost(request),
        price_version=price.version if price else "",
        upstream_request_id=generation.upstream_request_id,
        upstream_seconds=generation.seconds,
        request=_kept(request.canonical, keep_prompt=cache.keep_prompts),
        begun_at=ask.arrived,
    )


def hit(entry: Entry, now: float) -> Outcome:
    """Answered from the store: it cost nothing, and saved what its purchase had cost."""
    return Outcome(
        entry=entry,
        forward=None,
        stored=True,
        ttl_seconds=policy.seconds_left(entry.metadata, now),
        age_seconds=policy.age_seconds(entry.metadata, now),
        cost=Decimal(0),
        saved=entry.metadata.cost,
    )


def bought(fill: Fill, why: Forward, *, collapsed: bool) -> Outcome:
    """Followers share the reply, not the bill, and nothing that concerns the leader's call alone."""
    cost = fill.entry.metadata.cost
    return Outcome(
        entry=fill.entry,
        forward=why,
        stored=fill.stored,
        collapsed=collapsed,
        cost=Decimal(0) if collapsed else cost,
        saved=cost if collapsed else Decimal(0),
        upstream_seconds=fill.upstream_seconds,
        relay=Relay() if collapsed else fill.relay,
    )


def _kept(canonical: bytes, *, keep_prompt: bool) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(canonical)
    if not keep_prompt and "prompt" in request:
        request["prompt_sha256"] = sha256(request.pop("prompt").encode()).hexdigest()
    return request

"""What a look-up or a purchase amounts to: the values that the pipeline's steps hand to each other, made purely."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

from proxy import ids, policy
from proxy.asking import Ask
from proxy.model import Entry, Forward, Metadata, Operation, Outcome, Relay, Usage
from proxy.money import estimated_cost
from proxy.purchase import Closing, Ending, Order, Tallied, nanos, nanos_at_least
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


class Worth(NamedTuple):
    """What an answer is to be counted for: `deliver` tells the metrics, the rest is for the ledger if it cost nothing."""

    deliver: Callable[[], None]
    by: Tallied
    images: int
    tokens: int
    saved: int
    """Nano-dollars."""


def is_whole(generation: Generation) -> bool:
    """Whether every image that was asked for came, as bytes. Anything less is delivered, and never stored."""
    inspection = generation.inspection
    return not inspection.links and len(inspection.images) >= generation.candidate.request.n


def payable(ask: Ask, *, allow_unpriced: bool) -> Ask:
    """The same of those only whose price is known, where a budget of money asks for one: what a backup charges without
    a price nobody could hold to it. Where none has a price, as it was: to be refused with that reason.
    """
    holder = ask.principal.holder
    limited = holder is not None and any(each.max_budget is not None for each in holder.records)
    priced = tuple(candidate for candidate in ask.candidates if estimated_cost(candidate.request) is not None)
    return ask if allow_unpriced or not limited or not priced else replace(ask, candidates=priced)


def order(ask: Ask, *, instance: str, lease_seconds: float) -> Order:
    """What is about to be bought: at the dearest of those who may be asked, because each of them may answer."""
    first, key = ask.first, ask.principal.holder.key if ask.principal.holder is not None else None
    estimates = [estimated_cost(candidate.request) for candidate in ask.candidates]
    known = [estimate for estimate in estimates if estimate is not None]
    return Order(
        id=ids.purchase_id(),
        instance=instance,
        lease_seconds=lease_seconds,
        key_id=key.id if key is not None else None,
        team_id=key.team_id if key is not None else None,
        operation=first.request.operation.value,
        model=first.request.model,
        upstream=first.upstream,
        size=first.request.size,
        quality=first.request.quality,
        n=first.request.n,
        cache_keys=() if ask.bypasses_cache else tuple(candidate.key for candidate in ask.candidates),
        request_id=ask.request_id,
        estimate=nanos_at_least(max(known)) if known else None,
        price_version=first.request.price.version if first.request.price else "",
        tags=ask.tags,
    )


def closing(metadata: Metadata, *, is_exact: bool) -> Closing:
    """How a purchase ended that brought a reply. `is_exact`: what it cost was told, or follows from what was told."""
    return Closing(
        id=metadata.purchase_id,
        ending=Ending.SETTLED if is_exact else Ending.ESTIMATED,
        cost=nanos(metadata.cost) if metadata.cost is not None else None,
        upstream=metadata.upstream,
        images=len(metadata.images),
        usage=metadata.usage,
        upstream_request_id=metadata.upstream_request_id,
        price_version=metadata.price_version,
        seconds=metadata.upstream_seconds,
    )


def is_exact(generation: Generation) -> bool:
    """Whether what it cost is known, and not only what was to be expected."""
    return generation.told_cost is not None or _usage(generation) is not None


def hour(now: float) -> int:
    """The one that `now` is in: when it began, in seconds since the epoch."""
    return int(now // 3600) * 3600


def worth(ask: Ask, outcome: Outcome, hour: int, deliver: Callable[[], None]) -> Worth:
    """What an answer is to be counted for, within this hour."""
    metadata, key = outcome.entry.metadata, ask.principal.holder.key if ask.principal.holder is not None else None
    by = Tallied(
        hour=hour,
        key_id=key.id if key is not None else "",
        team_id=key.team_id or "" if key is not None else "",
        operation=metadata.operation,
        model=metadata.model,
        size=metadata.size,
        quality=metadata.quality,
        how="hit" if outcome.forward is None else "coalesced",
    )
    tokens = metadata.usage.total if metadata.usage is not None else 0
    return Worth(deliver, by, len(metadata.images), tokens, nanos(metadata.cost) if metadata.cost is not None else 0)


def describe(ask: Ask, generation: Generation, cache: CacheSection, purchase_id: str, now: float) -> Metadata:
    """What is kept beside a reply."""
    candidate, request = generation.candidate, generation.candidate.request
    ttl = cache.ttl_seconds if ask.directives.ttl is None else ask.directives.ttl
    images, usage = generation.inspection.images, _usage(generation)
    return Metadata(
        key=candidate.key,
        scope=ask.principal.scope,
        purchase_id=purchase_id,
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
        cost=_cost(generation, usage),
        price_version=request.price.version if request.price else "",
        upstream_request_id=generation.upstream_request_id,
        upstream_seconds=generation.seconds,
        request=_kept(request.canonical, keep_prompt=cache.keep_prompts),
        event=generation.inspection.event,
        begun_at=ask.arrived,
    )


def _usage(generation: Generation) -> Usage | None:
    """What the upstream reported. Without details, the input of a generation is text; of an edit nobody can say."""
    usage, told = generation.inspection.usage, generation.inspection.told_usage
    price = generation.candidate.request.price
    if usage is not None and not (usage.image_out or usage.text_out) and price is not None and price.image_out:
        return None  # a picture without a token is a bill with a hole in it
    if (
        usage is None
        or generation.candidate.request.operation is Operation.GENERATION
        or "input_tokens_details" in told
    ):
        return usage
    return replace(usage, text_in=0, cached_text_in=0, unknown_in=usage.text_in)


def _cost(generation: Generation, usage: Usage | None) -> Decimal | None:
    """USD: what the vendor says it charged, else what its usage costs, else the estimate."""
    if generation.told_cost is not None:
        return generation.told_cost
    request = generation.candidate.request
    if request.price is None or usage is None:
        return estimated_cost(request)
    return request.price.cost(usage, len(generation.inspection.images), generation.partials)


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

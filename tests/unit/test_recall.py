"""proxy/recall.py: what is believed again is what would be found out again."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.asking import Ask
from proxy.errors import InvalidRequest, RequestError
from proxy.memo import Memo
from proxy.model import Document, Holder, Inbound, Operation, Unparsed
from proxy.policy import NO_DIRECTIVES
from proxy.recall import MAX_QUESTION_BYTES, Belief, Question, Recall
from proxy.settings import AuthSection, RulesSection
from proxy.strictjson import parse_object
from tests.support.application import Gate, gate, generation, settings_over
from tests.support.counting import CountingUpstream, counting_upstream
from tests.support.keyed import Keyed, keyed_gate

pytestmark = pytest.mark.anyio

QUESTION = Question(Operation.GENERATION, None, "5c09e", (None,), b"{}")
ROOM_BYTES, CALLERS = 1 << 19, 300
BELIEF = Belief((), NO_DIRECTIVES, ())


@pytest.fixture
async def upstream() -> AsyncIterator[CountingUpstream]:
    async with counting_upstream() as upstream:
        yield upstream


@pytest.fixture
async def proxy(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[Gate]:
    async with gate(settings_over(tmp_path, upstream)) as proxy:
        yield proxy


async def believe(
    proxy: Gate,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    deployment: str | None = None,
    raw: bool = True,
) -> Ask:
    """A call as it is believed: from its bytes, or, parsed beforehand, never from memory."""

    async def read() -> Document | Unparsed:
        return Unparsed(body, deployment) if raw else Document(parse_object(body)).deployed(deployment)

    headers = {"content-type": "application/json", **(headers or {})}
    return await proxy.app.pipeline.believe(Inbound(Operation.GENERATION, headers, read, proxy.clock.wall()))


def said(ask: Ask) -> tuple[Any, ...]:
    return ask.principal, ask.candidates, ask.directives, ask.tags, ask.openai_beta, ask.idempotency_key


CALLS: dict[str, tuple[bytes, dict[str, str]]] = {
    "plain": (generation(), {}),
    "another prompt": (generation("an owl"), {}),
    "another spelling": (generation() + b" ", {}),
    "a user": (generation(user="u-1"), {}),
    "a variant": (generation(), {"x-imagegate-variant": "7"}),
    "a variant in both": (generation(imagegate_variant="7"), {"x-imagegate-variant": "8"}),
    "a variant in the body": (generation(imagegate_variant="7"), {}),
    "a beta": (generation(), {"openai-beta": "images=v2"}),
    "no-cache": (generation(), {"cache-control": "no-cache"}),
    "max-age": (generation(), {"cache-control": "max-age=7"}),
    "a time to live": (generation(), {"x-imagegate-cache-ttl": "60"}),
    "tags": (generation(), {"x-imagegate-tags": "a, b"}),
    "other tags": (generation(), {"x-imagegate-tags": "a"}),
    "no tags": (generation(), {"x-imagegate-tags": ""}),
    "an idempotency key": (generation(), {"idempotency-key": "k-1"}),
    "a stream": (generation(stream=True, partial_images=2), {}),
    "links": (generation(response_format="url"), {}),
}


async def test_whatever_was_believed_before_a_call_is_what_it_says(proxy: Gate) -> None:
    for _ in range(2):
        for body, headers in CALLS.values():
            assert said(await believe(proxy, body, headers)) == said(await believe(proxy, body, headers, raw=False))


async def test_a_path_that_names_the_model_is_part_of_the_question(proxy: Gate) -> None:
    body = json.dumps({"prompt": "a red fox"}).encode()
    for _ in range(2):
        for model in ("gpt-image-2", "gpt-image-1-mini"):
            assert (await believe(proxy, body, deployment=model)).first.request.model == model


async def test_what_is_refused_is_refused_each_time_and_counted(proxy: Gate) -> None:
    for count in range(1, 4):
        with pytest.raises(RequestError):
            await believe(proxy, generation(size="1x1"))
        assert proxy.total("imagegate_validation_rejections_total", param="size") == count


async def test_a_header_that_is_no_good_is_refused_though_the_rest_is_known(proxy: Gate) -> None:
    await believe(proxy, generation())
    for headers in ({"x-imagegate-cache-ttl": "soon"}, {"x-imagegate-tags": "no good"}, {"idempotency-key": "k" * 999}):
        with pytest.raises(InvalidRequest):
            await believe(proxy, generation(), headers)


async def test_what_a_rule_let_through_is_counted_each_time(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream, rules=RulesSection(on_invalid="pass"))) as proxy:
        for count in range(1, 4):
            await believe(proxy, generation(size="1000x1000"))
            assert proxy.total("imagegate_validation_passed_total", param="size") == count


async def test_new_rules_form_new_beliefs(tmp_path: Path, upstream: CountingUpstream) -> None:
    settings = settings_over(tmp_path, upstream, rules=RulesSection(aliases={"house": "gpt-image-2"}))
    async with gate(settings) as proxy:
        body = generation(model="house")
        assert (await believe(proxy, body)).first.request.model == "gpt-image-2"
        proxy.app.reload(replace(settings, rules=RulesSection(aliases={"house": "gpt-image-1-mini"})))
        for _ in range(2):
            assert (await believe(proxy, body)).first.request.model == "gpt-image-1-mini"


async def test_two_callers_of_one_credential_each_are_told_apart(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with gate(settings_over(tmp_path, upstream, auth=AuthSection(mode="passthrough"))) as proxy:
        asks = [
            await believe(proxy, generation(), {"authorization": f"Bearer sk-{name}"}) for name in ("a", "b", "a", "b")
        ]
    credentials = [ask.caller.credential for ask in asks]
    assert [each.value for each in credentials if each is not None] == [f"Bearer sk-{name}" for name in "abab"]
    assert [ask.first.key for ask in asks[:2]] == [ask.first.key for ask in asks[2:]]
    assert asks[0].first.key != asks[1].first.key


@pytest.fixture
async def keyed(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[Keyed]:
    async with keyed_gate(tmp_path, upstream) as keyed:
        yield keyed


async def test_keys_that_share_a_cache_do_not_share_what_they_may(keyed: Keyed) -> None:
    free = await keyed.key("free", cache_scope="org")
    bound = await keyed.key("bound", cache_scope="org", allowed_sizes=["1024x1024"])
    body = generation(size="1536x1024")
    for _ in range(2):
        assert (await believe(keyed.gate, body, free)).principal.holder is not None
        with pytest.raises(Exception, match="size"):
            await believe(keyed.gate, body, bound)


async def test_a_key_that_is_changed_is_judged_anew(keyed: Keyed) -> None:
    headers = await keyed.key()
    await believe(keyed.gate, generation(), headers)
    await keyed.update("alice", models=["dall-e-3"])
    with pytest.raises(Exception, match="model"):
        await believe(keyed.gate, generation(), headers)
    await keyed.update("alice", models=None)
    await believe(keyed.gate, generation(), headers)


def test_a_belief_is_of_these_rules_and_this_record(proxy_rules: tuple[Any, Any]) -> None:
    recall, (these, others) = Recall(), proxy_rules
    holder, other = (Holder(None) for _ in range(2))  # type: ignore[arg-type]
    recall.keep(QUESTION, these, holder, BELIEF)
    assert recall.belief(QUESTION, these, holder) is BELIEF
    assert recall.belief(QUESTION, these, other) is None, "equal is not the same"
    assert recall.belief(QUESTION, these, None) is None
    assert recall.belief(QUESTION, others, holder) is None


@pytest.fixture
def proxy_rules() -> tuple[Any, Any]:
    return object(), object()


def test_long_bodies_are_read_each_time(proxy_rules: tuple[Any, Any]) -> None:
    recall, (rules, _) = Recall(), proxy_rules
    for size, kept in ((MAX_QUESTION_BYTES, BELIEF), (MAX_QUESTION_BYTES + 1, None)):
        question = QUESTION._replace(body=b"x" * size)
        recall.keep(question, rules, None, BELIEF)
        assert recall.belief(question, rules, None) is kept


@pytest.mark.parametrize(
    ("prompt", "header"),
    [("a fox", ""), ("fox " * 3900, ""), ("\u72d0" * 5000, ""), ("a fox", "max-age=1, " + "x" * 30_000)],
    ids=["short", "long", "beyond ASCII", "a long header"],
)
async def test_what_is_remembered_takes_no_more_than_it_may(proxy: Gate, prompt: str, header: str) -> None:
    """Of whatever kind the calls are: they are strangers'."""
    body = json.dumps({"model": "gpt-image-2", "prompt": prompt}, ensure_ascii=False).encode()

    async def ask(number: int) -> None:
        headers = {"cache-control": f"{header}{number:06}"} if header else {}
        await believe(proxy, body.replace(b'"}', b'%06d"}' % number), headers)

    await ask(0)
    recall = proxy.app.pipeline.doorkeeper.recall = Recall(Memo(ROOM_BYTES))
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(CALLERS):
            await ask(number)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < len(recall.kept) < CALLERS, "it was full"
    assert held < 1.5 * ROOM_BYTES


async def test_many_at_once_do_not_get_into_each_others_way(proxy: Gate) -> None:
    calls = list(CALLS.values())
    found = await asyncio.gather(*(believe(proxy, *call) for call in calls * 5))
    for call, ask in zip(calls * 5, found, strict=True):
        assert said(ask) == said(await believe(proxy, *call, raw=False))

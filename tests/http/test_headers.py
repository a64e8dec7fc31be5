"""The headers of an answer: those that are promised, and no other."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Entry, Forward, Metadata, Outcome
from proxy.replyheaders import cache_status
from tests.support.application import Gate
from tests.support.counting import Call, CountingUpstream, Said, paints

pytestmark = pytest.mark.anyio

OF_THE_UPSTREAM = {
    "openai-processing-ms": "61234",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-images": "250",
    "x-ratelimit-remaining-images": "249",
    "x-ratelimit-reset-images": "240ms",
    "x-request-id": "req_of_the_upstream",
    "openai-organization": "org-secret",
    "openai-project": "proj-secret",
    "set-cookie": "__cf_bm=secret; path=/",
    "cf-ray": "8f-FRA",
    "cf-cache-status": "DYNAMIC",
    "server": "cloudflare",
    "alt-svc": 'h3=":443"',
    "strict-transport-security": "max-age=1",
    "x-content-type-options": "nosniff",
    "cache-control": "public, max-age=99",
    "age": "12345",
    "cache-status": "cloudflare; hit",
    "server-timing": "cf;dur=1",
    "x-imagegate-cache": "HIT",
    "x-imagegate-cost-usd": "0",
    "x-ratelimit-note": "caf\u00e9",
    "retry-after": "1",
    "x-should-retry": "true",
}
ALWAYS = {
    *("content-type", "content-length", "cache-control", "cache-status", "server-timing", "x-request-id"),
    *("x-imagegate-cache", "x-imagegate-cache-key", "x-imagegate-cost-usd", "x-imagegate-saved-usd"),
}
RELAYED = {
    *("openai-processing-ms", "openai-version", "x-ratelimit-limit-images", "x-ratelimit-remaining-images"),
    "x-ratelimit-reset-images",
}


def talkative(call: Call) -> Said:
    return Said(paints(call).body, headers=OF_THE_UPSTREAM)


@pytest.fixture
async def talked_to(proxy: Gate, upstream: CountingUpstream) -> AsyncIterator[Gate]:
    """Over an upstream that says more in its headers than anybody should hear."""
    upstream.script = talkative
    yield proxy


async def test_a_miss_has_the_promised_headers_and_no_other(talked_to: Gate) -> None:
    answer = await talked_to.ask()
    assert set(answer.headers) == ALWAYS | RELAYED | {"x-imagegate-upstream-request-id"}
    assert answer.headers["x-imagegate-upstream-request-id"] == "req_of_the_upstream"
    assert answer.headers["cache-status"] == "imagegate; fwd=uri-miss; stored"
    assert answer.headers["openai-processing-ms"] == "61234"
    _is_private_json(answer)


async def test_a_hit_has_the_promised_headers_and_no_other(talked_to: Gate) -> None:
    await talked_to.ask()
    for _ in range(2):
        answer = await talked_to.ask()
        assert set(answer.headers) == ALWAYS | {"age"}
        _is_private_json(answer)


async def test_a_bypass_has_the_headers_of_a_miss(talked_to: Gate) -> None:
    answer = await talked_to.ask(headers={"cache-control": "no-store"})
    assert set(answer.headers) == ALWAYS | RELAYED | {"x-imagegate-upstream-request-id"}


@pytest.mark.parametrize("label", ["MISS", "REFRESH", "HIT"])
async def test_no_header_comes_twice(talked_to: Gate, label: str) -> None:
    control = {"cache-control": "no-cache"} if label == "REFRESH" else {}
    if label != "MISS":
        await talked_to.ask()
    talked_to.clock.advance(1)
    answer = await talked_to.ask(headers=control)
    assert answer.headers["x-imagegate-cache"] == label
    names = [name.lower() for name, _ in answer.headers.raw]
    assert len(names) == len(set(names))


async def test_the_key_is_the_first_twelve_digits_of_the_key(talked_to: Gate) -> None:
    key = await talked_to.key_of()
    assert (await talked_to.ask()).headers["x-imagegate-cache-key"] == key[:12]
    assert re.fullmatch(r"[0-9a-f]{64}", key)


async def test_an_error_carries_none_of_it(talked_to: Gate) -> None:
    answer = await talked_to.ask(n=99)
    assert set(answer.headers) == {"content-type", "content-length", "cache-control", "x-request-id"}


async def test_server_timing_names_three_metrics_that_add_up(talked_to: Gate) -> None:
    for answer in (await talked_to.ask(), await talked_to.ask()):
        parsed = _server_timing(answer.headers["server-timing"])
        assert list(parsed) == ["total", "upstream", "proxy"]
        assert parsed["total"] == pytest.approx(parsed["upstream"] + parsed["proxy"], abs=0.11)
        assert min(parsed.values()) >= 0


async def test_server_timing_tells_the_upstreams_time_from_ours(talked_to: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    asked = talked_to.asking()
    await upstream.reached(1)
    talked_to.clock.advance(12.5)
    upstream.release()
    timing = _server_timing((await asked).headers["server-timing"])
    assert timing == {"total": 12_500.0, "upstream": 12_500.0, "proxy": 0.0}
    assert _server_timing((await talked_to.ask()).headers["server-timing"])["upstream"] == 0.0


# --- Cache-Status is a List of RFC 9651 -------------------------------------------------------------------------------

_BARE = r'(?:-?[0-9]{1,15}|[A-Za-z*][!#$%&\'*+\-.^_`|~0-9A-Za-z:/]*|"[^"\\]*"|\?[01])'
_PARAMETER = rf"; *[a-z*][a-z0-9_\-.*]*(?:={_BARE})?"
_LIST = re.compile(rf"{_BARE}(?:{_PARAMETER})*(?:[ \t]*,[ \t]*{_BARE}(?:{_PARAMETER})*)*")
FORWARDS = {"bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"}


def parameters_of(value: str) -> Mapping[str, Any]:
    assert _LIST.fullmatch(value), value
    member, *parameters = (part.strip() for part in value.split(";"))
    assert member == "imagegate"
    return dict(part.partition("=")[::2] for part in parameters)


@given(
    forward=st.one_of(st.none(), st.sampled_from(Forward)),
    stored=st.booleans(),
    collapsed=st.booleans(),
    ttl=st.integers(-(2**40), 2**40),
    tier=st.sampled_from(["memory", "disk", "none"]),
)
def test_cache_status_parses_whatever_the_outcome(
    forward: Forward | None, stored: bool, collapsed: bool, ttl: int, tier: Any
) -> None:
    metadata = Metadata("k", "s", "p", 0, 1, "image_generation", "m", "u", "g", "auto", "auto", ())
    outcome = Outcome(Entry(metadata, NoBody(), tier), forward, stored=stored, collapsed=collapsed, ttl_seconds=ttl)
    found = parameters_of(cache_status(outcome))
    assert ("hit" in found) is (forward is None)
    assert found.get("fwd") == (forward.value if forward else None)
    assert found.get("fwd") in FORWARDS | {None}
    if forward is None:
        assert int(found["ttl"]) == ttl
        assert "stored" not in found
    else:
        assert ("stored" in found) is stored
        assert ("collapsed" in found) is collapsed
        assert "ttl" not in found


class NoBody:
    """A body that nobody reads."""

    window_bytes = 1

    def __len__(self) -> int:
        return 0

    async def window(self, start: int, stop: int) -> bytes:
        raise AssertionError

    def reading(self) -> Any:
        raise AssertionError


@pytest.mark.parametrize("control", ["", "no-cache", "no-store", "max-age=0"])
async def test_cache_status_of_real_answers_parses_and_agrees_with_our_own_header(
    talked_to: Gate, control: str
) -> None:
    words = {"uri-miss": "MISS", "stale": "MISS", "request": "REFRESH", "bypass": "BYPASS"}
    for _ in range(3):
        talked_to.clock.advance(2)
        answer = await talked_to.ask(headers={"cache-control": control})
        found = parameters_of(answer.headers["cache-status"])
        expected = "HIT" if "hit" in found else words[found["fwd"]]
        assert answer.headers["x-imagegate-cache"] == expected


def _is_private_json(answer: httpx.Response) -> None:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "private, no-store"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert re.fullmatch(r"[0-9a-f]{12}", answer.headers["x-imagegate-cache-key"])
    for name in ("x-imagegate-cost-usd", "x-imagegate-saved-usd"):
        assert re.fullmatch(r"[0-9]+(\.[0-9]*[1-9])?", answer.headers[name])


def _server_timing(value: str) -> dict[str, float]:
    """W3C Server Timing: a list of names with parameters."""
    members = [member.strip().split(";") for member in value.split(",")]
    return {name: float(parameter.partition("=")[2]) for name, parameter in members if parameter.startswith("dur=")}

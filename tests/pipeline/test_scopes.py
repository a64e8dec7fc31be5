"""Whoever holds another credential never sees the entry."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.settings import AuthSection
from tests.support.application import Gate, gate, settings_over
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio

CALLERS = (
    {"authorization": "Bearer sk-one"},
    {"authorization": "Bearer sk-two"},
    {"authorization": "sk-one"},
    {"api-key": "Bearer sk-one"},
    {"authorization": "Bearer sk-one", "openai-organization": "org-a"},
    {"authorization": "Bearer sk-one", "openai-organization": "org-b"},
    {"authorization": "Bearer sk-one", "openai-project": "org-a"},
    {"authorization": "Bearer sk-one", "openai-organization": "org-a", "openai-project": "proj"},
)


@pytest.fixture
async def passthrough(tmp_path: Path, upstream: CountingUpstream) -> AsyncIterator[Gate]:
    async with gate(settings_over(tmp_path, upstream, auth=AuthSection(mode="passthrough"))) as proxy:
        yield proxy


async def test_no_two_credentials_organisations_or_projects_share_an_entry(
    passthrough: Gate, upstream: CountingUpstream
) -> None:
    bought = [await passthrough.ask(headers=caller) for caller in CALLERS]
    assert {answer.headers["x-imagegate-cache"] for answer in bought} == {"MISS"}
    assert len(upstream.calls) == len(CALLERS)
    for caller, first in zip(CALLERS, bought, strict=True):
        again = await passthrough.ask(headers=caller)
        assert (again.headers["x-imagegate-cache"], again.content) == ("HIT", first.content)
    for one, other in itertools.combinations(bought, 2):
        assert one.headers["x-imagegate-cache-key"] != other.headers["x-imagegate-cache-key"]


async def test_no_two_credentials_share_a_flight(passthrough: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    tasks = [passthrough.asking(headers=caller) for caller in CALLERS[:2]]
    await upstream.reached(2)
    upstream.release()
    assert {(await task).headers["x-imagegate-cache"] for task in tasks} == {"MISS"}
    assert {call.headers["authorization"] for call in upstream.calls} == {"Bearer sk-one", "Bearer sk-two"}


async def test_the_callers_own_credential_goes_upstream_and_ours_does_not(
    passthrough: Gate, upstream: CountingUpstream
) -> None:
    await passthrough.ask(headers={**CALLERS[-1], "cookie": "a=b", "x-forwarded-for": "10.0.0.1", "x-custom": "1"})
    await passthrough.ask(headers=CALLERS[3])
    first, second = upstream.calls
    assert set(first.headers) <= {
        *("host", "accept", "accept-encoding", "content-type", "content-length", "user-agent", "connection"),
        *("authorization", "openai-organization", "openai-project"),
    }
    assert first.headers["authorization"] == "Bearer sk-one"
    assert (first.headers["openai-organization"], first.headers["openai-project"]) == ("org-a", "proj")
    assert second.headers["api-key"] == "Bearer sk-one"
    assert "authorization" not in second.headers


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"api-key": " "}])
async def test_without_a_credential_nothing_is_sent(
    passthrough: Gate, upstream: CountingUpstream, headers: dict[str, str]
) -> None:
    answer = await passthrough.ask(headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert upstream.calls == []
    assert passthrough.total("imagegate_auth_failures_total", reason="missing") == 1


@pytest.mark.parametrize("name", [b"authorization", b"api-key", b"openai-beta", b"openai-organization"])
async def test_a_header_to_be_forwarded_that_is_no_ascii_is_refused_and_no_error_of_ours(
    passthrough: Gate, upstream: CountingUpstream, name: bytes
) -> None:
    body = {"model": "gpt-image-2", "prompt": "a red fox"}
    pairs = [(name, b"Bearer sk-\xe9\xff")]
    answer = await passthrough.client.post("/v1/images/generations", json=body, headers=pairs)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "invalid_header"
    assert upstream.calls == []


async def test_another_secret_is_another_scope(tmp_path: Path, upstream: CountingUpstream) -> None:
    keys = set()
    for name in ("one", "two"):
        settings = settings_over(tmp_path / name, upstream, auth=AuthSection(mode="passthrough"))
        async with gate(settings) as proxy:
            keys.add((await proxy.ask(headers=CALLERS[0])).headers["x-imagegate-cache-key"])
    assert len(keys) == 2

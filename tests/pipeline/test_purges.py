"""What an operator asked to forget is forgotten, also by a flight that was in the air."""

import pytest

from proxy.stores.purges import Purge, PurgeLog
from tests.support.application import Gate
from tests.support.counting import CountingUpstream

pytestmark = pytest.mark.anyio


def purge(proxy: Gate, purged: Purge) -> None:
    """Raises an epoch, as `imagegate cache purge` does beside a running proxy."""
    PurgeLog(proxy.directory).append(purged)


@pytest.mark.parametrize("by", ["all", "model", "key", "scope"])
async def test_a_flight_begun_before_a_purge_is_delivered_and_not_stored(
    proxy: Gate, upstream: CountingUpstream, by: str
) -> None:
    key = await proxy.key_of()
    scope = proxy.app.pipeline.doorkeeper.authenticator.authenticate({}).scope
    purges = {
        "all": Purge("all", at=proxy.clock.wall()),
        "model": Purge("model", at=proxy.clock.wall(), value="gpt-image-2"),
        "key": Purge("key", at=proxy.clock.wall(), value=key[:12]),
        "scope": Purge("scope", at=proxy.clock.wall(), value=scope),
    }
    upstream.hold()
    asked = proxy.asking()
    await upstream.reached(1)
    purge(proxy, purges[by])
    upstream.release()
    answer = await asked
    assert answer.content == upstream.replies[0]
    assert answer.headers["cache-status"] == "imagegate; fwd=uri-miss"
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "MISS"
    assert (await proxy.ask()).headers["x-imagegate-cache"] == "HIT"
    assert list(proxy.directory.rglob("*.spool")) == []


async def test_a_purge_of_something_else_lets_a_flight_be_stored(proxy: Gate, upstream: CountingUpstream) -> None:
    upstream.hold()
    asked = proxy.asking()
    await upstream.reached(1)
    purge(proxy, Purge("model", at=proxy.clock.wall(), value="gpt-image-1-mini"))
    upstream.release()
    assert (await asked).headers["cache-status"] == "imagegate; fwd=uri-miss; stored"


async def test_a_purge_is_obeyed_in_memory_too(proxy: Gate, upstream: CountingUpstream) -> None:
    for _ in range(3):
        await proxy.ask()
    assert proxy.total("imagegate_cache_entries", tier="memory") == 1
    purge(proxy, Purge("all", at=proxy.clock.wall()))
    await proxy.app.store.poll()
    assert proxy.total("imagegate_cache_entries", tier="memory") == 0

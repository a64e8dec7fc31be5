"""Cost and tokens by virtual key: another cut of the same bill, and only if it is wanted."""

from pathlib import Path

import pytest

from proxy.settings import MetricsSection
from tests.support.counting import CountingUpstream
from tests.support.keyed import Keyed, keyed_gate

pytestmark = pytest.mark.anyio

FAMILIES = ("upstream_cost_usd_total", "upstream_tokens_total")


async def two_keys_buy(keyed: Keyed) -> None:
    alice, bob = await keyed.key("alice"), await keyed.key("bob")
    for prompt, key in (("one", alice), ("two", alice), ("one", alice), ("three", bob)):
        assert (await keyed.gate.ask(prompt, headers=key)).status_code == 200


async def test_the_bill_by_key_is_the_bill(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with keyed_gate(tmp_path, upstream, metrics=MetricsSection(per_key=True)) as keyed:
        await two_keys_buy(keyed)
        page = keyed.gate.scrape()
    assert len(upstream.calls) == 3
    for family in FAMILIES:
        bill, by_key = page.total(f"imagegate_{family}"), f"imagegate_key_{family}"
        assert bill > 0
        assert page.total(by_key) == pytest.approx(bill)
        assert page.total(by_key, key="alice") == pytest.approx(bill * 2 / 3)
        assert page.total(by_key, key="bob") == pytest.approx(bill / 3)


async def test_no_alias_is_told_unless_it_is_wanted(tmp_path: Path, upstream: CountingUpstream) -> None:
    async with keyed_gate(tmp_path, upstream) as keyed:
        await two_keys_buy(keyed)
        text = keyed.gate.app.metrics.render(None)[0].decode()
    assert "# TYPE imagegate_key_upstream_cost_usd_total counter" in text
    assert "alice" not in text

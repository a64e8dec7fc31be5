"""Dashboards, rules and alerts on a real Prometheus that scrapes a real proxy under load: every panel is alive."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest

from tests.support.keydatabase import DOLLAR, KeyDatabase, keys_mode
from tests.support.observed import Prometheus, Target, prometheus, substituted, targets
from tests.support.polling import eventually
from tests.support.process import Proxy, serving
from tests.support.prometheus import found
from tests.support.traffic import TRACE_ID, Traffic, flowing, keys_of
from tests.support.upstream_process import UpstreamProcess

ENOUGH_SCRAPES = 8
PRICE_OF_TEXT_IN, PRICE_OF_IMAGE_IN, PRICE_OF_IMAGE_OUT = 5, 8, 30
"""USD for a million tokens of gpt-image-2."""


@dataclass
class Stand:
    """All of it, running."""

    proxy: Proxy
    prometheus: Prometheus
    database: KeyDatabase


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    binary = found("prometheus")
    if binary is None:
        pytest.skip("prometheus is not to be had here: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("stand")
    upstream = UpstreamProcess()
    try:
        database = KeyDatabase(f"sqlite:///{folder / 'imagegate.db'}")
        keys = keys_of(database)
        sections = keys_mode(database.url, upstream={"max_connections": 3}, metrics={"per_key": True})
        with (
            serving(folder, upstream.url, sections) as proxy,
            prometheus(binary, folder, proxy.url) as server,
            httpx.Client(base_url=proxy.url, timeout=20) as client,
            flowing(Traffic("live", client, upstream, keys)) as began,
        ):
            assert began.wait(60)
            eventually(lambda: server.scrapes() >= ENOUGH_SCRAPES, seconds=60, what="scrapes under load")
            yield Stand(proxy, server, database)
    finally:
        upstream.stop()


def test_every_query_of_every_panel_is_alive(stand: Stand) -> None:
    every = targets()
    assert len(every) > 80
    dead = [target for target in every if not stand.prometheus.answers(target)]
    assert [target.name for target in dead] == []


def test_a_query_that_finds_nothing_is_dead(stand: Stand) -> None:
    for expression in ("imagegate_no_such_total", "0 / 0", 'imagegate_requests_total{cache="nowhere"}'):
        assert not stand.prometheus.answers(Target("", "", "stat", "A", expression, is_instant=True))


def test_every_rule_is_evaluated_without_a_fault(stand: Stand) -> None:
    def evaluated() -> list[Any] | None:
        groups = stand.prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return None if any(rule["health"] == "unknown" for rule in rules) else rules

    rules = eventually(evaluated, seconds=20, what="the evaluation of every rule")
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_every_variable_has_values(stand: Stand) -> None:
    for name in ("job", "instance", "model", "team"):
        assert stand.prometheus.ask(f"label/{name}/values"), name


def test_money_is_the_same_in_metrics_tokens_and_ledger(stand: Stand) -> None:
    """To the cent, whatever is still flying: each is read between two readings of the other."""

    def cost() -> float:
        return stand.proxy.metric("imagegate_upstream_cost_usd_total")

    def ledger() -> float:
        rows = stand.database.rows("SELECT sum(cost) FROM purchases WHERE outcome IN ('settled', 'estimated')")
        return float(rows[0][0]) / DOLLAR

    def tokens() -> float:
        page = stand.proxy.metrics()
        counted = partial(page.sum, "imagegate_upstream_tokens_total", model="gpt-image-2")  # the others have no price
        return (
            counted(direction="input", modality="text") * PRICE_OF_TEXT_IN
            + counted(direction="input", modality="image") * PRICE_OF_IMAGE_IN
            + counted(direction="input", modality="unknown") * PRICE_OF_IMAGE_IN
            + counted(direction="output", modality="image") * PRICE_OF_IMAGE_OUT
        ) / 1_000_000

    for read in (ledger, tokens):
        eventually(lambda read=read: abs(cost() - read()) < 1e-6, seconds=20, what=f"{read.__name__} = cost")  # type: ignore[misc]


def test_the_scripted_load_shows_what_a_dashboard_is_for(stand: Stand) -> None:
    """Not only numbers: those that the load must have made."""
    ask = stand.prometheus.instant
    for expression in (
        'sum(imagegate_saved_cost_usd_total{reason="hit"})',
        'sum(imagegate_saved_cost_usd_total{reason="coalesced"})',
        'sum(imagegate_upstream_cost_usd_total{team="design"})',
        "sum(imagegate_unknown_cost_usd_total)",
        'sum(imagegate_rate_limited_total{limit="rpm"})',
        'sum(imagegate_rate_limited_total{limit="budget"})',
        'sum(imagegate_auth_failures_total{reason="malformed"})',
        "sum(imagegate_label_overflow_total)",
        "sum(imagegate_unpriced_requests_total)",
        "sum(imagegate_upstream_retries_total)",
        "sum(imagegate_soft_budget_exceeded_total)",
        'sum(imagegate_requests_total{operation="image_edit",code="200"})',
        "sum(imagegate_client_disconnects_total)",
    ):
        [(_, value)] = ask(substituted(expression))
        assert value > 0, expression


def test_an_exemplar_leads_from_a_latency_to_its_trace(stand: Stand) -> None:
    def traces() -> set[str]:
        series = stand.prometheus.exemplars("imagegate_request_duration_seconds_bucket")
        return {each["labels"]["trace_id"] for found in series for each in found["exemplars"]}

    assert eventually(traces, seconds=20, what="an exemplar") == {TRACE_ID}

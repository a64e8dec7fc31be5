"""The shipped rules by Prometheus's own tool: valid, firing when they should, and no threshold can change unseen."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest

from tests.support.application import Gate, gate, settings_over
from tests.support.counting import counting_upstream
from tests.support.prometheus import CONFIG, Rule, promtool, read, rules_tested, shipped, write, written_tests

pytestmark = pytest.mark.anyio

COMPARISON = re.compile(r"(==|!=|<=|>=|<|>)(\s*)(-?\d[\d.]*)")
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
MOST_COMPARISONS = 3


def test_the_configuration_is_one() -> None:
    verdict = promtool("check", "config", CONFIG / "prometheus.yml")
    assert verdict.passed, verdict.text


def test_the_rules_are_rules() -> None:
    verdict = promtool("check", "rules", CONFIG / "rules.yml", CONFIG / "alerts.yml")
    assert verdict.passed, verdict.text


def test_every_rule_does_what_its_tests_say() -> None:
    verdicts = rules_tested(written_tests())
    assert [verdict.text for verdict in verdicts if not verdict.passed] == []


# --- a scrape of a real application -----------------------------------------------------------------------------------


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Gate]:
    async with counting_upstream() as upstream, gate(settings_over(tmp_path, upstream)) as running:
        yield running


async def test_a_scrape_has_no_fault(proxy: Gate) -> None:
    for prompt in ("a red fox", "a red fox", "an owl"):
        assert (await proxy.ask(prompt)).status_code == 200
    assert (await proxy.ask(size="1x1")).status_code == 400
    scraped = proxy.app.metrics.render(None)[0]
    assert b'cache="hit"' in scraped
    verdict = promtool("check", "metrics", given=scraped)
    assert verdict.passed and not verdict.text, verdict.text


async def test_nothing_fires_while_nothing_happens(proxy: Gate, tmp_path: Path) -> None:
    """Every sample that a fresh process has, standing still."""
    assert standing_still(proxy, tmp_path, {"up": 1}).alerts() == set()


async def test_nothing_but_the_fault_fires(proxy: Gate, tmp_path: Path) -> None:
    """The same, so that the test above could fail."""
    assert standing_still(proxy, tmp_path, {"up": 0}).alerts() == {"ImagegateDown"}


def standing_still(proxy: Gate, folder: Path, more: dict[str, int]) -> Any:
    """Whether no alert fires over what a scrape shows, for two hours."""
    samples = [(each.name, each.labels, each.value) for each in proxy.scrape().samples]
    samples += [(name, {}, value) for name, value in more.items()]
    series = [
        {"series": selector(name, {**labels, "job": "imagegate", "instance": "a:8080"}), "values": f"{value:.17g}x8"}
        for name, labels, value in samples
        if not name.startswith(("python_", "process_"))
    ]
    expected = [{"alertname": rule.name, "eval_time": "2h", "exp_alerts": []} for rule in shipped() if rule.is_alert]
    test = {
        "rule_files": [str(CONFIG / "rules.yml"), str(CONFIG / "alerts.yml")],
        "evaluation_interval": "15m",
        "tests": [{"interval": "15m", "input_series": series, "alert_rule_test": expected}],
    }
    file = folder / "still.yml"
    write(file, test)
    return promtool("test", "rules", file)


def selector(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


# --- mutations: a number or a comparison that changes is noticed --------------------------------------------------------


def raised(match: re.Match[str]) -> str:
    sign, space, number = match.groups()
    return f"{sign}{space}{float(number) * 3 or 1e6:.12g}"


def lowered(match: re.Match[str]) -> str:
    sign, space, number = match.groups()
    return f"{sign}{space}{float(number) / 3 or -1:.12g}"


def turned(match: re.Match[str]) -> str:
    sign, space, number = match.groups()
    return f"{OPPOSITE[sign]}{space}{number}"


MUTATIONS = (raised, lowered, turned)


def mutated(expression: str, at: int, mutation: Any) -> str | None:
    """With one comparison changed; None if there are not so many."""
    places = list(COMPARISON.finditer(expression))
    if at >= len(places):
        return None
    changed: str = expression[: places[at].start()] + mutation(places[at]) + expression[places[at].end() :]
    return changed


def used_by(rules: list[Rule], recorded: dict[str, Rule]) -> Iterator[Rule]:
    """What is recorded and asked for by rules, or by what they ask for."""
    for rule in rules:
        nodes: list[promql.Expr] = []
        promql.walk(promql.parse(rule.expression), nodes.append)
        names = {node.name or "" for node in nodes if isinstance(node, promql.VectorSelector)}
        below = [recorded[name] for name in sorted(names & recorded.keys())]
        yield from used_by(below, recorded)
        yield from below


def alerts_of(tests: list[Any]) -> set[str]:
    return {case["alertname"] for test in tests for case in test.get("alert_rule_test", ())}


def mutant(test: Path, at: int, mutation: Any, folder: Path) -> tuple[Path, set[str]] | None:
    """A test file over its own alerts, each with one comparison changed, and their names; nothing else is worked out."""
    document = read(test)
    asked = alerts_of(document["tests"])
    groups = read(CONFIG / "alerts.yml")["groups"]
    for group in groups:
        own = [(rule, mutated(rule["expr"], at, mutation)) for rule in group["rules"] if rule["alert"] in asked]
        group["rules"] = [{**rule, "expr": changed} for rule, changed in own if changed is not None]
    names = {rule["alert"] for group in groups for rule in group["rules"]}
    if not names:
        return None
    groups = [{"name": "recorded", "rules": recorded_for(names)}, *(group for group in groups if group["rules"])]
    tests = [group for group in document["tests"] if alerts_of([group]) & names]
    order = [group["name"] for group in groups]
    folder.mkdir()
    write(folder / "rules.yml", {"groups": groups})
    write(folder / "test.yml", {**document, "rule_files": ["rules.yml"], "group_eval_order": order, "tests": tests})
    return folder / "test.yml", names


def recorded_for(names: set[str]) -> list[dict[str, str]]:
    recorded = {rule.name: rule for rule in shipped() if not rule.is_alert}
    used = used_by([rule for rule in shipped() if rule.name in names], recorded)
    return [{"record": name, "expr": recorded[name].expression} for name in dict.fromkeys(rule.name for rule in used)]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_every_number_and_comparison_of_every_alert_is_held_by_a_test(mutation: Any, tmp_path: Path) -> None:
    made = [
        found
        for at in range(MOST_COMPARISONS)
        for test in written_tests()
        if (found := mutant(test, at, mutation, tmp_path / f"{test.stem}-{at}")) is not None
    ]
    assert {name for _, names in made for name in names} == {rule.name for rule in shipped() if rule.is_alert}
    verdicts = rules_tested([file for file, _ in made])
    survivors = [
        f"{name} ({file.parent.name})"
        for (file, names), verdict in zip(made, verdicts, strict=True)
        for name in sorted(names - verdict.alerts())
    ]
    assert survivors == []


def test_no_alert_has_more_comparisons_than_are_changed() -> None:
    for rule in shipped():
        if rule.is_alert:
            assert 1 <= len(COMPARISON.findall(rule.expression)) <= MOST_COMPARISONS, rule.name


def test_what_is_not_changed_passes(tmp_path: Path) -> None:
    """The files of the mutants are good but for the change."""
    made = [mutant(test, 0, lambda match: match[0], tmp_path / test.stem) for test in written_tests()]
    assert [verdict.text for verdict in rules_tested([each[0] for each in made if each]) if not verdict.passed] == []

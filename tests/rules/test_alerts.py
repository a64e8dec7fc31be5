"""Alerts and recording rules ask only for what is measured; each alert says what to do, has a page, and is tested."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import promql_parser as promql
import pytest

from proxy.families import FAMILIES, OTHER, Family
from tests.support.prometheus import CONFIG, ROOT, Rule, read, shipped, written_tests

RUNBOOKS = ROOT / "docs" / "runbooks"
ADDRESS = "https://github.com/imagegate/imagegate/blob/main/docs/runbooks/"
SECTIONS = ["What it means", "Impact", "Look at", "Do", "When it is no emergency"]
OF_EVERY_SCRAPE = frozenset({"job", "instance"})
ALERTS = [rule for rule in shipped() if rule.is_alert]

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)


# --- what an expression asks for --------------------------------------------------------------------------------------


@dataclass
class Known:
    """Which labels a metric has, and which values; a metric that is recorded has what its expression leaves."""

    families: Mapping[str, Family]
    recorded: Mapping[str, Rule]
    _labels: dict[str, frozenset[str]] = field(default_factory=dict)

    def labels(self, name: str) -> frozenset[str] | None:
        """None: there is no such metric."""
        if name == "up":
            return OF_EVERY_SCRAPE
        if name in self.recorded:
            if name not in self._labels:
                self._labels[name] = self.of(promql.parse(self.recorded[name].expression))
            return self._labels[name]
        family = self.family(name)
        if family is None:
            return None
        own = {label.name for label in family.labels} | ({"le"} if name.endswith("_bucket") else set())
        return OF_EVERY_SCRAPE | own

    def family(self, name: str) -> Family | None:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        family = self.families.get(name) or self.families.get(base)
        if family is None or (family.kind == "histogram") != (name != family.name):
            return None
        return family

    def of(self, node: promql.Expr) -> frozenset[str]:
        """The labels of what an expression results in."""
        match node:
            case promql.VectorSelector():
                return self.labels(node.name or "") or frozenset()
            case promql.MatrixSelector():
                return self.of(node.vector_selector)
            case promql.AggregateExpr():
                return self._aggregated(node)
            case promql.BinaryExpr():
                return self.of(node.lhs) or self.of(node.rhs)
            case promql.Call():
                inner = frozenset[str]().union(*(self.of(argument) for argument in node.args))
                return inner - {"le"} if node.func.name == "histogram_quantile" else inner
            case promql.ParenExpr() | promql.SubqueryExpr() | promql.UnaryExpr():
                return self.of(node.expr)
        return frozenset()

    def _aggregated(self, node: promql.AggregateExpr) -> frozenset[str]:
        if node.modifier is None:
            return frozenset()
        named = frozenset(node.modifier.labels)
        inner = self.of(node.expr)
        return inner & named if node.modifier.type == promql.AggModifierType.By else inner - named


def complaints(rules: list[Rule], families: Mapping[str, Family] | None = None) -> list[str]:
    """Metrics, labels and values that the rules name and nobody makes."""
    known = Known(families or {each.name: each for each in FAMILIES}, {r.name: r for r in rules if not r.is_alert})
    return [f"{rule.name}: {text}" for rule in rules for text in _in_rule(known, rule)]


def _in_rule(known: Known, rule: Rule) -> Iterator[str]:
    root = promql.parse(rule.expression)
    found: list[promql.Expr] = []
    promql.walk(root, found.append)
    for node in found:
        if isinstance(node, promql.VectorSelector):
            yield from _in_selector(known, node)
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            yield from (
                f"{label} is no label to aggregate" for label in _strange(known, node.modifier.labels, node.expr)
            )
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            either = set(_strange(known, node.modifier.matching.labels, node.lhs))
            either &= set(_strange(known, node.modifier.matching.labels, node.rhs))
            yield from (f"{label} is no label to match on" for label in either)
    left = known.of(root)
    for label in re.findall(r"\$labels\.(\w+)", " ".join(rule.annotations.values())):
        if label not in left:
            yield f"{label} is told of and not left"


def _strange(known: Known, labels: list[str], node: promql.Expr) -> list[str]:
    return [label for label in labels if label not in known.of(node)]


def _in_selector(known: Known, node: promql.VectorSelector) -> Iterator[str]:
    name = node.name or ""
    labels = known.labels(name)
    if labels is None:
        yield f"{name} is no metric"
        return
    family = known.family(name)
    for matcher in node.matchers.matchers:
        if matcher.name not in labels:
            yield f"{name} has no label {matcher.name}"
        elif family is not None and matcher.name not in OF_EVERY_SCRAPE:
            yield from _in_matcher(family, matcher)


def _in_matcher(family: Family, matcher: promql.Matcher) -> Iterator[str]:
    """Each value, and each alternative of a pattern, is one that the label can have."""
    [label] = [label for label in family.labels if label.name == matcher.name]
    is_pattern = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
    for wanted in matcher.value.split("|") if is_pattern else [matcher.value]:
        values = (*label.values, OTHER)
        if not any(re.fullmatch(wanted, value) if is_pattern else wanted == value for value in values):
            yield f"{family.name}: {matcher.name} cannot be {wanted!r}"


def test_rules_ask_only_for_what_is_measured() -> None:
    assert len(shipped()) > 45
    assert complaints(shipped()) == []


@pytest.mark.parametrize(
    ("file", "text", "instead", "told"),
    [
        ("alerts.yml", "imagegate_degraded ==", "imagegate_degarded ==", "imagegate_degarded is no metric"),
        ("alerts.yml", 'tier="disk", reason', 'teir="disk", reason', "has no label teir"),
        ("alerts.yml", 'reason="admin"', 'reason="adnim"', "reason cannot be 'adnim'"),
        ("alerts.yml", '"401|402|403"', '"401|402|4o3"', "code cannot be '4o3'"),
        ("alerts.yml", "ignoring (name)", "ignoring (nmae)", "nmae is no label to match on"),
        ("alerts.yml", "{{ $labels.reason }})", "{{ $labels.raeson }})", "raeson is told of and not left"),
        ("alerts.yml", "imagegate_hits_per_answers:ratio_rate30m\n", "imagegate_hits:ratio\n", "is no metric"),
        ("rules.yml", "sum without (instance, reason)", "sum without (instance, raeson)", "raeson is no label to agg"),
        ("rules.yml", "duration_seconds_bucket", "duration_seconds", "imagegate_request_duration_seconds is no metric"),
        ("rules.yml", "sum without (instance, model, cache)", "sum by (job, operatoin, le)", "operatoin is no label"),
    ],
)
def test_what_is_misspelt_is_found(file: str, text: str, instead: str, told: str, tmp_path: Path) -> None:
    for name in ("prometheus.yml", "rules.yml", "alerts.yml"):
        shutil.copy(CONFIG / name, tmp_path)
    written = (tmp_path / file).read_text("utf-8")
    assert text in written
    (tmp_path / file).write_text(written.replace(text, instead), "utf-8")
    assert any(told in complaint for complaint in complaints(shipped(tmp_path))), complaints(shipped(tmp_path))


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("imagegate_upstream_attempts_total", lambda family: {"labels": family.labels[1:]}),
        ("imagegate_ledger_lost_rows_total", lambda _: {"name": "imagegate_ledger_rows_lost_total"}),
        ("imagegate_request_duration_seconds", lambda family: {"labels": family.labels[:-1]}),
    ],
)
def test_a_change_of_the_families_is_found(family: str, changed: Callable[[Family], dict[str, object]]) -> None:
    families = {
        each.name: each if each.name != family else Family(**{**vars_of(each), **changed(each)})  # type: ignore[arg-type]
        for each in FAMILIES
    }
    assert complaints(shipped(), {each.name: each for each in families.values()})


def vars_of(family: Family) -> dict[str, object]:
    return {name: getattr(family, name) for name in family.__dataclass_fields__}


# --- recording rules --------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_named_for_its_level_its_metric_and_its_operation() -> None:
    for rule in shipped():
        if not rule.is_alert:
            level, metric, operation = rule.name.split(":")
            left = complaintless_labels(rule)
            assert "_".join(sorted(left)) == "_".join(sorted(level.split("_"))), (rule.name, left)
            assert metric.startswith("imagegate_") and not metric.endswith("_total"), rule.name
            assert re.fullmatch(r"(ratio_|p95_)?rate\d+[mhd]|increase\d+[hd]", operation), rule.name


def complaintless_labels(rule: Rule) -> frozenset[str]:
    recorded = {each.name: each for each in shipped() if not each.is_alert}
    return Known({each.name: each for each in FAMILIES}, recorded).of(promql.parse(rule.expression))


def test_windows_are_those_that_names_promise() -> None:
    for rule in shipped():
        if not rule.is_alert:
            windows = set(re.findall(r"\[(\w+)\]|:\w*?(?:rate|increase)(\d\w+)", rule.expression))
            promised = re.findall(r"\d+[mhd]$", rule.name)
            assert {first or second for first, second in windows} == set(promised), rule.name


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [rule.name for rule in shipped()]
    assert sorted(names) == sorted(set(names))


def test_every_rule_that_is_recorded_is_used_or_tested() -> None:
    texts = [rule.expression for rule in shipped()] + [file.read_text("utf-8") for file in written_tests()]
    unused = [rule.name for rule in shipped() if not rule.is_alert and not any(rule.name in text for text in texts)]
    assert unused == []


# --- what every alert has ---------------------------------------------------------------------------------------------


@each_alert
def test_every_alert_says_how_bad_it_is_what_is_the_matter_and_where_to_read_on(alert: Rule) -> None:
    assert re.fullmatch(r"Imagegate([A-Z][a-z]+)+", alert.name)
    assert set(alert.labels) == {"severity"} and alert.labels["severity"] in ("critical", "warning", "info")
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.annotations["runbook_url"] == f"{ADDRESS}{alert.name}.md"
    assert not alert.annotations["summary"].endswith(".") and len(alert.annotations["summary"]) < 120
    assert alert.annotations["description"].removesuffix(" {{- end }}").endswith(".")


@each_alert
def test_every_alert_has_a_page_that_says_what_to_do(alert: Rule) -> None:
    text = (RUNBOOKS / f"{alert.name}.md").read_text("utf-8")
    assert text.startswith(f"# {alert.name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert alert.labels["severity"] in text.split("## ")[0]
    assert re.search(r"^1\. ", text.split("## Do\n")[1], re.MULTILINE), "steps"
    assert "```" in text.split("## Look at\n")[1].split("## Do\n")[0], "queries or commands"


def test_every_page_is_of_an_alert_and_in_the_index() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {alert.name for alert in ALERTS}
    index = (RUNBOOKS / "README.md").read_text("utf-8")
    told = re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \|", index, re.MULTILINE)
    assert sorted(told) == sorted((alert.name, alert.labels["severity"]) for alert in ALERTS)


def queries(page: Path) -> list[str]:
    fenced = re.findall(r"^```promql\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [query.strip() for block in fenced for query in block.split("\n\n")]


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_queries_of_pages_ask_only_for_what_is_measured(page: Path) -> None:
    asked = [Rule(f"{page.stem} {number}", query, is_alert=True) for number, query in enumerate(queries(page))]
    recorded = [rule for rule in shipped() if not rule.is_alert]
    assert [text for text in complaints([*recorded, *asked]) if text.startswith(page.stem)] == []


def test_every_alert_is_in_a_test_that_fires_it_and_says_its_words() -> None:
    fired: dict[str, list[dict[str, str]]] = {}
    for file in written_tests():
        for group in read(file)["tests"]:
            for case in group.get("alert_rule_test", ()):
                fired.setdefault(case["alertname"], []).extend(alert["exp_annotations"] for alert in case["exp_alerts"])
    assert set(fired) == {alert.name for alert in ALERTS}
    for name, annotations in fired.items():
        assert annotations and all(len(each) == 3 for each in annotations), name


def test_every_test_works_out_what_is_recorded_before_what_asks_for_it() -> None:
    """promtool takes the groups in no order unless it is told one."""
    in_order = [group["name"] for file in ("rules.yml", "alerts.yml") for group in read(CONFIG / file)["groups"]]
    for file in written_tests():
        test = read(file)
        count = len(in_order) if "../alerts.yml" in test["rule_files"] else len(test["group_eval_order"])
        assert test["group_eval_order"] == in_order[:count], file.name


def test_the_page_for_operators_lists_every_alert() -> None:
    section = (ROOT / "docs" / "operating.md").read_text("utf-8").split("\n## Alerts\n")[1].split("\n## ")[0]
    told = re.findall(r"\[(\w+)\]\(runbooks/\1\.md\)", section)
    assert sorted(told) == sorted(alert.name for alert in ALERTS)

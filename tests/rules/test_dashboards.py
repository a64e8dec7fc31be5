"""The dashboards are what grafana/ builds, ask only for what is measured, and say what to do; the files around them fit."""

import copy
import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import promql_parser as promql
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units

from grafana.build import FOLDER, PAGES
from grafana.classic import models
from proxy.configuration import load
from proxy.families import FAMILIES, OTHER, Family, Label
from proxy.metrics import Metrics
from proxy.settings import sections
from tests.support.clock import ManualClock

Tree: TypeAlias = dict[str, Any]

ROOT = Path(__file__).parents[2]
README = ROOT / "grafana" / "README.md"
COMPOSE = ROOT / "config" / "compose.yaml"
PROVISIONING = ROOT / "grafana" / "provisioning"
PROMETHEUS = ROOT / "config" / "prometheus" / "prometheus.yml"

RATE_WINDOW, WHOLE_RANGE = timedelta(seconds=61), timedelta(seconds=86399)
STANDING_FOR = {"$__rate_interval": "61s", "$__range": "86399s"}
OF_EVERY_SCRAPE = ("job", "instance")
OF_COUNTERS = ("rate", "irate", "increase")
UNIT_OF_SUFFIX = {"_seconds_bucket": {"s"}, "_bytes_bucket": {"bytes"}, "_bytes": {"bytes"}, "_usd": {"currencyUSD"}}
UNIT_OF_SUFFIX["_usd_total"] = UNIT_OF_SUFFIX["_usd"]
UNITS = {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}
BY_NAME = {family.name: family for family in FAMILIES}
PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def committed(name: str) -> Tree:
    tree: Tree = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return tree


def panels(tree: Tree) -> list[Tree]:
    return [panel for panel in tree["panels"] if panel["type"] != "row"]


# --- what is built and what is committed ------------------------------------------------------------------------------


@each_page
def test_the_committed_dashboard_is_what_is_built(page: Any) -> None:
    assert (FOLDER / f"{page.name}.json").read_text("utf-8") == page.written(), "run: make dashboards"


def test_nothing_else_lies_beside_the_dashboards() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{page.name}.json" for page in PAGES}


def lost(tree: Any, read: Any, path: str = "") -> Iterator[str]:
    """What stands in `tree` and not in `read`."""
    if isinstance(tree, dict) and isinstance(read, dict):
        for key, value in tree.items():
            if key in read:
                yield from lost(value, read[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(tree, list) and isinstance(read, list) and len(tree) == len(read):
        for place, (one, other) in enumerate(zip(tree, read, strict=True)):
            yield from lost(one, other, f"{path}[{place}]")
    elif tree != read:
        yield path


def lost_by_the_sdk(tree: Tree) -> list[str]:
    register_default_plugins()
    return list(lost(tree, json.loads(json.dumps(models.Dashboard.from_json(tree), cls=JSONEncoder))))


@each_page
def test_grafanas_own_types_read_every_member(page: Any) -> None:
    assert lost_by_the_sdk(committed(page.name)) == []


@pytest.mark.parametrize(
    ("right", "wrong"), [("refresh", "refesh"), ("description", "descripton"), ("fieldConfig", "fieldConfigs")]
)
def test_a_misspelt_member_is_lost(right: str, wrong: str) -> None:
    tree = committed("overview")
    place = tree if right == "refresh" else tree["panels"][0]
    place[wrong] = place.pop(right)
    assert lost_by_the_sdk(tree)


# --- what a query asks for --------------------------------------------------------------------------------------------


def parsed(expression: str) -> promql.Expr:
    """The expression with Grafana's own variables filled in. Raises ValueError."""
    for variable, value in STANDING_FOR.items():
        expression = re.sub(rf"{re.escape(variable)}\b", value, expression)
    return promql.parse(expression)


def nodes(tree: promql.Expr) -> list[promql.Expr]:
    """Every node, those below a range too."""
    found: list[promql.Expr] = []

    def note(node: promql.Expr) -> None:
        found.append(node)
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)

    promql.walk(tree, note)
    return found


def selectors(tree: promql.Expr) -> list[promql.VectorSelector]:
    return [node for node in nodes(tree) if isinstance(node, promql.VectorSelector)]


def family_of(metric: str) -> Family | None:
    """The family that a sample belongs to; None for those of the process, and for what does not exist."""
    found = BY_NAME.get(metric)
    if found is not None:
        return found if found.kind != "histogram" else None
    found = BY_NAME.get(re.sub(r"_(bucket|sum|count)$", "", metric))
    return found if found is not None and found.kind == "histogram" else None


def labels_of(metric: str) -> dict[str, Label]:
    family = family_of(metric)
    labels = {label.name: label for label in family.labels} if family else {}
    more = (*OF_EVERY_SCRAPE, "le") if metric.endswith("_bucket") else OF_EVERY_SCRAPE
    return labels | {name: Label(name, configured="scrape") for name in more}


def is_counter(metric: str) -> bool:
    family = family_of(metric)
    return metric.endswith("_total") or (family is not None and family.kind == "histogram")


def wrong_names(expression: str) -> list[str]:
    """Metrics, labels and values that no scrape can have."""
    tree = parsed(expression)
    wrong = []
    present: set[str] = set()
    for selector in selectors(tree):
        metric = selector.name or ""
        if family_of(metric) is None and metric not in PROCESS:
            wrong.append(f"no metric {metric}")
            continue
        labels = labels_of(metric)
        present |= labels.keys()
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                wrong.append(f"no label {matcher.name} on {metric}")
            elif not is_possible(matcher, labels[matcher.name]):
                wrong.append(f"never: {metric}{{{matcher}}}")
    return wrong + [f"nothing here has the label {label}" for label in grouped(tree) if label not in present]


def grouped(tree: promql.Expr) -> Iterator[str]:
    """The labels of by, without, on, ignoring, group_left and group_right."""
    for node in nodes(tree):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            yield from node.modifier.labels
        if isinstance(node, promql.BinaryExpr) and node.modifier:
            yield from (node.modifier.matching.labels if node.modifier.matching else ())
            yield from node.modifier.group_labels or ()


def wrong_groups(expression: str) -> list[str]:
    """Labels that one aggregation keeps and nothing below it has: `by (model)` over what has no model."""
    wrong = []
    for node in nodes(parsed(expression)):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            below = {label for one in selectors(node.expr) for label in labels_of(one.name or "")}
            wrong += [f"nothing below {node.op} has {label}" for label in node.modifier.labels if label not in below]
    return wrong


def is_possible(matcher: promql.Matcher, label: Label) -> bool:
    """Whether some value can pass, and every alternative of a plain choice can be met."""
    values = {*label.values, OTHER}
    if label.configured or matcher.value.startswith("$"):
        return True
    if matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual):
        return matcher.value in values or matcher.value == ""
    if re.fullmatch(r"\w+(\|\w+)*", matcher.value):
        return set(matcher.value.split("|")) <= values
    return any(re.fullmatch(matcher.value, value) for value in values)


# --- the rules of a good dashboard ------------------------------------------------------------------------------------


def problems(tree: Tree) -> list[str]:
    """What Grafana's dashboard-linter would say of it, and what our own table of families says."""
    found = [*gathered(problems_of_frame(tree)), *problems_of_places(tree)]
    for panel in panels(tree):
        rules = [problems_of_panel(panel), problems_of_unit(panel), *map(problems_of_target, panel["targets"])]
        found += [f"{panel['title']}: {text}" for rule in rules for text in gathered(rule)]
    return found


def gathered(rule: Iterator[str]) -> list[str]:
    try:
        return list(rule)
    except ValueError as error:
        return [f"not PromQL: {error}"]


def problems_of_frame(tree: Tree) -> Iterator[str]:
    variables = {item["name"]: item for item in tree["templating"]["list"]}
    if list(variables) != ["datasource", "job", "instance", "model", "team"]:
        yield "variables"
    if variables["datasource"]["type"] != "datasource" or variables["datasource"]["query"] != "prometheus":
        yield "the variable datasource"
    for name in ("job", "instance", "model", "team"):
        item = variables[name]
        wanted = {"label": name, "multi": True, "includeAll": True, "allValue": ".+", "refresh": 2, "type": "query"}
        if any(item.get(key) != value for key, value in wanted.items()) or item["datasource"]["uid"] != "$datasource":
            yield f"the variable {name}"
        of = re.fullmatch(r"label_values\((.+), (\w+)\)", item["query"]["query"])
        if of is None or of[2] != name or item["definition"] != item["query"]["query"]:
            yield f"the query of {name}"
        else:
            yield from wrong_names(f"max by ({name}) ({of[1]})")
    if tree["editable"] is not False:
        yield "editable"
    if tree["schemaVersion"] != 42 or tree["graphTooltip"] != 1 or "imagegate" not in tree["tags"]:
        yield "schema, crosshair or tags"
    if not any(link["includeVars"] and link["keepTime"] and link["tags"] == ["imagegate"] for link in tree["links"]):
        yield "links to the others"
    for annotation in tree["annotations"]["list"]:
        yield from wrong_names(annotation["target"]["expr"])


def problems_of_places(tree: Tree) -> Iterator[str]:
    numbers = [panel.get("id") for panel in tree["panels"]]
    if len(set(numbers)) != len(numbers) or not all(numbers):
        yield "panels without an id of their own"
    taken: dict[tuple[int, int], str] = {}
    for panel in tree["panels"]:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']}: wider than the page"
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                if taken.setdefault((x, y), panel["title"]) != panel["title"]:
                    yield f"{panel['title']} lies on {taken[x, y]}"


def problems_of_panel(panel: Tree) -> Iterator[str]:
    if not panel.get("title"):
        yield "no title"
    if len(panel.get("description", "")) < 40:
        yield "no description that says what to do"
    if panel.get("datasource") != {"type": "prometheus", "uid": "$datasource"}:
        yield "not the chosen data source"
    if not panel.get("targets"):
        yield "asks for nothing"
    if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
        yield "no unit that Grafana knows"
    quiet = panel["fieldConfig"]["defaults"].get("noValue")
    may_be_empty = any(re.search(r">= 0$|/ \(.+ > 0\)$", target["expr"]) for target in panel["targets"])
    if not quiet or (quiet == "0" and may_be_empty):
        yield "nothing to show where there is nothing"


def problems_of_target(target: Tree) -> Iterator[str]:
    if target.get("datasource") != {"type": "prometheus", "uid": "$datasource"}:
        yield "a query of another data source"
    tree = parsed(target["expr"])
    yield from wrong_names(target["expr"])
    yield from wrong_groups(target["expr"])
    for selector in selectors(tree):
        chosen = {str(matcher) for matcher in selector.matchers.matchers}
        if not {'job=~"$job"', 'instance=~"$instance"'} <= chosen:
            yield f"{selector.name} without job and instance"
        for name in ("model", "team"):
            if name in labels_of(selector.name or "") and f'{name}=~"${name}"' not in chosen:
                yield f"{selector.name} is not narrowed by {name}"
    yield from problems_of_rates(tree, instant=target["instant"])


def problems_of_rates(tree: promql.Expr, *, instant: bool) -> Iterator[str]:
    rated: list[str] = []
    for node in nodes(tree):
        if isinstance(node, promql.Call) and node.func.name in OF_COUNTERS:
            for ranged in node.args:
                if isinstance(ranged, promql.MatrixSelector):
                    rated.append(str(ranged.vector_selector))
                    if ranged.range not in ((WHOLE_RANGE,) if instant else (RATE_WINDOW,)):
                        yield f"a window of {ranged.range}"
                    if not is_counter(ranged.vector_selector.name or ""):
                        yield f"{node.func.name} of a gauge"
    for selector in selectors(tree):
        if is_counter(selector.name or "") and str(selector) not in rated:
            yield f"the counter {selector.name} without a rate"


def problems_of_unit(panel: Tree) -> Iterator[str]:
    """Whether the unit is that of the metrics; a panel that divides or counts shows another on purpose."""
    of = {entry["matcher"]["options"]: value for entry in overrides(panel) for value in [unit_of(entry)] if value}
    names = renamed(panel)
    for target in panel["targets"]:
        unit = of.get(names.get(f"Value #{target['refId']}", ""), panel["fieldConfig"]["defaults"].get("unit"))
        metrics = [selector.name or "" for selector in selectors(parsed(target["expr"]))]
        wanted = units_wanted(metrics[0], target["expr"]) if metrics else set()
        if wanted and unit not in wanted:
            yield f"{metrics[0]} in {unit}"


def units_wanted(metric: str, expression: str) -> set[str]:
    if re.search(r"\) / |/ \(", expression):
        return {"percentunit"}
    if expression.startswith("count("):
        return {"short"}
    if expression.endswith(" * 1000"):
        return {"dateTimeFromNow"}
    for suffix, wanted in UNIT_OF_SUFFIX.items():
        if metric.endswith(suffix):
            return wanted
    if metric.endswith("_total") and metric in BY_NAME:
        per_second = "rate(" in expression and " * 60" not in expression
        return {"reqps"} if per_second else {"short"}
    return {"short"} if metric in BY_NAME else set()


def overrides(panel: Tree) -> list[Tree]:
    return [entry for entry in panel["fieldConfig"]["overrides"] if entry["matcher"]["id"] == "byName"]


def unit_of(entry: Tree) -> str | None:
    return next((item["value"] for item in entry["properties"] if item["id"] == "unit"), None)


def renamed(panel: Tree) -> dict[str, str]:
    changes = (change["options"].get("renameByName", {}) for change in panel.get("transformations", ()))
    return {old: new for names in changes for old, new in names.items()}


@each_page
def test_the_dashboard_keeps_the_rules(page: Any) -> None:
    assert problems(committed(page.name)) == []


def test_every_family_is_drawn_somewhere() -> None:
    expressions = [target["expr"] for tree in pages() for panel in panels(tree) for target in panel["targets"]]
    found = [family_of(one.name or "") for expression in expressions for one in selectors(parsed(expression))]
    assert {family.name for family in found if family} == set(BY_NAME)


def test_titles_and_addresses_are_unique() -> None:
    assert [tree["uid"] for tree in pages()] == ["imagegate-overview", "imagegate-teams", "imagegate-operations"]
    for tree in pages():
        titles = [panel["title"] for panel in tree["panels"]]
        assert len(set(titles)) == len(titles)


def test_the_first_row_says_what_it_does_costs_and_saves() -> None:
    first = panels(committed("overview"))[:6]
    assert [panel["type"] for panel in first] == ["stat"] * 6
    assert {panel["gridPos"]["y"] for panel in first} == {0}
    asked = [panel["targets"][0]["expr"] for panel in first]
    assert "saved_cost_usd_total" in asked[0] and "upstream_cost_usd_total" in asked[1]
    assert all("in this range" in panel["title"] for panel in first[:2])
    assert 'cache=~"hit|coalesced"' in asked[2] and "request_duration_seconds_bucket" in asked[5]


def test_panels_send_readers_to_panels_and_dashboards_that_exist() -> None:
    titles = {panel["title"] for tree in pages() for panel in tree["panels"]}
    titles |= {tree["title"].removeprefix("imagegate / ") for tree in pages()}
    for tree in pages():
        for panel in panels(tree):
            for named in re.findall(r"'([A-Z][^']+)'", panel["description"]):
                assert any(title.startswith(named) for title in titles), (panel["title"], named)


def test_settings_that_descriptions_name_exist() -> None:
    known = {name: kind.__dataclass_fields__ for name, kind in sections()}
    for tree in pages():
        for panel in panels(tree):
            for section, setting in re.findall(r"\b([a-z]+)\.([a-z]\w+)", panel["description"]):
                assert setting in known[section], (panel["title"], setting)


def test_a_query_by_label_is_never_doubled_by_its_zero() -> None:
    """`or vector(0)` beside lines with labels stands there for good: only `on ()` lets it go."""
    for tree in pages():
        for panel in panels(tree):
            for target in panel["targets"]:
                if target.get("legendFormat", "").startswith("{{"):
                    assert not re.search(r"or (vector|label_replace)\(", target["expr"]), panel["title"]


def pages() -> list[Tree]:
    return [committed(page.name) for page in PAGES]


def test_a_scrape_has_every_series_of_the_process_that_is_asked_for() -> None:
    text, _ = Metrics(models=(), upstreams=(), version="0", clock=ManualClock()).render(None)
    assert {name.decode() for name in re.findall(rb"^(process_\w+) ", text, re.MULTILINE)} == PROCESS


# --- the rules can be broken ------------------------------------------------------------------------------------------


def changed(old: str, new: str, name: str = "overview") -> Tree:
    """A copy in which a text is another one, everywhere."""
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    assert old in text
    tree: Tree = json.loads(text.replace(old, new))
    return tree


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("imagegate_saved_cost_usd_total", "imagegate_saved_usd_total", "no metric imagegate_saved_usd_total"),
        ("process_open_fds", "process_fds", "no metric process_fds"),
        ("imagegate_image_bytes_bucket", "imagegate_image_bytes", "no metric imagegate_image_bytes"),
        ("by (direction, modality)", "by (direction, modalty)", "has modalty"),
        ("by (tier, result)", "by (tier, model)", "has model"),
        ('cache=\\"hit\\"', 'cached=\\"hit\\"', "no label cached"),
        ('cache=\\"hit\\"', 'cache=\\"HIT\\"', "never"),
        ("hit|coalesced", "hit|collapsed", "never"),
        ("5..", "6..", "never"),
        ('outcome=\\"failed\\"', 'outcome=\\"lost\\"', "never"),
        ('job=~\\"$job\\", ', "", "without job and instance"),
        (', instance=~\\"$instance\\"', "", "without job and instance"),
        (', team=~\\"$team\\"', "", "not narrowed by team"),
        ("$__rate_interval", "$__interval", "not PromQL"),
        ("[$__rate_interval]", "[5m]", "a window of"),
        ("[$__range]", "[$__rate_interval]", "a window of"),
        ("or vector(0)", "or vector(0", "not PromQL"),
        ("sum(imagegate_requests_queued", "sum(imagegate_cache_lookups_total", "without a rate"),
        ("rate(imagegate_requests_total", "delta(imagegate_requests_total", "without a rate"),
        ('"currencyUSD"', '"dollars"', "no unit that Grafana knows"),
        ('"currencyUSD"', '"short"', "in short"),
        ('"s"', '"ms"', "in ms"),
        ('"$datasource"', '"prometheus"', "data source|variable"),
        ('"allValue": ".+"', '"allValue": ".*"', "the variable"),
        ('"editable": false', '"editable": true', "editable"),
        ('"keepTime": true', '"keepTime": false', "links"),
        ('"noValue": "0"', '"noValue": ""', "nothing to show"),
        ('"noValue": "no hits in this range"', '"noValue": "0"', "nothing to show"),
        ('"x": 4', '"x": 3', "lies on"),
        ('"id": 11,', '"id": 12,', "id of their own"),
    ],
)
def test_a_broken_rule_is_seen(old: str, new: str, said: str) -> None:
    name = next(page.name for page in PAGES if old in (FOLDER / f"{page.name}.json").read_text("utf-8"))
    assert any(re.search(said, problem) for problem in problems(changed(old, new, name)))


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("title", "no title"),
        ("description", "no description"),
        ("targets", "asks for nothing"),
        ("datasource", "not the chosen data source"),
    ],
)
def test_a_missing_member_is_seen(member: str, said: str) -> None:
    tree = copy.deepcopy(committed("teams"))
    panel = panels(tree)[-1]
    panel[member] = type(panel[member])()  # an empty one
    assert any(said in problem for problem in problems(tree))


def test_a_column_in_the_wrong_unit_is_seen() -> None:
    tree = committed("teams")
    table = next(panel for panel in panels(tree) if panel["title"] == "Budgets: limit, rest, reset")
    entry = next(entry for entry in overrides(table) if entry["matcher"]["options"] == "Limit")
    entry["properties"] = [{"id": "unit", "value": "percentunit"}]
    assert any("imagegate_budget_limit_usd in percentunit" in problem for problem in problems(tree))


# --- the page about them ----------------------------------------------------------------------------------------------


def told(title: str) -> list[str]:
    section = README.read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| (.+?) \| .+ \|$", section, re.MULTILINE)[1:]


@each_page
def test_the_readme_has_every_panel_in_its_order(page: Any) -> None:
    assert told(page.title) == [panel["title"] for panel in panels(committed(page.name))]


# --- the files around them --------------------------------------------------------------------------------------------


def read(path: Path) -> Tree:
    tree: Tree = yaml.safe_load(path.read_text("utf-8"))
    return tree


def services() -> dict[str, Tree]:
    found: dict[str, Tree] = read(COMPOSE)["services"]
    return found


def mounts(service: Tree) -> Iterator[tuple[str, str, bool]]:
    """Source, target, and whether it is read-only."""
    for volume in service["volumes"]:
        source, target, *mode = volume.split(":")
        yield source, target, mode == ["ro"]


def mounted(service: str, target: str) -> Path:
    return next((COMPOSE.parent / source).resolve() for source, at, _ in mounts(services()[service]) if at == target)


def test_compose_publishes_ports_on_this_machine_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert sorted(ports) == ["127.0.0.1:3000:3000", "127.0.0.1:8080:8080", "127.0.0.1:9090:9090"]
    assert all(service.get("network_mode") != "host" for service in services().values())


def test_compose_mounts_what_exists_read_only_and_keeps_data_in_named_volumes() -> None:
    named = read(COMPOSE)["volumes"]
    used = set()
    for service in services().values():
        for source, _, is_read_only in mounts(service):
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists() and is_read_only, source
            else:
                used.add(source)
    assert used == set(named)


def test_compose_pins_images_and_gives_containers_nothing_they_do_not_need() -> None:
    for name, service in services().items():
        assert ("build" in service) != bool(re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service.get("image", ""))), name
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_compose_builds_imagegate_and_its_settings_are_settings() -> None:
    service = services()["imagegate"]
    assert (COMPOSE.parent / service["build"] / "Dockerfile").exists()
    given = {name: value for name, value in service["environment"].items() if value is not None}
    assert load(None, {name: str(value) for name, value in given.items()}).auth.mode == "passthrough"
    chosen = load(None, {"OPENAI_API_KEY": "sk-x", "IMAGEGATE_AUTH__MODE": "keys", "IMAGEGATE_ADMIN_TOKEN": "t" * 32})
    assert chosen.auth.mode == "keys"
    assert {"OPENAI_API_KEY", "IMAGEGATE_AUTH__MODE", "IMAGEGATE_ADMIN_TOKEN"} <= service["environment"].keys()


def test_compose_lets_prometheus_scrape_without_a_token() -> None:
    """From the same network the peer is loopback, which needs none: the scrape must ask there."""
    assert services()["prometheus"]["network_mode"] == "service:imagegate"
    targets = [target for job in read(PROMETHEUS)["scrape_configs"] for target in scraped(job)]
    assert targets == ["127.0.0.1:8080"]
    assert f"--config.file={'/etc/prometheus/prometheus.yml'}" in services()["prometheus"]["command"]
    assert mounted("prometheus", "/etc/prometheus") == PROMETHEUS.parent


def scraped(job: Tree) -> Sequence[str]:
    return [target for group in job["static_configs"] for target in group["targets"]]


def test_grafana_is_given_what_it_provisions() -> None:
    assert mounted("grafana", "/etc/grafana/provisioning") == PROVISIONING
    provider = read(PROVISIONING / "dashboards" / "imagegate.yaml")["providers"][0]
    assert mounted("grafana", provider["options"]["path"]) == FOLDER
    assert provider["type"] == "file" and provider["allowUiUpdates"] is False
    home = Path(services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"] and (FOLDER / home.name).exists()


def test_grafana_finds_prometheus_and_knows_how_often_it_scrapes() -> None:
    source = read(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"][0]
    assert source["type"] == "prometheus" and source["url"] == "http://prometheus:9090"
    assert services()["imagegate"]["networks"]["default"]["aliases"] == ["prometheus"]
    assert source["jsonData"]["timeInterval"] == read(PROMETHEUS)["global"]["scrape_interval"]


def test_grafana_lets_who_reaches_it_look_and_nobody_log_in() -> None:
    environment = services()["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true" and environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false" and environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"

"""A whole dashboard: its panels in rows, and what all of them share: variables, links, restarts, time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.classic import builders, models, prometheus
from grafana.panel import SOURCE, AnyPanel
from grafana.query import INSTANCES, process

TAG = "imagegate"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading; the row that opens a dashboard has none, and no number."""

    panels: Sequence[AnyPanel]
    id: int | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One dashboard; `name` is its file's, and the end of its address (`imagegate-NAME`)."""

    name: str
    title: str
    description: str
    rows: Sequence[Row]

    def written(self) -> str:
        """Its JSON, the same bytes every time."""
        tree = json.loads(json.dumps(self._built(), cls=JSONEncoder))
        # The SDK puts links and the switch for restarts into a menu; they are to be seen.
        for item in (*tree["links"], *tree["annotations"]["list"]):
            del item["placement"]
        return json.dumps(tree, indent=2, sort_keys=True) + "\n"

    def _built(self) -> models.Dashboard:
        built = (
            builders.Dashboard(f"imagegate / {self.title}")
            .uid(f"imagegate-{self.name}")
            .description(self.description)
            .tags([TAG])
            .timezone("browser")
            .time("now-24h", "now")
            .refresh("1m")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .readonly()
            .variables([_source(), *_filters()])
            .annotation(_restarts())
            .link(_others())
        )
        for row in self.rows:
            if row.id is not None:
                built.with_row(builders.Row(row.title).id(row.id).collapsed(False))
            for panel in row.panels:
                built.with_panel(panel.build())
        return built.build()


def _source() -> builders.DatasourceVariable:
    return (
        builders.DatasourceVariable("datasource")
        .label("Prometheus")
        .description("The Prometheus that scrapes imagegate.")
        .type("prometheus")
        .multi(False)
        .include_all(False)
    )


def _filters() -> list[builders.QueryVariable]:
    """From wide to narrow; a choice of job narrows the instances, and both narrow models and teams."""
    job, instance = INSTANCES
    return [
        _filter("job", "The scrape job.", "imagegate_build_info"),
        _filter("instance", "One process, by the address that it is scraped at.", f"imagegate_build_info{{{job}}}"),
        _filter("model", "Narrows whatever is counted by model.", f"imagegate_requests_total{{{job}, {instance}}}"),
        _filter(
            "team",
            "Narrows money, tokens and bought images.",
            f"imagegate_upstream_cost_usd_total{{{job}, {instance}}}",
        ),
    ]


def _filter(name: str, description: str, selector: str) -> builders.QueryVariable:
    query = f"label_values({selector}, {name})"
    return (
        builders.QueryVariable(name)
        .label(name)
        .description(description)
        .datasource(SOURCE)
        .query({"query": query, "refId": "StandardVariableQuery"})
        .definition(query)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _restarts() -> builders.AnnotationQuery:
    expression = f"changes({process('start_time_seconds')}[$__rate_interval]) > 0"
    return (
        builders.AnnotationQuery()
        .name("Restarts")
        .datasource(SOURCE)
        .enable(True)
        .hide(False)
        .icon_color("blue")
        .target(prometheus.Dataquery().datasource(SOURCE).ref_id("A").expr(expression).range())
        .title_format("Restart")
        .text_format("{{instance}} was started anew")
        .tag_keys("job,instance")
    )


def _others() -> builders.DashboardLink:
    return (
        builders.DashboardLink("imagegate")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
        .tooltip("The other dashboards, for the same time and the same choices.")
    )

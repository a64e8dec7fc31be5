"""The kinds of panel that the dashboards are made of, as data, and how each becomes one of Grafana's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.classic import bargauge, builders, common, models, options, prometheus, stat, table, timeseries
from grafana.query import Query

SOURCE = options.DataSourceRef(type_val="prometheus", uid="$datasource")
FULL_WIDTH = 24
COUNT, RATE, DOLLARS, RATIO = "short", "reqps", "currencyUSD", "percentunit"
DECIMALS = {COUNT: 0, DOLLARS: 2, RATIO: 0}
"""In bars and tables; increase() of a count is rarely whole."""
OF_THE_CACHE = {
    "hit": "green",
    "coalesced": "light-green",
    "miss": "orange",
    "refresh": "yellow",
    "bypass": "purple",
    "none": "gray",
}
OF_QUANTILES = {"p50": "green", "p95": "yellow", "p99": "orange"}

Thresholds: TypeAlias = tuple[tuple[float, str], ...]
Built: TypeAlias = Builder[models.Panel]
Kind = TypeVar("Kind", stat.Panel, timeseries.Panel, bargauge.Panel, table.Panel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What every panel says of itself.

    `id` never changes and is never used again: links to a panel carry it. `quiet` is shown where a query has no result.
    `thresholds` are set only where somebody acts on them.
    """

    id: int
    title: str
    description: str
    unit: str
    width: int
    height: int = 9
    quiet: str = "0"
    thresholds: Thresholds = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Panel):
    """One number; with `trend` the latest, over its line, else one for the whole range; `loud` fills its panel."""

    query: Query
    trend: bool = False
    loud: bool = False
    colour: str = "text"
    decimals: int | None = None
    height: int = 5
    words: Mapping[str, str] = field(default_factory=dict)

    def build(self) -> Built:
        graph = options.BigValueGraphMode.AREA if self.trend else options.BigValueGraphMode.NONE
        colour = options.BigValueColorMode.BACKGROUND if self.loud else options.BigValueColorMode.VALUE
        built = (
            _dressed(stat.Panel(), self, base=self.colour)
            .graph_mode(graph)
            .color_mode(colour)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .with_target(_target(self.query, "A", instant=not self.trend))
        )
        if self.decimals is not None:
            built.decimals(self.decimals)
        if self.words:
            texts = {value: models.ValueMappingResult(text=text) for value, text in self.words.items()}
            built.mappings([models.ValueMap(options=texts)])
        return built


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart(Panel):
    """Lines over time, with a table of what they were; `colours` by legend for what has a meaning of its own."""

    queries: Sequence[Query]
    stacked: bool = False
    width: int = 12
    colours: Mapping[str, str] = field(default_factory=dict)
    steps: bool = False
    full: float | None = None

    def build(self) -> Built:
        # What was highest stands first: most lines of a counter by label stay at 0, and a small panel shows three rows.
        legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.TABLE).show_legend(True)
        legend.sort_by("Max").sort_desc(True)
        tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
        mode = options.StackingMode.NORMAL if self.stacked else options.StackingMode.NONE
        lines = options.LineInterpolation.STEP_AFTER if self.steps else options.LineInterpolation.LINEAR
        built = (
            _dressed(timeseries.Panel(), self, base="green")
            .min(0)
            .line_width(1 if self.stacked else 2)
            .fill_opacity(self._fill())
            .line_interpolation(lines)
            .show_points(options.VisibilityMode.NEVER)
            .stacking(common.StackingConfig().mode(mode).group("A"))
            .legend(legend.placement(options.LegendPlacement.BOTTOM).calcs(["mean", "max", "lastNotNull"]))
            .tooltip(tooltip)
            .color_scheme(builders.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
        )
        if self.full is not None:
            built.max(self.full)
        elif self.unit in (COUNT, RATE, DOLLARS):
            built.axis_soft_max(1)  # nothing but zeros would be shown on an axis up to 100
        if self.thresholds:
            built.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)  # a line to act on
            )
        for name, colour in self.colours.items():
            built.override_by_name(name, [models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})])
        for place, query in enumerate(self.queries):
            built.with_target(_target(query, _letter(place), instant=False))
        return built

    def _fill(self) -> int:
        """In 100. Of lines that cross only one may be filled, or none can be told from the others."""
        if self.stacked:
            return 40
        return 15 if len(self.queries) == 1 and "{{" not in self.queries[0].legend else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars(Panel):
    """One bar for each series: how it stands now, or what it grew by in the whole range."""

    query: Query
    width: int = 12
    full: float | None = None
    colour: str = "blue"

    def build(self) -> Built:
        built = (
            _dressed(bargauge.Panel(), self, base=self.colour)
            .min(0)
            .orientation(options.VizOrientation.HORIZONTAL)
            .display_mode(options.BarGaugeDisplayMode.BASIC)
            .sizing(options.BarGaugeSizing.MANUAL)  # or one bar alone fills the panel
            .min_viz_height(16)
            .max_viz_height(28)
            .name_placement(options.BarGaugeNamePlacement.LEFT)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .with_target(_target(self.query, "A", instant=True))
        )
        if self.unit in DECIMALS:
            built.decimals(DECIMALS[self.unit])
        return built if self.full is None else built.max(self.full)


@dataclass(frozen=True, slots=True)
class Column:
    """A number in a table: its heading, its expression, its unit."""

    title: str
    expression: str
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Panel):
    """A row for each combination of labels, a column for each number; rows sorted by the first number, largest first."""

    columns: Sequence[Column]
    width: int = FULL_WIDTH
    unit: str = COUNT

    def build(self) -> Built:
        names = {f"Value #{_letter(place)}": column.title for place, column in enumerate(self.columns)}
        if len(names) == 1:
            names = {"Value": self.columns[0].title} | names  # one query's column has no letter
        built = (
            _dressed(table.Panel(), self, base="text")
            .show_header(True)
            .min_width(60)  # the default pushes columns out of sight
            .sort_by([common.TableSortByFieldState().display_name(self.columns[0].title).desc(True)])
            .with_transformation(models.DataTransformerConfig("merge", options={}))
            .with_transformation(
                models.DataTransformerConfig(
                    "organize", options={"excludeByName": {"Time": True}, "renameByName": names, "indexByName": {}}
                )
            )
        )
        for place, column in enumerate(self.columns):
            built.with_target(_target(Query(column.expression), _letter(place), instant=True, rows=True))
            built.override_by_name(column.title, _as(column.unit))
        return built


AnyPanel: TypeAlias = Number | Chart | Bars | Table


def _dressed(built: Kind, panel: Panel, *, base: str) -> Kind:
    """What all kinds have in common; `base` is the colour of a value below every threshold."""
    steps = [models.Threshold(None, base), *(models.Threshold(value, colour) for value, colour in panel.thresholds)]
    return (
        built.id(panel.id)
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .no_value(panel.quiet)
        .span(panel.width)
        .height(panel.height)
        .thresholds(builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    )


def _target(query: Query, letter: str, *, instant: bool, rows: bool = False) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(SOURCE).ref_id(letter).expr(query.expression)
    target.format(PromQueryFormat.TABLE if rows else PromQueryFormat.TIME_SERIES)
    if query.legend:
        target.legend_format(query.legend)
    return target.instant() if instant else target.range()


def _as(unit: str) -> list[models.DynamicConfigValue]:
    """What a column is."""
    decimals = [models.DynamicConfigValue("decimals", DECIMALS[unit])] if unit in DECIMALS else []
    return [models.DynamicConfigValue("unit", unit), *decimals]


def _letter(place: int) -> str:
    return chr(ord("A") + place)

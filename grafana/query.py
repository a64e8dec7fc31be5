"""PromQL for the dashboards, written from the table of families: a name or a label that does not exist ends the build."""

from dataclasses import dataclass

from proxy.families import FAMILIES

INSTANCES = ('job=~"$job"', 'instance=~"$instance"')
RATE_WINDOW = "$__rate_interval"
WHOLE_RANGE = "$__range"

# The variables that narrow a query wherever its family has the label.
_NARROWING = ("model", "team")
_LABELS = {family.name: tuple(label.name for label in family.labels) for family in FAMILIES}
_OF_HISTOGRAMS = {
    f"{family.name}_{suffix}": family.name
    for family in FAMILIES
    if family.kind == "histogram"
    for suffix in ("bucket", "sum", "count")
}


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and what its series are called."""

    expression: str
    legend: str = ""


def series(name: str, *matchers: str) -> str:
    """A selector, narrowed by the dashboard's variables; `name` without `imagegate_`. Raises KeyError: no such family."""
    full = f"imagegate_{name}"
    labels = _LABELS[_OF_HISTOGRAMS.get(full, full)]
    narrowing = (f'{label}=~"${label}"' for label in _NARROWING if label in labels)
    return f"{full}{{{', '.join((*INSTANCES, *narrowing, *matchers))}}}"


def process(name: str) -> str:
    """A selector of what the Python client says of its process."""
    return f"process_{name}{{{', '.join(INSTANCES)}}}"


def per_second(selector: str, *by: str) -> str:
    return f"sum{_by(by)}(rate({selector}[{RATE_WINDOW}]))"


def per_minute(selector: str, *by: str) -> str:
    return f"{per_second(selector, *by)} * 60"


def per_hour(selector: str, *by: str) -> str:
    return f"{per_second(selector, *by)} * 3600"


def in_range(selector: str, *by: str) -> str:
    """How much a counter grew in the range that the dashboard shows."""
    return f"sum{_by(by)}({growth(selector)})"


def growth(selector: str) -> str:
    return f"increase({selector}[{WHOLE_RANGE}])"


def total(selector: str, *by: str) -> str:
    return f"sum{_by(by)}({selector})"


def quantile(share: float, histogram: str, *by: str, window: str = RATE_WINDOW) -> str:
    """Of a histogram's `_bucket` selector. No sample where nothing was observed: NaN would spoil the legend's sums."""
    return f"histogram_quantile({share}, sum{_by(('le', *by))}(rate({histogram}[{window}]))) >= 0"


def or_zero(expression: str) -> str:
    """For one number: 0 where there is no series yet."""
    return f"{expression} or vector(0)"


def or_flat(expression: str, label: str) -> str:
    """For what has no series before its first event: a line at 0 until then. `on ()`, or it would stand there for good."""
    return f'{expression} or on () label_replace(vector(0), "{label}", "nothing yet", "", "")'


def share(part: str, whole: str) -> str:
    """A ratio of two sums; no sample where the whole is 0."""
    return f"({or_zero(part)}) / ({whole} > 0)"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""

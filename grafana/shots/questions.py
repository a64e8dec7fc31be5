"""Puts every query of a dashboard to Prometheus as Grafana would, and writes down what it answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.observed import Prometheus

DASHBOARDS = Path(__file__).parents[1] / "dashboards"
NAMES = ("overview", "teams", "operations")
RANGE_SECONDS = 240
STEP_SECONDS = 5
"""As if the data source said that it scrapes so often. It scrapes each second: rates over four seconds are hard to read."""
VARIABLES = ("job", "instance", "model", "team")
INTERVALS = {
    "$__rate_interval": f"{4 * STEP_SECONDS}s",
    "$__interval": f"{STEP_SECONDS}s",
    "$__range": f"{RANGE_SECONDS}s",
}


def answered(name: str, server: Prometheus, end: float) -> Mapping[str, Any]:
    """A dashboard with what its queries find in the range that ends then, for the page that draws it."""
    dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text("utf-8"))
    end -= end % STEP_SECONDS  # Grafana asks at multiples of the step
    start = end - RANGE_SECONDS
    answers = {
        str(panel["id"]): [_answer(server, target, start, end) for target in panel["targets"]]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }
    return {"dashboard": dashboard, "answers": answers, "start": start, "end": end}


def _answer(server: Prometheus, target: Mapping[str, Any], start: float, end: float) -> Any:
    expression = substituted(target["expr"])
    if target.get("instant"):
        data = server.ask("query", query=expression, time=end)
    else:
        data = server.ask("query_range", query=expression, start=start, end=end, step=STEP_SECONDS)
    if data["resultType"] == "scalar":
        return [{"metric": {}, "value": data["result"]}]
    return data["result"]


def substituted(expression: str) -> str:
    """With all values of every variable, and the range that is shown."""
    values = {**INTERVALS, **{f"${name}": ".+" for name in VARIABLES}}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression

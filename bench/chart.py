"""The chart: how fast each gateway is beside nginx, workload by workload, on a logarithmic scale, as SVG."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.arithmetic import Spread, ratios, spread
from bench.results import Results

BASE = "nginx"
WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 860, 190, 40, 92, 34, 84
# Marks of one row lie this far apart, for they may have the same place.
SHIFT = 7
GROUPS = {"hits": "rate", "disk hits": "rate", "misses": "p50_ms"}
STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; }
.card { fill: #ffffff; } .band { fill: #f5f6f8; } text { fill: #1f2328; } .soft { fill: #59636e; }
.grid { stroke: #d5d9de; } .base { stroke: #1f2328; stroke-width: 1.5; } .span { stroke-width: 2; opacity: .55; }
.imagegate { fill: #0b6bcb; stroke: #0b6bcb; } .litellm { fill: #c2571a; stroke: #c2571a; }
.portkey { fill: #8250df; stroke: #8250df; }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; } .band { fill: #161b22; } text { fill: #e6edf3; } .soft { fill: #9198a1; }
  .grid { stroke: #30363d; } .base { stroke: #e6edf3; }
  .imagegate { fill: #58a6ff; stroke: #58a6ff; } .litellm { fill: #f0883e; stroke: #f0883e; }
  .portkey { fill: #bc8cff; stroke: #bc8cff; }
}
text { stroke: none; }
"""


@dataclass(frozen=True)
class Series:
    """A system, and the form of its marks: colour alone does not tell them apart for everybody."""

    system: str
    label: str
    mark: str


SERIES = (
    Series("imagegate", "imagegate", '<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'),
    Series(
        "litellm",
        "LiteLLM",
        '<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="10" height="10" transform="translate(-5 -5)"/>',
    ),
    Series(
        "portkey", "Portkey", '<path class="{name}" d="M0 -7 L7 5 L-7 5 Z" transform="translate({x:.1f} {y:.1f})"/>'
    ),
)


def write(results: Results) -> str:
    """Only workloads in which nginx was measured have a ratio to it."""
    charted = list(rows(results))
    values = [value for _, found in charted for each in found.values() for value in (each.least, each.most)]
    low = min(-1, math.floor(math.log10(min(values, default=0.1))))
    high = max(1, math.ceil(math.log10(max(values, default=10))))
    height = TOP + ROW * len(charted) + BOTTOM
    end = TOP + ROW * len(charted)
    scale = Scale(low, high)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title">',
        '<title id="title">Speed of imagegate, LiteLLM and Portkey as a multiple of nginx</title>',
        f"<style>{STYLE}</style>",
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="8"/>',
        '<text x="24" y="34" font-size="17" font-weight="600">Speed beside nginx, each with one worker</text>',
        *_legend(),
        *(part for number, row in enumerate(charted) for part in _bands(number, row[0])),
        *_grid(scale, end),
        *(part for number, row in enumerate(charted) for part in _marks(scale, TOP + ROW * (number + 0.5), row[1])),
        f'<text class="soft" x="24" y="{end + 50}" font-size="12">To the right is faster. Hits: replies per second. '
        "Misses: median latency, nginx over the other.</text>",
        f'<text class="soft" x="24" y="{end + 68}" font-size="12">Medians of the ratios within a round, lines from least '
        f"to most. {escape(results.began)}, {escape(results.plan)} run.</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Scale:
    """Powers of ten from `low` to `high` over the width of the plot."""

    low: int
    high: int

    def x(self, ratio: float) -> float:
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def rows(results: Results) -> Iterator[tuple[str, dict[str, Spread]]]:
    """Each workload with the speed of each system as a multiple of nginx: above 1 is faster, for misses as for hits."""
    for workload, group in dict.fromkeys((each.workload, each.group) for each in results.measurements):
        if group not in GROUPS:
            continue
        figure = GROUPS[group]
        base = results.figures(workload, BASE, figure)
        found = {}
        for series in SERIES:
            ours = results.figures(workload, series.system, figure)
            each = spread(
                value for value in (ratios(base, ours) if figure == "p50_ms" else ratios(ours, base)) if value
            )
            if each:
                found[series.system] = each
        if found:
            yield workload, found


def _legend() -> Iterator[str]:
    for number, series in enumerate(SERIES):
        x = 32 + 120 * number
        yield series.mark.format(name=series.system, x=x, y=58)
        yield f'<text x="{x + 14}" y="62.5">{series.label}</text>'


def _bands(number: int, workload: str) -> Iterator[str]:
    y = TOP + ROW * number
    if number % 2 == 0:
        yield f'<rect class="band" x="16" y="{y}" width="{WIDTH - 32}" height="{ROW}" rx="4"/>'
    yield f'<text x="24" y="{y + ROW / 2 + 4.5}">{escape(workload)}</text>'


def _grid(scale: Scale, end: float) -> Iterator[str]:
    for power in range(scale.low, scale.high + 1):
        x = scale.x(10.0**power)
        kind = "base" if power == 0 else "grid"
        label = BASE if power == 0 else f"{10**power}x" if power > 0 else f"1/{10**-power}x"
        yield f'<line class="{kind}" x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{end + 6}"/>'
        yield f'<text class="soft" x="{x:.1f}" y="{end + 24}" text-anchor="middle">{label}</text>'


def _marks(scale: Scale, middle: float, found: dict[str, Spread]) -> Iterator[str]:
    for y, series in zip((middle - SHIFT, middle, middle + SHIFT), SERIES, strict=True):
        if each := found.get(series.system):
            ends = f'x1="{scale.x(each.least):.1f}" x2="{scale.x(each.most):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
            yield f'<line class="span {series.system}" {ends}/>'
            yield series.mark.format(name=series.system, x=scale.x(each.median), y=y)

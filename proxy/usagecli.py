"""`imagegate usage`: what was bought and what the cache saved, as a table, JSON or CSV."""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from proxy.clock import SystemClock
from proxy.command import DONE, Options, add_command, settings_of
from proxy.errors import ConfigurationError
from proxy.keycommand import opened
from proxy.money import dollars
from proxy.printing import moment, print_json, print_line, print_table
from proxy.quantities import parse_seconds
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.usage import Filter, Usage, UsageRow, UsageSums

_BY = ("day", "hour", "key", "team", "model", "size", "quality", "operation")
_ALWAYS_SHOWN = frozenset({"calls", "images", "cost_usd"})
_DAY_SECONDS, _HOUR_SECONDS = 86_400, 3600
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_WAIT_SECONDS = 20.0
"""Years may have to be added up, and nobody's request waits for it."""
_When = Callable[[float], float]
"""The moment that is meant, given the present one."""


def add_usage(commands: Any) -> None:
    usage = add_command(commands, "usage", _usage, "add up what was bought and what the cache saved")
    usage.epilog = "example: imagegate usage --by team,model --since 7d"
    usage.add_argument("--since", type=_when, default="30d", metavar="WHEN", help="from when (default: 30d ago)")
    usage.add_argument("--until", type=_when, metavar="WHEN", help="up to when, that moment left out (default: now)")
    usage.add_argument("--key", metavar="NAME", help="only this key's, by alias or id")
    usage.add_argument("--team", metavar="NAME", help="only this team's, by alias or id")
    usage.add_argument("--model", metavar="M", help="only this model's")
    what = usage.add_mutually_exclusive_group()
    what.add_argument("--by", type=_by, metavar="NAMES", help=f"any of {','.join(_BY)} (default: model)")
    what.add_argument("--rows", action="store_true", help="every single purchase instead of sums; CSV unless --json")
    form = usage.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV with a head line")
    usage.description = (
        f"{usage.description}\nWHEN is a date such as 2026-11-01, today, or how long ago, such as 30d or 12h, to the hour."
        " All of it in UTC."
    )


def _by(text: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _BY:
            raise argparse.ArgumentTypeError(f"there is no {name!r}; any of {','.join(_BY)}")
    return list(dict.fromkeys(names))


def _when(text: str) -> _When:
    if text == "today":
        return lambda now: now // _DAY_SECONDS * _DAY_SECONDS
    if _DATE.fullmatch(text):
        try:
            at = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
        except ValueError as error:
            raise argparse.ArgumentTypeError("there is no such day") from error
        return lambda now: at
    try:
        ago = parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("must be a date such as 2026-11-01, today, 30d or 12h") from error
    # Answers from the cache are counted by the hour: half an hour would show purchases without them.
    return lambda now: max(0, (now - ago) // _HOUR_SECONDS * _HOUR_SECONDS)


def _usage(options: Options) -> int:
    now = SystemClock().wall()
    since = options.since(now)
    until = options.until(now) if options.until else (now // _HOUR_SECONDS + 1) * _HOUR_SECONDS
    if since >= until:
        raise ConfigurationError([f"--until: {moment(until)} is not after --since, {moment(since)}"])
    with _ledger(settings_of(options, needs_secrets=False)) as usage:
        if options.rows:
            _print_purchases(usage.export(since, until, _narrowed(options)), as_json=options.json)
            return DONE
        by = options.by or ["model"]
        rows = usage.report(by, since, until, _narrowed(options))
    if options.json:
        print_json([row.as_json() for row in rows])
    elif options.csv:
        _print_sums(by, rows)
    elif rows:
        _print_table(by, rows)
    else:
        print_line(f"nothing was bought, and nothing answered from the cache, from {moment(since)} to {moment(until)}")
    return DONE


@contextmanager
def _ledger(settings: Settings) -> Iterator["Usage"]:
    from proxy.usage import Usage

    with opened(settings, wait_seconds=_WAIT_SECONDS) as database:
        yield Usage(database)


def _narrowed(options: Options) -> "Filter":
    from proxy.usage import Filter

    return Filter(key=options.key, team=options.team, model=options.model)


def _print_table(by: Sequence[str], rows: Sequence["UsageRow"]) -> None:
    """For people: columns in which every number is 0 are left out, and the last line is the total."""
    total = sum((row.sums for row in rows[1:]), rows[0].sums)
    labels = [[_label(name, row.dimensions) for row in rows] for name in by]
    columns = [
        [name.upper(), *column, "" if place else "total"]
        for place, (name, column) in enumerate(zip(by, labels, strict=True))
    ]
    for each in fields(total):
        if each.name in _ALWAYS_SHOWN or getattr(total, each.name):
            columns.append(_numbers(each.name, [row.sums for row in rows] + [total]))
    head, *lines = zip(*columns, strict=True)
    print_table(head, lines)


def _label(name: str, dimensions: Mapping[str, str | None]) -> str:
    return dimensions[name] or dimensions.get(f"{name}_id") or "-"


def _numbers(name: str, sums: Sequence["UsageSums"]) -> list[str]:
    """One column with its head, aligned at the right, money at the point."""
    values = [getattr(each, name) for each in sums]
    if isinstance(values[0], Decimal):
        places = max(2, *(len(dollars(value).partition(".")[2]) for value in values))
        cells = [f"{value:,.{places}f}" for value in values]
    else:
        cells = [f"{value:,}" for value in values]
    cells.insert(0, name.upper().replace("_", " "))
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _print_sums(by: Sequence[str], rows: Sequence["UsageRow"]) -> None:
    from proxy.usage import UsageSums

    dimensions = [column for name in by for column in ((name, f"{name}_id") if name in ("key", "team") else (name,))]
    sums = [each.name for each in fields(UsageSums)]
    lines = ({**row.dimensions, **{name: getattr(row.sums, name) for name in sums}} for row in rows)
    _print_csv([*dimensions, *sums], lines)


def _print_purchases(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """As they are read: there may be more than memory holds."""
    if not as_json:
        from proxy.usage import EXPORT_COLUMNS

        _print_csv(EXPORT_COLUMNS, rows)
        return
    before = "[\n"
    for row in rows:
        sys.stdout.write(before + json.dumps(row, default=float))
        before = ",\n"
    print_line("[]" if before == "[\n" else "\n]")


def _print_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(name, row[name]) for name in columns])


def _cell(column: str, value: object) -> str:
    """Money exact, times in ISO 8601, lists with commas; no text that a spreadsheet would take for a formula."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return dollars(value)
    if isinstance(value, float) and column.endswith(("_at", "_until")):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = ",".join(value) if isinstance(value, list) else str(value)
    return f"'{text}" if isinstance(value, str | list) and text.startswith(_FORMULA) else text

"""One model's merged table becomes its rule (schema: config/catalogue/openai.toml)."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from proxy.model import Operation, Price
from proxy.rule import (
    ROLES,
    TYPES,
    Combination,
    Condition,
    Endpoint,
    Extras,
    Formula,
    ModelRule,
    ParameterRule,
    ParameterType,
    Role,
    TokenTable,
    endpoint,
)
from proxy.sizes import Grid, Listed, SizeRule
from proxy.tablereader import TableReader

_GRID_LIMITS = ("multiple", "longest_edge", "ratio", "min_pixels", "max_pixels")


def merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever the child writes wins; tables are merged member by member, but one with a `kind` or `type` replaces."""
    result = dict(parent)
    for key, value in child.items():
        old = result.get(key)
        replaces = not isinstance(value, Mapping) or not isinstance(old, Mapping) or "kind" in value or "type" in value
        result[key] = value if replaces else merged(cast("Mapping[str, Any]", old), value)
    return result


def model_rule(reader: TableReader, *, vendor: str, name: str, version: str) -> ModelRule:
    is_open = reader.take("open", bool, "true or false") or False
    size, presets = _size_rule(reader.table("size"))
    endpoints = _endpoints(reader, is_open=is_open)
    if name and not endpoints:
        reader.problem("", f"a model needs at least one endpoint: {', '.join(each.endpoint for each in Operation)}")
    return ModelRule(
        vendor=vendor,
        name=name,
        base=name,
        endpoints=endpoints,
        size=size,
        presets=presets,
        refused=tuple(_combination(table) for table in reader.tables("refused").values()),
        price=_price(reader.table("price"), version),
        tokens=_tokens(reader.table("tokens")),
        auto_estimate=_auto_estimate(reader.table("auto_estimate")),
        shutdown_date=reader.take("shutdown_date", date, "a date"),
        announced_date=reader.take("announced_date", date, "a date"),
        retired=reader.take("retired", bool, "true or false") or False,
        source=reader.word("source") or "",
        checked=reader.take("checked", date, "a date"),
    )


def _endpoints(reader: TableReader, *, is_open: bool) -> dict[Operation, Endpoint]:
    """What a model takes to edit is what it takes to generate, with the table of its edits merged over it.

    So a fault in the one is a fault in both, and is told once.
    """
    tables = {operation: reader.raw(operation.endpoint) for operation in Operation}
    generations, edits = tables[Operation.GENERATION], tables[Operation.EDIT]
    if isinstance(edits, Mapping) and isinstance(generations, Mapping):
        tables[Operation.EDIT] = merged(generations, edits)
    endpoints: dict[Operation, Endpoint] = {}
    told: set[tuple[str, str]] = set()
    for operation, found in tables.items():
        if found is None or found is False:
            continue
        name = operation.endpoint
        inner = TableReader({name: found}, "", [])
        rules = {key: _parameter(key, table) for key, table in inner.tables(name).items()}
        endpoints[operation] = endpoint({key: rule for key, rule in rules.items() if rule}, is_open=is_open)
        for path, message in inner.problems:
            if (path.removeprefix(name), message) not in told:
                reader.problem(path, message)
            told.add((path.removeprefix(name), message))
    return endpoints


def _parameter(name: str, reader: TableReader) -> ParameterRule | None:
    kind, default, role = reader.word("type"), reader.raw("default"), reader.word("role")
    rule = ParameterRule(
        name=name,
        type=cast("ParameterType", kind),
        required=reader.take("required", bool, "true or false") or False,
        default=default,
        values=reader.words("values"),
        unconfirmed=reader.words("unconfirmed"),
        minimum=reader.integer("minimum"),
        maximum=reader.integer("maximum"),
        min_length=reader.integer("min_length"),
        max_length=reader.integer("max_length"),
        role=ROLES.get(name, cast("Role", role or "keyed")),
    )
    reader.done()
    if kind is None:
        return None  # a family may add to a parameter that only its child defines
    if kind not in TYPES:
        reader.problem("type", f"must be one of {', '.join(TYPES)}")
    elif default is not None and type(default) is not TYPES[kind]:
        reader.problem("default", f"must be of the type {kind}")
    if rule.role not in ("keyed", "unkeyed", "consumed"):
        reader.problem("role", "must be one of keyed, unkeyed, consumed")
    return rule


def _size_rule(reader: TableReader | None) -> tuple[SizeRule | None, tuple[str, ...]]:
    if reader is None:
        return None, ()
    kind, confirmed = reader.word("kind"), reader.take("confirmed", bool, "true or false") is not False
    presets = reader.words("presets")
    rule: SizeRule | None = None
    if kind == "list":
        rule = Listed(reader.words("values"), confirmed)
        if not rule.sizes:
            reader.problem("values", "must list at least one size")
    elif kind == "grid":
        limits = {limit: reader.integer(limit) or 0 for limit in _GRID_LIMITS}
        if all(limit > 0 for limit in limits.values()):
            rule = Grid(**limits, confirmed=confirmed)
        if not isinstance(rule, Grid) or rule.leaves_none():
            reader.problem("", f"leaves no size: {', '.join(_GRID_LIMITS)} must be positive and fit together")
    elif kind is not None:
        reader.problem("kind", "must be 'grid' or 'list'")
    reader.done()
    return rule, presets


def _combination(reader: TableReader) -> Combination:
    when: list[Condition] = []
    conditions = reader.table("when")
    for key in list(conditions.left) if conditions else []:
        value = conditions.raw(key) if conditions else None
        condition = _condition(key, value)
        if condition is None:
            reader.problem(f"when.{key}", "must be a value, { below = N }, { above = N } or { given = true }")
        else:
            when.append(condition)
    parameter, message = reader.word("parameter"), reader.word("message")
    if not when or not parameter or not message:
        reader.problem("", "needs `when`, `parameter` and `message`")
    preview = reader.take("preview", bool, "true or false") or False
    combination = Combination(
        parameter or "", tuple(when), message or "", reader.word("code") or "invalid_value", preview
    )
    reader.done()
    return combination


def _condition(parameter: str, value: object) -> Condition | None:
    if isinstance(value, str | int | bool):
        return Condition(parameter, equals=value)
    match value:
        case {"below": int(limit), **rest} if not rest and type(limit) is int:
            return Condition(parameter, below=limit)
        case {"above": int(limit), **rest} if not rest and type(limit) is int:
            return Condition(parameter, above=limit)
        case {"given": True, **rest} if not rest:
            return Condition(parameter, given=True)
    return None


def _price(reader: TableReader | None, version: str) -> Price | None:
    if reader is None:
        return None
    amounts: dict[str, Any] = {}
    for name in (each.name for each in fields(Price) if each.name != "version"):
        value = reader.raw(name)
        if value is None:
            continue
        try:
            amounts[name] = Decimal(str(value))
        except InvalidOperation:
            amounts[name] = Decimal(-1)
        if isinstance(value, bool) or not amounts[name].is_finite() or amounts[name] < 0:
            reader.problem(name, "must be an amount in USD, zero or more")
    reader.done()
    return Price(**amounts, version=version)


def _tokens(reader: TableReader | None) -> Formula | TokenTable | None:
    if reader is None:
        return None
    kind = reader.word("kind")
    extras = Extras(**{each.name: reader.integer(each.name) or 0 for each in fields(Extras)})
    rule: Formula | TokenTable | None = None
    if kind == "formula":
        rule = Formula(reader.numbers("factors"), extras)
    elif kind == "table":
        sizes = reader.tables("images")
        images = {size: {name: table.integer(name) or 0 for name in list(table.left)} for size, table in sizes.items()}
        rule = TokenTable(images, extras)
    else:
        reader.problem("kind", "must be 'formula' or 'table'")
    reader.done()
    return rule


def _auto_estimate(reader: TableReader | None) -> dict[str, str]:
    if reader is None:
        return {}
    found = {key: word for key in ("size", "quality") if (word := reader.word(key)) is not None}
    reader.done()
    return found

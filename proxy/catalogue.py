"""The models as data: what each takes, refuses and costs, read from TOML (schema: config/catalogue/openai.toml).

The law: a fact stands once. A model extends a family; an operator's file is merged over the shipped ones, by vendor and
model; whatever a child writes wins, and a table that names its `kind` or `type` replaces its parent's whole.
Apart from `load`, which reads the files, everything here is pure.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from proxy.errors import ConfigurationError
from proxy.model import Price
from proxy.rule import (
    ENDPOINTS,
    ROLES,
    TYPES,
    Combination,
    Condition,
    Formula,
    ModelRule,
    ParameterRule,
    ParameterType,
    Role,
    TokenTable,
    endpoint,
)
from proxy.sizes import Grid, Listed, SizeRule

T = TypeVar("T")
_GRID_LIMITS = ("multiple", "longest_edge", "ratio", "min_pixels", "max_pixels")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models of all vendors."""

    by_vendor: Mapping[str, Mapping[str, ModelRule]]

    @property
    def vendors(self) -> tuple[str, ...]:
        return tuple(sorted(self.by_vendor))

    def models(self, vendor: str) -> tuple[ModelRule, ...]:
        """All models of a vendor, live and retired, by name; none for an unknown vendor."""
        models = self.by_vendor.get(vendor, {})
        return tuple(models[name] for name in sorted(models))

    def rule(self, vendor: str, model: str) -> ModelRule | None:
        return self.by_vendor.get(vendor, {}).get(model)


def load(extra: Iterable[Path] = ()) -> Catalogue:
    """The shipped files, with an operator's own merged over them. Raises ConfigurationError with every problem."""
    texts: list[tuple[str, str]] = []
    problems: list[str] = []
    wheel = resources.files("proxy") / "_config" / "catalogue"
    shipped = wheel if wheel.is_dir() else Path(__file__).parent.parent / "config" / "catalogue"
    ours = sorted((file for file in shipped.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    for file in [*ours, *extra]:
        try:
            texts.append((file.name, file.read_text("utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{file.name}: cannot be read: {error}")
    documents: list[tuple[str, Mapping[str, Any]]] = []
    for name, text in texts:
        try:
            documents.append((name, tomllib.loads(text, parse_float=Decimal)))
        except tomllib.TOMLDecodeError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return from_documents(documents)


def from_documents(documents: Sequence[tuple[str, Mapping[str, Any]]]) -> Catalogue:
    """The catalogue in parsed TOML documents, each with its name; later ones are merged over earlier ones."""
    problems: list[str] = []
    vendors: dict[str, dict[str, Any]] = {}
    names: dict[str, list[str]] = {}
    for name, document in documents:
        vendor = document.get("vendor")
        if not isinstance(vendor, str) or not vendor:
            problems.append(f"{name}: vendor: must be a word")
            continue
        vendors[vendor] = _merged(vendors.get(vendor, {}), document)
        names.setdefault(vendor, []).append(name)
    by_vendor: dict[str, dict[str, ModelRule]] = {}
    for vendor in vendors:
        reading = _Vendor(vendor, vendors)
        by_vendor[vendor] = reading.models()
        problems += [f"{' + '.join(names[vendor])}: {problem}" for problem in reading.problems]
    if problems:
        raise ConfigurationError(problems)
    return Catalogue(by_vendor)


def _merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(parent)
    for key, value in child.items():
        old = result.get(key)
        replaces = not isinstance(value, Mapping) or not isinstance(old, Mapping) or "kind" in value or "type" in value
        result[key] = value if replaces else _merged(cast("Mapping[str, Any]", old), value)
    return result


class _Reader:
    """Takes typed members out of one TOML table and notes, with its path, whatever is wrong or left over."""

    def __init__(self, table: object, path: str, problems: list[tuple[str, str]]) -> None:
        self.path = path
        self._problems = problems
        self.left: dict[str, Any] = {}
        if isinstance(table, Mapping):
            self.left.update(table)
        else:
            self.problem("", "must be a table")

    def problem(self, key: str, message: str) -> None:
        self._problems.append((".".join(part for part in (self.path, key) if part), message))

    def has(self, key: str) -> bool:
        return key in self.left

    def take(self, key: str, kind: type[T], what: str) -> T | None:
        """The member of exactly this type, or None (noted, if it is there and of another type)."""
        value = self.left.pop(key, None)
        if value is None or type(value) is kind:
            return value
        self.problem(key, f"must be {what}")
        return None

    def word(self, key: str) -> str | None:
        return self.take(key, str, "a string")

    def integer(self, key: str) -> int | None:
        return self.take(key, int, "a whole number")

    def words(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list, "a list of strings") or []
        if not all(type(value) is str for value in values):
            self.problem(key, "must be a list of strings")
            return ()
        return tuple(values)

    def raw(self, key: str) -> Any:
        return self.left.pop(key, None)

    def tables(self, key: str) -> dict[str, "_Reader"]:
        """The members of a table of tables; `false` in the place of one takes it away."""
        if key not in self.left:
            return {}
        tables = _Reader(self.left.pop(key), f"{self.path}.{key}" if self.path else key, self._problems)
        return {
            name: _Reader(table, f"{tables.path}.{name}", self._problems)
            for name, table in tables.left.items()
            if table is not False
        }

    def table(self, key: str) -> "_Reader | None":
        if key not in self.left:
            return None
        return _Reader(self.left.pop(key), f"{self.path}.{key}" if self.path else key, self._problems)

    def numbers(self, key: str) -> dict[str, int]:
        """A table of whole numbers."""
        table = self.table(key)
        if table is None:
            return {}
        found = {name: table.integer(name) for name in list(table.left)}
        return {name: number for name, number in found.items() if number is not None}

    def done(self) -> None:
        """Whatever was not taken is no setting; `source` and `checked` are for the reader of the file."""
        for key in self.left.keys() - {"source", "checked"}:
            self.problem(key, "is no setting of the catalogue")


class _Vendor:
    """Reads one vendor's merged document. A fault in a family is reported once, not once for each of its models."""

    def __init__(self, vendor: str, documents: Mapping[str, Mapping[str, Any]]) -> None:
        self.problems: list[str] = []
        self._vendor = vendor
        self._documents = documents
        self._document = documents[vendor]
        self._version = f"{vendor} {self._document.get('version', '')}".strip()

    def models(self) -> dict[str, ModelRule]:
        top: list[tuple[str, str]] = []
        reader = _Reader(self._document, "", top)
        families, models = reader.table("family"), reader.table("model")
        reader.word("vendor")
        reader.word("version")
        reader.done()
        for family in families.left if families else ():
            self._report(f"family.{family}", self._vendor, self._document["family"][family])
        found: dict[str, ModelRule] = {}
        for name in models.left if models else ():
            rule, snapshots = self._report(f"model.{name}", self._vendor, self._document["model"][name], name)
            found[name] = rule
            for snapshot in snapshots:
                found[snapshot] = replace(rule, name=snapshot)
        self.problems[:0] = [f"{path}: {message}" for path, message in top]
        return found

    def _report(self, path: str, vendor: str, table: object, model: str = "") -> tuple[ModelRule, tuple[str, ...]]:
        """Reads one family or model and notes those of its problems that none of its ancestors has."""
        chain, fault = self._chain(vendor, table)
        if fault:
            self.problems.append(f"{path}.extends: {fault}")
        inherited: set[tuple[str, str]] = set()
        if len(chain) > 1:
            inherited.update(self._read(chain[:-1], model="")[1])
        rule, problems, snapshots = self._read(chain, model)
        for relative, message in problems:
            if (relative, message) not in inherited:
                self.problems.append(f"{'.'.join(part for part in (path, relative) if part)}: {message}")
        return rule, snapshots

    def _chain(self, vendor: str, table: object) -> tuple[list[object], str]:
        """The ancestors of a table, eldest first, then the table itself; and what is wrong with them."""
        chain: list[object] = [table]
        seen: set[tuple[str, str]] = set()
        while isinstance(table, Mapping) and "extends" in table:
            parent = table["extends"]
            if not isinstance(parent, str):
                return chain, "must be the name of a family"
            name = parent
            if "/" in parent:
                vendor, name = parent.split("/", 1)
            if (vendor, name) in seen:
                return chain, f"goes round in a circle at '{parent}'"
            seen.add((vendor, name))
            families = self._documents.get(vendor, {}).get("family", {})
            if not isinstance(families, Mapping) or name not in families:
                return chain, f"there is no family '{parent}'"
            ancestor: object = families[name]
            table = ancestor
            chain.insert(0, ancestor)
        return chain, ""

    def _read(self, chain: Sequence[object], model: str) -> tuple[ModelRule, list[tuple[str, str]], tuple[str, ...]]:
        problems: list[tuple[str, str]] = []
        table: dict[str, Any] = {
            "source": self._document.get("source", ""),
            "checked": self._document.get("checked"),
        }
        for ancestor in chain:
            if not isinstance(ancestor, Mapping):
                problems.append(("", "must be a table"))
                continue
            table = _merged(table, ancestor)
        reader = _Reader(table, "", problems)
        reader.raw("extends")
        snapshots = reader.words("snapshots")
        rule = _model_rule(reader, vendor=self._vendor, name=model, version=self._version)
        reader.done()
        return rule, problems, snapshots


def _model_rule(reader: _Reader, *, vendor: str, name: str, version: str) -> ModelRule:
    is_open = reader.take("open", bool, "true or false") or False
    size, presets = _size_rule(reader.table("size"))
    endpoints = {}
    for name_in_file, operation in ENDPOINTS.items():
        if reader.has(name_in_file):
            rules = {key: _parameter(key, table) for key, table in reader.tables(name_in_file).items()}
            endpoints[operation] = endpoint({key: rule for key, rule in rules.items() if rule}, is_open=is_open)
    if name and not endpoints:
        reader.problem("", f"a model needs at least one endpoint: {', '.join(ENDPOINTS)}")
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


def _parameter(name: str, reader: _Reader) -> ParameterRule | None:
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


def _size_rule(reader: _Reader | None) -> tuple[SizeRule | None, tuple[str, ...]]:
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
        if not isinstance(rule, Grid) or rule.nearest(1, 1) is None:
            reader.problem("", f"leaves no size: {', '.join(_GRID_LIMITS)} must be positive and fit together")
    elif kind is not None:
        reader.problem("kind", "must be 'grid' or 'list'")
    reader.done()
    return rule, presets


def _combination(reader: _Reader) -> Combination:
    when: list[Condition] = []
    conditions = reader.table("when")
    for key in list(conditions.left) if conditions else []:
        value = conditions.raw(key) if conditions else None
        if isinstance(value, Mapping) and set(value) == {"below"} and type(value["below"]) is int:
            when.append(Condition(key, below=value["below"]))
        elif isinstance(value, str | int | bool):
            when.append(Condition(key, equals=value))
        else:
            reader.problem(f"when.{key}", "must be a value or { below = N }")
    parameter, message = reader.word("parameter"), reader.word("message")
    if not when or not parameter or not message:
        reader.problem("", "needs `when`, `parameter` and `message`")
    preview = reader.take("preview", bool, "true or false") or False
    combination = Combination(
        parameter or "", tuple(when), message or "", reader.word("code") or "invalid_value", preview
    )
    reader.done()
    return combination


def _price(reader: _Reader | None, version: str) -> Price | None:
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


def _tokens(reader: _Reader | None) -> Formula | TokenTable | None:
    if reader is None:
        return None
    kind, per_partial = reader.word("kind"), reader.integer("per_partial") or 0
    rule: Formula | TokenTable | None = None
    if kind == "formula":
        rule = Formula(reader.numbers("factors"), per_partial)
    elif kind == "table":
        sizes = reader.tables("images")
        images = {size: {name: table.integer(name) or 0 for name in list(table.left)} for size, table in sizes.items()}
        rule = TokenTable(images, per_partial)
    else:
        reader.problem("kind", "must be 'formula' or 'table'")
    reader.done()
    return rule


def _auto_estimate(reader: _Reader | None) -> dict[str, str]:
    if reader is None:
        return {}
    found = {key: word for key in ("size", "quality") if (word := reader.word(key)) is not None}
    reader.done()
    return found

"""The models as data: what each takes, refuses and costs, read from TOML (schema: config/catalogue/openai.toml).

The law: a fact stands once. A model extends a family; an operator's file is merged over the shipped ones, by vendor and
model; whatever a child writes wins, and a table that names its `kind` or `type` replaces its parent's whole.
Apart from `load`, which reads the files, everything here is pure.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from proxy.errors import ConfigurationError
from proxy.modeltable import merged, model_rule
from proxy.rule import ModelRule, shape_only
from proxy.tablereader import TableReader


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models of all vendors."""

    by_vendor: Mapping[str, Mapping[str, ModelRule]]
    defaults: Mapping[str, ModelRule] = field(default_factory=dict)
    """By vendor, what its file says of the models that it does not list."""

    @property
    def vendors(self) -> tuple[str, ...]:
        return tuple(sorted(self.by_vendor))

    def models(self, vendor: str) -> tuple[ModelRule, ...]:
        """All models of a vendor, live and retired, by name; none for an unknown vendor."""
        models = self.by_vendor.get(vendor, {})
        return tuple(models[name] for name in sorted(models))

    def rule(self, vendor: str, model: str) -> ModelRule | None:
        return self.by_vendor.get(vendor, {}).get(model)

    def unlisted(self, vendor: str, model: str) -> ModelRule:
        """The rule for a model that the vendor's file does not list."""
        default = self.defaults.get(vendor)
        return replace(default, name=model, base=model) if default else shape_only(vendor, model)


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
        vendors[vendor] = merged(vendors.get(vendor, {}), document)
        names.setdefault(vendor, []).append(name)
    by_vendor: dict[str, dict[str, ModelRule]] = {}
    defaults: dict[str, ModelRule] = {}
    for vendor in vendors:
        reading = _Vendor(vendor, vendors)
        by_vendor[vendor] = reading.models()
        if (default := reading.default()) is not None:
            defaults[vendor] = default
        problems += [f"{' + '.join(names[vendor])}: {problem}" for problem in reading.problems]
    if problems:
        raise ConfigurationError(problems)
    return Catalogue(by_vendor, defaults)


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
        reader = TableReader(self._document, "", top)
        families, models = reader.table("family"), reader.table("model")
        reader.raw("default")
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

    def default(self) -> ModelRule | None:
        """What `[default]` says of the models that are not listed, if it is there."""
        if "default" not in self._document:
            return None
        return replace(self._report("default", self._vendor, self._document["default"])[0], known=False)

    def _report(self, path: str, vendor: str, table: object, model: str = "") -> tuple[ModelRule, tuple[str, ...]]:
        """Reads one family or model and notes those of its problems that none of its ancestors has."""
        chain, fault = self._chain(vendor, table)
        if fault:
            self.problems.append(f"{path}.extends: {fault}")
        rule, problems, snapshots = self._read(chain, model)
        # Only for problems: reading the ancestors of every model takes as long as reading the models.
        inherited = set(self._read(chain[:-1], model="")[1]) if problems and len(chain) > 1 else set()
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
            table = merged(table, ancestor)
        reader = TableReader(table, "", problems)
        reader.raw("extends")
        snapshots = reader.words("snapshots")
        rule = model_rule(reader, vendor=self._vendor, name=model, version=self._version)
        reader.done()
        return rule, problems, snapshots

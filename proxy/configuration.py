"""Reading the configuration: defaults, then the file, then the environment, into `Settings`.

The law of the module: what is accepted here is acted upon; every problem is reported at once, with its path; and no
message ever holds a secret.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from proxy.crosschecks import check, leads_to
from proxy.errors import ConfigurationError
from proxy.kinds import Kind, Place
from proxy.problems import Problems, Variable, did_you_mean
from proxy.secret import NEEDED_SECRET, SECRET
from proxy.settings import (
    ADMIN_TOKEN_VARIABLE,
    DEFAULT_DATABASE_URL,
    OPENAI_URL,
    ServerSection,
    Settings,
    UpstreamSection,
    default_of,
    sections,
)

PREFIX = "IMAGEGATE_"
"""Of the variables that are settings: `IMAGEGATE_SERVER__PORT` is `server.port`."""


def environment() -> Mapping[str, str]:
    """The process's environment: the only place where imagegate reads it."""
    return MappingProxyType(dict(os.environ))


def load(path: Path | None, environ: Mapping[str, str], *, needs_secrets: bool = True) -> Settings:
    """Settings from defaults, then the file if there is one, then the environment.

    Raises ConfigurationError with every problem found. Relative paths count from the file's folder, or from the
    working directory without a file.
    """
    file = None if path is None else path.absolute()
    place = Place(file.parent if file else Path.cwd(), environ, needs_secrets)
    tree = {} if file is None else _read_file(file)
    tree.setdefault("upstreams", [_default_upstream(environ)])
    _default_table(tree, "auth").setdefault("admin_token", {"env": ADMIN_TOKEN_VARIABLE})
    _default_table(tree, "database").setdefault("url", DEFAULT_DATABASE_URL)
    problems = Problems()
    _overlay(tree, environ, problems)
    known = dict(sections())
    for name in sorted(tree.keys() - known.keys()):
        problems.add(name, "no such section" + did_you_mean(name, known), tree[name])
    upstreams = _read_upstreams(tree["upstreams"], place, problems)
    read = {
        name: _read_section(kind, name, tree.get(name, {}), place, problems) or kind()
        for name, kind in known.items()
        if name != "upstreams"
    }
    _look_past_ourselves(upstreams, tree["upstreams"], read["server"])
    settings = Settings(**read, upstreams=tuple(upstreams.values()), file=file)
    check(settings, upstreams, problems, needs_secrets=needs_secrets)
    problems.report()
    return settings


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{file}: is not UTF-8"]) from error
    except OSError as error:
        raise ConfigurationError([f"{file}: cannot be read: {error.strerror}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{file}: is not TOML: {error}"]) from error


def _default_upstream(environ: Mapping[str, str]) -> dict[str, Any]:
    """What an OpenAI SDK would call in this environment."""
    base_url = environ.get("OPENAI_BASE_URL", "").strip()
    return {
        "name": "openai",
        "base_url": Variable("OPENAI_BASE_URL", base_url) if base_url else OPENAI_URL,
        "api_key": {"env": "OPENAI_API_KEY"},
    }


def _default_table(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """The table, to be given defaults that depend on where we are; a stand-in where the file has something else."""
    table = tree.setdefault(name, {})
    return table if isinstance(table, dict) else {}


def _look_past_ourselves(upstreams: dict[int, UpstreamSection], tables: Any, server: ServerSection) -> None:
    """A shell whose OPENAI_BASE_URL leads its programs to this proxy starts the proxy too: there it means OpenAI."""
    url = tables[0].get("base_url") if upstreams.get(0) else None
    if isinstance(url, Variable) and url.name == "OPENAI_BASE_URL" and leads_to(server, upstreams[0]):
        upstreams[0] = replace(upstreams[0], base_url=OPENAI_URL)


def _overlay(tree: dict[str, Any], environ: Mapping[str, str], problems: Problems) -> None:
    """Lays the variables over the file's tables. Sorted by index, so that upstreams may be appended one by one."""
    found = [(name.removeprefix(PREFIX).lower().split("__"), name) for name in environ if name.startswith(PREFIX)]
    for parts, name in sorted(found, key=lambda pair: [(len(part), part) for part in pair[0]]):
        variable = Variable(name, environ[name])
        match parts:
            case [_]:
                continue
            case ["upstreams", index, key] if index.isdecimal():
                _overlay_upstream(tree["upstreams"], int(index), key, variable, problems)
            case ["upstreams", *rest]:
                problems.add(
                    ".".join(("upstreams", *rest)), f"upstreams are counted: {PREFIX}UPSTREAMS__0__BASE_URL", variable
                )
            case [section, key]:
                table = tree.setdefault(section, {})
                if isinstance(table, dict):
                    table[key] = variable
            case _:
                problems.add(".".join(parts), "no such setting", variable)


def _overlay_upstream(upstreams: Any, index: int, key: str, variable: Variable, problems: Problems) -> None:
    if not isinstance(upstreams, list):
        return
    if index > len(upstreams):
        problems.add(f"upstreams.{index}.{key}", f"there is no upstream {len(upstreams)} before it", variable)
        return
    if index == len(upstreams):
        upstreams.append({})
    if isinstance(upstreams[index], dict):
        upstreams[index][key] = variable


def _read_upstreams(tables: Any, place: Place, problems: Problems) -> dict[int, UpstreamSection]:
    """Those that could be read, by their index in the file."""
    if not isinstance(tables, list):
        problems.add("upstreams", "must be an array of tables, each under [[upstreams]]")
        return {}
    if not tables:
        problems.add("upstreams", "there must be at least one")
    found = {
        index: _read_section(UpstreamSection, f"upstreams.{index}", table, place, problems)
        for index, table in enumerate(tables)
    }
    return {index: upstream for index, upstream in found.items() if upstream is not None}


def _read_section(kind: type[Any], path: str, table: Any, place: Place, problems: Problems) -> Any:
    """The section, with defaults in the place of what cannot be read; None if even that cannot be made."""
    if not isinstance(table, dict):
        problems.add(path, "must be a table")
        return None
    known = {item.name: item for item in fields(kind)}
    for name in sorted(table.keys() - known.keys()):
        problems.add(f"{path}.{name}", "no such setting" + did_you_mean(name, known), table[name])
    values = {}
    for name, item in known.items():
        if name in table:
            try:
                values[name] = _read_value(item.metadata["kind"], table[name], place)
            except ValueError as error:
                problems.add(f"{path}.{name}", str(error), table[name])
        elif default_of(item) is MISSING:
            problems.add(f"{path}.{name}", "must be set")
        elif isinstance(default_of(item), Path):
            values[name] = place.folder / default_of(item)
    missing = [name for name, item in known.items() if name not in values and default_of(item) is MISSING]
    return None if missing else kind(**values)


def _read_value(kind: Kind, raw: Any, place: Place) -> Any:
    if isinstance(raw, Variable):
        raw = {"env": raw.name} if kind in (SECRET, NEEDED_SECRET) else kind.of_text(raw.text)
    return kind.read(raw, place)

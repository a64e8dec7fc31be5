"""Settings as they are shown: as JSON, or as a file that reads back the same; of a secret only where it was read."""

from dataclasses import Field, fields
from typing import Any

from proxy.secret import NEEDED_SECRET, SECRET
from proxy.settings import Settings, sections


def describe(settings: Settings) -> dict[str, Any]:
    """Every setting as JSON takes it."""
    described: dict[str, Any] = {}
    for name, _ in sections():
        value = getattr(settings, name)
        described[name] = [_described(one) for one in value] if isinstance(value, tuple) else _described(value)
    return described


def toml_of(settings: Settings) -> str:
    """Every setting as a file that reads back the same; secrets by reference, what is unset as a comment."""
    lines = []
    for name, _ in sections():
        value = getattr(settings, name)
        for one in value if isinstance(value, tuple) else (value,):
            lines += ["", f"[[{name}]]" if isinstance(value, tuple) else f"[{name}]"]
            lines += [toml_line(item, getattr(one, item.name)) for item in fields(one)]
    return "\n".join(lines[1:]) + "\n"


def toml_line(item: Field[Any], value: Any) -> str:
    """`name = value` as TOML; commented out where there is no value."""
    return f"# {item.name} =" if value is None else f"{item.name} = {item.metadata['kind'].toml(value)}"


def _described(section: Any) -> dict[str, Any]:
    described = {}
    for item in fields(section):
        kind, value = item.metadata["kind"], getattr(section, item.name)
        described[item.name] = None if value is None and kind not in (SECRET, NEEDED_SECRET) else kind.shown(value)
    return described

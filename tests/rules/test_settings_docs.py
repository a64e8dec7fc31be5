"""The annotated default file and the page about settings say what the code does: each setting, one line."""

import re
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from proxy.configuration import load
from proxy.description import toml_line
from proxy.settings import Settings, default_of, sections

ROOT = Path(__file__).parents[2]
ANNOTATED = ROOT / "config" / "imagegate.toml"
PAGE = ROOT / "docs" / "settings.md"

EVERY_SETTING = [(name, item) for name, kind in sections() for item in fields(kind)]
NAMES = [f"{name}.{item.name}" for name, item in EVERY_SETTING]

# In the file the default upstream is written out, because a file's [[upstreams]] takes its place.
WRITTEN_OUT = {
    "upstreams.name": 'name = "openai"',
    "upstreams.base_url": 'base_url = "https://api.openai.com/v1"',
    "upstreams.api_key": 'api_key = { env = "OPENAI_API_KEY" }',
}


def header(section: str) -> str:
    return f"[[{section}]]" if section == "upstreams" else f"[{section}]"


def part(text: str, marker: str, next_marker: str) -> list[str]:
    """The lines from the one that begins with `marker` up to the next section."""
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(marker))
    rest = lines[start + 1 :]
    stop = next((place for place, line in enumerate(rest) if line.startswith(next_marker)), len(rest))
    return rest[:stop]


def row(item: Field[Any]) -> str:
    """The row of the page's table for one setting."""
    kind, default = item.metadata["kind"], default_of(item)
    shown = "must be set" if default is MISSING else "unset" if default is None else f"`{kind.toml(default)}`"
    cells = f"`{item.name}`", shown, item.metadata["help"], kind.expects
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@pytest.mark.parametrize(("section", "item"), EVERY_SETTING, ids=NAMES)
def test_the_annotated_file_has_a_line_for_each_setting(section: str, item: Field[Any]) -> None:
    lines = part(ANNOTATED.read_text("utf-8"), header(section), "[")
    start = WRITTEN_OUT.get(f"{section}.{item.name}") or toml_line(item, default_of(item))
    assert [line for line in lines if line.startswith(start) and line.endswith(f"  # {item.metadata['help']}")], (
        f"config/imagegate.toml lacks under {header(section)}:\n{start}  # {item.metadata['help']}"
    )


def test_the_annotated_file_has_nothing_else() -> None:
    text = ANNOTATED.read_text("utf-8")
    settings = [line for line in text.splitlines() if re.match(r"(# )?[a-z_]+ = ", line)]
    assert len(settings) == len(EVERY_SETTING)


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": "sk-marked"}], ids=["no key", "a key"])
def test_the_annotated_file_is_the_default(environ: dict[str, str]) -> None:
    written, default = load(ANNOTATED, environ), load(None, environ)
    assert written.cache.directory == ANNOTATED.parent / "var" / "cache"
    cache = replace(written.cache, directory=default.cache.directory)
    assert written.database.url == f"sqlite:///{ANNOTATED.parent}/var/imagegate.db"
    database = replace(written.database, url=default.database.url)
    assert replace(written, cache=cache, database=database, file=None) == default


@pytest.mark.parametrize("name", [name for name, _ in sections()])
def test_the_page_has_a_row_for_each_setting_and_no_other(name: str) -> None:
    lines = part(PAGE.read_text("utf-8"), f"## `{header(name)}`", "## ")
    rows = [line for line in lines if line.startswith("| `")]
    assert rows == [row(item) for section, item in EVERY_SETTING if section == name]


def test_every_section_of_the_settings_is_a_table() -> None:
    assert [item.name for item in fields(Settings)] == [name for name, _ in sections()] + ["file"]


@pytest.mark.parametrize(("section", "item"), EVERY_SETTING, ids=NAMES)
def test_every_setting_has_a_line_of_help(section: str, item: Field[Any]) -> None:
    line = item.metadata["help"]
    assert line == line.strip()
    assert 5 < len(line) <= 90
    assert "\n" not in line

"""docs/clients.md: its snippets do what they say, and the versions in its table are those that are tested."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.sdk import NODE, NODE_FOLDER, OPENAI_1, clean_environment
from tests.support.process import ROOT, Proxy
from tests.support.upstream_process import UpstreamProcess, image_of

PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"
PICTURE = image_of("A fox in the snow")


def snippet(title: str, language: str) -> str:
    """The example under a heading of the page."""
    section = re.split(rf"^## {re.escape(title)}$", PAGE, flags=re.MULTILINE)[1].partition("\n## ")[0]
    examples: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(examples) == 1 and ADDRESS in examples[0]
    return examples[0]


def saved_by(example: str, proxy: Proxy, folder: Path, command: list[str], name: str) -> bytes:
    """Runs an example, with our address in it, in an empty folder; the picture it leaves there."""
    (folder / name).write_text(example.replace(ADDRESS, proxy.url.removesuffix("/v1")), "utf-8")
    done = subprocess.run(
        [*command, name], cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return (folder / "fox.png").read_bytes()


def test_the_snippet_for_python(proxy: Proxy, tmp_path: Path) -> None:
    example = snippet("OpenAI SDK for Python", "python")
    assert saved_by(example, proxy, tmp_path, [sys.executable], "fox.py") == PICTURE


def test_the_snippet_for_azure(proxy: Proxy, tmp_path: Path) -> None:
    assert saved_by(snippet("Classes for Azure", "python"), proxy, tmp_path, [sys.executable], "fox.py") == PICTURE


def test_the_snippet_for_python_with_version_1(proxy: Proxy, tmp_path: Path) -> None:
    example = snippet("OpenAI SDK for Python", "python")
    command = ["env", f"PYTHONPATH={OPENAI_1}", sys.executable, "-S"]
    assert saved_by(example, proxy, tmp_path, command, "fox.py") == PICTURE


@pytest.mark.parametrize("title", ["OpenAI SDK for Node", "Vercel AI SDK"])
def test_the_snippets_for_node(title: str, node_packages: None, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    assert saved_by(snippet(title, "js"), proxy, tmp_path, [NODE], "fox.mjs") == PICTURE


def test_the_snippet_for_langchain_with_the_setting_above_it(
    node_packages: None, start: Callable[..., Proxy], tmp_path: Path
) -> None:
    proxy = start({"rules": {"on_invalid": "adjust"}})
    assert 'on_invalid = "adjust"' in PAGE
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    example = snippet("LangChain for JavaScript", "js")
    assert saved_by(example, proxy, tmp_path, [NODE], "fox.mjs") == PICTURE


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_the_snippet_for_curl(proxy: Proxy, upstream: UpstreamProcess, tmp_path: Path) -> None:
    assert saved_by(snippet("curl", "sh"), proxy, tmp_path, ["sh"], "fox.sh") == PICTURE


def test_the_versions_in_the_table_are_those_that_are_tested() -> None:
    locked = json.loads((NODE_FOLDER / "package-lock.json").read_text())["packages"]
    told = dict.fromkeys(re.findall(r"`([@a-z/-]+)` (\d[\d.]*)", PAGE.partition("\n## ")[0]))
    pythons = [
        re.findall(r"^openai==([\d.]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE)[0]
        for name in ("dev.lock", "openai-1.lock")
    ]
    of_node = [(name, locked[f"node_modules/{name}"]["version"]) for name in ("openai", "ai", "@ai-sdk/openai")]
    langchain = ("@langchain/openai", locked["node_modules/@langchain/openai"]["version"])
    assert list(told) == [*(("openai", version) for version in pythons), *of_node, langchain]

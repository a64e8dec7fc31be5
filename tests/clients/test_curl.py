"""Errors as curl shows them; its generations are among the seed's snippets."""

import json
import subprocess

from tests.clients.curl import KEY, curl, needs_curl
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess

pytestmark = needs_curl
JSON = ["-H", "Content-Type: application/json"]


def test_a_refusal_is_a_status_and_an_error_in_openais_shape(proxy: Proxy, upstream: UpstreamProcess) -> None:
    body = json.dumps({"model": "gpt-image-2", "prompt": "curl, refused", "size": "1000x1000"})
    got = curl(f"{proxy.url}/images/generations", *JSON, "-d", body)
    error = json.loads(got.body)["error"]
    assert (got.status, error["param"], error["code"]) == (400, "size", "invalid_value")
    assert "1008x1008" in error["message"]
    assert upstream.calls("curl, refused") == 0


def test_with_fail_a_refusal_is_an_exit_code(proxy: Proxy) -> None:
    command = ["curl", "-sS", "--fail", "--noproxy", "*", f"{proxy.url}/images/generations", *KEY, *JSON, "-d", "{}"]
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 22

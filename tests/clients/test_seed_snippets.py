"""The snippets that vendors print for users without an SDK, with only the base URL changed."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
from openai import OpenAI

from tests.clients.sdk import NODE, NODE_FOLDER
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, body_of, image_of


def test_the_snippet_for_requests(proxy: Proxy, upstream: UpstreamProcess, tmp_path: Path) -> None:
    prompt = "Landscape 2K seaside lighthouse at sunset, cinematic frame"
    for _ in range(2):
        response = requests.post(
            f"{proxy.url}/images/generations",
            headers={"Authorization": "Bearer sk-your-api-key", "Content-Type": "application/json"},
            json={"model": "gpt-image-2", "prompt": prompt, "size": "2048x1152", "quality": "high"},
            timeout=360,
        ).json()
        (tmp_path / "out.png").write_bytes(base64.b64decode(response["data"][0]["b64_json"]))
        assert (tmp_path / "out.png").read_bytes() == image_of(prompt)
    assert upstream.calls(prompt) == 1


def test_the_snippet_for_the_openai_sdk(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = "Cyberpunk city at night, neon sign closeup, cinematic frame"
    with OpenAI(api_key="sk-your-api-key", base_url=proxy.url) as client:
        for _ in range(2):
            resp = client.images.generate(
                model="gpt-image-2",
                prompt=prompt,
                size="2048x1152",
                quality="high",
                output_format="jpeg",
                output_compression=85,
            )
            assert resp.data and resp.data[0].b64_json
            assert base64.b64decode(resp.data[0].b64_json) == image_of(prompt)
    assert upstream.calls(prompt) == 1
    assert upstream.bodies(prompt)[0] == {
        "model": "gpt-image-2",
        "prompt": prompt,
        "size": "2048x1152",
        "quality": "high",
        "output_format": "jpeg",
        "output_compression": 85,
    }


def test_the_snippet_for_nodes_own_fetch(tmp_path: Path, proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt, file = "Minimalist line-art cat logo", tmp_path / "logo.png"
    for _ in range(2):
        command = [NODE, str(NODE_FOLDER / "fetch.mjs"), proxy.url, "sk-your-api-key", prompt, str(file)]
        subprocess.run(command, check=True, timeout=60)
        assert file.read_bytes() == image_of(prompt)
        file.unlink()
    assert upstream.calls(prompt) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_the_snippet_for_curl(proxy: Proxy, upstream: UpstreamProcess) -> None:
    prompt = "Orange tabby cat with sunglasses at a seaside bar, cinematic"
    body = {"model": "gpt-image-2", "prompt": prompt, "size": "2048x1152", "quality": "high"}
    command = ["curl", "-sS", "--noproxy", "*", "-D", "-", "-X", "POST", f"{proxy.url}/images/generations"]
    command += ["-H", "Authorization: Bearer sk-your-api-key", "-H", "Content-Type: application/json"]
    command += ["-d", json.dumps(body)]
    for word in (b"MISS", b"HIT"):
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"x-imagegate-cache: " + word in head
        assert content == body_of(prompt)
    assert upstream.calls(prompt) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_curl_that_waits_for_100_continue_gets_its_picture(proxy: Proxy, upstream: UpstreamProcess) -> None:
    """curl asks before it sends a body of more than 1 MB; here it is told to ask for a small one."""
    prompt = "curl with Expect: 100-continue"
    body = json.dumps({"model": "gpt-image-2", "prompt": prompt, "size": "1024x1024"})
    command = ["curl", "-sS", "--noproxy", "*", f"{proxy.url}/images/generations", "-H", "Expect: 100-continue"]
    command += ["-H", "Authorization: Bearer sk-x", "-H", "Content-Type: application/json", "-d", body]
    command += ["--expect100-timeout", "30", "--max-time", "20"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert done.stdout == body_of(prompt)


def test_the_snippet_for_browsers_is_allowed_to_call_where_the_operator_says_so(
    start: object, upstream: UpstreamProcess
) -> None:
    assert callable(start)
    proxy: Proxy = start({"server": {"cors_origins": ["https://app.example.org"]}})
    asked = requests.options(
        f"{proxy.url}/images/generations",
        headers={
            "Origin": "https://app.example.org",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
        timeout=20,
    )
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://app.example.org"
    allowed = asked.headers["access-control-allow-headers"].lower()
    assert "authorization" in allowed and "content-type" in allowed
    foreign = requests.options(
        f"{proxy.url}/images/generations",
        headers={"Origin": "https://evil.example.org", "Access-Control-Request-Method": "POST"},
        timeout=20,
    )
    assert "access-control-allow-origin" not in foreign.headers
    reply = requests.post(
        f"{proxy.url}/images/generations",
        headers={"Origin": "https://app.example.org", "Authorization": "Bearer sk-x"},
        json={"model": "gpt-image-2", "prompt": "Watercolor-style Nordic aurora", "size": "1536x1024"},
        timeout=20,
    )
    assert (reply.status_code, reply.content) == (200, body_of("Watercolor-style Nordic aurora"))
    assert reply.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "x-imagegate-cache" in reply.headers["access-control-expose-headers"].lower()

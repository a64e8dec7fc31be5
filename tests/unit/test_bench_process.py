"""Processes of the bench: started, weighed and ended for certain, with real ones."""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.process import (
    NotStarted,
    PeakMemory,
    Process,
    cpu_seconds,
    descriptors,
    free_port,
    is_listening,
    listener,
    pss_bytes,
    rss_bytes,
    tree,
)

LISTENS = """
import signal, socket, subprocess, sys, time
{before}
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
{after}
time.sleep(60)
"""
CHILD = f"subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])"


def program(folder: Path, *, before: str = "", after: str = "", stop_seconds: float = 5.0) -> tuple[Process, int]:
    """A program that listens, and does something before or after it does."""
    port = free_port()
    source = LISTENS.format(before=before, after=after)
    command = [sys.executable, "-c", source, str(port)]
    return Process(command, port=port, log=folder / "log", ready_seconds=20, stop_seconds=stop_seconds), port


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def is_running(pid: int) -> bool:
    """One that was killed, and waits for somebody to reap it, does not run."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_listens_when_it_was_entered_and_is_gone_when_it_was_left(tmp_path: Path) -> None:
    process, port = program(tmp_path)
    with process:
        assert is_listening(port)
        assert os.getpgid(process.pid) == process.pid
        assert 0 < time.perf_counter() - process.began < 20
        pid = process.pid
    assert not is_there(pid)
    assert not is_listening(port)


def test_what_it_started_is_ended_with_it(tmp_path: Path) -> None:
    process, _ = program(tmp_path, after=CHILD)
    with process:
        wait_until(lambda: len(tree(process.pid)) == 2)
        both = tree(process.pid)
    wait_until(lambda: not any(is_running(pid) for pid in both))


def test_one_that_does_not_heed_the_signal_is_killed(tmp_path: Path) -> None:
    process, _ = program(tmp_path, before="signal.signal(signal.SIGTERM, signal.SIG_IGN)", stop_seconds=0.2)
    with process:
        pid = process.pid
    assert not is_there(pid)


def test_an_error_inside_ends_it_too(tmp_path: Path) -> None:
    process, _ = program(tmp_path)
    with pytest.raises(KeyboardInterrupt), process:
        pid = process.pid
        raise KeyboardInterrupt
    assert not is_there(pid)


def test_one_that_ends_at_once_says_its_last_words(tmp_path: Path) -> None:
    process, _ = program(tmp_path, before="sys.exit('no such setting')")
    with pytest.raises(NotStarted, match="ended before it listened: no such setting"):
        process.__enter__()


def test_one_that_does_not_listen_in_time_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = Process(command, port=free_port(), log=tmp_path / "log", ready_seconds=0.1)
    with pytest.raises(NotStarted, match=r"did not listen within 0\.1 s: it wrote nothing"):
        process.__enter__()
    assert not is_there(process.pid)


def test_its_environment_has_no_settings_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-caller")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    port = free_port()
    source = LISTENS.format(before="import os; print(sorted(os.environ), flush=True)", after="")
    log = tmp_path / "log"
    with Process([sys.executable, "-c", source, str(port)], port=port, log=log, variables={"ADDED": "1"}):
        names = log.read_text()
    assert "'ADDED'" in names
    assert "'PATH'" in names
    assert "OPENAI" not in names
    assert "PROXY" not in names


def test_cpu_is_that_of_the_tree_and_of_children_that_have_ended(tmp_path: Path) -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    process, _ = program(tmp_path, before=f"subprocess.run([sys.executable, '-c', {spin!r}])")
    with process:
        assert 0.3 <= cpu_seconds(process.pid) < 5


def test_memory_and_descriptors_are_those_of_the_tree(tmp_path: Path) -> None:
    process, _ = program(tmp_path, before="kept = b'x' * 50_000_000; files = [open('/dev/null') for _ in range(20)]")
    with process:
        assert 50_000_000 < pss_bytes(process.pid) <= rss_bytes(process.pid) < 200_000_000
        assert 20 < descriptors(process.pid) < 40


def test_of_a_process_that_is_gone_nothing_is_counted(tmp_path: Path) -> None:
    process, _ = program(tmp_path)
    with process:
        pid = process.pid
    assert tree(pid) == [pid]
    assert cpu_seconds(pid) == 0
    assert pss_bytes(pid) == rss_bytes(pid) == descriptors(pid) == 0


def test_the_peak_is_seen_though_it_has_passed(tmp_path: Path) -> None:
    # The first connection was that of whoever waited for the port; the other one lasts as long as the memory does.
    holds = "server.accept(); big = b'x' * 80_000_000; server.accept()[0].recv(1); del big; print(1, flush=True)"
    process, port = program(tmp_path, after=holds)
    with process, PeakMemory(process.pid) as memory:
        with socket.create_connection(("127.0.0.1", port)):
            wait_until(lambda: memory.peak_bytes > 80_000_000)
        wait_until(lambda: bool((tmp_path / "log").read_text()))
        assert pss_bytes(process.pid) < 80_000_000
    assert memory.peak_bytes > 80_000_000


def test_the_process_that_listens_is_found(tmp_path: Path) -> None:
    process, port = program(tmp_path)
    with process:
        assert listener(port) == process.pid
    with pytest.raises(NotStarted):
        listener(port)


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        other = free_port()
        monkeypatch.setattr("random.sample", lambda *_: [taken, other])
        assert free_port() == other

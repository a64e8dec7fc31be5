"""The measurements of cost: their lines, tables, record and clients; and that a step that fails stops nobody."""

import dataclasses
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bench.cost import __main__ as command
from bench.cost.line import fitted, line
from bench.cost.lockstep import request_bytes, take, turns
from bench.cost.misses import written_bytes
from bench.cost.record import Found, Row, counted, tables
from bench.cost.rig import OutOfTime, Rig
from bench.cost.sweep import Sweep, is_under_way, peak_rss_bytes, sweeps
from bench.cost.watched import watch
from bench.process import rss_bytes
from bench.stage import Stage
from bench.system import Running
from proxy.errors import StoreError
from proxy.stores.disk import DiskTier

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_a_line_gives_back_what_the_points_were_made_of() -> None:
    found = line([(x, 60 + 300 * x) for x in (0.002, 0.03, 0.3, 3, 12)])
    assert found.fixed == pytest.approx(60)
    assert found.growth == pytest.approx(300)
    assert found.worst == pytest.approx(0, abs=1e-9)


def test_a_large_point_that_is_off_by_a_tenth_does_not_change_the_fixed_part_much() -> None:
    points = [(x, 60 + 300 * x) for x in (0.002, 0.03, 0.3, 3)]
    found = line([*points, (12, (60 + 300 * 12) * 1.1)])
    assert found.fixed == pytest.approx(60, rel=0.02)
    assert 0.04 < found.worst < 0.1


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 3.0)], [(1.0, 2.0), (2.0, 0.0)]])
def test_too_few_points_or_none_above_zero_are_no_line(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="two different points"):
        line(points)


def test_a_fitted_row_says_per_what() -> None:
    row = fitted("hits, fitted", "keys", "mb", [(1.0, 3.0), (2.0, 5.0)])
    assert (row.table, row.at) == ("hits, fitted", "keys")
    assert row.figures == pytest.approx({"fixed": 1.0, "per_mb": 2.0, "worst_error_percent": 0.0}, abs=1e-9)


@pytest.mark.parametrize(
    ("noted", "found", "is_one_under_way"),
    [
        ("", [], False),
        ("began 1.5", [], False),
        ("began 1.5\n", [Sweep(1.5)], True),
        ("began 1.5\nended 3.5 0.2", [Sweep(1.5)], True),
        ("began 1.5\nended 3.5 0.25\n", [Sweep(1.5, 3.5, 0.25)], False),
        ("began 1.5\nended 3.5 0.25\nbegan 13.5\n", [Sweep(1.5, 3.5, 0.25), Sweep(13.5)], True),
        ("began 1.5\nbegan 13.5\nended 14.0 0.25\n", [Sweep(1.5), Sweep(13.5, 14.0, 0.25)], False),
    ],
)
def test_notes_say_which_sweeps_there_were(
    tmp_path: Path, noted: str, found: list[Sweep], is_one_under_way: bool
) -> None:
    notes = tmp_path / "sweeps.txt"
    assert sweeps(notes) == []
    notes.write_text(noted)
    assert sweeps(notes) == found
    assert is_under_way(notes) is is_one_under_way


def test_a_sweep_that_is_watched_is_noted_while_it_is_under_way_and_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "sweeps.txt"
    during: list[bool] = []

    def sweep(_tier: DiskTier, _instance_id: str, _age_seconds: float) -> None:
        during.append(is_under_way(notes))

    monkeypatch.setattr(DiskTier, "sweep", sweep)
    watch(notes)
    DiskTier.sweep(cast(DiskTier, None), "one")
    [noted] = sweeps(notes)
    assert during == [True]
    assert not is_under_way(notes)
    assert 0 <= noted.seconds < 60
    assert 0 <= noted.cpu_seconds < 60


def test_a_sweep_that_fails_has_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(_tier: DiskTier, _instance_id: str, _age_seconds: float) -> None:
        raise StoreError("no disk")

    monkeypatch.setattr(DiskTier, "sweep", sweep)
    watch(tmp_path / "sweeps.txt")
    with pytest.raises(StoreError, match="no disk"):
        DiskTier.sweep(cast(DiskTier, None), "one")
    assert [each.ended for each in sweeps(tmp_path / "sweeps.txt")] == [None]


def test_a_table_has_the_columns_of_all_its_rows_and_a_dash_where_there_is_nothing() -> None:
    text = tables(
        [
            Row("index", "0 entries", {"start_seconds": 0.5}),
            Row("keys", "1 key", {"resident_mb": 70.0}),
            Row("index", "10 entries", {"start_seconds": 1234.0, "sweep_seconds": None}),
        ]
    )
    first, second = text.split("\n\n")
    assert first.splitlines() == [
        "| index | start seconds | sweep seconds |",
        "| --- | ---: | ---: |",
        "| 0 entries | 0.50 | - |",
        "| 10 entries | 1,234 | - |",
    ]
    assert second.splitlines()[2] == "| 1 key | 70 |"


def test_a_row_is_told_in_one_line() -> None:
    row = Row("keys", counted(1_000, "key"), {"resident_mb": 70.0, "hit_cpu_us": None})
    assert row.told() == "keys, 1,000 keys: resident mb 70, hit cpu us -"
    assert counted(1, "client") == "1 client"


def test_the_record_is_written_as_it_is_read(tmp_path: Path) -> None:
    found = Found("now", {"cores": "2"}, "abc", 1.5, [Row("hits: CPU in µs", "2 KB", {"keys": 1.0})], ["keys: late"])
    found.write(tmp_path / "cost.json")
    text = (tmp_path / "cost.json").read_text()
    assert json.loads(text) == dataclasses.asdict(found)
    assert list(json.loads(text)) == ["began", "machine", "commit", "seconds", "rows", "failed"]
    assert text.startswith('{\n "began": "now",')
    assert "µs" in text
    assert text.endswith("}\n")


def test_a_rig_whose_time_is_over_says_so(tmp_path: Path) -> None:
    rig = Rig(cast(Stage, None), 1, tmp_path, 0, deadline=0.0)
    with pytest.raises(OutOfTime, match="720 s"):
        rig.seconds_left()


def test_a_process_weighs_at_its_peak_what_it_ever_weighed() -> None:
    before = rss_bytes(os.getpid())
    peak = peak_rss_bytes(os.getpid())
    assert 0 < peak < 1e12
    assert peak >= 0.9 * before
    assert written_bytes(os.getpid()) >= 0


@pytest.mark.parametrize("pieces", [[REPLY], [REPLY[:7], REPLY[7:39], REPLY[39:]]])
def test_a_reply_is_taken_whole_whatever_pieces_it_comes_in(pieces: list[bytes]) -> None:
    here, there = socket.socketpair()
    with here, there:
        for piece in pieces[:-1]:
            there.sendall(piece)
        late = threading.Timer(0.02, there.sendall, [pieces[-1]])
        late.start()
        take(here)
        late.join()
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            here.recv(1)


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [(b"HTTP/1.1 429 Slow Down\r\ncontent-length: 0\r\n\r\n", "429"), (REPLY[:-1], "closed"), (b"", "closed")],
)
def test_a_refusal_or_half_a_reply_is_no_hit(reply: bytes, complaint: str) -> None:
    here, there = socket.socketpair()
    with here:
        with there:
            there.sendall(reply)
        with pytest.raises(RuntimeError, match=complaint):
            take(here)


def test_requests_take_the_keys_in_turn_over_all_connections() -> None:
    taken: list[bytes] = []
    length = len(request_bytes("{}", "1"))

    def serve(listener: socket.socket) -> None:
        connections = [listener.accept()[0] for _ in range(2)]
        for _ in range(3):
            for each in connections:
                taken.append(each.recv(length, socket.MSG_WAITALL))
                each.sendall(REPLY)
        for each in connections:
            each.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        system = Running("", "", listener.getsockname()[1], os.getpid(), 0.0)
        found = turns(system, "{}", ["1", "2", "3"], connections=2, count=6)
        server.join()
    assert taken == [request_bytes("{}", key) for key in ("1", "2", "3", "1", "2", "3")]
    assert len(found) == 6
    assert min(found) > 0


def test_a_step_that_fails_keeps_its_rows_and_the_next_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_rig: Rig) -> Iterator[Row]:
        yield Row("first", "1", {"figure": 1.0})
        raise OutOfTime("no time")

    def sound(_rig: Rig) -> Iterator[Row]:
        yield Row("second", "1", {"figure": 2.0})

    monkeypatch.setattr(command, "STEPS", {"failing": failing, "sound": sound})
    found = Found("now", {}, "")
    command.run(cast(Rig, None), ["failing", "sound"], found)
    assert [row.table for row in found.rows] == ["first", "second"]
    assert found.failed == ["failing: OutOfTime: no time"]


def test_a_step_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "nonsense"])
    assert "no such step: nonsense" in capsys.readouterr().err

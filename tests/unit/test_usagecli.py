"""`imagegate usage`: what is shown to people, to programs and to spreadsheets."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from proxy.database.engine import Database
from proxy.keystore import KeyStore
from proxy.usage import EXPORT_COLUMNS
from tests.support.clock import ManualClock
from tests.support.configuration import config
from tests.support.ledger import NOON, bought, buy, purchase, tallied

pytestmark = pytest.mark.usefixtures("bare_environment")
DAY = 86_400
NOW = NOON + 1800
TODAY = "2026-11-22"


@pytest.fixture(autouse=True)
def _half_past_twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.usagecli.SystemClock", lambda: ManualClock(NOW))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Where the command looks when nothing is configured."""
    database = Database(f"sqlite:///{tmp_path}/var/imagegate.db")
    database.open()
    yield database
    database.close()


@pytest.fixture
def filled(database: Database) -> Database:
    store = KeyStore(database, ManualClock(NOW))
    key, _ = store.create_key({"key_alias": "web"}, "test", team="design")
    bought(database, NOW, key_id=key.id, team_id=key.team_id, text_in=12, image_out=4160)
    bought(database, NOW, model="gpt-image-1", cost=1_234_567, outcome="estimated")
    bought(database, NOW - 40 * DAY)
    tallied(database, NOON, answers=3, images=3, key_id=key.id, team_id=key.team_id)
    return database


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["usage", *argv]) == 0
    return capsys.readouterr().out


def as_csv(printed: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(printed)))


def as_json(printed: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(printed)
    return read


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["usage", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_a_ledger_that_is_not_there_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "var" / "imagegate.db"
    assert main(["usage", "--config", config(tmp_path)]) == 1
    assert tuple(capsys.readouterr()) == (
        "",
        f"imagegate: there is no database at {database}: is this the proxy's --config? `imagegate keys create` makes one\n",
    )
    assert not (tmp_path / "var").exists()


def test_the_database_of_the_configuration_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = Database(f"sqlite:///{tmp_path}/elsewhere.db")
    database.open()
    bought(database, NOW)
    file = config(tmp_path, '[database]\nurl = "sqlite:///elsewhere.db"\n')
    assert len(as_json(run(capsys, "--json", "--config", file))) == 1
    database.close()


def test_a_damaged_database_is_said_in_one_line(
    filled: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.close()
    (tmp_path / "var" / "imagegate.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert main(["usage"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"imagegate: sqlite:///{tmp_path}/var/imagegate.db: ")
    assert printed.err.endswith(": try again, or look at database.url\n")


# For people


def test_people_see_what_holds_something_and_a_total(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = run(capsys, "--model", "gpt-image-2").splitlines()
    assert (
        head == "MODEL        CALLS  IMAGES  HITS  CACHED IMAGES  TEXT IN  IMAGE OUT  SAVED TOKENS  COST USD  SAVED USD"
    )
    assert lines[0] == (
        "gpt-image-2      1       1     3              3       12      4,160         1,000      0.05       0.05"
    )
    assert lines[1] == lines[0].replace("gpt-image-2", "total      ")


def test_money_stands_point_under_point_and_exact(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = run(capsys).splitlines()
    end = head.index("COST USD") + len("COST USD")
    assert [line[:end].split()[-1] for line in lines] == ["0.001234567", "0.050000000", "0.051234567"]
    assert "ESTIMATED USD" in head
    assert "UNKNOWN USD" not in head


def test_several_dimensions_stand_beside_each_other(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = run(capsys, "--by", "day,team,key").splitlines()
    assert head.split()[:4] == ["DAY", "TEAM", "KEY", "CALLS"]
    assert [line.split()[:4] for line in lines[:2]] == [[TODAY, "design", "web", "1"], [TODAY, "-", "-", "1"]]
    assert lines[2].split()[:2] == ["total", "2"]


def test_nothing_is_said_to_be_nothing(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--since", "2020-01-01", "--until", "2020-02-01") == (
        "nothing was bought, and nothing answered from the cache, from 2020-01-01 00:00:00Z to 2020-02-01 00:00:00Z\n"
    )
    assert run(capsys, "--json") == "[]\n"
    assert run(capsys, "--rows", "--json") == "[]\n"
    assert run(capsys, "--rows") == ",".join(EXPORT_COLUMNS) + "\n"
    assert run(capsys, "--csv").startswith("model,calls,images,")


def test_no_terminal_obeys_a_model(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    bought(database, NOW, model="\x1b[31mred")
    assert "\x1b" not in run(capsys)


# What is counted


def test_json_has_a_row_for_each_group(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    estimated, settled = as_json(run(capsys, "--json"))
    assert (estimated["model"], estimated["cost_usd"], estimated["estimated_usd"]) == ("gpt-image-1",) + (
        0.001234567,
    ) * 2
    assert (settled["hits"], settled["saved_usd"], settled["image_out"], settled["calls"]) == (3, 0.05, 4160, 1)


def test_rows_are_narrowed_by_key_team_and_model(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    for narrowed in (["--key", "web"], ["--team", "design"], ["--model", "gpt-image-2"]):
        (row,) = as_json(run(capsys, "--json", *narrowed))
        assert (row["calls"], row["hits"]) == (1, 3)
        assert len(as_csv(run(capsys, "--rows", *narrowed))) == 1


def test_the_range_is_as_asked(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    october = datetime(2026, 10, 1, tzinfo=UTC).timestamp()
    buy(database, *(purchase(at) for at in (october - 1, october, october + DAY - 1, october + DAY)))

    def calls(*argv: str) -> int:
        return sum(row["calls"] for row in as_json(run(capsys, "--json", *argv)))

    assert calls("--since", "2026-10-01", "--until", "2026-10-02") == 2
    assert calls("--since", "2026-10-01", "--until", "2026-10-03") == 3
    assert calls("--since", "2000-01-01", "--until", "2026-10-01") == 1
    assert calls("--since", "99999d", "--until", "2026-10-01") == 1
    bought(database, NOW)
    assert calls("--since", "today") == calls("--since", "45s") == 1


def test_how_long_ago_counts_to_the_hour_so_that_purchases_and_hits_are_of_the_same_time(
    filled: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    bought(filled, NOON)
    bought(filled, NOON - 1)
    for ago in ("1s", "29m"):
        (row,) = as_json(run(capsys, "--json", "--since", ago, "--model", "gpt-image-2"))
        assert (row["calls"], row["hits"]) == (2, 3)


# Spreadsheets


def test_csv_is_exact_and_has_every_column(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = as_csv(run(capsys, "--csv", "--by", "key,model", "--model", "gpt-image-1"))
    assert (row["key"], row["key_id"], row["model"], row["cost_usd"]) == ("", "", "gpt-image-1", "0.001234567")
    assert list(row) == list(as_json(run(capsys, "--json", "--by", "key,model"))[0])


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t"])
def test_no_spreadsheet_takes_a_name_for_a_formula(
    first: str, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    bought(database, NOW, model=f"{first}1+1", tags=[f"{first}2"], seconds=-1.5)
    (row,) = as_csv(run(capsys, "--csv"))
    assert row["model"] == f"'{first}1+1"
    (row,) = as_csv(run(capsys, "--rows"))
    assert (row["model"], row["tags"], row["seconds"]) == (f"'{first}1+1", f"'{first}2", "-1.5")
    (told,) = as_json(run(capsys, "--rows", "--json"))
    assert (told["model"], told["tags"]) == (f"{first}1+1", [f"{first}2"])


def test_single_purchases_are_exported(filled: Database, capsys: pytest.CaptureFixture[str]) -> None:
    bought(filled, NOON + 0.25, tags=["a", "b"], closed_at=None, outcome="open", cost=None)
    rows = as_csv(run(capsys, "--rows", "--since", "2000-01-01", "--until", "2100-01-01"))
    (row,) = [row for row in rows if row["outcome"] == "open"]
    assert tuple(row) == EXPORT_COLUMNS
    assert (row["opened_at"], row["closed_at"]) == ("2026-11-22T12:00:00.250Z", "")
    assert (row["estimate_usd"], row["cost_usd"], row["tags"]) == ("0.06", "", "a,b")
    assert run(capsys, "--rows", "--csv") == run(capsys, "--rows")
    told = as_json(run(capsys, "--rows", "--json", "--model", "gpt-image-1"))
    assert [(each["cost_usd"], each["outcome"], each["tags"]) for each in told] == [(0.001234567, "estimated", [])]


def test_an_export_is_printed_as_it_is_read(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    buy(database, *(purchase(NOW - number) for number in range(1201)))
    rows = as_json(run(capsys, "--rows", "--json"))
    assert len(rows) == len({row["id"] for row in rows}) == 1201
    assert rows == sorted(rows, key=lambda row: row["opened_at"])


# Wrong usage


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (
            ["--by", "prompt"],
            "argument --by: there is no 'prompt'; any of day,hour,key,team,model,size,quality,operation",
        ),
        (["--by", ""], "argument --by: there is no ''"),
        (["--since", "tomorrow"], "argument --since: must be a date such as 2026-11-01, today, 30d or 12h"),
        (["--since", "2026-02-30"], "argument --since: there is no such day"),
        (["--since", "2026-11-02", "--until", "2026-11-02"], "is not after --since"),
        (["--json", "--csv"], "argument --csv: not allowed with argument --json"),
        (["--rows", "--by", "day"], "argument --by: not allowed with argument --rows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_said(
    argv: list[str], complaint: str, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in refused(capsys, *argv)


def test_a_key_that_is_not_there_is_not_found(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ([], ["--rows"]):
        assert main(["usage", "--key", "nobody", *form]) == 1
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == (
            "",
            "imagegate: There is no key of this id or alias. `imagegate keys list` shows those there are.\n",
        )


def test_the_command_is_read_without_a_database(tmp_path: Path) -> None:
    program = "import sys; import proxy.usagecli; sys.exit('sqlalchemy' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0

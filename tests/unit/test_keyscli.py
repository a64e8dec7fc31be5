"""`imagegate keys|teams|audit`: a key is told once, changes are what was asked for, refusals say what to do."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import virtualkey
from proxy.cli import main
from proxy.clock import SystemClock
from proxy.command import Parser
from proxy.database.engine import Database
from proxy.keyoptions import add_changes, add_key_fields, fields_of
from proxy.keystore import KeyStore
from proxy.period import parse_period
from tests.support.configuration import config

pytestmark = pytest.mark.usefixtures("bare_environment")

ROOT = Path(__file__).parents[2]
UPSTREAM = '[[upstreams]]\nname = "a"\nbase_url = "http://127.0.0.1:9/v1"\n'
KEYS = '[auth]\nmode = "keys"\n' + UPSTREAM
COMMANDS = [
    *(("keys", action) for action in ("create", "list", "show", "update", "rotate", "revoke")),
    *(("teams", action) for action in ("create", "list", "show", "update")),
    ("audit",),
]
OPERANDS = {
    "create": ["--alias", "a"],
    "show": ["a"],
    "update": ["a", "--block"],
    "rotate": ["a"],
    "revoke": ["a"],
}
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def ann(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the commands."""
    monkeypatch.setenv("LOGNAME", "ann")


def unspent(record: dict[str, Any]) -> dict[str, Any]:
    """As `show` tells of one that has bought nothing yet."""
    nothing = {"spent_usd": 0.0, "reserved_usd": 0.0, "remaining_usd": record["max_budget"]}
    end = None
    if record["budget_duration"]:
        end = parse_period(record["budget_duration"]).window(record["created_at"], SystemClock().wall())[1]
    return {**record, **nothing, "budget_resets_at": end}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that succeeds; what it printed."""
    file = config(tmp_path, KEYS)

    def run(*words: str) -> str:
        assert main([*words, "--config", file]) == 0, capsys.readouterr().err
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


@pytest.fixture
def told(run: Run) -> Run:
    """The same, of the JSON that it printed."""
    return lambda *words: json.loads(run(*words, "--json"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that fails with this code; its one line."""
    file = config(tmp_path, KEYS)

    def refused(code: int, *words: str) -> str:
        assert main([*words, "--config", file]) == code
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        return printed.err

    return refused


def column(table: str, name: str) -> list[str]:
    """The words of a table's column."""
    head, *rows = table.split("\n\n", maxsplit=1)[0].splitlines()
    start = head.index(name)
    return [re.split(r"\s{2,}", row[start:])[0] for row in rows]


# --- Every command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--config FILE" in shown
    assert "--json" in shown
    assert f"example: imagegate {' '.join(command)}" in shown


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_wrong_configuration(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, "[server]\nport = 99999\n")
    assert main([*command, *OPERANDS.get(command[-1], []), "--config", file]) == 2
    assert tuple(capsys.readouterr()) == ("", "imagegate: server.port: must be a whole number from 0 to 65535\n")


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[-1] != "create"], ids=" ".join)
def test_what_makes_nothing_makes_no_database(command: tuple[str, ...], tmp_path: Path, refused: Run) -> None:
    told = refused(1, *command, *OPERANDS.get(command[-1], []))
    assert f"there is no database at {tmp_path}/var/imagegate.db" in told
    assert "imagegate keys create" in told
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(
    "words",
    [
        "keys",
        "teams",
        "keys create",
        "teams create",
        "keys create --alias sk-ig-secret",
        "keys create --alias a --max-budget -1",
        "keys create --alias a --max-budget 1.0000001",
        "keys create --alias a --max-budget ten",
        "keys create --alias a --budget-duration 1y",
        "keys create --alias a --rpm-limit 0",
        "keys create --alias a --max-n 1.5",
        "keys create --alias a --models a,,b",
        "keys create --alias a --models=",
        "keys create --alias a --allowed-sizes 17by17",
        "keys create --alias a --cache-scope all",
        "keys create --alias a --expires 2001-01-01",
        "keys create --alias a --expires tomorrow",
        "keys create --alias a --metadata {",
        "keys create --alias a --metadata [1]",
        'keys create --alias a --metadata {"a":1,"a":2}',
        "keys create --alias a --team=",
        "keys create --alias a --block",
        "keys create --al a",
        "keys list --limit 0",
        "keys list --limit 1001",
        "keys show",
        "keys update a",
        "keys update a --colour red",
        "keys update a --block --unblock",
        "keys update a --unset",
        "keys update a --unset key-alias",
        "keys update a --unset blocked",
        "keys update a --max-n 1 --unset expires,max-n",
        "keys update a --team t --unset team",
        "keys rotate a --grace soon",
        "keys revoke a --yes",
        "teams update a",
        "teams update a --rpm-limit 1",
        "teams update a --unset expires",
        "teams update a --max-budget 1 --unset max-budget",
        "audit a",
        "audit --before 0",
        "audit --limit many",
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"imagegate[a-z: -]*: .*\n", printed.err)
    assert "secret" not in printed.err
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize("flag", ["--max-budget", "--expires", "--metadata", "--allowed-sizes", "--rpm-limit"])
@given(text=st.text())
def test_no_value_of_a_field_is_more_than_refused(flag: str, text: str) -> None:
    parser = Parser()
    add_key_fields(parser)
    try:
        options = parser.parse_args([f"{flag}={text}"])
    except SystemExit as stop:
        assert stop.code == 2
    else:
        assert len(fields_of(options)) == 1


def test_fields_may_be_named_as_options_or_as_they_are_kept() -> None:
    parser = Parser()
    add_key_fields(parser)
    add_changes(parser, "key")
    options = parser.parse_args(["--unset", "max-budget, max_n,team"])
    assert fields_of(options) == {"max_budget": None, "max_n": None, "team_id": None}


def test_a_command_that_needs_no_database_does_not_load_it() -> None:
    script = "import sys; from proxy.cli import main; main(['check-config']); sys.exit('sqlalchemy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_printed_once_on_a_line_of_its_own(run: Run, tmp_path: Path) -> None:
    key, *rest = run("keys", "create", "--alias", "web").splitlines()
    assert virtualkey.is_wellformed(key)
    assert "not shown again" in " ".join(rest)
    assert "base_url=http://127.0.0.1:8080/v1" in " ".join(rest)
    later = [run("keys", "show", "web"), run("keys", "list"), run("audit", "--json"), run("keys", "list", "--json")]
    assert key not in " ".join([*rest, *later])
    assert all(virtualkey.shown(key) in each for each in later[:2])
    assert key.encode() not in b"".join(file.read_bytes() for file in (tmp_path / "var").iterdir())


def test_a_key_as_json_is_the_record_and_the_key(told: Run) -> None:
    made = told("keys", "create", "--alias", "web")
    key = made.pop("key")
    assert virtualkey.is_wellformed(key)
    assert unspent(made) == told("keys", "show", "web") == told("keys", "show", made["id"])


def test_every_field_of_a_key_is_an_option(told: Run) -> None:
    fields = {
        "models": ["gpt-image-2", "gpt-image-1"],
        "max_budget": 25.5,
        "soft_budget": 20,
        "budget_duration": "1mo",
        "rpm_limit": 60,
        "ipm_limit": 10,
        "max_parallel_requests": 4,
        "max_n": 2,
        "allowed_sizes": ["1024x1024", "auto"],
        "allowed_qualities": ["low"],
        "cache_scope": "key",
        "metadata": {"cost centre": [1, None]},
    }
    words = []
    for name, value in fields.items():
        text = ",".join(value) if isinstance(value, list) else json.dumps(value) if name == "metadata" else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    made = told("keys", "create", "--alias", "web", "--team", "design", "--expires", "90d", *words)
    assert {name: made[name] for name in fields} == fields
    assert made["expires"] == pytest.approx(made["created_at"] + 90 * 86_400, abs=1)
    assert made["team_id"] == told("teams", "show", "design")["id"]
    assert told("keys", "update", "web", "--unset", ",".join([*fields, "expires", "team"]))
    bare = told("keys", "show", "web")
    assert {bare[name] for name in (*fields, "expires", "team_id") if name != "metadata"} == {None}
    assert bare["metadata"] == {}


def test_a_new_team_is_said_to_be_new(run: Run) -> None:
    assert "Its team: design, made just now." in run("keys", "create", "--alias", "a", "--team", "design")
    assert "Its team: design.\n" in run("keys", "create", "--alias", "b", "--team", "design")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (KEYS, "base_url=http://127.0.0.1:8080/v1 "),
        (KEYS, "Only this machine reaches 127.0.0.1"),
        (KEYS + "[server]\nhost = '0.0.0.0'\nport = 80\n", "base_url=http://HOST:80/v1 "),
        (KEYS + "[server]\nhost = '::1'\n", "base_url=http://[::1]:8080/v1 "),
        (KEYS + "[server]\npublic_url = 'https://img.example.com/'\n", "base_url=https://img.example.com/v1 "),
        (UPSTREAM, 'Keys count once auth.mode = "keys"; now it is "passthrough".'),
    ],
)
def test_how_to_use_the_key_is_said(toml: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "--alias", "web", "--config", config(tmp_path, toml)]) == 0
    assert said in capsys.readouterr().out


def test_what_does_not_hold_is_not_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, KEYS + "[server]\npublic_url = 'https://img.example.com'\n")
    assert main(["keys", "create", "--alias", "web", "--config", file]) == 0
    said = capsys.readouterr().out
    assert "Only this machine" not in said
    assert "auth.mode" not in said
    assert "team" not in said


def test_keys_are_listed_in_pages(run: Run, told: Run) -> None:
    made = [told("keys", "create", "--alias", f"k{number}")["key_alias"] for number in range(5)]
    seen: list[str] = []
    hint: list[str] = []
    while True:
        page = run("keys", "list", "--limit", "2", *hint)
        seen += column(page, "ALIAS")
        found = re.search(r"\n\nthere are more: the same command with (--after \S+)\n$", page)
        if found is None:
            break
        hint = found[1].split()
    assert seen == made
    assert "more" not in run("keys", "list", "--limit", "5")
    assert [key["key_alias"] for key in told("keys", "list", "--limit", "2")] == made[:2]


def test_a_list_of_keys_is_narrowed_and_shows_what_matters(run: Run, told: Run) -> None:
    run("keys", "create", "--alias", "web", "--team", "design", "--max-budget", "25.50", "--budget-duration", "30d")
    run("keys", "create", "--alias", "app", "--team", "design", "--max-budget", "0.000001")
    run("keys", "create", "--alias", "old", "--expires", "2099-01-01")
    assert [key["key_alias"] for key in told("keys", "list", "--team", "design")] == ["web", "app"]
    assert [key["key_alias"] for key in told("keys", "list", "--alias", "A")] == ["app"]
    run("keys", "revoke", "old")
    run("keys", "update", "app", "--block")
    run("teams", "update", "design", "--block")
    table = run("keys", "list")
    assert column(table, "BUDGET") == ["$25.5 / 30d", "$0.000001", "-"]
    assert column(table, "TEAM") == ["design", "design", "-"]
    assert column(table, "STATE") == ["team blocked", "blocked", "revoked"]
    assert column(table, "EXPIRES") == ["-", "-", "2099-01-01 00:00:00Z"]


def test_a_key_that_is_over_is_shown_as_expired(run: Run, told: Run, tmp_path: Path) -> None:
    told("keys", "create", "--alias", "web", "--expires", "1h")
    with sqlite3.connect(tmp_path / "var" / "imagegate.db") as connection:
        connection.execute("UPDATE keys SET expires = 1")
    connection.close()
    assert re.search(r"^state +expired$", run("keys", "show", "web"), re.MULTILINE)


def test_a_key_is_shown_in_words(run: Run) -> None:
    run("keys", "create", "--alias", "web", "--team", "design", "--max-budget", "5", "--models", "gpt-image-2,x")
    shown = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in run("keys", "show", "web").splitlines())
    assert (shown["state"], shown["max_budget"], shown["models"]) == ("active", "$5", "gpt-image-2,x")
    assert shown["team_id"].endswith(" (design)")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", shown["created_at"])
    assert "rpm_limit" not in shown


def test_an_update_changes_what_it_names(run: Run, told: Run) -> None:
    told("keys", "create", "--alias", "web", "--max-budget", "5", "--rpm-limit", "7")
    after = told("keys", "update", "web", "--alias", "www", "--max-budget", "9", "--team", "sales", "--block")
    assert (after["key_alias"], after["max_budget"], after["rpm_limit"], after["blocked"]) == ("www", 9, 7, True)
    assert unspent(after) == told("keys", "show", "www")
    assert told("keys", "update", "www", "--unblock")["blocked"] is False
    assert re.search(r"^max_budget +\$10$", run("keys", "update", "www", "--max-budget", "10"), re.MULTILINE)


def test_a_rotation_prints_the_new_key_and_how_long_the_old_one_works(run: Run, told: Run) -> None:
    old = told("keys", "create", "--alias", "web")
    key, *rest = run("keys", "rotate", "web").splitlines()
    assert virtualkey.is_wellformed(key)
    assert key != old["key"]
    kept = told("keys", "show", "web")
    assert kept["previous_until"] == pytest.approx(kept["updated_at"] + 86_400)
    assert re.fullmatch(r"The old key works until \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\.", rest[-1])
    made = told("keys", "rotate", "web", "--grace", "12h")
    assert made["shown"] == virtualkey.shown(made["key"])
    assert made["previous_until"] == pytest.approx(made["updated_at"] + 12 * 3600)
    assert run("keys", "rotate", "web", "--grace", "0").endswith("The old key works no longer.\n")


def test_a_key_is_revoked_for_good(run: Run, told: Run, refused: Run) -> None:
    key = told("keys", "create", "--alias", "web")
    assert run("keys", "revoke", "web").startswith(f"revoked web ({key['shown']})")
    assert unspent(told("keys", "revoke", key["id"])) == told("keys", "show", "web")
    assert "This key is revoked" in refused(1, "keys", "update", "web", "--unblock")


def test_a_process_that_has_the_database_open_is_told(told: Run, tmp_path: Path) -> None:
    told("keys", "create", "--alias", "web")
    database = Database(f"sqlite:///{tmp_path}/var/imagegate.db")
    database.open()
    store = KeyStore(database, SystemClock())
    before = store.all()
    told("keys", "update", "web", "--max-n", "1")
    (changed,) = store.changes_since(before.revision).keys
    database.close()
    assert changed.max_n == 1


# --- Teams ------------------------------------------------------------------------------------------------------------


def test_a_team_is_made_shown_changed_and_listed(run: Run, told: Run) -> None:
    words = ["--max-budget", "500", "--soft-budget", "400", "--budget-duration", "1mo", "--metadata", '{"a": 1}']
    made = told("teams", "create", "--alias", "design", *words)
    assert (made["max_budget"], made["soft_budget"], made["budget_duration"]) == (500, 400, "1mo")
    assert made["metadata"] == {"a": 1}
    assert unspent(made) == told("teams", "show", "design") == told("teams", "show", made["id"])
    after = told("teams", "update", "design", "--alias", "art", "--unset", "budget-duration,metadata", "--block")
    assert (after["team_alias"], after["budget_duration"], after["metadata"], after["blocked"]) == (
        "art",
        None,
        {},
        True,
    )
    told("teams", "create", "--alias", "sales")
    table = run("teams", "list")
    assert column(table, "ALIAS") == ["art", "sales"]
    assert column(table, "BUDGET") == ["$500", "-"]
    assert column(table, "STATE") == ["blocked", "active"]
    assert re.search(r"^state +active$", run("teams", "show", "sales"), re.MULTILINE)
    assert [team["team_alias"] for team in told("teams", "list", "--alias", "SAL")] == ["sales"]
    page = run("teams", "list", "--limit", "1")
    assert page.endswith(f"\n\nthere are more: the same command with --after {made['id']}\n")
    assert column(run("teams", "list", "--limit", "1", "--after", made["id"]), "ALIAS") == ["sales"]


# --- The audit log ----------------------------------------------------------------------------------------------------


def test_the_audit_log_says_who_changed_what_from_what_to_what(run: Run) -> None:
    run("keys", "create", "--alias", "web", "--team", "design", "--max-budget", "5", "--models", "gpt-image-2")
    run("keys", "update", "web", "--max-budget", "10", "--alias", "www", "--unset", "models", "--block")
    run("keys", "revoke", "www")
    table = run("audit")
    assert column(table, "ID") == ["4", "3", "2", "1"]
    assert set(column(table, "WHO")) == {"cli:ann"}
    assert column(table, "WHAT") == ["revoke key www", "update key www", "create key web", "create team design"]
    revoked, updated, created, team = (
        line[line.index("design" if "design" in line else "key") :] for line in table.splitlines()[1:]
    )
    assert re.search(r"revoked_at: none -> \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$", revoked)
    assert updated.endswith(
        "key_alias: web -> www, models: gpt-image-2 -> none, max_budget: 5 -> 10, blocked: no -> yes"
    )
    assert re.search(r"shown: sk-ig-…\w{4}, team_id: team_\w+, models: gpt-image-2, max_budget: 5$", created)
    assert team.strip() == "design"


def test_one_change_is_one_line_however_much_was_written(run: Run) -> None:
    run("keys", "create", "--alias", "web", "--metadata", json.dumps({"note": "x\u009b31m" * 500}))
    line = run("audit").splitlines()[1]
    assert len(line) < 250
    assert line.endswith("…")
    assert line.isprintable()


def test_the_audit_log_is_read_in_pages_and_of_one_target(run: Run, told: Run) -> None:
    key = told("keys", "create", "--alias", "web")
    told("teams", "create", "--alias", "design")
    told("keys", "update", "web", "--max-n", "1")
    page = run("audit", "--limit", "2")
    assert column(page, "ID") == ["3", "2"]
    assert page.endswith("\n\nthere are more: the same command with --before 2\n")
    last = run("audit", "--limit", "2", "--before", "2")
    assert column(last, "ID") == ["1"]
    assert "more" not in last + run("audit", "--limit", "3")
    (updated, created) = told("audit", "--target", "web")
    assert (created["before"], created["after"]["id"], created["actor"]) == (None, key["id"], "cli:ann")
    assert (updated["before"]["max_n"], updated["after"]["max_n"], updated["action"]) == (None, 1, "update")
    assert [line["kind"] for line in told("audit", "--target", "design")] == ["team"]


def test_a_user_without_a_name_is_a_number(told: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_123)
    told("keys", "create", "--alias", "web")
    assert told("audit")[0]["actor"] == "cli:4000123"


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("keys create --alias web", "Invalid --alias: there is a key of this alias already. Choose another one."),
        ("keys update web --alias app", "Invalid --alias: there is a key of this alias already. Choose another one."),
        ("keys update web --max-budget 3", "Invalid --soft-budget: must not be more than --max-budget."),
        ("keys update web --soft-budget 6", "Invalid --soft-budget: must not be more than --max-budget."),
        ("keys rotate web --grace 91d", "Invalid --grace: must be from 0 to 7,776,000 (90 days)."),
        ("keys create --alias x --team sk-x", "Invalid --team: must not begin or end with a space, and must not look"),
        ("keys show x", "There is no key of this id or alias. `imagegate keys list` shows those there are."),
        ("keys revoke x", "There is no key of this id or alias. `imagegate keys list` shows those there are."),
        ("keys list --team x", "There is no team of this id or alias. `imagegate teams list` shows those there are."),
        ("teams show web", "There is no team of this id or alias. `imagegate teams list` shows those there are."),
        ("teams create --alias design", "Invalid --alias: there is a team of this alias already. Choose another one."),
        (
            "teams update x --block",
            "There is no team of this id or alias. `imagegate teams list` shows those there are.",
        ),
        ("audit --target x", "There is no key and no team of this id or alias. `imagegate keys list` and"),
    ],
)
def test_a_refusal_says_what_to_do_and_changes_nothing(
    words: str, line: str, run: Run, told: Run, refused: Run
) -> None:
    run("keys", "create", "--alias", "web", "--team", "design", "--max-budget", "5", "--soft-budget", "4")
    run("keys", "create", "--alias", "app")
    before = told("audit")
    assert refused(1, *words.split()).startswith(f"imagegate: {line}")
    assert told("audit") == before


def test_a_file_that_is_no_database_is_said_in_one_line(tmp_path: Path, refused: Run) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "imagegate.db").write_bytes(b"no database at all" * 100)
    for words in (["keys", "list"], ["keys", "create", "--alias", "a"], ["audit"]):
        told = refused(1, *words)
        assert told.startswith(f"imagegate: sqlite:///{tmp_path}/var/imagegate.db: file is not a database: ")
        assert "database.url" in told


def test_a_server_that_is_not_there_is_said_without_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, KEYS + '[database]\nurl = "postgresql://u:marked-secret@127.0.0.1:1/x"\n')
    assert main(["keys", "list", "--config", file]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"imagegate: postgresql://…: .*: try again, or look at database\.url\n", printed.err)
    assert "marked-secret" not in printed.err


def test_an_operators_shell_need_not_hold_the_secrets_of_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, KEYS + '[metrics]\ntoken = { env = "SET_FOR_THE_SERVICE_ONLY" }\n')
    assert main(["keys", "create", "--alias", "web", "--config", file]) == 0
    assert capsys.readouterr().err == ""

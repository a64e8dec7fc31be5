"""The command line: exit codes, one line for each error, JSON on request, no secret unasked."""

import io
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli import main
from tests.support.configuration import config

pytestmark = pytest.mark.usefixtures("bare_environment")


ROOT = Path(__file__).parents[2]
MARKED = "sk-marked-0123456789abcdef"
COMMANDS = [
    ("serve",),
    ("sandbox",),
    ("check-config",),
    ("validate",),
    *(("cache", action) for action in ("stats", "list", "show", "purge", "verify")),
]


# --- Every command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--config FILE" in shown
    assert re.search(rf"example: .*imagegate {' '.join(command)}|\| imagegate {command[0]}", shown)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_wrong_configuration_with_a_line_for_each_problem(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, "[server]\nport = 99999\n[cache]\nscope = 'everyone'\n")
    operands = {"show": ["0123456789ab"], "purge": ["--all"]}.get(command[-1], [])
    assert main([*command, *operands, "--config", file]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "imagegate: server.port: must be a whole number from 0 to 65535",
        "imagegate: cache.scope: must be team, key or org",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serv"],
        ["serve", "--colour"],
        ["sandbox", "--latency", "soon"],
        ["sandbox", "--failure-rate", "1.5"],
        ["sandbox", "--port", "65536"],
        ["cache"],
        ["cache", "purge"],
        ["cache", "purge", "--all", "--model", "gpt-image-2"],
        ["cache", "purge", "--key", "zz"],
        ["cache", "purge", "--older-than", "yesterday"],
        ["cache", "purge", "--al"],
        ["cache", "list", "--limit", "0"],
        ["cache", "show"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"imagegate[a-z -]*: .*\(see imagegate.* --help\)\n", printed.err)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"imagegate {__version__}\n"


def test_the_variable_names_the_configuration_unless_the_option_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGEGATE_CONFIG", str(tmp_path / "none.toml"))
    assert main(["check-config"]) == 2
    assert "none.toml: cannot be read" in capsys.readouterr().err
    assert main(["check-config", "--config", config(tmp_path)]) == 0


def test_options_of_serve_are_judged_like_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = "[auth]\nmode = 'open'\n[[upstreams]]\nname = 'a'\nbase_url = 'http://127.0.0.1:9/v1'\n"
    assert main(["serve", "--config", config(tmp_path, toml), "--host", "0.0.0.0", "--port", "80"]) == 2
    assert "auth.mode: open on 0.0.0.0" in capsys.readouterr().err
    assert main(["serve", "--port", "http"]) == 2
    assert capsys.readouterr().err == "imagegate: server.port: must be a whole number from 0 to 65535 (from --port)\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "proxy", "check-config"]
    ended = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


class Interrupted(io.BytesIO):
    """Standard input at which somebody presses Ctrl-C."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise KeyboardInterrupt


def test_an_interruption_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Interrupted()))
    assert main(["validate"]) == 130
    assert capsys.readouterr() == ("", "")


# --- sandbox ----------------------------------------------------------------------------------------------------------


def test_the_sandbox_listens_where_its_own_options_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--port", str(port), "--latency", "0.1", "--failure-rate", "0.5", "--require-key", "--no-usage"]
        assert main(["sandbox", "--config", config(tmp_path), *arguments]) == 1
    printed = capsys.readouterr()
    assert f"cannot listen on 127.0.0.1:{port}" in printed.out + printed.err


# --- check-config -----------------------------------------------------------------------------------------------------


def test_check_config_prints_a_file_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--config", config(tmp_path, "[server]\nport = 9000\n")]) == 0
    first = capsys.readouterr().out
    assert tomllib.loads(first)["server"]["port"] == 9000
    assert main(["check-config", "--config", config(tmp_path, first)]) == 0
    assert capsys.readouterr().out == first


def test_check_config_masks_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", MARKED)
    assert main(["check-config"]) == 0
    assert main(["check-config", "--json"]) == 0
    shown = capsys.readouterr().out
    assert MARKED not in shown
    assert 'api_key = { env = "OPENAI_API_KEY" }' in shown
    assert '"api_key": "set (env OPENAI_API_KEY)"' in shown


def test_check_config_reads_the_catalogue_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text("vendor = 7\n")
    file = config(tmp_path, "[rules]\ncatalogue = ['mine.toml']\n")
    assert main(["check-config", "--config", file]) == 2
    assert "imagegate: mine.toml: vendor" in capsys.readouterr().err


def test_check_config_knows_which_vendors_the_catalogue_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text('vendor = "mine"\n')
    toml = (
        "[rules]\ncatalogue = ['mine.toml']\n[[upstreams]]\nname = 'a'\nbase_url = 'https://a.example'\nvendor = '{}'\n"
    )
    assert main(["check-config", "--config", config(tmp_path, toml.format("thine"))]) == 2
    assert (
        "upstreams.0.vendor: 'thine' is not in the catalogue (apiyi, azure, generic, mine, openai, together, xai)"
        in capsys.readouterr().err
    )
    assert main(["check-config", "--config", config(tmp_path, toml.format("mine"))]) == 0

"""The command line: exit codes, one line for each error, JSON on request, no secret or prompt unasked."""

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from proxy import __version__, envelope
from proxy.cli import main
from proxy.clock import SystemClock
from proxy.model import ImageSpan, Metadata, Usage
from proxy.stores.disk import DiskTier, Limits, Verdict
from proxy.stores.files import PrivateFile
from proxy.stores.purges import PurgeLog

ROOT = Path(__file__).parents[2]
MARKED = "sk-marked-0123456789abcdef"
FOX = {"model": "gpt-image-2", "prompt": "a fox", "size": "1024x1024", "quality": "low"}
COMMANDS = [
    ("serve",),
    ("sandbox",),
    ("check-config",),
    ("validate",),
    *(("cache", action) for action in ("stats", "list", "show", "purge", "verify")),
]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("IMAGEGATE_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def config(folder: Path, toml: str = "") -> str:
    file = folder / "imagegate.toml"
    file.write_text(toml, "utf-8")
    return str(file)


def body(folder: Path, document: object = FOX) -> str:
    file = folder / "body.json"
    file.write_text(json.dumps(document), "utf-8")
    return str(file)


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
    assert "upstreams.0.vendor: 'thine' is not in the catalogue (apiyi, mine, openai)" in capsys.readouterr().err
    assert main(["check-config", "--config", config(tmp_path, toml.format("mine"))]) == 0


# --- validate ---------------------------------------------------------------------------------------------------------


def test_a_valid_body_is_shown_in_canonical_form_with_its_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", body(tmp_path)]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["model"] == "gpt-image-2 at openai"
    assert json.loads(shown["request"]) == FOX
    assert re.fullmatch(r"about [\d,]+ out, at most [\d,]+ in", shown["tokens"])
    assert re.fullmatch(r"about \$0\.\d+", shown["price"])


def test_a_body_may_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(FOX).encode())))
    assert main(["validate", "-", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["request"] == FOX
    assert found["known"] is True
    assert found["estimated_output_tokens"] > 0
    assert float(found["estimated_cost_usd"]) > 0


def test_a_body_that_would_be_refused_is_answered_as_openai_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", body(tmp_path, {**FOX, "size": "1000x1000"})]) == 1
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == "size"
    assert "Nearest valid size: 1008x1008." in error["message"]
    assert len(printed.err.splitlines()) == 1


def test_the_vendor_may_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--vendor", "apiyi", body(tmp_path, {**FOX, "n": 2})]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["param"] == "n"
    assert main(["validate", "--vendor", "nobody", body(tmp_path)]) == 2
    assert "--vendor: 'nobody' is not in the catalogue" in capsys.readouterr().err


def test_the_rules_of_the_upstream_that_would_serve_the_model_apply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = "".join(
        f"[[upstreams]]\nname = '{name}'\nvendor = '{name}'\nbase_url = 'https://x.example'\nmodels = ['{models}']\n"
        for name, models in (("openai", "dall-*"), ("apiyi", "gpt-*"))
    )
    assert main(["validate", "--json", "--config", config(tmp_path, toml), body(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["vendor"] == "apiyi"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model": 1, "model": 2}', "\ufeff{}", "nonsense" * 10])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "body.json"
    file.write_text(text, "utf-8")
    assert main(["validate", str(file)]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "invalid_request_error"


def test_a_body_may_be_no_larger_than_the_proxy_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, "[server]\nmax_json_bytes = 1024\n")
    assert main(["validate", "--config", file, body(tmp_path, {**FOX, "prompt": "x" * 1024})]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "request_too_large"


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.endswith("none.json: cannot be read: No such file or directory\n")


# --- cache ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [["stats"], ["list"], ["show", "0123456789ab"], ["purge", "--all"], ["verify"]])
def test_a_cache_that_is_not_there_is_said_in_one_line(
    action: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *action, "--config", config(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert tuple(printed) == ("", f"imagegate: there is no cache at {tmp_path / 'var' / 'cache'}\n")
    assert not (tmp_path / "var").exists()


FOXES = ["a red fox", "a marked fox"]


def stored(folder: Path) -> list[str]:
    """A cache of two entries of different models and ages, as the proxy writes them; their keys."""
    directory = folder / "var" / "cache"
    purges = PurgeLog(directory)
    keys = []
    with ThreadPoolExecutor(1) as executor:
        tier = DiskTier(directory, Limits(10**9, 0), SystemClock(), purges, executor, lambda reason, count: None)
        tier.open()
        for number, prompt in enumerate(FOXES):
            metadata, body = entry(number, prompt)
            file = PrivateFile(directory / f"{number}.part")
            os.write(file.fd, envelope.MAGIC + body)
            assert tier.put(file, metadata, len(body), purges.epoch) is Verdict.STORED
            os.close(file.release())
            keys.append(metadata.key)
        tier.close()
    return keys


def entry(number: int, prompt: str) -> tuple[Metadata, bytes]:
    body = b'{"data":[{"b64_json":"iVBORw0KGgo="}]}'
    now = SystemClock().wall()
    metadata = Metadata(
        key=hashlib.sha256(prompt.encode()).hexdigest(),
        scope="ab" * (number + 8),
        purchase_id=f"buy_{number}",
        stored_at=now - number * 10 * 86_400,
        expires_at=now + 86_400,
        operation="image_generation",
        model=f"gpt-image-{number + 1}",
        upstream="openai",
        cache_group="openai",
        size="1024x1024",
        quality="low",
        images=(ImageSpan(key=(10, 20), value=(22, 34), url=None, media_type="image/png", size=8),),
        cost=Decimal("0.0110"),
        usage=Usage(text_in=10, image_out=272),
        request={"model": f"gpt-image-{number + 1}", "prompt": prompt},
    )
    return metadata, body


def test_cache_stats_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path)
    assert main(["cache", "stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 2
    assert main(["cache", "stats"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^entries +2$", shown, re.MULTILINE)
    assert re.search(r"^bytes +[\d.]+ k?B$", shown, re.MULTILINE)
    assert re.search(r"^newest stored +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$", shown, re.MULTILINE)


def test_cache_list_shows_entries_and_no_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = sorted(stored(tmp_path))
    assert main(["cache", "list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["KEY", "MODEL", "SIZE", "QUALITY", "IMAGES", "BYTES", "STORED", "EXPIRES"]
    assert [row.split()[0] for row in rows] == [key[:12] for key in keys]
    assert {line.index(word) for line, word in zip(rows, ("1024x1024",) * 2, strict=True)} == {head.index("SIZE")}
    assert main(["cache", "list", "--json", "--limit", "1"]) == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert (first["key"], first["cost_usd"], first["tokens"]) == (keys[0], "0.011", 282)
    assert main(["cache", "list", "--json", "--after", keys[0][:12]]) == 0
    (second,) = json.loads(capsys.readouterr().out)
    assert second["key"] == keys[1]
    assert main(["cache", "list"]) == main(["cache", "list", "--json"]) == 0
    assert "fox" not in capsys.readouterr().out


def test_cache_show_prints_the_request_of_one_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, _ = stored(tmp_path)
    assert main(["cache", "show", key[:12].upper()]) == 0
    assert "a red fox" in capsys.readouterr().out
    assert main(["cache", "show", key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["request"] == {"model": "gpt-image-1", "prompt": "a red fox"}
    assert main(["cache", "show", "0" * 12]) == 1
    assert capsys.readouterr().err == "imagegate: there is no entry whose key begins with 000000000000\n"


@pytest.mark.parametrize(
    ("which", "left"),
    [
        (["--all"], []),
        (["--model", "gpt-image-1"], [1]),
        (["--model", "nothing"], [0, 1]),
        (["--older-than", "7d"], [0]),
        (["--older-than", "30d"], [0, 1]),
        (["--scope", "ab" * 8], [1]),
        (["--key", hashlib.sha256(b"a marked fox").hexdigest()[:12]], [0]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_cache_purge_removes_what_matches_and_says_how_much(
    which: list[str], left: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = stored(tmp_path)
    assert main(["cache", "purge", *which]) == 0
    removed = len(keys) - len(left)
    assert capsys.readouterr().out == f"removed {removed} {'entry' if removed == 1 else 'entries'}\n"
    assert main(["cache", "list", "--json"]) == 0
    assert {found["key"] for found in json.loads(capsys.readouterr().out)} == {keys[number] for number in left}


def test_cache_verify_finds_a_flipped_byte_and_removes_it_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = stored(tmp_path)
    assert main(["cache", "verify"]) == 0
    assert re.search(r"^sound +2$", capsys.readouterr().out, re.MULTILINE)
    damaged = next((tmp_path / "var" / "cache").rglob("*.val"))
    content = bytearray(damaged.read_bytes())
    content[30] ^= 1
    damaged.write_bytes(content)
    assert main(["cache", "verify", "--json", "--delete"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["sound"] == 1
    assert len(report["damaged"]) == 1
    assert report["damaged"][0] in keys
    assert main(["cache", "verify"]) == 0

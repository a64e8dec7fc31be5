"""`imagegate cache …`: what is shown, what is removed, and no prompt unasked."""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from proxy import envelope
from proxy.cli import main
from proxy.clock import SystemClock
from proxy.model import ImageSpan, Metadata, Usage
from proxy.stores.disk import DiskTier, Verdict
from proxy.stores.eviction import Limits
from proxy.stores.files import PrivateFile
from proxy.stores.purges import PurgeLog
from tests.support.configuration import config

pytestmark = pytest.mark.usefixtures("bare_environment")


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


def test_an_operators_shell_need_not_hold_the_secrets_of_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path)
    file = tmp_path / "service.toml"
    file.write_text('[metrics]\ntoken = { env = "SET_FOR_THE_SERVICE_ONLY" }\n', "utf-8")
    assert main(["cache", "purge", "--all", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "removed 2 entries\n"
    assert main(["check-config", "--config", str(file)]) == 2
    assert "metrics.token: the variable SET_FOR_THE_SERVICE_ONLY is not set" in capsys.readouterr().err

"""Virtual keys of a running process: changed by commands, obeyed within a second, counted to the cent, told to nobody."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import insert

from proxy import virtualkey
from proxy.cli import main
from proxy.database.engine import Database
from proxy.database.tables import KEYS
from proxy.keyrecord import KeyRecord
from tests.support.caller import Reply, ask, asking
from tests.support.edits import painted
from tests.support.keydatabase import DOLLAR, Headers, KeyDatabase, keys_mode
from tests.support.polling import eventually
from tests.support.process import ROOT, Proxy, Scrape, serving, write_config
from tests.support.upstream_process import UpstreamProcess

Start = Callable[..., Proxy]

AT_ONCE_SECONDS = 5.0
"""A second is what is promised; a machine that runs other tests beside this one may take its time."""
"""Within which a running process obeys a change."""
COST = 5_935_000
"""Nano-dollars of the usage that the upstream tells: 11 tokens of text at $5 a million, 196 of image at $30."""
MANY = 10_000
UPSTREAM_KEY = "sk-proj-MARKEDupstream0123456789"
ADMIN_TOKEN = "MARKEDadministrator0123456789"


def _headers(key: str) -> Headers:
    return {"authorization": f"Bearer {key}"}


def imagegate(folder: Path, *words: str) -> Any:
    """What a command prints that reads the same file as the process beside it."""
    command = [sys.executable, "-m", "proxy", *words, "--config", str(folder / "imagegate.toml"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- commands beside a running process --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keyed:
    """A process in mode `keys`, and the folder of all its files."""

    proxy: Proxy
    folder: Path

    def create(self, alias: str, *options: str) -> Headers:
        return _headers(imagegate(self.folder, "keys", "create", "--alias", alias, *options)["key"])

    def soon(self, headers: Headers, status: int, prompt: str) -> Reply:
        """The answer, once it has this status."""

        def look() -> Reply | None:
            reply = ask(self.proxy, prompt, headers=headers)
            return reply if reply.status == status else None

        return eventually(look, seconds=AT_ONCE_SECONDS, what=f"{status}")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamProcess) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    with serving(folder, upstream.url, keys_mode()) as proxy:
        yield Keyed(proxy, folder)


def test_a_key_that_is_made_works_within_a_second_and_ends_within_one_for_stored_images_too(keyed: Keyed) -> None:
    headers = keyed.create("ann")
    assert keyed.soon(headers, 200, "of ann").cache == "MISS"
    assert ask(keyed.proxy, "of ann", headers=headers).cache == "HIT"
    imagegate(keyed.folder, "keys", "revoke", "ann")
    refused = keyed.soon(headers, 401, "of ann")
    assert refused.error["code"] == "invalid_api_key"
    assert "x-imagegate-cache-key" not in refused.headers


def test_after_a_rotation_both_keys_work_and_without_grace_only_the_new_one(keyed: Keyed) -> None:
    first = keyed.create("bob")
    keyed.soon(first, 200, "of bob")
    second = _headers(imagegate(keyed.folder, "keys", "rotate", "bob", "--grace", "1h")["key"])
    assert keyed.soon(second, 200, "of bob").cache == "HIT"
    assert ask(keyed.proxy, "of bob", headers=first).cache == "HIT"
    third = _headers(imagegate(keyed.folder, "keys", "rotate", "bob", "--grace", "0")["key"])
    assert keyed.soon(third, 200, "of bob").cache == "HIT"
    assert [ask(keyed.proxy, "of bob", headers=each).status for each in (first, second)] == [401, 401]


def test_a_changed_budget_and_a_blocked_team_are_obeyed_within_a_second(keyed: Keyed) -> None:
    headers = keyed.create("eve", "--team", "design", "--max-budget", "0")
    assert keyed.soon(headers, 429, "of eve").error["code"] == "budget_exceeded"
    imagegate(keyed.folder, "keys", "update", "eve", "--max-budget", "1")
    assert ask(keyed.proxy, "of eve", headers=headers).status == 200, "a purchase asks the database itself"
    imagegate(keyed.folder, "teams", "update", "design", "--block")
    assert ask(keyed.proxy, "another of eve", headers=headers).status == 401
    keyed.soon(headers, 401, "of eve")


def test_sighup_changes_what_becomes_of_models_without_a_price(
    start: Start, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    headers = KeyDatabase(f"sqlite:///{tmp_path}/imagegate.db").key(max_budget=1)
    proxy, painter = start(keys_mode()), {"model": "painter-9"}
    refused = ask(proxy, "without a price", headers=headers, members=painter)
    assert (refused.status, refused.error["code"]) == (403, "model_unpriced")
    write_config(tmp_path / "imagegate-1.toml", upstream.url, keys_mode(limits={"unpriced": "allow"}))
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: ask(proxy, "without a price", headers=headers, members=painter).status == 200, seconds=2)
    assert upstream.calls("without a price") == 1
    write_config(tmp_path / "imagegate-1.toml", upstream.url, keys_mode())
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: ask(proxy, "without one", headers=headers, members=painter).status == 403, seconds=2)
    assert not [line for line in proxy.log_lines() if line["level"] == "warning" and "restart" in line["msg"]]


# --- one run, three books ---------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What callers did to a process, and what they were told."""

    proxy: Proxy
    upstream: UpstreamProcess
    database: KeyDatabase

    def __post_init__(self) -> None:
        self.errors: list[str] = []
        self.charged = Decimal(0)
        """By the headers of answers."""

    def ask(self, headers: Headers, prompt: str, **named: Any) -> Reply:
        return self.told(ask(self.proxy, prompt, headers=headers, **named))

    def told(self, reply: Reply) -> Reply:
        if reply.status == 200:
            self.charged += Decimal(reply.headers["x-imagegate-cost-usd"])
        else:
            self.errors.append(f"{reply.headers} {reply.body.decode()}")
        return reply

    def plain(self, headers: Headers, other: Headers) -> list[str]:
        """A miss and hits of each of two keys that share nothing, and three who ask at once; the prompts that were sold."""
        held = self.upstream.plan("of three at once", {"hold": True})
        assert [self.ask(headers, "of both").cache for _ in range(3)] == ["MISS", "HIT", "HIT"]
        assert [self.ask(other, "of both").cache for _ in range(2)] == ["MISS", "HIT"]
        with asking(self.proxy, [held] * 3, headers=headers) as answers:
            eventually(lambda: self.proxy.metric("imagegate_requests_in_flight", operation="image_generation") == 3)
            eventually(lambda: self.upstream.held(held) == 1)
            self.upstream.release(held)
            assert sorted(self.told(each.result()).cache for each in answers) == ["COALESCED", "COALESCED", "MISS"]
        return ["of both", held]

    def by_sdk(self, key: str) -> list[str]:
        """An image, an edit and a stream of each, by the official SDK."""
        asked: dict[str, Any] = {"model": "gpt-image-2", "size": "1024x1024", "quality": "low"}
        fox = ("fox.png", painted("red"), "image/png")
        prompts = [f"by the SDK {number}" for number in range(4)]
        with openai.OpenAI(base_url=self.proxy.url, api_key=key, max_retries=0, timeout=30) as client:
            assert client.images.generate(prompt=prompts[0], **asked).data
            assert client.images.edit(image=fox, prompt=prompts[1], **asked).data
            for events in (
                client.images.generate(prompt=prompts[2], stream=True, partial_images=1, **asked),
                client.images.edit(image=fox, prompt=prompts[3], stream=True, partial_images=1, **asked),
            ):
                assert [event.type.rpartition(".")[2] for event in events] == ["partial_image", "completed"]
        self.charged += Decimal(len(prompts) * COST) / DOLLAR
        return prompts

    def failures(self, headers: Headers) -> None:
        """Three that may have been billed, and others that were not."""
        echo = '{"error":{"message":"Incorrect: {echo}","type":"x","param":null,"code":"y"}}'
        plans: dict[str, dict[str, Any]] = {name: {"fault": name} for name in ("truncated", "html", "error_event")}
        plans |= {f"{status}": {"status": status, "body": echo} for status in (400, 401, 429, 500)}
        for name, plan in plans.items():
            prompt = self.upstream.plan(f"failing: {name}", plan)
            members = {"stream": True, "partial_images": 1} if name == "error_event" else {}
            reply = ask(self.proxy, prompt, headers=headers, members=members)
            assert (reply.status == 200) == bool(members), "what breaks a stream is told in its last event"
            self.errors.append(f"{reply.headers} {reply.body.decode()}")
        key = str(headers["authorization"]).removeprefix("Bearer ")
        for wrong in (key[:-1], key + "x", key.swapcase(), virtualkey.make(bytes(32))):
            assert self.ask(_headers(wrong), "with no key").status == 401
        assert self.ask(headers, "not allowed", members={"n": 9}).error["code"] == "not_allowed_by_key"
        self.proxy.get("/admin/v1/keys", {"authorization": f"Bearer {ADMIN_TOKEN}"})
        self.proxy.get("/admin/v1/keys", {"authorization": f"Bearer {ADMIN_TOKEN}x"})


def test_ledger_metrics_and_upstream_agree_to_the_cent_and_no_secret_is_told(
    start: Start, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    database = KeyDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    alice, bob = database.key("alice", team="red", max_n=4, max_budget=5), database.key("bob", max_budget=5)
    key = str(alice["authorization"]).removeprefix("Bearer ")
    sections = keys_mode(
        auth={"mode": "keys", "admin_token": {"env": "ADMIN"}},
        upstream={"api_key": {"env": "BUYS"}, "max_retries": 0},
        log={"level": "debug"},
    )
    proxy = start(sections, BUYS=UPSTREAM_KEY, ADMIN=ADMIN_TOKEN)
    run = Run(proxy, upstream, database)
    sold = run.plain(alice, bob) + run.by_sdk(key)
    run.failures(alice)
    scrape = proxy.metrics()
    assert proxy.stop() == 0

    usage = COST * upstream.calls_of(sold)
    assert usage == 7 * COST
    assert run.charged * DOLLAR == usage
    _agree(database, scrape, usage)
    assert {upstream.credentials(prompt)[0] for prompt in sold} == {f"Bearer {UPSTREAM_KEY}"}
    texts = {"the log": proxy.log_text(), "the metrics": scrape.text, "the errors": "\n".join(run.errors)}
    _tell_nothing(texts, tmp_path, [key, str(bob["authorization"]).removeprefix("Bearer ")])


def _agree(database: KeyDatabase, scrape: Scrape, usage: int) -> None:
    known = database.rows("SELECT sum(cost) FROM purchases WHERE outcome IN ('settled', 'estimated')")[0][0]
    assert known == usage
    assert round(scrape.sum("imagegate_upstream_cost_usd_total") * DOLLAR) == usage
    [(unknown, count)] = database.rows("SELECT sum(cost), count(*) FROM purchases WHERE outcome = 'unknown'")
    assert count == 3
    assert round(scrape.sum("imagegate_unknown_cost_usd_total") * DOLLAR) == unknown
    assert database.spent() == (known + unknown, 0)
    [(saved,)] = database.rows("SELECT sum(saved) FROM tallies")
    assert saved == 5 * COST
    assert round(scrape.sum("imagegate_saved_cost_usd_total") * DOLLAR) == saved
    assert database.rows("SELECT how, sum(answers) FROM tallies GROUP BY how ORDER BY how") == [
        ("coalesced", 2),
        ("hit", 3),
    ]
    released = database.rows("SELECT count(*), sum(cost) FROM purchases WHERE outcome = 'released'")
    assert released == [(4, 0)]


def _tell_nothing(texts: dict[str, str], folder: Path, keys: list[str]) -> None:
    secrets = [UPSTREAM_KEY, ADMIN_TOKEN, "MARKED", *(key[len(virtualkey.PREFIX) : -4] for key in keys)]
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert all(texts.values())
    for where, content in {**{name: text.encode() for name, text in texts.items()}, **files}.items():
        for secret in secrets:
            assert secret.encode() not in content, f"a secret stands in {where}"
    kept = b"".join(content for path, content in files.items() if "imagegate.db" in path)
    assert all(virtualkey.digest(key) in kept for key in keys), "that is what is kept of a key"


# --- many keys --------------------------------------------------------------------------------------------------------


def test_ten_thousand_keys_delay_no_start_and_are_listed_page_by_page(
    start: Start, upstream: UpstreamProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = KeyDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    some = database.key("the first")
    began = time.monotonic()
    few = start(keys_mode())
    assert ask(few, "with few keys", headers=some).status == 200
    usual_seconds = time.monotonic() - began
    assert few.stop() == 0

    last = _add_many(database)
    began = time.monotonic()
    proxy = start(keys_mode())
    assert ask(proxy, "with many keys", headers=last).status == 200
    assert time.monotonic() - began < usual_seconds + 10
    assert ask(proxy, "with few keys", headers=some).cache == "HIT"

    ids: list[str] = []
    while page := _page(tmp_path / "imagegate-1.toml", ids[-1:], capsys):
        assert len(page) <= 100
        ids += page
    assert len(ids) == len(set(ids)) == MANY + 1
    assert ids == sorted(ids)
    assert proxy.stop() == 0


def _add_many(database: KeyDatabase) -> Headers:
    """As many keys as it takes, all at once; the last of them."""
    [first] = database.store.list_keys()
    texts = [virtualkey.make(number.to_bytes(32, "big")) for number in range(1, MANY + 1)]
    row = {field.name: getattr(first, field.name) for field in fields(KeyRecord)}
    rows = [
        {
            **row,
            "id": f"key_{number:032x}",
            "key_alias": f"key {number}",
            "digest": virtualkey.digest(text),
            "shown": virtualkey.shown(text),
        }
        for number, text in enumerate(texts)
    ]
    engine = Database(database.url)
    with closing(engine), engine.writing() as connection:
        connection.execute(insert(KEYS), rows)
    return _headers(texts[-1])


def _page(config: Path, after: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The ids of one page: the command in this process, because there are 101 of them."""
    options = ["--after", after[0]] if after else []
    assert main(["keys", "list", "--json", "--limit", "100", *options, "--config", str(config)]) == 0
    return [each["id"] for each in json.loads(capsys.readouterr().out)]

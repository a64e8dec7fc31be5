"""Budgets over real sockets: held under any storm, across processes, kill -9 and a database that is in somebody's way."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.support.caller import Reply, ask, asking
from tests.support.keydatabase import DOLLAR, Headers, KeyDatabase, keys_mode, recover
from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, body_of

pytest_plugins = ["tests.support.databases"]

Start = Callable[..., Proxy]

BUDGET = 0.063
"""USD: enough for 10 of the images that are asked for here, each expected to cost between $0.0058 and $0.0063."""
COST = 5_935_000
"""Nano-dollars of the usage that the upstream tells: 11 tokens of text at $5 a million, 196 of image at $30."""
ESTIMATES = range(5_800_000, 6_300_000)
ONLY_STORED = {"cache-control": "only-if-cached"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[KeyDatabase]:
    database = KeyDatabase(f"sqlite:///{tmp_path}/imagegate.db")
    yield database
    database.close()


def _held(upstream: UpstreamProcess, name: str, count: int) -> list[str]:
    """So many different prompts, whose calls are held."""
    prompts = [f"{name} {number:03}" for number in range(count)]
    upstream.plan_each({prompt: {"hold": True} for prompt in prompts})
    return prompts


def _done(answers: Sequence[Future[Reply]]) -> list[Reply]:
    return [answer.result() for answer in answers if answer.done()]


def _are_done(answers: Sequence[Future[Reply]], count: int) -> bool:
    return sum(answer.done() for answer in answers) == count


def _codes(replies: Sequence[Reply]) -> Counter[tuple[int, str | None]]:
    return Counter((each.status, None if each.status == 200 else each.error["code"]) for each in replies)


# --- storms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
def test_of_200_at_once_a_budget_for_10_buys_exactly_10(
    start: Start, upstream: UpstreamProcess, database: KeyDatabase, processes: int
) -> None:
    headers = database.key(max_budget=BUDGET)
    proxies = [start(keys_mode()) for _ in range(processes)]
    _storm(proxies, upstream, database, headers)


def test_two_processes_on_one_postgresql_keep_one_budget(
    start: Start, upstream: UpstreamProcess, shared_url: str
) -> None:
    with ExitStack() as stack:
        database = KeyDatabase(shared_url)
        stack.callback(database.close)
        database.rows("TRUNCATE keys, teams, audit, purchases, spends, tallies")
        headers = database.key(max_budget=BUDGET)
        proxies = [start(keys_mode(shared_url)) for _ in range(2)]
        _storm(proxies, upstream, database, headers)
        for proxy in proxies:
            assert proxy.stop() == 0


def _storm(proxies: Sequence[Proxy], upstream: UpstreamProcess, database: KeyDatabase, headers: Headers) -> None:
    prompts = _held(upstream, f"storm over {len(proxies)} on {database.url[:6]}", 200)
    with ExitStack() as stack:
        stack.callback(upstream.release_all)
        answers: list[Future[Reply]] = []
        for number, proxy in enumerate(proxies):
            answers += stack.enter_context(asking(proxy, prompts[number :: len(proxies)], headers=headers))
        eventually(lambda: upstream.held_of(prompts) == 10, what="10 purchases")
        eventually(partial(_are_done, answers, 190), what="190 refusals")
        refused = _done(answers)
        assert _codes(refused) == {(429, "budget_reserved"): 190}
        assert {(each.headers["retry-after"], each.headers.get("x-should-retry")) for each in refused} == {("10", None)}
        settled, reserved = database.spent()
        assert (settled, reserved <= BUDGET * DOLLAR) == (0, True)
        upstream.release_all()
        replies = [answer.result() for answer in answers]
    assert Counter(reply.status for reply in replies) == {200: 10, 429: 190}
    assert upstream.calls_of(prompts) == 10
    assert database.spent() == (10 * COST, 0)
    assert Counter(database.endings()) == {"settled": 10}
    for proxy in proxies:
        late = ask(proxy, f"late {proxy.port}", headers=headers)
        assert (late.status, late.error["type"], late.error["code"]) == (429, "insufficient_quota", "budget_exceeded")
        assert late.headers["x-should-retry"] == "false"
        assert upstream.calls(f"late {proxy.port}") == 0
    limited = sum(each.metric("imagegate_rate_limited_total", scope="key", limit="budget") for each in proxies)
    assert limited == 190 + len(proxies)


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def test_kill_9_in_the_middle_of_a_storm_leaves_reserved_what_was_begun_until_somebody_closes_it(
    start: Start, upstream: UpstreamProcess, database: KeyDatabase, tmp_path: Path
) -> None:
    headers = database.key(max_budget=BUDGET)
    prompts = _held(upstream, "killed", 40)
    proxy = start(keys_mode())
    with asking(proxy, prompts, headers=headers) as answers:
        eventually(database.endings, what="the first purchases")
        proxy.kill()
    upstream.plan_each({prompt: {} for prompt in prompts})
    upstream.release_all()
    assert not [each for each in answers if each.exception() is None and each.result().status == 200]
    begun = len(database.endings())
    _, reserved = database.spent()
    assert 1 <= begun <= 10
    assert reserved <= BUDGET * DOLLAR

    successor = start(keys_mode())
    with asking(successor, prompts, headers=headers) as again:
        assert Counter(each.result().status for each in again) == Counter({200: 10 - begun, 429: 30 + begun})
    assert upstream.calls_of(prompts) <= 10
    assert database.spent() == ((10 - begun) * COST, reserved)

    database.end_leases()
    recover(tmp_path / "imagegate-2.toml")
    assert Counter(database.endings()) == Counter(unknown=begun, settled=10 - begun)
    unknown = database.rows("SELECT cost, estimate FROM purchases WHERE outcome = 'unknown'")
    assert all(cost == estimate and cost in ESTIMATES for cost, estimate in unknown)
    assert database.spent() == ((10 - begun) * COST + reserved, 0)
    assert ask(successor, "after the storm", headers=headers).error["code"] == "budget_exceeded"
    assert upstream.calls("after the storm") == 0
    assert successor.stop() == 0


def test_kill_9_between_storing_and_settling_is_settled_exactly_by_whoever_finds_the_reply(
    start: Start, upstream: UpstreamProcess, database: KeyDatabase, tmp_path: Path
) -> None:
    headers = database.key(max_budget=BUDGET)
    [prompt] = _held(upstream, "stored and not settled", 1)
    proxy = start(keys_mode())
    with asking(proxy, [prompt], headers=headers) as [answer]:
        eventually(lambda: upstream.held(prompt) == 1)
        with database.locked():
            upstream.release(prompt)
            eventually(lambda: ask(proxy, prompt, headers={**headers, **ONLY_STORED}).cache == "HIT", what="the reply")
            proxy.kill()
        assert isinstance(answer.exception(), OSError | HTTPException)
    settled, reserved = database.spent()
    assert (settled, reserved in ESTIMATES) == (0, True)

    successor = start(keys_mode())
    hit = ask(successor, prompt, headers=headers)
    assert (hit.cache, hit.body) == ("HIT", body_of(prompt))
    database.end_leases()
    recover(tmp_path / "imagegate-2.toml")
    assert database.spent() == (COST, 0)
    columns = "outcome, images, text_in, image_out, upstream, seconds IS NOT NULL"
    assert database.rows(f"SELECT {columns} FROM purchases") == [("settled", 1, 11, 196, "openai", 1)]
    assert upstream.calls(prompt) == 1
    assert successor.stop() == 0


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_sigterm_with_purchases_open_settles_them_and_writes_the_tallies_of_hits(
    start: Start, upstream: UpstreamProcess, database: KeyDatabase
) -> None:
    headers = database.key(max_budget=BUDGET)
    stored, *prompts = _held(upstream, "open at SIGTERM", 4)
    upstream.release(stored)
    proxy = start(keys_mode())
    ask(proxy, stored, headers=headers)
    with asking(proxy, prompts, headers=headers) as answers:
        eventually(lambda: upstream.held_of(prompts) == 3)
        for _ in range(5):
            assert ask(proxy, stored, headers=headers).cache == "HIT"
        proxy.terminate()
        eventually(lambda: any(line["msg"] == "draining" for line in proxy.log_lines()))
        upstream.release_all()
        assert [answer.result().is_stored for answer in answers] == [True] * 3
    assert proxy.wait() == 0
    assert database.endings() == ["settled"] * 4
    assert database.spent() == (4 * COST, 0)
    assert database.rows("SELECT how, answers, saved FROM tallies") == [("hit", 5, 5 * COST)]
    assert not [line["msg"] for line in proxy.log_lines() if line["level"] != "info"]


# --- the database is in somebody's way --------------------------------------------------------------------------------


def test_while_another_process_locks_the_database_hits_are_quick_and_purchases_are_503(
    start: Start, upstream: UpstreamProcess, database: KeyDatabase
) -> None:
    headers, proxy = database.key(max_budget=BUDGET), start(keys_mode())
    ask(proxy, "stored before the lock", headers=headers)
    hits: list[float] = []

    def hit_and_look() -> bool:
        """Whether the purchase is answered."""
        began = time.monotonic()
        assert ask(proxy, "stored before the lock", headers=headers).cache == "HIT"
        hits.append(time.monotonic() - began)
        return answer.done()

    with database.locked(), asking(proxy, ["bought during the lock"], headers=headers) as [answer]:
        began = time.monotonic()
        eventually(hit_and_look)
        waited = time.monotonic() - began
    refused = answer.result()
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "database_unavailable", "5")
    assert 4.5 < waited < 8
    assert max(hits) < 1
    assert upstream.calls("bought during the lock") == 0
    assert ask(proxy, "bought during the lock", headers=headers).status == 200
    assert database.spent() == (2 * COST, 0)
    assert proxy.stop() == 0
    assert database.rows("SELECT sum(answers) FROM tallies") == [(len(hits),)]
    assert database.endings() == ["settled"] * 2, "nothing is left of the purchase that was not made"
    assert not [line["msg"] for line in proxy.log_lines() if line["level"] == "error"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    return filler


def test_on_a_full_disk_purchases_are_503_and_hits_and_what_was_bought_are_not(
    start: Start, upstream: UpstreamProcess, small_disk: Path
) -> None:
    database = KeyDatabase(f"sqlite:///{small_disk}/imagegate.db")
    headers, proxy = database.key(max_budget=BUDGET), start(keys_mode(database.url))
    [prompt] = _held(upstream, "bought on a disk that fills up", 1)
    ask(proxy, "stored before the disk was full", headers=headers)
    with asking(proxy, [prompt], headers=headers) as [answer]:
        eventually(lambda: upstream.held(prompt) == 1)
        filler = _fill(small_disk)
        upstream.release(prompt)
        assert (answer.result().status, answer.result().is_stored) == (200, True)
    assert database.endings() == ["settled", "open"]
    refused = ask(proxy, "bought on a full disk", headers=headers)
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "database_unavailable", "5")
    assert ask(proxy, "stored before the disk was full", headers=headers).cache == "HIT"
    assert upstream.calls("bought on a full disk") == 0
    with pytest.raises(TimeoutError):  # what reads the database finds nothing wrong, and says nothing about it
        eventually(lambda: proxy.metric("imagegate_degraded", part="database") == 0, seconds=1.2)
    filler.unlink()
    eventually(lambda: database.endings() == ["settled"] * 2, what="the settlement")
    eventually(lambda: proxy.metric("imagegate_degraded", part="database") == 0, seconds=2)
    assert ask(proxy, "bought on a full disk", headers=headers).status == 200
    assert database.spent() == (3 * COST, 0)
    assert database.rows("PRAGMA integrity_check") == [("ok",)]
    database.close()
    assert proxy.stop() == 0


def test_without_its_file_purchases_are_503_and_a_new_file_after_a_restart_works(
    start: Start, upstream: UpstreamProcess, database: KeyDatabase
) -> None:
    headers, proxy = database.key(), start(keys_mode())
    ask(proxy, "stored in former times", headers=headers)
    database.close()
    database.path.unlink()
    refused = ask(proxy, "bought without a file", headers=headers)
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "database_unavailable", "5")
    assert ask(proxy, "stored in former times", headers=headers).cache == "HIT"
    eventually(lambda: proxy.get("/readyz")[0] == 503)
    assert proxy.metric("imagegate_degraded", part="database") == 1
    assert not database.path.exists(), "an empty database would have forgotten every key"
    assert upstream.calls("bought without a file") == 0
    assert proxy.stop() == 0

    successor = start(keys_mode())
    assert ask(successor, "stored in former times", headers=headers).status == 401
    renewed = KeyDatabase(database.url)
    key = renewed.key()
    eventually(lambda: ask(successor, "bought again", headers=key).status == 200, seconds=2)
    assert renewed.endings() == ["settled"]
    renewed.close()
    assert successor.stop() == 0

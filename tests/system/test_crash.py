"""kill -9 at any moment: what a client was told is stored is a hit afterwards, no byte is wrong, nothing piles up."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException
from pathlib import Path

from tests.support.caller import Reply, ask
from tests.support.polling import eventually
from tests.support.process import Proxy
from tests.support.upstream_process import UpstreamProcess, body_of

Start = Callable[..., Proxy]

ROUNDS = 5
CLIENTS = 12
PROMPTS = 200
HOURS_SECONDS = 7200


def _blocks(number: int) -> int:
    """From a few hundred bytes to 1.3 MB."""
    return (0, 1, 5, 20)[number % 4]


def _load(proxy: Proxy, prompts: list[str], told: dict[str, Reply]) -> None:
    """Asks until the process is gone; remembers what came back whole."""
    for prompt in prompts:
        try:
            told[prompt] = ask(proxy, prompt, seconds=20)
        except (OSError, HTTPException):
            return


def _has(told: dict[str, Reply], enough: int) -> bool:
    return len(told) >= enough


def _spools(directory: Path) -> list[Path]:
    return list((directory / "tmp").glob("*.spool"))


def _are_more(cache: Path, spools: int) -> bool:
    return len(_spools(cache)) > spools


def test_every_reply_told_to_be_stored_is_a_hit_after_kill_9(start: Start, upstream: UpstreamProcess) -> None:
    chance = random.Random(20261122)
    told: dict[str, Reply] = {}
    size: dict[str, int] = {}
    for turn in range(ROUNDS):
        proxy = start()
        prompts = [f"crash {turn}-{number}" for number in range(PROMPTS)]
        size |= {prompt: _blocks(number) for number, prompt in enumerate(prompts)}
        upstream.plan_each({prompt: {"blocks": size[prompt]} for prompt in prompts})
        before = len(told)
        enough = before + chance.randrange(1, PROMPTS // 4)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for client in range(CLIENTS):
                pool.submit(_load, proxy, prompts[client::CLIENTS], told)
            eventually(partial(_has, told, enough), what="load")
            proxy.kill()
    stored = [prompt for prompt, reply in told.items() if reply.status == 200 and reply.is_stored]
    assert len(stored) == len(told), "each of them was a miss that the disk took"
    successor = start()
    bought = {prompt: upstream.calls(prompt) for prompt in stored}
    with ThreadPoolExecutor(8) as pool:
        replies = dict(zip(stored, pool.map(lambda prompt: ask(successor, prompt), stored), strict=True))
    for prompt, reply in replies.items():
        assert reply.cache == "HIT", prompt
        assert reply.body == told[prompt].body == body_of(prompt, size[prompt]), prompt
    assert {prompt: upstream.calls(prompt) for prompt in stored} == bought


def test_what_kill_9_leaves_behind_is_removed_when_it_is_old(
    start: Start, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    prompt = upstream.plan("killed while it was received", {"fault": "stall", "blocks": 40})
    cache = tmp_path / "cache"
    for _ in range(3):
        proxy = start()
        left = len(_spools(cache))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, proxy, prompt, seconds=20)
            eventually(partial(_are_more, cache, left), what="a spool on disk")
            proxy.kill()
            assert isinstance(answer.exception(), OSError | HTTPException)
        assert len(_spools(cache)) == left + 1, "young ones may belong to a process that lives: they stay"
    # They, and an entry's file that no row knows, are made as old as a sweep wants them.
    orphan = cache / "aa" / "bb" / ("0" * 28 + ".val")
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.write_bytes(b"not even an envelope")
    long_ago = time.time() - HOURS_SECONDS
    for path in (*_spools(cache), orphan):
        os.utime(path, (long_ago, long_ago))
    successor = start()
    eventually(lambda: not orphan.exists() and not _spools(cache), what="the sweep")
    again = ask(successor, "after the sweep")
    assert (again.cache, again.is_stored) == ("MISS", True)
    assert ask(successor, prompt, headers={"cache-control": "only-if-cached"}).status == 504


def test_the_directory_grows_only_by_what_is_stored(start: Start, upstream: UpstreamProcess, tmp_path: Path) -> None:
    proxy = start()
    for number in range(10):
        prompt = upstream.plan(
            f"grows {number}", {"blocks": 10, "fault": "truncated"} if number % 2 else {"blocks": 10}
        )
        ask(proxy, prompt)
    assert _spools(tmp_path / "cache") == []
    files = [path for path in (tmp_path / "cache").glob("??/??/*") if path.is_file()]
    assert len(files) == 5

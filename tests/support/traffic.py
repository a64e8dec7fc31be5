"""A scripted load on a proxy in mode `keys`: a little of everything that a dashboard shows, for as long as it is wanted."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.edits import painted
from tests.support.keydatabase import KeyDatabase
from tests.support.upstream_process import UpstreamProcess

ROUND_SECONDS = 0.4
AT_ONCE = 8
GENERATIONS, EDITS = "/images/generations", "/images/edits"
LEFT = {"x-ratelimit-remaining-requests": "4711", "x-ratelimit-remaining-tokens": "90000"}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
Headers = Mapping[str, str | None]


@dataclass
class Traffic:
    """One client for all callers, at `…/v1`; every prompt of a load begins with `name`, so that loads do not meet."""

    name: str
    client: httpx.Client
    upstream: UpstreamProcess
    keys: Mapping[str, Headers]

    def round(self, number: int) -> None:
        """What happens in one round: some fifteen requests, each of another kind."""
        slow, broken, busy, lost, limited = (f"{self.name} {word} {number}" for word in _PLANS)
        self.upstream.plan(slow, {"seconds": 0.3, "headers": LEFT})
        self.upstream.plan(broken, {"status": 500, "body": "{}"})
        self.upstream.plan(busy, {"status": 429, "body": "{}", "headers": {"retry-after": "1"}}, {})
        self.upstream.plan(lost, {"fault": "truncated"})
        self.upstream.plan(limited, {"status": 429, "body": "{}", "headers": {"retry-after": "30"}})
        asked: list[Callable[[], Any]] = [
            *(lambda: self.ask("design", f"{self.name} fox") for _ in range(4)),
            lambda: self.ask("design", f"{self.name} new {number}", size="1024x1024", quality="low"),
            *(lambda: self.ask("research", slow) for _ in range(3)),
            lambda: self.ask("research", f"{self.name} stream {number}", stream=True, partial_images=1),
            lambda: self.ask("research", f"{self.name} fox", size="1x1"),
            lambda: self.ask("research", f"{self.name} fox", qualty="high"),
            lambda: self.ask("design", broken),
            lambda: self.ask("design", busy),
            lambda: self.ask("free", lost),
            lambda: self.ask("free", limited),
            lambda: self.ask("free", f"{self.name} unheard {number}", model=f"painter-{number}"),
            lambda: self.ask("poor", f"{self.name} poor {number}"),
            *(lambda: self.ask("hasty", f"{self.name} fox") for _ in range(2)),
            lambda: self.ask("nobody", f"{self.name} fox"),
            lambda: self.edit("design", f"{self.name} edit {number % 3}"),
            lambda: self.leave("design", slow),
        ]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done in [pool.submit(each) for each in asked]:
                done.result()

    def ask(self, who: str, prompt: str, **more: Any) -> int:
        body = {"model": "gpt-image-2", "prompt": prompt, **more}
        return self._status(self.client.post, GENERATIONS, who, json=body)

    def edit(self, who: str, prompt: str) -> int:
        files = {"image": ("fox.png", painted("red"), "image/png")}
        return self._status(self.client.post, EDITS, who, data={"model": "gpt-image-2", "prompt": prompt}, files=files)

    def leave(self, who: str, prompt: str) -> int:
        """Asks, and hangs up before the answer."""
        body = {"model": "gpt-image-2", "prompt": prompt}
        return self._status(self.client.post, GENERATIONS, who, json=body, timeout=0.1)

    def _status(self, send: Any, path: str, who: str, **more: Any) -> int:
        try:
            return int(send(path, headers={**self.keys[who], **TRACED}, **more).status_code)
        except httpx.TransportError:
            return 0


_PLANS = ("slow", "broken", "busy", "lost", "limited")


def keys_of(database: KeyDatabase) -> Mapping[str, Headers]:
    """Callers of each kind: within a budget, beyond it, in haste, without a team, and one whom nobody knows."""
    database.store.create_team({"team_alias": "design", "max_budget": 40, "budget_duration": "1mo"}, "tests")
    database.store.create_team({"team_alias": "research", "max_budget": 9}, "tests")
    return {
        "design": database.key("designer", team="design", max_budget=25, soft_budget=0.001, budget_duration="30d"),
        "research": database.key("researcher", team="research", max_budget=4, budget_duration="1d"),
        "poor": database.key("intern", team="research", max_budget=0),
        "hasty": database.key("crawler", team="design", rpm_limit=1),
        "free": database.key("ci"),
        "nobody": {"authorization": "Bearer sk-ig-nobody"},
    }


@contextmanager
def flowing(traffic: Traffic) -> Iterator[threading.Event]:
    """The load goes on in a thread of its own until the block is left; what it yields is set once a round is over."""
    stop, began = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def flow() -> None:
        number = 0
        try:
            while not stop.wait(ROUND_SECONDS if number else 0):
                traffic.round(number)
                number += 1
                began.set()
        except BaseException as error:
            failures.append(error)
            began.set()

    thread = threading.Thread(target=flow, name="traffic")
    thread.start()
    try:
        yield began
    finally:
        stop.set()
        thread.join(30)
    if failures:
        raise failures[0]

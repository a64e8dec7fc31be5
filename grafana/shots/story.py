"""The load that the pictures show: a morning of three teams in a few minutes, the same every time but for the clock."""

import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.edits import painted
from tests.support.keydatabase import KeyDatabase

CALLERS_AT_ONCE = 32
QUIET_PER_SECOND, BUSY_PER_SECOND = 3.0, 9.0
MORNING = 0.45
"""The share of the story after which it is as busy as it becomes."""
GENERATIONS, EDITS = "/images/generations", "/images/edits"
Headers = Mapping[str, str | None]


@dataclass(frozen=True)
class Caller:
    """Who asks, how much of the traffic is theirs, for how many different images, and how often for one nobody had."""

    name: str
    weight: float
    model: str
    size: str
    qualities: tuple[str, ...]
    images: int
    novelty: float
    format: str = "png"


CALLERS = (
    Caller("shop", 0.50, "gpt-image-2", "1024x1024", ("medium", "medium", "high"), 60, 0.01, "jpeg"),
    Caller("campaigns", 0.27, "gpt-image-2", "1536x1024", ("high", "medium"), 50, 0.05),
    Caller("designer", 0.12, "gpt-image-2.5-flare", "1024x1536", ("high", "medium", "low"), 30, 0.25),
    Caller("newsletter", 0.08, "gpt-image-1.5", "1024x1024", ("medium",), 20, 0.02, "webp"),
    Caller("preview-builds", 0.03, "gpt-image-2", "1024x1024", ("low",), 6, 0.0),
)


def keys_of(database: KeyDatabase) -> Mapping[str, Headers]:
    """Three teams with budgets, one of which runs low, and those who come along: in haste, without money, unknown."""
    store = database.store
    store.create_team({"team_alias": "marketing", "max_budget": 12, "budget_duration": "1mo"}, "shots")
    store.create_team({"team_alias": "web-shop", "max_budget": 25, "budget_duration": "1mo"}, "shots")
    store.create_team({"team_alias": "design", "max_budget": 6, "budget_duration": "1mo"}, "shots")
    return {
        "shop": database.key("shop", team="web-shop", max_budget=14, budget_duration="1d"),
        "campaigns": database.key("campaigns", team="marketing", max_budget=8.8, soft_budget=6, budget_duration="1d"),
        "newsletter": database.key("newsletter", team="marketing", max_budget=5, budget_duration="1d"),
        "designer": database.key("designer", team="design", max_budget=4, budget_duration="7d"),
        "intern": database.key("intern", team="design", max_budget=0.25, budget_duration="1d"),
        "crawler": database.key("crawler", team="web-shop", rpm_limit=12),
        "preview-builds": database.key("preview-builds"),
        "nobody": {"authorization": "Bearer sk-ig-nobody"},
    }


class Story:
    """One client for all callers."""

    def __init__(self, client: httpx.Client, keys: Mapping[str, Headers]) -> None:
        self._client = client
        self._keys = keys
        self._chance = random.Random(7)  # noqa: S311 - weather, not secrets

    def play(self, seconds: float, stop: threading.Event) -> None:
        """Asks as the script says, not waiting for answers; returns when the last has come. Raises what went wrong here."""
        asked: list[Future[int]] = []
        now = 0.0
        with ThreadPoolExecutor(CALLERS_AT_ONCE) as pool:
            second = -1
            while now < seconds and not stop.is_set():
                asked.append(pool.submit(self._ask, *self._usual()))
                if int(now) > second:
                    second = int(now)
                    asked += [pool.submit(self._ask, *each) for each in self._unusual(second)]
                pause = self._chance.expovariate(self._rate(now / seconds))
                stop.wait(pause)
                now += pause
        for each in asked:
            each.result()

    def _rate(self, share: float) -> float:
        rise = min(1.0, share / MORNING)
        return QUIET_PER_SECOND + (BUSY_PER_SECOND - QUIET_PER_SECOND) * rise * rise * (3 - 2 * rise)

    def _usual(self) -> tuple[str, dict[str, Any]]:
        caller = self._chance.choices(CALLERS, [each.weight for each in CALLERS])[0]
        # Some images are asked for all the time, most now and then.
        number = min(int(self._chance.paretovariate(0.75)), caller.images)
        if self._chance.random() < caller.novelty:
            number = self._chance.randrange(1000, 100_000)
        quality = caller.qualities[number % len(caller.qualities)]
        return caller.name, {
            "model": caller.model,
            "prompt": f"A sunset over the sea, scene {number} for {caller.name}",
            "size": caller.size,
            "quality": quality,
            "output_format": caller.format,
        }

    def _unusual(self, second: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens beside: bursts for one new image, streams, edits, mistakes, haste, and somebody's own wishes."""
        plain = {"model": "gpt-image-2", "size": "1024x1024", "quality": "medium"}
        if second % 12 == 5:
            burst = {**plain, "prompt": f"The picture of the hour, {second}", "quality": "high"}
            yield from [("shop", burst)] * 5
        if second % 9 == 4:
            yield "designer", {**plain, "prompt": f"Sketch {second % 45}", "stream": True, "partial_images": 1}
        if second % 10 == 6:
            yield "designer", {**plain, "prompt": f"The same at night, {second % 40}", "picture": "red"}
        if second % 25 == 11:
            yield "preview-builds", {**plain, "prompt": f"Fresh {second % 2}", "quality": "low", "control": "no-cache"}
            yield "designer", {**plain, "prompt": f"A secret {second}", "quality": "low", "control": "no-store"}
        if second % 14 == 3:
            yield "newsletter", {**plain, "prompt": "A banner", "size": "1000x300"}
            yield "intern", {**plain, "prompt": f"A first try {second}"}
        if second % 22 == 7:
            yield "campaigns", {**plain, "prompt": "A poster", "qualty": "high"}
            yield "nobody", {**plain, "prompt": "Anything"}
        if 150 <= second <= 190:
            yield "crawler", {**plain, "prompt": f"A sunset over the sea, scene {second % 5}"}
        if second % 40 == 33:
            yield "newsletter", {**plain, "prompt": f"Too slow {second}", "quality": "low", "patience": 0.4}

    def _ask(self, who: str, body: dict[str, Any]) -> int:
        """The status, 0 if the caller had gone."""
        control, patience, picture = (body.pop(name, None) for name in ("control", "patience", "picture"))
        sent: dict[str, Any] = {"headers": dict(self._keys[who]), "timeout": patience or 120}
        if control:
            sent["headers"]["cache-control"] = control
        if picture:
            sent |= {"data": body, "files": {"image": (f"{picture}.png", painted(picture), "image/png")}}
        else:
            sent["json"] = body
        try:
            status = self._client.post(EDITS if picture else GENERATIONS, **sent).status_code
        except httpx.TransportError:
            return 0
        assert status not in (404, 405), f"{status}: this is not the story that was to be told"
        return status

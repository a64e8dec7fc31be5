"""Limits in time: how many requests and images a minute, and how many purchases at once, a key may have.

The law: in any 60 seconds (half open, by the monotonic clock) a key is let in for at most as much as its limit says; what is
refused counts for nothing. The limit is read from the key's record at each call, so a change applies at once. A key without
a holder, or without the limit, passes.

Counted per process, in memory. Belongs to one event loop: nothing here waits, so nothing comes in between.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, NamedTuple

from proxy.clock import Clock
from proxy.errors import ImagegateError, RateLimited
from proxy.keyrecord import KeyRecord
from proxy.model import Principal

WINDOW_SECONDS = 60.0
PARALLEL_RETRY_SECONDS = 5

Kind = Literal["requests", "images"]
Observe = Callable[[str, str], None]
"""Told of each refusal: the scope (`key`), and the limit (`rpm`, `ipm` or `concurrency`)."""

_NAMES: Mapping[Kind, tuple[str, str, str]] = {
    "requests": ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    "images": ("x-ratelimit-limit-images", "x-ratelimit-remaining-images", "x-ratelimit-reset-images"),
}
_WORDS: Mapping[Kind, str] = {"requests": "requests per min (RPM)", "images": "images per min (IPM)"}


class Admission:
    """Lets requests and purchases of keys in, or refuses them with RateLimited (429)."""

    def __init__(self, clock: Clock, observe: Observe) -> None:
        self._clock = clock
        self._observe = observe
        self._requests = _Window()
        self._images = _Window()
        self._places: dict[str, int] = {}
        """Purchases in the air, by the id of the key that pays."""

    def admit(self, principal: Principal) -> None:
        """Counts one request. Raises RateLimited."""
        if not self.admits(principal) and principal.holder is not None and principal.holder.key.rpm_limit is not None:
            key, limit, now = principal.holder.key, principal.holder.key.rpm_limit, self._clock.monotonic()
            raise self._observed(_exhausted("requests", self._requests.log(key.id, now), 1, limit, now))

    def admits(self, principal: Principal) -> bool:
        """Counts one request and says yes; or says no, which is no refusal yet, and counts for nothing."""
        key = principal.holder.key if principal.holder is not None else None
        if key is None or key.rpm_limit is None:
            return True
        now = self._clock.monotonic()
        log = self._requests.log(key.id, now)
        if log.used >= key.rpm_limit:
            return False
        self._requests.take(key.id, log, 1, now)
        return True

    @contextmanager
    def buying(self, principal: Principal, images: int) -> Iterator[None]:
        """Holds a place, and counts `images` images, for one purchase. Raises RateLimited, with nothing taken.

        An error that was certainly not billed gives the images back.

        Counted for keys without these limits, too: one that is set in the middle of a storm has to know of it.
        """
        if principal.holder is None:
            yield
            return
        key = principal.holder.key
        now = self._clock.monotonic()
        log = self._images.log(key.id, now)
        refusals = [each for each in (self._no_place(key), _no_images(key, log, images, now)) if each is not None]
        if refusals:
            raise self._observed(max(refusals, key=lambda refusal: refusal.wait_seconds))
        taking = self._images.take(key.id, log, images, now)
        self._places[key.id] = self._places.get(key.id, 0) + 1
        try:
            yield
        except ImagegateError as error:
            if not error.billed:
                log.clear(taking)
            raise
        finally:
            self._give_back_place(key.id)

    def standing(self, principal: Principal) -> Mapping[str, str]:
        """`x-ratelimit-*` of a successful answer: where the key stands with its requests. Empty without a limit."""
        key = principal.holder.key if principal.holder is not None else None
        if key is None or key.rpm_limit is None:
            return {}
        now = self._clock.monotonic()
        return _headers("requests", self._requests.log(key.id, now), key.rpm_limit, now)

    def remembered(self) -> int:
        """How many logs of keys are in memory, so that tests see that idle keys have none."""
        return len(self._requests) + len(self._images)

    def _no_place(self, key: KeyRecord) -> "_Refusal | None":
        used, limit = self._places.get(key.id, 0), key.max_parallel_requests
        if limit is None or used < limit:
            return None
        message = (
            f"Rate limit reached for this key on parallel requests: Limit {limit}, Used {used}, Requested 1. "
            "Please try again when one of them has ended."
        )
        # No x-ratelimit-* headers: OpenAI has no name for this limit, and `requests` means those of a minute.
        error = RateLimited(message, headers={"retry-after": str(PARALLEL_RETRY_SECONDS)})
        return _Refusal("concurrency", PARALLEL_RETRY_SECONDS, error)

    def _give_back_place(self, key_id: str) -> None:
        left = self._places[key_id] - 1
        if left:
            self._places[key_id] = left
        else:
            del self._places[key_id]

    def _observed(self, refusal: "_Refusal") -> RateLimited:
        self._observe("key", refusal.limit)
        return refusal.error


class _Refusal(NamedTuple):
    limit: Literal["rpm", "ipm", "concurrency"]
    wait_seconds: float
    error: RateLimited


class _Taking:
    """So much was taken at this moment. 0 once it counts no longer."""

    __slots__ = ("amount", "at")

    def __init__(self, at: float, amount: int) -> None:
        self.at = at
        self.amount = amount


class _Log:
    """What one key took in the last minute, the oldest first."""

    __slots__ = ("last_at", "takings", "used")

    def __init__(self) -> None:
        self.takings: deque[_Taking] = deque()
        self.used = 0
        self.last_at = -math.inf

    def add(self, taking: _Taking) -> None:
        self.takings.append(taking)
        self.used += taking.amount
        self.last_at = taking.at

    def clear(self, taking: _Taking) -> None:
        self.used -= taking.amount
        taking.amount = 0

    def forget(self, now: float) -> None:
        """What is a minute old is over."""
        while self.takings and self.takings[0].at + WINDOW_SECONDS <= now:
            self.clear(self.takings.popleft())

    def wait_seconds(self, amount: int, limit: int, now: float) -> float:
        """Until there is room for `amount`, if nothing else is taken. `amount` is at most `limit`."""
        excess = self.used + amount - limit
        until = now
        for taking in self.takings:
            if excess <= 0:
                break
            excess -= taking.amount
            until = taking.at + WINDOW_SECONDS
        return until - now

    def reset_seconds(self, now: float) -> float:
        """Until all of the limit is free again, if nothing else is taken."""
        if self.takings and self.takings[-1].amount:
            return self.last_at + WINDOW_SECONDS - now
        last_at = next((taking.at for taking in reversed(self.takings) if taking.amount), now - WINDOW_SECONDS)
        return last_at + WINDOW_SECONDS - now


class _Window:
    """The logs of keys that took something in the last minute, the one that is idle longest first."""

    def __init__(self) -> None:
        self._logs: OrderedDict[str, _Log] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logs)

    def log(self, key_id: str, now: float) -> _Log:
        """As of now. A fresh one is kept only when something is taken."""
        self._drop_idle(now)
        log = self._logs.get(key_id)
        if log is None:
            return _Log()
        log.forget(now)
        return log

    def take(self, key_id: str, log: _Log, amount: int, now: float) -> _Taking:
        taking = _Taking(now, amount)
        log.add(taking)
        self._logs[key_id] = log
        self._logs.move_to_end(key_id)
        return taking

    def _drop_idle(self, now: float) -> None:
        while self._logs:
            key_id, log = next(iter(self._logs.items()))
            if log.last_at + WINDOW_SECONDS > now:
                return
            del self._logs[key_id]


def _no_images(key: KeyRecord, log: _Log, images: int, now: float) -> _Refusal | None:
    limit = key.ipm_limit
    if limit is None or log.used + images <= limit:
        return None
    if images <= limit:
        return _exhausted("images", log, images, limit, now)
    message = (
        f"Request too large for this key on {_WORDS['images']}: Limit {limit}, Requested {images}. "
        f"It can never pass: ask for at most {limit} at a time (parameter 'n')."
    )
    headers = {**_headers("images", log, limit, now), "x-should-retry": "false"}
    return _Refusal("ipm", math.inf, RateLimited(message, kind="images", headers=headers))


def _exhausted(kind: Kind, log: _Log, amount: int, limit: int, now: float) -> _Refusal:
    """In the words of OpenAI's API."""
    wait = log.wait_seconds(amount, limit, now)
    message = (
        f"Rate limit reached for this key on {_WORDS[kind]}: Limit {limit}, Used {log.used}, Requested {amount}. "
        f"Please try again in {_duration(wait)}."
    )
    headers = {"retry-after": str(max(1, -(-_milliseconds(wait) // 1000))), **_headers(kind, log, limit, now)}
    return _Refusal("rpm" if kind == "requests" else "ipm", wait, RateLimited(message, kind=kind, headers=headers))


def _headers(kind: Kind, log: _Log, limit: int, now: float) -> dict[str, str]:
    """Source: OpenAI API reference, "Rate limits in headers"; `reset` is when the limit is as if nothing had happened."""
    names = _NAMES[kind]
    return {
        names[0]: str(limit),
        names[1]: str(max(0, limit - log.used)),
        names[2]: _duration(log.reset_seconds(now)),
    }


def _milliseconds(seconds: float) -> int:
    """Rounded up, but for what the subtraction of two clock readings adds."""
    return math.ceil(round(seconds * 1000, 3))


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `240ms`, `12s`, `1.5s`, `1m0s`."""
    return _written(_milliseconds(seconds))


@lru_cache(maxsize=256)
def _written(milliseconds: int) -> str:
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    whole, fraction = divmod(rest, 1000)
    text = f"{whole}.{fraction:03d}".rstrip("0") if fraction else str(whole)
    return f"{minutes}m{text}s" if minutes else f"{text}s"

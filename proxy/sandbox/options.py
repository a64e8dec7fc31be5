"""How the sandbox behaves: once for all calls, and call by call."""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The sandbox's settings. Rates are shares of all calls, 0 to 1."""

    host: str = "127.0.0.1"
    port: int = 8081
    """0 takes any free port."""
    vendor: str = "openai"
    """Whose rules of the catalogue apply."""
    latency_seconds: float = 1.0
    """How long a call takes at least: so long that a miss is felt."""
    jitter_seconds: float = 0.0
    """Added to the latency of each call, at random, up to this."""
    failure_rate: float = 0.0
    """Share of calls that are answered with 500."""
    rate_limit_rate: float = 0.0
    """Share of calls that are answered with 429 and `Retry-After`."""
    require_key: bool = False
    """Answer 401 to a call without a key; any key will do, unless it begins with `sk-wrong`."""
    answer_with_urls: bool = False
    """Answer with `url` instead of `b64_json`, as older models and some vendors do."""
    report_usage: bool = True
    allow_previews: tuple[str, ...] = ()
    """Previews to accept, as `rules.allow_previews` writes them."""
    painters: int = 2
    """Pictures painted at the same time."""
    seed: int | None = None
    """Makes jitter and the two rates repeatable."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one call asks of the sandbox itself, as a test would: `X-Sandbox: error` or `[error]` in the prompt."""

    words: frozenset[str] = field(default_factory=frozenset)
    latency_seconds: float | None = None

    def __contains__(self, word: str) -> bool:
        return word in self.words


WORDS = ("error", "rate-limit", "moderation", "moderation-output", "url", "no-usage", "stream-error", "wrong-key")
"""All words that a prompt or the header may carry, besides `latency=SECONDS`."""

_BRACKETED = re.compile(r"\[([a-z-]+|latency=[0-9.]+)\]")
_LATENCY = re.compile(r"latency=([0-9]{1,4}(?:\.[0-9]{1,6})?)")


def wishes(prompt: object, header: str) -> Wishes:
    """The known words in `[brackets]` in the prompt and, separated by commas, in the header; others mean nothing."""
    found = [part.strip() for part in header.split(",")]
    if isinstance(prompt, str):
        found += _BRACKETED.findall(prompt)
    latencies = [float(match[1]) for match in map(_LATENCY.fullmatch, found) if match]
    return Wishes(frozenset(found) & frozenset(WORDS), latencies[0] if latencies else None)

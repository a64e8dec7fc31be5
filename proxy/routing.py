"""Which upstreams may serve a model, the most preferred first."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from proxy.settings import UpstreamSection


def eligible(upstreams: Sequence[UpstreamSection], model: str) -> list[UpstreamSection]:
    """Those whose `models` patterns match, by `priority` (the lowest number first), then as they are written."""
    serving = [section for section in upstreams if any(fnmatchcase(model, pattern) for pattern in section.models)]
    return sorted(serving, key=lambda section: section.priority)

"""Which upstreams may serve a model, the most preferred first."""

from collections.abc import Sequence

from proxy.errors import UnsupportedByModel
from proxy.settings import UpstreamSection


def eligible(upstreams: Sequence[UpstreamSection], model: str) -> list[UpstreamSection]:
    """Those whose `models` patterns match, by `priority` (the lowest number first), then as they are written.

    Without a model, all of them: the first will say that it is missing. Raises UnsupportedByModel if nobody serves it.
    """
    serving = [s for s in upstreams if not model or s.serves(model)]
    if not serving:
        raise UnsupportedByModel(f"The model '{model[:200]}' does not exist.", param="model", code="invalid_value")
    return sorted(serving, key=lambda section: section.priority)

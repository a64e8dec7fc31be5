"""What has been asked of the sandbox and what would have been paid: how a caller sees that a cached answer cost nothing."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from proxy.model import Operation
from proxy.sandbox.believe import Order

_COUNTED_PROMPTS = 10_000
_KEPT_EDITS = 100


@dataclass(slots=True)
class Tally:
    """Counts since the start; of a prompt only its digest, of a picture only its size."""

    calls: int = 0
    billed: int = 0
    images: int = 0
    in_flight: int = 0
    by_prompt_digest: OrderedDict[str, int] = field(default_factory=OrderedDict)
    edits: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT_EDITS))
    """The last ones that were billed."""

    def bill(self, order: Order) -> None:
        self.billed += 1
        self.images += order.n
        digest = sha256(order.prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.by_prompt_digest[digest] = self.by_prompt_digest.pop(digest, 0) + 1
        if len(self.by_prompt_digest) > _COUNTED_PROMPTS:
            self.by_prompt_digest.popitem(last=False)
        if order.operation is Operation.EDIT:
            self.edits.append(_edit(order))

    def shown(self) -> dict[str, Any]:
        """As `/sandbox/calls` shows it."""
        return {
            "calls": self.calls,
            "billed": self.billed,
            "images": self.images,
            "in_flight": self.in_flight,
            "by_prompt_digest": self.by_prompt_digest,
            "edits": list(self.edits),
        }


def _edit(order: Order) -> dict[str, Any]:
    sizes = ["{}x{}".format(*picture.size) for picture in order.originals.pictures]
    return {"images": len(sizes), "sizes": sizes, "mask": order.originals.mask is not None, "answered": order.size}

"""The vendors' wires: what a call to each looks like, and what of its reply is not as OpenAI's.

What a model takes, refuses and costs is the catalogue's; here is only how it is said. Pure: no I/O, no event loop.
"""

from proxy.vendors.azure import AZURE
from proxy.vendors.profile import Vendor
from proxy.vendors.together import TOGETHER
from proxy.vendors.xai import XAI

__all__ = ["Vendor", "of"]

OPENAI = Vendor()
# Anything that calls itself compatible: the same wire, but a bare `data` will do for a reply.
GENERIC = Vendor(adds_created=True)


def of(name: str) -> Vendor:
    """The wire of a vendor. A name that is not ours is one of an operator's own catalogue: OpenAI's wire."""
    match name:
        case "azure":
            return AZURE
        case "xai":
            return XAI
        case "together":
            return TOGETHER
        case "generic":
            return GENERIC
        case _:
            return OPENAI

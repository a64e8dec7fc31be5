"""The upstream door: buys one image reply, checked whole, from the first upstream that certainly takes the request."""

from proxy.upstream.calls import Caller, Generation
from proxy.upstream.router import Upstreams
from proxy.upstream.wire import Wire

__all__ = ["Caller", "Generation", "Upstreams", "Wire"]

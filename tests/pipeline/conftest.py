"""A running application over one counting upstream."""

from tests.support.in_process import proxy, upstream

__all__ = ["proxy", "upstream"]

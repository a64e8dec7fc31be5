"""A running application over one counting upstream."""

from tests.support.in_process import proxy, upstream
from tests.support.keyed import keyed

__all__ = ["keyed", "proxy", "upstream"]

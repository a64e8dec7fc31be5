"""What a picture that is to be edited costs in input tokens, as measured by callers; OpenAI publishes examples only."""

import math

from proxy.sizes import Listed, SizeRule

_PATCH = 32
_MOST_PATCHES = 1536
_LONG_SIDE = 1024
_MOST_SCALE = 2
_RATIO = 3

_TILE = 512
_MOST_TILES = 4
_BASE_TOKENS = 65
_TILE_TOKENS = 129
_SQUARE_FIDELITY_TOKENS = 4160
_FIDELITY_TOKENS = 6240


def image_tokens(size: tuple[int, int], rule: SizeRule | None, *, high_fidelity: bool = False) -> int:
    """For one picture. Models with a list of sizes are the first generation and count tiles; the others count patches."""
    if not isinstance(rule, Listed):
        return _patches(*size)
    fidelity = _SQUARE_FIDELITY_TOKENS if size[0] == size[1] else _FIDELITY_TOKENS
    return _tiles(*size) + (fidelity if high_fidelity else 0)


def _patches(width: int, height: int) -> int:
    """32-pixel patches; small pictures are scaled up towards 1024 by at most 2, long ones count as 3:1."""
    long = max(width, height)
    short = max(min(width, height), long / _RATIO)
    scale = min(_MOST_SCALE, max(1.0, _LONG_SIDE / long))
    across, down = long * scale / _PATCH, short * scale / _PATCH
    if math.ceil(across) * math.ceil(down) > _MOST_PATCHES:
        shrink = math.sqrt(_MOST_PATCHES / (across * down))
        across, down = across * shrink, down * shrink
    return min(_MOST_PATCHES, math.ceil(across) * math.ceil(down))


def _tiles(width: int, height: int) -> int:
    """512-pixel tiles, once the short side is no longer than one tile."""
    scale = min(1.0, _TILE / min(width, height))
    tiles = math.ceil(width * scale / _TILE) * math.ceil(height * scale / _TILE)
    return _BASE_TOKENS + _TILE_TOKENS * min(_MOST_TILES, tiles)

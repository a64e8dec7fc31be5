"""What a key may ask for, and which share of the cache it sees. Pure.

Limits in time are admission's, limits in money the ledger's: this is what can be told from the request alone.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from proxy.errors import NotAllowedByKey
from proxy.keyrecord import CacheScope
from proxy.model import Holder, ImageRequest

_SHOWN_CHARACTERS = 200


def check(holder: Holder, request: ImageRequest) -> None:
    """Raises NotAllowedByKey for the first thing that this key may not ask for.

    A model is allowed by the name that the caller wrote, or by the one that it stands for.
    """
    key = holder.key
    if not (may_use(holder, request.asked_model) or may_use(holder, request.model)):
        shown = request.asked_model[:_SHOWN_CHARACTERS]
        message = f"The model '{shown}' does not exist or this key has no access to it."
        raise NotAllowedByKey(message, param="model", code="model_not_found")
    if key.max_n is not None and request.n > key.max_n:
        images = "1 image" if key.max_n == 1 else f"{key.max_n} images"
        raise NotAllowedByKey(f"This key may ask for at most {images} at a time.", param="n")
    _check_among("size", "sizes", request.size, key.allowed_sizes)
    _check_among("quality", "qualities", request.quality, key.allowed_qualities)


def may_use(holder: Holder, model: str) -> bool:
    """Whether a pattern of the key's `models` names it, upper and lower case told apart; all may be used without any."""
    patterns = holder.key.models
    return patterns is None or any(fnmatchcase(model, pattern) for pattern in patterns)


def scope_parts(holder: Holder, default_scope: CacheScope) -> tuple[str, ...]:
    """What names the share of the cache: `("org",)`, `("team", its id)` or `("key", its id)`.

    A key without a team shares with nobody where teams share.
    """
    key = holder.key
    scope = key.cache_scope or default_scope
    if scope == "org":
        return ("org",)
    if scope == "team" and key.team_id is not None:
        return ("team", key.team_id)
    return ("key", key.id)


def _check_among(param: str, plural: str, value: str, allowed: Sequence[str] | None) -> None:
    """A caller who left the parameter out has asked for `auto`: where that is not allowed, one has to be named."""
    if allowed is None or value in allowed:
        return
    message = f"This key may ask for {param if len(allowed) == 1 else plural} {', '.join(allowed)}."
    if value == "auto":
        message += f" Set '{param}'; without it, it is auto."
    raise NotAllowedByKey(message, param=param)

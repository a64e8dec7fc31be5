"""The nouns of key management: a virtual key and a team, as frozen values; nothing here does anything.

Money is kept in nano-dollars, as integers; seconds are wall clock, since the epoch. Field names are LiteLLM's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, ClassVar, Literal

NANOS_PER_DOLLAR = 10**9
CacheScope = Literal["key", "team", "org"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamRecord:
    """A team as it is kept. What is None is not limited."""

    id: str
    team_alias: str
    max_budget: int | None = None
    soft_budget: int | None = None
    budget_duration: str | None = None
    """A period such as `30d` or `1mo`; None for a budget that is never renewed."""
    blocked: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: float
    updated_at: float
    revision: int
    """The store's counter at its last change."""

    KIND: ClassVar[str] = "team"

    def as_json(self) -> dict[str, Any]:
        """Every field, money in dollars: what an administrator reads, and what the audit log keeps."""
        return _as_json(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A virtual key as it is kept: never the key itself, only its digest. What is None is not limited."""

    id: str
    digest: bytes = field(repr=False)
    previous_digest: bytes | None = field(default=None, repr=False)
    """After a rotation: the key before, which works until `previous_until`."""
    previous_until: float | None = None
    shown: str
    """`sk-ig-…Ab3x`."""
    key_alias: str
    team_id: str | None = None
    models: tuple[str, ...] | None = None
    max_budget: int | None = None
    soft_budget: int | None = None
    budget_duration: str | None = None
    rpm_limit: int | None = None
    ipm_limit: int | None = None
    max_parallel_requests: int | None = None
    max_n: int | None = None
    allowed_sizes: tuple[str, ...] | None = None
    allowed_qualities: tuple[str, ...] | None = None
    cache_scope: CacheScope | None = None
    """None for what `cache.scope` says."""
    expires: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    blocked: bool = False
    revoked_at: float | None = None
    created_at: float
    updated_at: float
    revision: int
    """The store's counter at its last change."""

    KIND: ClassVar[str] = "key"

    def as_json(self) -> dict[str, Any]:
        """Every field but the digests, money in dollars: what an administrator reads, and what the audit log keeps."""
        return _as_json(self)


def _as_json(record: KeyRecord | TeamRecord) -> dict[str, Any]:
    names = [each.name for each in fields(record) if not each.name.endswith("digest")]
    return {name: _json_of(name, getattr(record, name)) for name in names}


def _json_of(name: str, value: Any) -> Any:
    if name in {"max_budget", "soft_budget"} and value is not None:
        whole, rest = divmod(value, NANOS_PER_DOLLAR)
        # Exact both ways: an amount has at most fifteen significant digits.
        return float(Decimal(value) / NANOS_PER_DOLLAR) if rest else whole
    return list(value) if isinstance(value, tuple) else value

"""The tables as they are today. What made them so stands in `migrations/`; a test compares the two.

Money is BIGINT nano-dollars, times are seconds since the epoch, and JSON is text to the database: nothing is asked of
what is in it.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

METADATA = MetaData()
TOKEN_COLUMNS = ("text_in", "cached_text_in", "image_in", "cached_image_in", "unknown_in", "text_out", "image_out")
"""As in `proxy.model.Usage`: the cached ones are parts of those beside them."""
TALLY_COLUMNS = ("key_id", "team_id", "operation", "model", "size", "quality", "how")
_JSON = JSON(none_as_null=True)


def _identifying() -> Column[int]:
    """SQLite numbers rows by itself only where the type is exactly INTEGER."""
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


TEAMS = Table(
    "teams",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("team_alias", Text, nullable=False, unique=True),
    Column("max_budget", BigInteger),
    Column("soft_budget", BigInteger),
    Column("budget_duration", Text),
    Column("blocked", Boolean, nullable=False),
    Column("metadata", _JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("teams_revision", "revision"),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("previous_digest", LargeBinary),
    Column("previous_until", Double),
    Column("shown", Text, nullable=False),
    Column("key_alias", Text, nullable=False, unique=True),
    Column("team_id", Text, ForeignKey("teams.id")),
    Column("models", _JSON),
    Column("max_budget", BigInteger),
    Column("soft_budget", BigInteger),
    Column("budget_duration", Text),
    Column("rpm_limit", Integer),
    Column("ipm_limit", Integer),
    Column("max_parallel_requests", Integer),
    Column("max_n", Integer),
    Column("allowed_sizes", _JSON),
    Column("allowed_qualities", _JSON),
    Column("cache_scope", Text),
    Column("expires", Double),
    Column("metadata", _JSON, nullable=False),
    Column("blocked", Boolean, nullable=False),
    Column("revoked_at", Double),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("keys_revision", "revision"),
    Index("keys_team_id", "team_id"),
)

REVISION = Table(
    "revision",
    METADATA,
    Column("id", Integer, CheckConstraint("id = 1", name="revision_one_row"), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""One row: raised by every transaction that changes keys or teams, and locked by it first, so that writers queue."""

AUDIT = Table(
    "audit",
    METADATA,
    _identifying(),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("before", _JSON),
    Column("after", _JSON),
    Index("audit_target_id", "target_id"),
    Index("audit_at", "at"),
)
"""Rows are added, never changed."""

PURCHASES = Table(
    "purchases",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("closed_at", Double),
    Column("lease_until", Double, nullable=False),
    Column("instance", Text, nullable=False),
    Column("key_id", Text),
    Column("team_id", Text),
    Column("operation", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("size", Text, nullable=False),
    Column("quality", Text, nullable=False),
    Column("n", Integer, nullable=False),
    Column("images", Integer, nullable=False),
    Column("cache_keys", _JSON, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("upstream_request_id", Text),
    *(Column(name, BigInteger, nullable=False) for name in TOKEN_COLUMNS),
    Column("estimate", BigInteger),
    Column("cost", BigInteger),
    Column("price_version", Text, nullable=False),
    Column("seconds", Double),
    Column("error", Text),
    Column("tags", _JSON, nullable=False),
    Index("purchases_key_id", "key_id", "opened_at"),
    Index("purchases_team_id", "team_id", "opened_at"),
    Index("purchases_opened_at", "opened_at"),
    Index("purchases_outcome", "outcome", "lease_until"),
)
"""A row for each call to an upstream that could cost money, made before a byte of it goes out.

`outcome` is `open`, then for good `settled` (the reply's usage, at its price), `estimated` (a reply without usage),
`unknown` (nobody knows whether it was billed; it counts with its estimate) or `released` (certainly not billed).
`estimate` and `cost` are None where there is no price; of a released one the cost is 0.
"""

SPENDS = Table(
    "spends",
    METADATA,
    Column("holder_id", Text, primary_key=True),
    Column("window_start", Double, nullable=False),
    Column("settled", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
)
"""What a key or a team has spent in its present window, and what is reserved of it: a sum over PURCHASES that is kept."""

TALLIES = Table(
    "tallies",
    METADATA,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, Text, primary_key=True) for name in TALLY_COLUMNS),
    Column("answers", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
)
"""Answers that cost nothing, by the hour (seconds since the epoch, a multiple of 3600). `how` is `hit` or `coalesced`;
`key_id` and `team_id` are empty where there is none; `tokens` and `saved` are those of the purchases they repeat."""

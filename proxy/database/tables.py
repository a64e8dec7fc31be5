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

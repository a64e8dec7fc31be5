"""Keys and teams, the revision that tells running proxies of changes, and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    op.create_table("teams", *_named("team_alias"), *_budget(), *_kept())
    op.create_index("teams_revision", "teams", ["revision"])
    op.create_table(
        "keys",
        *_named("key_alias"),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("previous_digest", sa.LargeBinary),
        sa.Column("previous_until", sa.Double),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("team_id", sa.Text, sa.ForeignKey("teams.id")),
        *_budget(),
        *(sa.Column(name, sa.Integer) for name in ("rpm_limit", "ipm_limit", "max_parallel_requests", "max_n")),
        *(sa.Column(name, _JSON) for name in ("models", "allowed_sizes", "allowed_qualities")),
        sa.Column("cache_scope", sa.Text),
        sa.Column("expires", sa.Double),
        sa.Column("revoked_at", sa.Double),
        *_kept(),
    )
    op.create_index("keys_revision", "keys", ["revision"])
    op.create_index("keys_team_id", "keys", ["team_id"])
    _create_revision()
    _create_audit()


def _named(alias: str) -> list[sa.Column[str]]:
    return [sa.Column("id", sa.Text, primary_key=True), sa.Column(alias, sa.Text, nullable=False, unique=True)]


def _budget() -> list[sa.Column[object]]:
    return [
        sa.Column("max_budget", sa.BigInteger),
        sa.Column("soft_budget", sa.BigInteger),
        sa.Column("budget_duration", sa.Text),
    ]


def _kept() -> list[sa.Column[object]]:
    return [
        sa.Column("blocked", sa.Boolean, nullable=False),
        sa.Column("metadata", _JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    ]


def _create_revision() -> None:
    revisions = op.create_table(
        "revision",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="revision_one_row"), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(revisions, [{"id": 1, "value": 0}])


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("actor", "action", "kind", "target_id")),
        sa.Column("before", _JSON),
        sa.Column("after", _JSON),
    )
    op.create_index("audit_target_id", "audit", ["target_id"])
    op.create_index("audit_at", "audit", ["at"])

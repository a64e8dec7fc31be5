"""The ledger: purchases, what each key and team has spent, and counts of what cost nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_JSON = sa.JSON(none_as_null=True)
_TOKENS = ("text_in", "cached_text_in", "image_in", "cached_image_in", "unknown_in", "text_out", "image_out")


def upgrade() -> None:
    op.create_table(
        "purchases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("opened_at", sa.Double, nullable=False),
        sa.Column("closed_at", sa.Double),
        sa.Column("lease_until", sa.Double, nullable=False),
        *(_text(name) for name in ("outcome", "instance", "operation", "model", "upstream", "size", "quality")),
        *(_text(name) for name in ("request_id", "price_version")),
        *(sa.Column(name, sa.Text) for name in ("key_id", "team_id", "upstream_request_id", "error")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("n", "images")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _TOKENS),
        *(sa.Column(name, sa.BigInteger) for name in ("estimate", "cost")),
        *(sa.Column(name, _JSON, nullable=False) for name in ("cache_keys", "tags")),
        sa.Column("seconds", sa.Double),
    )
    op.create_index("purchases_key_id", "purchases", ["key_id", "opened_at"])
    op.create_index("purchases_team_id", "purchases", ["team_id", "opened_at"])
    op.create_index("purchases_opened_at", "purchases", ["opened_at"])
    op.create_index("purchases_outcome", "purchases", ["outcome", "lease_until"])
    op.create_table(
        "spends",
        sa.Column("holder_id", sa.Text, primary_key=True),
        sa.Column("window_start", sa.Double, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("settled", "reserved")),
    )
    op.create_table(
        "tallies",
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        *(
            sa.Column(name, sa.Text, primary_key=True)
            for name in ("key_id", "team_id", "operation", "model", "size", "quality", "how")
        ),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("answers", "images", "tokens", "saved")),
    )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)

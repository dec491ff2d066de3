"""The records, as they were before there were revisions: no chain, and nothing that guards them."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Make the table of the first revision."""
    op.create_table(
        "retrain_records",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("key", sa.String(500), nullable=False),
        sa.Column("sequence", sa.Integer),
        sa.Column("run", sa.String(300), nullable=False),
        sa.Column("effective_at", sa.String(40), nullable=False),
        sa.Column("recorded_at", sa.String(40), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("model", "kind", "key"),
        sa.UniqueConstraint("model", "kind", "sequence"),
    )

"""the longest waiting job is found without those that wait for others."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

QUEUED = "status = 'queued'"


def upgrade() -> None:
    _index(f"{QUEUED} AND waiting_since IS NULL")


def downgrade() -> None:
    _index(QUEUED)


def _index(condition: str) -> None:
    where = sa.text(condition)
    op.drop_index("ix_jobs_queued_at", "jobs")
    op.create_index(
        "ix_jobs_queued_at", "jobs", ["queued_at"], sqlite_where=where, postgresql_where=where
    )

"""the jobs of a sweep that have not ended are found without those that have."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("sweep_id IS NOT NULL AND finished_at IS NULL")
    op.create_index(
        "ix_jobs_sweep_open", "jobs", ["sweep_id"], sqlite_where=where, postgresql_where=where
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_sweep_open", "jobs")

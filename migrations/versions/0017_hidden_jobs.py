"""jobs that lists leave out until they are asked for."""

import sqlalchemy as sa
from alembic import op

from app.db.tables import UtcDateTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

LISTED = "deleted_at IS NULL"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("hidden_at", UtcDateTime(), nullable=True))
    op.drop_index("ix_jobs_list", "jobs")
    _index("ix_jobs_list", f"{LISTED} AND hidden_at IS NULL")
    _index("ix_jobs_hidden", f"{LISTED} AND hidden_at IS NOT NULL")


def downgrade() -> None:
    op.drop_index("ix_jobs_hidden", "jobs")
    op.drop_index("ix_jobs_list", "jobs")
    _index("ix_jobs_list", LISTED)
    op.drop_column("jobs", "hidden_at")


def _index(name: str, condition: str) -> None:
    where = sa.text(condition)
    columns = ["tenant_id", "id"]
    op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)

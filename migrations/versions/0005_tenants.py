"""tenants that can be disabled, one for each name, and what their quotas count."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PARTIAL = (
    ("ix_jobs_queued", "jobs", ["tenant_id"], "status = 'queued'"),
    ("ix_artifacts_stored", "artifacts", ["tenant_id", "size_bytes"], "status = 'ready'"),
)


def upgrade() -> None:
    # no batch: it would make the table anew, to which others refer
    op.add_column("tenants", sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("uq_tenants_name", "tenants", ["name"], unique=True)
    op.create_index("ix_runs_tenant_id_ended_at", "runs", ["tenant_id", "ended_at"])
    for name, table, columns, condition in PARTIAL:
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, table, _columns, _condition in PARTIAL:
        op.drop_index(name, table)
    op.drop_index("ix_runs_tenant_id_ended_at", "runs")
    op.drop_index("uq_tenants_name", "tenants")
    op.drop_column("tenants", "disabled_at")

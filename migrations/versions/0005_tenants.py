"""tenants that can be disabled, what their quotas count, and how long runs took."""

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
    op.create_table(
        "timings",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("work_unit", sa.String(), nullable=False),
        sa.Column("work", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_timings")),
    )
    op.create_index(
        "ix_timings_kind_work_unit_device_at", "timings", ["kind", "work_unit", "device", "at"]
    )


def downgrade() -> None:
    op.drop_table("timings")
    for name, table, _columns, _condition in PARTIAL:
        op.drop_index(name, table)
    op.drop_index("ix_runs_tenant_id_ended_at", "runs")
    op.drop_index("uq_tenants_name", "tenants")
    op.drop_column("tenants", "disabled_at")

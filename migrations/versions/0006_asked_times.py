"""the start that was asked for; labels with the status of their job."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

LABELS = "ix_job_labels_tenant_id_name_value_job_id"
LABELS_BY_STATUS = "ix_job_labels_tenant_id_name_value_status_job_id"


def upgrade() -> None:
    asked = sa.Column("requested_not_before", sa.DateTime(timezone=True), nullable=True)
    op.add_column("jobs", asked)
    op.execute(
        "UPDATE jobs SET requested_not_before = not_before "
        "WHERE status = 'queued' AND not_before IS NOT NULL AND failures = 0"
    )
    status = sa.Column("status", sa.String(), server_default="queued", nullable=False)
    op.add_column("job_labels", status)
    op.execute(
        "UPDATE job_labels SET status = "
        "(SELECT jobs.status FROM jobs WHERE jobs.id = job_labels.job_id)"
    )
    op.create_index(
        LABELS_BY_STATUS, "job_labels", ["tenant_id", "name", "value", "status", "job_id"]
    )
    op.drop_index(LABELS, "job_labels")
    op.drop_index("ix_artifacts_stored", "artifacts")


def downgrade() -> None:
    where = sa.text("status = 'ready'")
    op.create_index(
        "ix_artifacts_stored",
        "artifacts",
        ["tenant_id", "size_bytes"],
        sqlite_where=where,
        postgresql_where=where,
    )
    op.create_index(LABELS, "job_labels", ["tenant_id", "name", "value", "job_id"])
    op.drop_index(LABELS_BY_STATUS, "job_labels")
    op.drop_column("job_labels", "status")
    op.drop_column("jobs", "requested_not_before")

"""indexes of lists, queue and cleaning; metadata as rows."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LISTED = "deleted_at IS NULL"
INDEXES: dict[str, tuple[str, list[Any], str | None]] = {
    "ix_jobs_list": ("jobs", ["tenant_id", "id"], LISTED),
    "ix_jobs_list_status": ("jobs", ["tenant_id", "status", "id"], LISTED),
    "ix_jobs_list_kind": ("jobs", ["tenant_id", "kind", "status", "id"], LISTED),
    "ix_jobs_list_method": ("jobs", ["tenant_id", "method", "status", "id"], LISTED),
    "ix_jobs_list_name": ("jobs", ["tenant_id", "name", "status", "id"], LISTED),
    "ix_jobs_claim": (
        "jobs",
        ["queue", sa.text("priority DESC"), "id", "device", "gpus", "tenant_id"],
        "status = 'queued' AND not_before IS NULL",
    ),
    "ix_jobs_due": ("jobs", ["not_before"], "status = 'queued' AND not_before IS NOT NULL"),
    "ix_jobs_queue_timeout": (
        "jobs",
        ["queue_timeout_at"],
        "status = 'queued' AND queue_timeout_at IS NOT NULL",
    ),
    "ix_jobs_queued_at": ("jobs", ["queued_at"], "status = 'queued'"),
    "ix_jobs_running": ("jobs", ["id"], "status = 'running'"),
    "ix_jobs_finished": (
        "jobs",
        ["finished_at", "id"],
        "finished_at IS NOT NULL AND deleted_at IS NULL",
    ),
    "ix_jobs_deleted": ("jobs", ["deleted_at"], "deleted_at IS NOT NULL"),
    "ix_runs_open": ("runs", ["host"], "ended_at IS NULL"),
    "ix_artifacts_storage_key": ("artifacts", ["storage_key"], None),
    "ix_datasets_storage_key": ("datasets", ["storage_key"], None),
}
OLD_INDEXES: dict[str, list[Any]] = {
    "ix_jobs_tenant_id_id": ["tenant_id", "id"],
    "ix_jobs_claim": ["status", "queue", sa.text("priority DESC"), "id"],
    "ix_jobs_status_lease_expires_at": ["status", "lease_expires_at"],
}


def upgrade() -> None:
    for name in OLD_INDEXES:
        op.drop_index(name, "jobs")
    _create_labels()
    for name, (table, columns, condition) in INDEXES.items():
        where = sa.text(condition) if condition else None
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _create_labels() -> None:
    op.create_table(
        "job_labels",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_labels_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_job_labels")),
    )
    entries = {
        "postgresql": "jsonb_each_text(metadata) AS entry",
        "sqlite": "json_each(metadata) AS entry",
    }[op.get_bind().dialect.name]
    op.execute(
        "INSERT INTO job_labels (job_id, name, tenant_id, value) "
        f"SELECT jobs.id, entry.key, tenant_id, entry.value FROM jobs, {entries} "
        "WHERE deleted_at IS NULL"
    )
    op.create_index(
        "ix_job_labels_tenant_id_name_value_job_id",
        "job_labels",
        ["tenant_id", "name", "value", "job_id"],
    )


def downgrade() -> None:
    for name, (table, _columns, _condition) in INDEXES.items():
        op.drop_index(name, table)
    op.drop_table("job_labels")
    for name, columns in OLD_INDEXES.items():
        op.create_index(name, "jobs", columns)

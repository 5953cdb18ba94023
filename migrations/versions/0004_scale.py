"""indexes of lists, queue and cleaning; metadata as rows, counters, chores."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

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
COUNTS = (
    "SELECT 'jobs', kind || ' ' || status || ' ' || queue, count(*) FROM jobs "
    "WHERE deleted_at IS NULL GROUP BY kind, status, queue",
    "SELECT 'runs', outcome, count(*) FROM runs "
    "WHERE ended_at IS NOT NULL AND outcome IS NOT NULL GROUP BY outcome",
    "SELECT 'artifact_bytes', tenant_id, sum(size_bytes) FROM artifacts "
    "WHERE status = 'ready' GROUP BY tenant_id",
)
OLD_INDEXES: dict[str, list[Any]] = {
    "ix_jobs_tenant_id_id": ["tenant_id", "id"],
    "ix_jobs_claim": ["status", "queue", sa.text("priority DESC"), "id"],
    "ix_jobs_status_lease_expires_at": ["status", "lease_expires_at"],
}


def upgrade() -> None:
    for name in OLD_INDEXES:
        op.drop_index(name, "jobs")
    _create_labels()
    _create_counters()
    _create_chores()
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


def _create_counters() -> None:
    op.create_table(
        "counters",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("labels", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counters")),
    )
    for counts in COUNTS:
        op.execute(f"INSERT INTO counters (name, labels, value) {counts}")


def _create_chores() -> None:
    op.create_table(
        "chores",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("position", Json, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chores")),
    )
    op.create_table(
        "state_sizes",
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("database_bytes", sa.BigInteger(), nullable=False),
        sa.Column("artifact_bytes", sa.BigInteger(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("at", name=op.f("pk_state_sizes")),
    )


def downgrade() -> None:
    for name, (table, _columns, _condition) in INDEXES.items():
        op.drop_index(name, table)
    for table in ("job_labels", "counters", "chores", "state_sizes"):
        op.drop_table(table)
    for name, columns in OLD_INDEXES.items():
        op.create_index(name, "jobs", columns)

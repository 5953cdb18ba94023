"""jobs that wait for others."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

IN_LINE = "status = 'queued' AND not_before IS NULL"


def upgrade() -> None:
    # no batch: it would make the table anew, to which others refer; defaults: an API of the
    # release before may still insert
    op.add_column("jobs", sa.Column("depends_on", Json, nullable=False, server_default="[]"))
    op.add_column(
        "jobs",
        sa.Column("on_dependency_failure", sa.String(), nullable=False, server_default="fail"),
    )
    op.add_column("jobs", sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True))
    _index_claims(f"{IN_LINE} AND waiting_since IS NULL")
    op.create_table(
        "job_dependencies",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_dependencies_job_id_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "source_id", name=op.f("pk_job_dependencies")),
    )
    op.create_index("ix_job_dependencies_source_id", "job_dependencies", ["source_id"])


def _index_claims(condition: str) -> None:
    where = sa.text(condition)
    columns = ["queue", sa.text("priority DESC"), "id", "device", "gpus", "tenant_id"]
    op.drop_index("ix_jobs_claim", "jobs")
    op.create_index("ix_jobs_claim", "jobs", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_table("job_dependencies")
    _index_claims(IN_LINE)
    for column in ("waiting_since", "on_dependency_failure", "depends_on"):
        op.drop_column("jobs", column)

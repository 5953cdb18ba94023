"""what a job's resolved spec refers to, so that it is held until the job is final."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "job_inputs",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_inputs_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "source", "sha256", name=op.f("pk_job_inputs")),
    )
    with op.batch_alter_table("job_inputs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_inputs_source"), ["source"], unique=False)
    jobs = sa.table("jobs", sa.column("id"), sa.column("status"), sa.column("resolved_spec", Json))
    waiting = sa.select(jobs.c.id, jobs.c.resolved_spec).where(
        jobs.c.status.in_(["queued", "running"])
    )
    rows = [
        {"job_id": job_id, "source": source, "sha256": sha256}
        for job_id, spec in op.get_bind().execute(waiting)
        for source, sha256 in set(_pinned(spec))
    ]
    if rows:
        op.bulk_insert(table, rows)


def _pinned(part: Any) -> Iterator[tuple[str, str]]:
    """Job or dataset, and digest, of every reference in a resolved spec."""
    if isinstance(part, dict):
        source = part.get("job") or part.get("dataset")
        if isinstance(source, str) and isinstance(part.get("sha256"), str):
            yield source, part["sha256"]
    if isinstance(part, dict | list):
        for item in part.values() if isinstance(part, dict) else part:
            yield from _pinned(item)


def downgrade() -> None:
    with op.batch_alter_table("job_inputs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_inputs_source"))
    op.drop_table("job_inputs")

"""sweeps and the places of their jobs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

IN_SWEEP = sa.text("sweep_id IS NOT NULL")
RUNNING = sa.text("status = 'running'")


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("request", Json, nullable=False),
        sa.Column("trials", Json, nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("error", Json, nullable=True),
        sa.Column("made", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'finished', 'failed', 'cancelled')",
            name=op.f("ck_sweeps_status"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_sweeps_tenant_id_tenants")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index("ix_sweeps_tenant_id_id", "sweeps", ["tenant_id", "id"])
    op.create_index(
        "ix_sweeps_running",
        "sweeps",
        ["tenant_id"],
        sqlite_where=RUNNING,
        postgresql_where=RUNNING,
    )
    op.add_column("jobs", sa.Column("sweep_id", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("sweep_place", sa.Integer(), nullable=True))
    op.create_index(
        "uq_jobs_sweep",
        "jobs",
        ["sweep_id", "sweep_place"],
        unique=True,
        sqlite_where=IN_SWEEP,
        postgresql_where=IN_SWEEP,
    )


def downgrade() -> None:
    op.drop_index("uq_jobs_sweep", "jobs")
    op.drop_column("jobs", "sweep_place")
    op.drop_column("jobs", "sweep_id")
    op.drop_table("sweeps")

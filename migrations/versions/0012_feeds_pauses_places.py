"""feeds of tenants, pauses, places in line, webhooks of one job."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

IN_LINE = "status = 'queued' AND not_before IS NULL AND waiting_since IS NULL"
FEED = "position IS NOT NULL"
Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "feeds",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_feeds")),
    )
    op.add_column("events", sa.Column("position", sa.BigInteger(), nullable=True))
    _index("ix_events_feed", "events", ["tenant_id", "position"], FEED)
    _index(
        "ix_events_feed_status", "events", ["tenant_id", "position"], f"{FEED} AND type = 'status'"
    )
    op.add_column("jobs", sa.Column("paused_at", Time, nullable=True))
    op.add_column("jobs", sa.Column("line_at", Time, nullable=True))
    # no request could name a priority before: all are alike
    op.execute("UPDATE jobs SET line_at = created_at WHERE status IN ('queued', 'running')")
    op.drop_index("ix_jobs_claim", "jobs")
    columns = ["queue", "line_at", "id", "device", "gpus", "tenant_id"]
    _index("ix_jobs_claim", "jobs", columns, f"{IN_LINE} AND paused_at IS NULL")
    op.add_column("jobs", sa.Column("webhook_id", sa.String(), nullable=True))
    op.add_column("webhooks", sa.Column("job_id", sa.String(), nullable=True))
    op.drop_index("ix_webhooks_tenant_id", "webhooks")
    _index("ix_webhooks_tenant_id", "webhooks", ["tenant_id"], "job_id IS NULL")
    _index("ix_webhooks_job_id", "webhooks", ["job_id"], "job_id IS NOT NULL")


def _index(name: str, table: str, columns: list, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for index in ("ix_webhooks_job_id", "ix_webhooks_tenant_id"):
        op.drop_index(index, "webhooks")
    op.execute("DELETE FROM webhooks WHERE job_id IS NOT NULL")
    op.drop_column("webhooks", "job_id")
    op.create_index("ix_webhooks_tenant_id", "webhooks", ["tenant_id"])
    op.drop_index("ix_jobs_claim", "jobs")
    columns = ["queue", sa.text("priority DESC"), "id", "device", "gpus", "tenant_id"]
    _index("ix_jobs_claim", "jobs", columns, IN_LINE)
    for column in ("webhook_id", "line_at", "paused_at"):
        op.drop_column("jobs", column)
    for index in ("ix_events_feed_status", "ix_events_feed"):
        op.drop_index(index, "events")
    op.drop_column("events", "position")
    op.drop_table("feeds")

"""an index of parts of names, where PostgreSQL has the extension and the role may use it."""

import structlog
from alembic import op
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

INDEX = (
    "CREATE INDEX IF NOT EXISTS ix_jobs_search ON jobs USING gin (name gin_trgm_ops) "
    "WHERE deleted_at IS NULL"
)

log = structlog.get_logger(__name__)


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
            connection.execute(text(INDEX))
            # a text that few names hold must not look like one that many do
            connection.execute(text("ALTER TABLE jobs ALTER COLUMN name SET STATISTICS 1000"))
    except DBAPIError as error:  # `sextant doctor` says what to do; searches work without it
        log.warning("no_index_of_names", reason=str(error.orig).strip()[:200])


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_jobs_search")

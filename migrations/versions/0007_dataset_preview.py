"""a small picture of a dataset."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("preview", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "preview")

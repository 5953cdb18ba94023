"""tenants that can be disabled, one for each name."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # no batch: it would make the table anew, to which others refer
    op.add_column("tenants", sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("uq_tenants_name", "tenants", ["name"], unique=True)


def downgrade() -> None:
    op.drop_index("uq_tenants_name", "tenants")
    op.drop_column("tenants", "disabled_at")

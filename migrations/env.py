"""Alembic environment; the connection comes from ``app.db.migrate`` or the settings."""

from alembic import context

from app.db.session import get_engine
from app.db.tables import Base


def _migrate(connection) -> None:  # noqa: ANN001
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    with get_engine().connect() as connection:
        _migrate(connection)
        connection.commit()

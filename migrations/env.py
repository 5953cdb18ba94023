"""Alembic environment; the connection comes from ``app.db.migrate`` or the settings."""

from alembic import context

from app.db.session import get_engine
from app.db.tables import Base


def _comparable(_object, name, _kind, _reflected, _other) -> bool:  # noqa: ANN001
    """Which indexes are compared with the tables.

    SQLite reports ``priority DESC`` of one back as ``priority``; another is there only where its
    extension is (0014).
    """
    if name == "ix_jobs_search":
        return False
    return name != "ix_jobs_claim" or context.get_context().dialect.name != "sqlite"


def _migrate(connection) -> None:  # noqa: ANN001
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=_comparable,
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

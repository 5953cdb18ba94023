"""Schema migrations (Alembic), the same on SQLite and PostgreSQL."""

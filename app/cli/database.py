"""Commands of the operator: they work in the database itself, where no key can reach."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.extras import require

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def open_database() -> None:
    """Bring the service's database up to date; needs no running API."""
    require("server", "alembic", "sqlalchemy")
    from app.db import migrate
    from app.db.session import get_engine
    from app.private import keep_private

    keep_private()
    migrate.upgrade(get_engine())


@contextmanager
def operator_session() -> Generator["Session"]:
    """A write session in the service's database, brought up to date.

    Raises:
        ValueError: for what a service refuses.
    """
    open_database()
    from app.db.session import make_session
    from app.errors import ServiceError
    from app.services.keys import ensure_tenant

    try:
        with make_session() as session:
            ensure_tenant(session)
            yield session
    except ServiceError as error:
        raise ValueError(error.detail) from None

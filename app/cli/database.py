"""Commands of the operator: they work in the database itself, where no key can reach."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.extras import require

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@contextmanager
def operator_session() -> Generator["Session"]:
    """A write session in the service's database, brought up to date; needs no running API.

    Raises:
        ValueError: for what a service refuses.
    """
    require("server", "alembic", "sqlalchemy")
    from app.db import migrate
    from app.db.session import get_engine, make_session
    from app.errors import ServiceError
    from app.private import keep_private
    from app.services.keys import ensure_tenant

    keep_private()
    migrate.upgrade(get_engine())
    try:
        with make_session() as session:
            ensure_tenant(session)
            yield session
    except ServiceError as error:
        raise ValueError(error.detail) from None

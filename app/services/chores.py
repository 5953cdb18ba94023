"""Work that one of all workers does now and then: who has it, and when it was done last."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Base, Chore
from app.settings import get_settings

INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def due(session: Session, name: str, every_s: float) -> bool:
    """Whether a chore was done at least ``every_s`` ago and no other worker has it."""
    known = session.get(Chore, name) is not None
    query = select(Chore.name).where(Chore.name == name, *_due(session, every_s))
    return not known or session.scalar(query) is not None


def take(session: Session, name: str, every_s: float, owner: str) -> bool:
    """Take a chore if it is due; of several workers one gets it."""
    insert = INSERT[session.get_bind().dialect.name](Base.metadata.tables[Chore.__tablename__])
    session.execute(insert.values(name=name).on_conflict_do_nothing())
    taken = session.scalar(
        update(Chore)
        .where(Chore.name == name, *_due(session, every_s))
        .values(lease_owner=owner, lease_expires_at=_expiry(session))
        .returning(Chore.name)
    )
    return taken is not None


def _due(session: Session, every_s: float) -> tuple[ColumnElement[bool], ...]:
    now = database_now(session)
    return (
        or_(Chore.done_at.is_(None), Chore.done_at <= now - timedelta(seconds=every_s)),
        or_(Chore.lease_expires_at.is_(None), Chore.lease_expires_at < now),
    )


def renew(session: Session, name: str, owner: str) -> bool:
    """Keep a chore for the time of a lease; False when another worker has it."""
    kept = update(Chore).where(Chore.name == name, Chore.lease_owner == owner)
    renewed = kept.values(lease_expires_at=_expiry(session)).returning(Chore.name)
    return session.scalar(renewed) is not None


def leave(session: Session, name: str, owner: str, *, done: bool) -> None:
    """Give a chore back; ``done``: the next one is due a whole period later."""
    values: dict[str, Any] = {"lease_owner": None, "lease_expires_at": None}
    if done:
        values["done_at"] = database_now(session)
    session.execute(
        update(Chore).where(Chore.name == name, Chore.lease_owner == owner).values(values)
    )


def _expiry(session: Session) -> Any:
    return database_now(session) + timedelta(seconds=get_settings().lease_s)


def position(session: Session, name: str) -> dict[str, Any] | None:
    """How far a chore had come when :func:`move` was called last."""
    return session.scalar(select(Chore.position).where(Chore.name == name))


def move(session: Session, name: str, position: dict[str, Any]) -> None:
    """Remember how far a chore has come, for whoever goes on with it."""
    insert = INSERT[session.get_bind().dialect.name](Base.metadata.tables[Chore.__tablename__])
    values = {"position": position}
    session.execute(
        insert.values(name=name, **values).on_conflict_do_update(
            index_elements=[Chore.name], set_=values
        )
    )

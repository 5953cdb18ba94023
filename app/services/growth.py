"""How large the state is, noted every hour, and how fast it grows."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from app.db.session import database_now, make_session
from app.db.tables import StateSize
from app.services import counters

WINDOW = timedelta(days=7)
KEPT = timedelta(days=90)


class StateGrowth(NamedTuple):
    """The newest sizes, and what they grow by in a day; None until two were noted.

    Attributes:
        database_bytes: of the tables and their indexes.
        artifact_bytes: of all files of jobs.
        jobs: that are not deleted.
        days: between the two that are compared, at most seven.
    """

    database_bytes: int
    artifact_bytes: int
    jobs: int
    days: float
    bytes_a_day: float | None
    jobs_a_day: float | None


def note() -> Iterator[None]:
    """Note the sizes of now; a step of its own."""
    with make_session() as session:
        now = database_now(session)
        size = StateSize(
            at=now,
            database_bytes=_database_bytes(session),
            artifact_bytes=sum(counters.read(session, counters.ARTIFACT_BYTES).values()),
            jobs=sum(counters.read(session, counters.JOBS).values()),
        )
        session.add(size)
        session.execute(delete(StateSize).where(StateSize.at < now - KEPT))
    yield


def _database_bytes(session: Session) -> int:
    bind = session.get_bind()
    if bind.dialect.name == "postgresql":
        return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    path = Path(str(bind.engine.url.database))
    return sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())


def read(session: Session) -> StateGrowth | None:
    """Sizes and growth over the last seven days; None before the first note."""
    newest = session.scalar(select(StateSize).order_by(StateSize.at.desc()).limit(1))
    if newest is None:
        return None
    oldest = session.scalars(
        select(StateSize).where(StateSize.at >= newest.at - WINDOW).order_by(StateSize.at).limit(1)
    ).one()
    days = (newest.at - oldest.at) / timedelta(days=1)
    more = _bytes(newest) - _bytes(oldest)
    return StateGrowth(
        database_bytes=newest.database_bytes,
        artifact_bytes=newest.artifact_bytes,
        jobs=newest.jobs,
        days=days,
        bytes_a_day=more / days if days else None,
        jobs_a_day=(newest.jobs - oldest.jobs) / days if days else None,
    )


def _bytes(size: StateSize) -> int:
    return size.database_bytes + size.artifact_bytes

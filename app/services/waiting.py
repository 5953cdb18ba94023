"""How many jobs wait in each queue, and which of the queues somebody serves."""

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Job, JobStatus
from app.services import queues


class QueueState(NamedTuple):
    """A queue, of all tenants: jobs that wait, and whether a live worker serves it."""

    name: str
    waiting: int
    served: bool


def states(session: Session) -> list[QueueState]:
    """Every queue that a job may name or waits in, by name."""
    query = select(Job.queue, func.count()).where(Job.status == JobStatus.QUEUED)
    depths = dict(session.execute(query.group_by(Job.queue)).all())
    served = queues.served(session)
    names = sorted(queues.allowed(session) | depths.keys())
    return [QueueState(name, depths.get(name, 0), name in served) for name in names]

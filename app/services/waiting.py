"""How many jobs wait in each queue, and which of the queues somebody serves."""

from typing import NamedTuple

from sqlalchemy.orm import Session

from app.services import counters, queues


class QueueState(NamedTuple):
    """A queue, of all tenants: jobs that wait, and whether a live worker serves it."""

    name: str
    waiting: int
    served: bool


def states(session: Session) -> list[QueueState]:
    """Every queue that a job may name or waits in, by name."""
    depths = counters.queued(session)
    served = queues.served(session)
    names = sorted(queues.named() | served | depths.keys())
    return [QueueState(name, depths.get(name, 0), name in served) for name in names]

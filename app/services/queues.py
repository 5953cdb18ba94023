"""Which queues a job may wait in: no name that nobody would ever serve."""

from sqlalchemy.orm import Session

from app.errors import invalid
from app.services import workers
from app.services.validation_errors import did_you_mean
from app.settings import get_settings
from models.catalog import kinds

GPU_QUEUE = "gpu"


def served(session: Session) -> set[str]:
    """Queues that a live worker serves."""
    return {name for worker in workers.live(session) for name in worker.queues}


def named() -> set[str]:
    """Queues of the kinds, and those that the operator named."""
    own = {spec.queue for spec in kinds().values()}
    return {GPU_QUEUE, *own, *get_settings().queue_names}


def check(session: Session, name: str) -> None:
    """Refuse a queue that nobody named.

    Raises:
        InvalidError: with the queues that there are.
    """
    if name in named():  # as almost always: the workers need not be read
        return
    known = named() | served(session)
    if name not in known:
        hint = did_you_mean(name, sorted(known))
        detail = (
            f"no worker serves the queue {name!r}{hint}; there are {', '.join(sorted(known))}; "
            "the operator may name more in SEXTANT_QUEUES"
        )
        raise invalid("/queue", detail, "queue")

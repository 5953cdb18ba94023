"""The next piece of work of a worker: a dataset check, or a run from its claim to its end.

Checks are short and have a slot of their own, so that an import does not wait for a training.
"""

import structlog

from app.db.session import make_session
from app.db.tables import Job, Run
from app.services import datasets, lifecycle
from workers.dataset_check import check
from workers.execute import execute
from workers.host import Grant, this_host


def check_next() -> bool:
    """Do one dataset check; False when none waits, or this worker does one already."""
    host = this_host()
    with host.check_slot() as free:
        if not free:
            return False
        with make_session() as session:
            dataset = datasets.claim_check(session, host.id)
        if dataset is None:
            return False
        check(dataset, host.id)
        return True


def run_next(queue: str) -> bool:
    """Do one run; False when there is none for this worker."""
    host = this_host()
    with host.slot() as free:
        if not free:
            return False
        claimed = _claim(queue)
        if claimed is None:
            return False
        run, grant = claimed
        structlog.contextvars.bind_contextvars(job_id=run.job_id, run_number=run.number)
        try:
            execute(run, grant)
        finally:
            host.give_back(grant)
            structlog.contextvars.clear_contextvars()
        return True


def _claim(queue: str) -> tuple[Run, Grant] | None:
    """Claim a job together with the GPUs it needs: what is free must not change in between."""
    host = this_host()
    with host.claiming:
        with make_session() as session:
            run = lifecycle.claim(session, host.info(), queue)
            if run is None:
                return None
            job = session.get_one(Job, run.job_id)
        return run, host.take(job.device, job.gpus, job.resources.get("cpus"))

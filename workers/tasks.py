"""The one task, ``claim``, and the end of the worker."""

from typing import Any

from celery.signals import worker_shutdown

from workers.celery_app import celery_app
from workers.dispatcher import start_dispatcher
from workers.work import check_next, run_next


@celery_app.task(name="claim")
def claim(queue: str) -> None:
    """Check a dataset, if one waits; then run the best waiting job of a queue."""
    check_next()
    run_next(queue)


@worker_shutdown.connect
def _shut_down(**_: Any) -> None:
    start_dispatcher().join()

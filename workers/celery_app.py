"""Celery as the carrier of wake-ups: threads, late acknowledgement, nothing hoarded, JSON only."""

from typing import Any

from celery import Celery
from celery.signals import worker_shutting_down

from app.queue import make_celery
from app.settings import get_settings
from workers.host import this_host


def _configure(app: Celery) -> Celery:
    app.conf.update(
        worker_pool="threads",
        worker_concurrency=get_settings().worker_slots,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        task_reject_on_worker_lost=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
    )
    # the sender's short connect limit does not suit a blocking read
    app.conf.broker_transport_options = {
        "visibility_timeout": 3600,
        "socket_timeout": 30,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
    return app


celery_app = _configure(make_celery())


@worker_shutting_down.connect
def _shutting_down(**_: Any) -> None:
    host = this_host()
    host.draining.set()
    host.changed.set()

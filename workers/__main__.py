"""``python -m workers``: a Celery worker with fixed flags; without a broker a polling loop."""

import signal
import sys

import structlog

from app import queue
from app.db import migrate
from app.db.session import get_engine
from app.private import keep_private
from app.settings import get_settings
from workers import containment
from workers.host import this_host
from workers.leaving import start_leaver


def main() -> int:
    """Serve until SIGTERM; running children are stopped with a checkpoint first."""
    from app import telemetry, tracing

    keep_private()
    telemetry.configure(get_settings().log_level)
    tracing.configure("sextant-worker")
    migrate.upgrade(get_engine())
    containment.compile_methods()
    start_leaver()
    if get_settings().broker_url:
        _serve_broker()
    else:
        _serve_database()
    return 0


def _serve_broker() -> None:
    from workers import tasks  # registers the task
    from workers.cleaner import start_cleaners
    from workers.dispatcher import start_dispatcher
    from workers.serving import start_servers

    host = this_host()
    start_cleaners()
    start_servers()
    start_dispatcher()  # before the broker answers: it may be away
    tasks.celery_app.worker_main(
        [
            "--quiet",
            "worker",
            f"--hostname={host.id}",
            f"--queues={','.join(map(queue.broker_name, host.queues))}",
            "--without-gossip",
            "--without-mingle",
            f"--loglevel={get_settings().log_level}",
        ]
    )


def _serve_database() -> None:
    from workers.cleaner import start_cleaners
    from workers.dispatcher import start_dispatcher

    host = this_host()
    start_cleaners()

    def drain(*_: object) -> None:
        host.draining.set()
        host.changed.set()

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGINT, drain)
    structlog.get_logger(__name__).info("polling_database", queues=host.queues)
    start_dispatcher().join()


if __name__ == "__main__":
    sys.exit(main())

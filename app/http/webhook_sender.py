"""A thread of every API process that sends what is due in the outbox of webhooks.

The API does it, not the workers: those have neither a way out nor the secret of the server.
"""

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import make_session
from app.db.tables import WebhookDelivery
from app.services import outbox, webhooks

EVERY_S = 2.0
STOP_S = 1.0
AT_ONCE = 8  # webhooks that are called at the same time
SENT_WITHIN_S = outbox.TAKEN_S / 2  # then others may take what is left

log = structlog.get_logger(__name__)


class Sender(threading.Thread):
    """Looks into the outbox every two seconds until it is stopped."""

    def __init__(self) -> None:
        super().__init__(name="webhook-sender", daemon=True)
        self._ended = threading.Event()

    def run(self) -> None:
        """Send until the end; the thread outlives whatever happens in it."""
        while not self._ended.wait(EVERY_S):
            try:
                while not self._ended.is_set() and send_due():
                    pass
            except SQLAlchemyError as error:
                log.warning("database_away", error=str(error)[:200])
            except Exception:
                log.exception("webhook_sender_failed")

    def stop(self) -> None:
        """Take no more; what is being sent is not waited for longer than a moment."""
        self._ended.set()
        self.join(STOP_S)


def send_due() -> int:
    """Send the messages that are due, each webhook's in their order; how many there were."""
    with make_session(write=False) as session:
        if not outbox.is_due(session):
            return 0
    with make_session() as session:
        taken = outbox.take(session)
    by_webhook: dict[str, list[WebhookDelivery]] = defaultdict(list)
    for delivery in taken:
        by_webhook[delivery.webhook_id].append(delivery)
    with ThreadPoolExecutor(AT_ONCE, "webhook") as pool:
        list(pool.map(_send_all, by_webhook.values()))
    return len(taken)


def _send_all(deliveries: list[WebhookDelivery]) -> None:
    """After a failure the rest is left to be taken again: it would most likely fail too."""
    until = time.monotonic() + SENT_WITHIN_S
    for delivery in deliveries:
        if time.monotonic() > until:
            return
        attempt = webhooks.send(delivery)
        with make_session() as session:
            if attempt is None:
                outbox.drop(session, delivery)
            else:
                outbox.close(session, delivery, attempt)
        if attempt is not None and not attempt.delivered:
            return

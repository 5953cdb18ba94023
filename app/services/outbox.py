"""Messages to webhooks: noted with the event that they tell of, then taken and tried until sent.

A message is taken by a compare-and-set of the time of its next try, which is moved beyond the
longest try: of several API processes one sends it, and one that is killed while it sends leaves it
to be sent again. A receiver may therefore see a message twice, under the same id.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Select, delete, select, union_all, update
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Webhook, WebhookDelivery, new_id

TYPES = {  # by what happened; anything else is not told
    "job.running": "job.started",
    "job.paused": "job.paused",
    "job.resumed": "job.resumed",
    "job.progress": "job.progress",
    "job.succeeded": "job.succeeded",
    "job.failed": "job.failed",
    "job.cancelled": "job.cancelled",
}
RETRIES_S = (10, 60, 300, 1800, 7200, 21_600, 86_400)
TAKEN_S = 60  # longer than any try
GIVE_UP_AFTER = timedelta(days=5)
KEPT = timedelta(days=30)
TAKEN_AT_ONCE = 50


class Attempt(NamedTuple):
    """How a try ended: the status of the answer, or why there was none."""

    status_code: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        """Whether the receiver took the message."""
        return self.error is None


def note(
    session: Session, tenant_id: str, job_id: str, happened: Iterable[tuple[int, str]]
) -> None:
    """Put messages to the webhooks of the tenant and of the job into the outbox.

    Args:
        session: of the transaction that writes the events.
        tenant_id: whose.
        job_id: of the job.
        happened: numbers of the events, each with what it says.
    """
    messages = [(seq, TYPES[kind]) for seq, kind in happened if kind in TYPES]
    if not messages:
        return
    of_all = select(Webhook.id).where(Webhook.tenant_id == tenant_id, Webhook.job_id.is_(None))
    of_this = select(Webhook.id).where(Webhook.job_id == job_id)
    listed = Webhook.id.in_(union_all(of_all, of_this))  # each from its index
    webhooks = session.scalars(select(Webhook).where(listed, Webhook.disabled_at.is_(None))).all()
    now = database_now(session) if webhooks else None
    for webhook in webhooks:
        session.add_all(
            WebhookDelivery(
                id=new_id("msg"),
                webhook_id=webhook.id,
                tenant_id=tenant_id,
                job_id=job_id,
                seq=seq,
                type=kind,
                next_try_at=now,
            )
            for seq, kind in messages
            if webhook.progress or kind != "job.progress"
        )


def is_due(session: Session) -> bool:
    """Whether a message is to be sent now."""
    return bool(session.scalar(select(_due(session).exists())))


def _due(session: Session) -> Select[str, datetime | None]:
    return (
        select(WebhookDelivery.id, WebhookDelivery.next_try_at)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.next_try_at <= database_now(session), Webhook.disabled_at.is_(None))
    )


def take(session: Session) -> list[WebhookDelivery]:
    """Messages that are due, now this caller's alone, the oldest first."""
    now = database_now(session)
    oldest = _due(session).order_by(WebhookDelivery.next_try_at, WebhookDelivery.id)
    due = session.execute(oldest.limit(TAKEN_AT_ONCE)).all()
    taken = [
        session.scalar(
            update(WebhookDelivery)
            .where(WebhookDelivery.id == row.id, WebhookDelivery.next_try_at == row.next_try_at)
            .values(next_try_at=now + timedelta(seconds=TAKEN_S))
            .returning(WebhookDelivery)
        )
        for row in due
    ]
    return [row for row in taken if row is not None]


def close(session: Session, delivery: WebhookDelivery, attempt: Attempt) -> None:
    """Write down how a try ended, and when the next one is; progress is told only once."""
    now = database_now(session)
    row = session.get(WebhookDelivery, delivery.id, with_for_update=True, populate_existing=True)
    if row is None or row.delivered_at is not None:
        return
    row.tries += 1
    row.status_code, row.error = attempt
    row.delivered_at = now if attempt.delivered else None
    again = not attempt.delivered and row.type != "job.progress" and row.tries <= len(RETRIES_S)
    row.next_try_at = now + timedelta(seconds=RETRIES_S[row.tries - 1]) if again else None
    judge(session, row.webhook_id, delivered=attempt.delivered)


def drop(session: Session, delivery: WebhookDelivery) -> None:
    """Give up a message that tells of what is gone."""
    row = session.get(WebhookDelivery, delivery.id, populate_existing=True)
    if row is not None:
        row.next_try_at, row.error = None, "what it tells of is deleted"


def judge(session: Session, webhook_id: str, *, delivered: bool) -> None:
    """Note a success or failure of a webhook; one that only fails for five days is given up."""
    webhook = session.get(Webhook, webhook_id, with_for_update=True, populate_existing=True)
    if webhook is None:
        return
    now = database_now(session)
    if delivered:
        webhook.failing_since = webhook.disabled_at = None
    elif webhook.failing_since is None:
        webhook.failing_since = now
    elif now - webhook.failing_since > GIVE_UP_AFTER:
        webhook.disabled_at = webhook.disabled_at or now


def forget_old(session: Session) -> None:
    """Remove messages of more than 30 days ago."""
    before = database_now(session) - KEPT
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.created_at < before))

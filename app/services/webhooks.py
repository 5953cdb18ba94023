"""Webhooks of a tenant: made, listed, tested, deleted; what their messages say."""

import base64
import hashlib
import hmac
import json
import re
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import calling
from app.db.session import database_now, make_session
from app.db.tables import Event, Job, Webhook, WebhookDelivery, new_id
from app.errors import ConflictError, NotFoundError, invalid
from app.schemas.webhooks import DeliveryRead
from app.services import outbox, paging
from app.services.outbox import Attempt
from app.services.pepper import pepper
from app.settings import get_settings

HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
HOST_CHARS = 253
MAX_WEBHOOKS = 20  # of a tenant; each costs a row an event


def create(session: Session, tenant_id: str, url: str, *, progress: bool) -> tuple[Webhook, str]:
    """Make a webhook.

    Returns:
        The row, and the secret with which its messages are signed.

    Raises:
        InvalidError: for an address that may not be called.
        ConflictError: if the tenant has as many as it may.
    """
    check_url(url)
    mine = (Webhook.tenant_id == tenant_id, Webhook.job_id.is_(None))
    count = len(session.scalars(select(Webhook.id).where(*mine)).all())
    if count >= MAX_WEBHOOKS:
        raise ConflictError(f"there are {count} webhooks already; delete one first")
    webhook = Webhook(
        id=new_id("wh"),
        tenant_id=tenant_id,
        url=url,
        progress=progress,
        created_at=database_now(session),
    )
    session.add(webhook)
    session.flush()
    return webhook, secret_of(webhook)


def attach(session: Session, job: Job, url: str) -> None:
    """Let an address be told of one job; its messages are signed with the tenant's secret.

    Raises:
        InvalidError: for an address that may not be called.
    """
    check_url(url, "/webhook")
    webhook = Webhook(
        id=new_id("wh"),
        tenant_id=job.tenant_id,
        job_id=job.id,
        url=url,
        progress=False,
        created_at=database_now(session),
    )
    session.add(webhook)
    job.webhook_id = webhook.id


def url_of(session: Session, job: Job) -> str | None:
    """The address that is told of this job alone."""
    webhook = session.get(Webhook, job.webhook_id) if job.webhook_id else None
    return webhook.url if webhook else None


def check_url(url: str, pointer: str = "/url") -> None:
    """Refuse what could not be called; names are looked up at each call alone.

    Raises:
        InvalidError: saying what is wrong.
    """
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise invalid(pointer, f"no address: {error}") from error
    if not host or parts.username is not None or parts.fragment:
        raise invalid(pointer, "give https://host/path, without user and fragment")
    if ":" not in host and (not HOST.fullmatch(host) or len(host) > HOST_CHARS):
        text = f"{host[:HOST_CHARS]!r} is no name of a host: letters, digits, '-' and dots"
        raise invalid(pointer, text)
    if get_settings().webhook_private:
        return
    if parts.scheme != "https":
        raise invalid(pointer, "give an address that begins with https://")
    if (refusal := calling.refused_literal(host)) is not None:
        raise invalid(pointer, refusal)


def secret_of(webhook: Webhook) -> str:
    """The secret of a webhook; those of single jobs share that of their tenant."""
    return jobs_secret(webhook.tenant_id) if webhook.job_id else _secret(webhook.id)


def jobs_secret(tenant_id: str) -> str:
    """The secret of all addresses that are told of single jobs of a tenant."""
    return _secret(f"jobs of {tenant_id}")


def _secret(name: str) -> str:
    """Derived from the server's own, so that a copy of the database signs nothing."""
    key = hmac.new(pepper(), f"webhook {name}".encode(), hashlib.sha256).digest()
    return f"whsec_{base64.b64encode(key).decode()}"


def get(session: Session, tenant_id: str, webhook_id: str) -> Webhook:
    """The webhook of this tenant.

    Raises:
        NotFoundError: if there is none, or it is another tenant's.
    """
    webhook = session.get(Webhook, webhook_id)
    if webhook is None or webhook.tenant_id != tenant_id:
        raise NotFoundError(f"no webhook {webhook_id}")
    return webhook


def listing(session: Session, tenant_id: str) -> list[Webhook]:
    """All webhooks of a tenant but those of single jobs, newest first."""
    mine = (Webhook.tenant_id == tenant_id, Webhook.job_id.is_(None))
    return [*session.scalars(select(Webhook).where(*mine).order_by(Webhook.id.desc()))]


def delete(session: Session, tenant_id: str, webhook_id: str) -> None:
    """Delete a webhook; what was not sent yet is dropped."""
    session.delete(get(session, tenant_id, webhook_id))


# -- messages --------------------------------------------------------------------------------


def deliveries(
    session: Session, tenant_id: str, webhook_id: str, limit: int, cursor: str | None
) -> tuple[list[DeliveryRead], str | None]:
    """One page of the messages to a webhook, newest first, and the cursor of the next."""
    webhook = get(session, tenant_id, webhook_id)
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    filters = {"webhook": webhook.id}
    rows, following = paging.fetch(
        session, query, WebhookDelivery.id, limit=limit, cursor=cursor, filters=filters
    )
    return [read(row) for row in rows], following


def read(row: WebhookDelivery) -> DeliveryRead:
    """A message as it is answered."""
    names = DeliveryRead.model_fields.keys() - {"job"}
    return DeliveryRead(job=row.job_id, **{name: getattr(row, name) for name in names})


def resend(session: Session, tenant_id: str, webhook_id: str, message_id: str) -> WebhookDelivery:
    """Send a message once more, with all its tries, at the next look into the outbox.

    Raises:
        NotFoundError: if the webhook has no such message.
        ConflictError: if the webhook is disabled.
    """
    webhook = get(session, tenant_id, webhook_id)
    row = session.get(WebhookDelivery, message_id, with_for_update=True)
    if row is None or row.webhook_id != webhook.id:
        raise NotFoundError(f"no message {message_id} to this webhook")
    if webhook.disabled_at is not None:
        raise ConflictError("the webhook is disabled; a test that arrives enables it again")
    row.tries, row.delivered_at = 0, None
    row.next_try_at = database_now(session)
    return row


def test(tenant_id: str, webhook_id: str) -> Attempt:
    """Send a message of the type ``webhook.test`` now; one that arrives enables the webhook."""
    with make_session(write=False) as session:
        webhook, now = get(session, tenant_id, webhook_id), database_now(session)
    body = _body("webhook.test", now, {"webhook": webhook_id})
    attempt = calling.call(webhook.url, secret_of(webhook), new_id("msg"), body)
    with make_session() as session:
        outbox.judge(session, webhook_id, delivered=attempt.delivered)
    return attempt


def send(delivery: WebhookDelivery) -> Attempt | None:
    """Try a message that was taken; None if it tells of something that is gone."""
    with make_session(write=False) as session:
        webhook = session.get(Webhook, delivery.webhook_id)
        event = session.get(Event, (delivery.job_id, delivery.seq))
        job = session.get(Job, delivery.job_id)
        if webhook is None or event is None or job is None or job.deleted_at is not None:
            return None
        body = _body(delivery.type, event.at, _data(job, event))
    return calling.call(webhook.url, secret_of(webhook), delivery.id, body)


def _data(job: Job, event: Event) -> dict[str, Any]:
    """What a message says of a job: enough to know it again, and the event."""
    about = {"id": job.id, "kind": job.kind, "name": job.name, "metadata": job.labels}
    return {"job": about, "seq": event.seq, "run_number": event.run_number, "event": event.data}


def _body(kind: str, at: datetime, data: dict[str, Any]) -> str:
    message = {"type": kind, "timestamp": at.isoformat(), "data": data}
    return json.dumps(message, separators=(",", ":"))

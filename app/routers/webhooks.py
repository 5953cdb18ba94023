"""Webhooks of the caller's tenant."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app.http.deps import Admin, DurableSession, Idempotent, ReadSession, WriteSession
from app.http.problems import problems
from app.http.strict import StrictRoute
from app.schemas.page import Page
from app.schemas.webhooks import (
    DeliveryFilters,
    DeliveryRead,
    WebhookCreate,
    WebhookCreated,
    WebhookRead,
    WebhookSecret,
    WebhookTestRead,
)
from app.services import webhooks
from app.services.idempotency import Answer

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=StrictRoute)

WebhookId = Annotated[str, Path(pattern=r"^wh_[0-9a-f]{32}$", description="Id of a webhook")]
MessageId = Annotated[str, Path(pattern=r"^msg_[0-9a-f]{32}$", description="Id of a message")]


@router.post(
    "/webhooks",
    status_code=201,
    response_model=WebhookCreated,
    responses=problems(400, 409, 413, 415),
)
def create_webhook(
    body: WebhookCreate, principal: Admin, session: DurableSession, idempotent: Idempotent
) -> Response:
    """Make a webhook: signed messages (Standard Webhooks) about starts and ends of all jobs."""

    def work() -> Answer:
        made, secret = webhooks.create(
            session, principal.tenant_id, body.url, progress=body.progress
        )
        fields = WebhookRead.model_validate(made).model_dump(mode="json")
        kept = {**fields, "secret": None}
        return Answer(201, {**fields, "secret": secret}, resource_id=made.id, kept=kept)

    return idempotent(work)


@router.get("/webhooks")
def list_webhooks(principal: Admin, session: ReadSession) -> Page[WebhookRead]:
    """List webhooks, newest first, without their secrets."""
    rows = webhooks.listing(session, principal.tenant_id)
    data = [WebhookRead.model_validate(row) for row in rows]
    return Page(data=data, has_more=False, next_cursor=None)


@router.get("/webhook-secret")
def read_webhook_secret(principal: Admin) -> WebhookSecret:
    """Read the secret that signs the messages to the field `webhook` of jobs."""
    return WebhookSecret(secret=webhooks.jobs_secret(principal.tenant_id))


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=problems(404))
def delete_webhook(webhook_id: WebhookId, principal: Admin, session: WriteSession) -> None:
    """Delete a webhook; what was not sent yet is dropped."""
    webhooks.delete(session, principal.tenant_id, webhook_id)


@router.post("/webhooks/{webhook_id}/test", responses=problems(404))
def test_webhook(webhook_id: WebhookId, principal: Admin) -> WebhookTestRead:
    """Send a message of the type `webhook.test` now, and answer what came of it."""
    attempt = webhooks.test(principal.tenant_id, webhook_id)
    return WebhookTestRead(delivered=attempt.delivered, **attempt._asdict())


@router.get("/webhooks/{webhook_id}/deliveries", responses=problems(404))
def list_deliveries(
    webhook_id: WebhookId,
    filters: Annotated[DeliveryFilters, Query()],
    principal: Admin,
    session: ReadSession,
) -> Page[DeliveryRead]:
    """List the messages of the last 30 days, newest first."""
    data, following = webhooks.deliveries(
        session, principal.tenant_id, webhook_id, filters.limit, filters.cursor
    )
    return Page(data=data, has_more=following is not None, next_cursor=following)


@router.post(
    "/webhooks/{webhook_id}/deliveries/{message_id}/resend",
    status_code=202,
    responses=problems(404, 409),
)
def resend_delivery(
    webhook_id: WebhookId, message_id: MessageId, principal: Admin, session: WriteSession
) -> DeliveryRead:
    """Send a message once more, under the same id."""
    row = webhooks.resend(session, principal.tenant_id, webhook_id, message_id)
    return webhooks.read(row)

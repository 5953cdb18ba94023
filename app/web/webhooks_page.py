"""Webhooks of the tenant and what became of their messages, for keys with the scope admin."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app.http.deps import ReadSession, WriteSession
from app.routers.webhooks import WebhookId
from app.services import webhooks
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.visitor import Visitor, require

ROWS = 20

router = APIRouter(prefix="/webhooks", route_class=PageRoute, include_in_schema=False)
Admin = Annotated[Visitor, Depends(require("admin"))]


@router.get("")
def webhooks_page(request: Request, visitor: Admin, session: ReadSession) -> Response:
    """Show the webhooks with their newest messages; their secrets are shown by the API alone."""
    listed = [
        (row, webhooks.deliveries(session, visitor.tenant_id, row.id, ROWS, None)[0])
        for row in webhooks.listing(session, visitor.tenant_id)
    ]
    return render(request, "webhooks.html", webhooks=listed)


@router.post("/{webhook_id}/test")
def test(webhook_id: WebhookId, visitor: Admin) -> Response:
    """Send a test; what came of it is shown with the webhook."""
    webhooks.test(visitor.tenant_id, webhook_id)
    return Response(status_code=204)


@router.post("/{webhook_id}/delete")
def delete(webhook_id: WebhookId, visitor: Admin, session: WriteSession) -> Response:
    """Delete a webhook."""
    webhooks.delete(session, visitor.tenant_id, webhook_id)
    return Response(status_code=204)

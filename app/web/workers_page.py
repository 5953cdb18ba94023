"""Workers and queues, for the keys of operators: they belong to no tenant."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app.http.deps import ReadSession
from app.services import waiting, workers
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.visitor import Visitor, require

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Operator = Annotated[Visitor, Depends(require("admin"))]


@router.get("/workers")
def workers_page(request: Request, _: Operator, session: ReadSession) -> Response:
    """Show the live workers, and what waits for them."""
    live = sorted(workers.live(session), key=lambda worker: (worker.host, worker.id))
    return render(
        request,
        "workers.html",
        workers=live,
        queues=waiting.states(session),
        now=datetime.now(UTC),
    )

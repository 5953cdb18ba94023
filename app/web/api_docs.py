"""Interactive documentation of the API, from files of ours: it needs no network."""

from fastapi import APIRouter, Request, Response

from app.web.page_route import PageRoute
from app.web.templates import render

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/docs")
async def api_docs(request: Request) -> Response:
    """Show every endpoint; open to all, as the OpenAPI document is."""
    return render(request, "api_docs.html")

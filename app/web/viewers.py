"""Viewers: a page that shows files of a job together, as the view that its method left says."""

from collections.abc import Sequence
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from app.db.tables import Artifact
from app.errors import NotFoundError
from app.http.deps import ReadSession
from app.routers.jobs import JobId
from app.services import artifacts, jobs
from app.web.page_route import PageRoute
from app.web.templates import render
from app.web.visitor import JobsReader

ROLE = "view"


class Viewer(NamedTuple):
    """A way to show files together; its template and script are ``view_NAME``.

    Attributes:
        invitation: words of the link on the job's page.
        title: of the viewer's page.
    """

    invitation: str
    title: str


VIEWERS = {
    "maps": Viewer("Look into the maps", "Maps over their images"),
    "rasters": Viewer("Look at the terrain", "Terrain and what lies on it"),
    "images": Viewer("Look at the images", "Images that a generator made"),
    "members": Viewer("Compare the members", "Members of the ensemble"),
}

router = APIRouter(prefix="/jobs/{job_id}/view", route_class=PageRoute, include_in_schema=False)


@router.get("")
def view_page(
    job_id: JobId, request: Request, visitor: JobsReader, session: ReadSession
) -> Response:
    """Show a job's files in their viewer; its script reads the view.

    Raises:
        NotFoundError: if the job has left no view that this page knows.
    """
    job = jobs.read(session, visitor.tenant_id, job_id)
    name = viewer_of(artifacts.listing(session, visitor.tenant_id, job_id, ROLE))
    if name is None:
        raise NotFoundError("this job has left nothing that a viewer of this page shows")
    return render(request, f"view_{name}.html", job=job, viewer=VIEWERS[name])


def viewer_of(rows: Sequence[Artifact]) -> str | None:
    """The name of the viewer that a job's files ask for; None where this page has none for them."""
    named = (row.labels.get("viewer") for row in rows if row.role == ROLE)
    return next((name for name in named if name in VIEWERS), None)

"""Health, readiness, Prometheus numbers, explanations of problems. Outside of ``/v1``."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from app.errors import NotFoundError
from app.http.auth import ADMIN, bearer, caller, demand
from app.http.downloads import TEXT
from app.http.problems import PROBLEMS, problems
from app.http.strict import StrictRoute
from app.local.address import INSTANCE_HEADER
from app.schemas.health import Health, ProblemRead, Ready
from app.services import gauges, health
from app.settings import get_settings

router = APIRouter(tags=["health"], route_class=StrictRoute)


async def metrics_allowed(request: Request) -> None:
    """Demand an admin key where the settings say so: the numbers are of all tenants."""
    if get_settings().auth_metrics:
        principal = await caller(request, await bearer(request))
        demand(principal, ADMIN)


@router.get("/healthz")
async def healthz() -> Health:
    """Answer while the process runs."""
    return Health(status="ok")


@router.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A part is missing"}},
)
def readyz() -> Response:
    """Report whether database, store and migration are ready, and the state of the other parts."""
    readiness = health.readiness()
    body = Ready(ready=readiness.ready, **readiness.parts).model_dump()
    whose = {INSTANCE_HEADER: get_settings().instance}
    return JSONResponse(body, 200 if readiness.ready else 503, headers=whose)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": TEXT}},
        **problems(401, 403, 503),
    },
    dependencies=[Depends(metrics_allowed)],
)
def prometheus() -> Response:
    """Numbers for Prometheus: of this process, and of the whole service out of SQL."""
    body = generate_latest(REGISTRY) + generate_latest(gauges.SQL)
    return Response(body, media_type=CONTENT_TYPE_LATEST)


@router.get("/problems/{code}", responses=problems(404, 422))
async def read_problem(code: Annotated[str, Path(max_length=64)]) -> ProblemRead:
    """Explain the code of a problem."""
    problem = PROBLEMS.get(code)
    if problem is None:
        raise NotFoundError(f"no problem {code!r}; there are {', '.join(PROBLEMS)}")
    return ProblemRead(
        code=code, status=problem.status, title=problem.title, explanation=problem.text
    )

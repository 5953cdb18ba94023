"""Sessions of routes: committed before the answer, rolled back with an error."""

import pytest
from fastapi import APIRouter, Response
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from app.db.session import make_session
from app.db.tables import Tenant
from app.errors import ConflictError
from app.http.deps import DurableSession, ReadSession, WriteSession
from app.http.strict import StrictRoute
from app.main import create_app


def tenants() -> list[str]:
    with make_session(write=False) as session:
        return sorted(session.scalars(select(Tenant.id).where(Tenant.id.in_(["w", "d", "f"]))))


class Looking(Response):
    """Notes what another session sees when the answer is sent."""

    seen: list[list[str]] = []

    async def __call__(self, scope, receive, send):
        self.seen.append(tenants())
        await super().__call__(scope, receive, send)


@pytest.fixture
def routes(settings):
    router = APIRouter(route_class=StrictRoute)

    @router.post("/write")
    def write(session: WriteSession) -> Response:
        session.add(Tenant(id="w", name="w"))
        return Looking()

    @router.post("/durable")
    def durable(session: DurableSession) -> Response:
        if session.get_bind().dialect.name == "sqlite":
            assert session.scalar(text("PRAGMA synchronous")) == 2
        session.add(Tenant(id="d", name="d"))
        return Looking()

    @router.post("/fail")
    def fail(session: WriteSession) -> None:
        session.add(Tenant(id="f", name="f"))
        session.flush()
        raise ConflictError("no")

    @router.get("/read")
    def read(session: ReadSession, id: str) -> bool:
        return session.get(Tenant, id) is not None

    app = create_app()
    app.include_router(router)
    with TestClient(app) as client:
        yield client


def test_committed_before_the_answer(routes):
    Looking.seen.clear()
    routes.post("/write")
    routes.post("/durable")
    assert Looking.seen == [["w"], ["d", "w"]]
    assert [routes.get(f"/read?id={name}").json() for name in "wdx"] == [True, True, False]


def test_rolled_back_with_an_error(routes):
    assert routes.post("/fail").status_code == 409
    assert tenants() == []


def test_a_failed_commit_is_no_success(routes):
    routes.post("/write")
    assert routes.post("/write").status_code == 500
    assert tenants() == ["w"]

"""Fixtures of the API: a client with an admin key, one without, small specs."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.db.session import make_session
from app.db.tables import Tenant
from app.main import create_app
from app.services import keys
from tests.smallest import smallest

KIND = "saliency.map"


@pytest.fixture
def admin_key(settings) -> str:
    """The key of a first start."""
    with make_session() as session:
        return str(keys.ensure_admin_key(session))


@pytest.fixture
def anonymous(settings) -> Iterator[TestClient]:
    """A client without a key; a defect of the service is an answer here, as it is for users."""
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(anonymous, admin_key) -> TestClient:
    """A client with an admin key."""
    anonymous.headers["Authorization"] = f"Bearer {admin_key}"
    return anonymous


@pytest.fixture
def spec() -> dict:
    """A small valid spec that needs no other job."""
    return smallest(KIND)


@pytest.fixture
def make_key(settings):
    """Make a key of some tenant and scopes; returns its secret form."""

    def make(*scopes: str, tenant_id: str = keys.DEFAULT_TENANT, **more) -> str:
        with make_session() as session:
            if session.get(Tenant, tenant_id) is None:
                session.add(Tenant(id=tenant_id, name=tenant_id))
                session.flush()
            return keys.create(session, tenant_id, "test", list(scopes), **more)[1]

    return make

"""The whole service as processes: API with keys, a worker, real methods, a real broker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sextant_client import Client
from tests.conftest import DATABASES, make_database
from tests.service import Service

# For what a method does: which database its job stands in makes no difference to it. The life
# cycle of a job is tested on both in tests/faults, and the lines of the README here.
ONE_DATABASE = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Live(Service):
    """A service whose API asks for a key."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        # seldom at work while it waits: the tests of methods run beside it to their end
        super().__init__(
            folder, database_url, broker_url, AUTH_DISABLED="false", WORKER_DISPATCH_S=5
        )
        command = [Path(sys.executable).with_name("sextant"), "keys", "create", "--first"]
        made = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        self.key = made.stdout.split()[-1]
        self.client.headers["Authorization"] = f"Bearer {self.key}"
        self.url = f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session", params=DATABASES)
def database_url(request, tmp_path_factory) -> str:
    """A fresh migrated database for all of these tests, once on SQLite and once on PostgreSQL."""
    return make_database(request.param, request, tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="session")
def live(database_url, valkey_url, tmp_path_factory) -> Iterator[Live]:
    """API and worker of all these tests; no test looks at what it has not made itself."""
    service = Live(tmp_path_factory.mktemp("live"), database_url, valkey_url)
    try:
        service.start_api()
        service.start_worker()
        yield service
    finally:
        service.stop()


@pytest.fixture
def client(live) -> Iterator[Client]:
    """The package's own client, logged in."""
    with Client(live.url, live.key) as opened:
        yield opened

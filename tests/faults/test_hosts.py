"""Workers on several hosts: one is lost, one is cut off, one has a slow wire and a wrong clock."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.db.session import make_engine
from app.db.tables import Run
from tests.conftest import make_database
from tests.faults.hosts import Host, hosts, permitted
from tests.service import Service, Wire, wait_until

STEPS, JOBS = 60, 24
TOTAL = STEPS * (STEPS + 1) // 2
HOUR_S = 3600.0
SLOW_S = 0.004  # each way, of each packet
PORTS = {"database": 5432, "broker": 6379}
# a worker whose clock is off: only the hands, not how fast they go
AT_ANOTHER_TIME = (
    "import runpy, time, time_machine; "
    "time_machine.travel(time.time() + {ahead_s}, tick=True).start(); "
    "runpy.run_module('workers', run_name='__main__')"
)


@pytest.fixture(autouse=True)
def namespaces() -> None:
    """Skips where they are not permitted."""
    if not permitted():
        pytest.skip(
            "this machine lets us make no network namespaces: ip, nsenter and root make them"
        )


def connected(host: Host, url: sa.URL, broker: Path, delay_s: float = 0.0) -> dict[str, str]:
    """Settings of a worker on a host that reaches database and broker by its wire alone."""
    socket = Path(str(url.query["host"])) / ".s.PGSQL.5432"
    for port, target in ((PORTS["database"], socket), (PORTS["broker"], broker)):
        host.servers.append(Wire((host.server, port), target, delay_s=delay_s))
    there = url.set(host=host.server, port=PORTS["database"], query={})
    return {
        "SEXTANT_DATABASE_URL": there.render_as_string(hide_password=False),
        "SEXTANT_BROKER_URL": f"redis://{host.server}:{PORTS['broker']}/0",
    }


def start(service: Service, host: Host, settings: dict[str, str], ahead_s: float = 0.0):
    """A worker of two slots on a host, with a state folder of its own."""
    state = service.folder / host.name
    env = service.env | settings | {"SEXTANT_STATE_DIR": str(state), "SEXTANT_WORKER_SLOTS": "2"}
    code = AT_ANOTHER_TIME.format(ahead_s=ahead_s)
    with (service.folder / f"{host.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*host.prefix, sys.executable, "-c", code],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service.processes.append(process)
    wait_until(lambda: service._beats(process.pid), 60, service.logs())
    return process


def runs(service: Service) -> dict[tuple[str, int], sa.Row]:
    """Host and end of every run."""
    engine = make_engine(service.database_url)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(Run.job_id, Run.number, Run.host, Run.ended_at)).all()
    engine.dispose()
    return {(row.job_id, row.number): row for row in rows}


@pytest.mark.slow
def test_a_lost_host_a_partition_a_slow_wire_and_wrong_clocks(
    make_service, request, tmp_path, broker
):
    url = sa.make_url(make_database("postgresql", request, tmp_path))
    lease = {"LEASE_S": 6, "LEASE_RENEW_S": 0.8, "LEASE_STOP_S": 3.2, "LEASE_KILL_S": 4.4}
    service = make_service(
        url.render_as_string(hide_password=False), broker.url, behaviour="steps", steps=STEPS,
        step_s=0.05, STORE_URL=(tmp_path / "store").as_uri(), **lease,
    )  # fmt: skip
    service.start_api()
    with hosts(3) as (lost, cut_off, slow):
        try:
            worker = start(service, lost, connected(lost, url, broker.socket), HOUR_S)
            start(service, cut_off, connected(cut_off, url, broker.socket), -HOUR_S)
            job_ids = [service.submit() for _ in range(JOBS)]
            wait_until(lambda: len(runs(service)) >= 4, 60, "both hosts work")
            start(service, slow, connected(slow, url, broker.socket, SLOW_S))
            lost.cut()  # first, so that it says no farewell
            os.killpg(worker.pid, signal.SIGKILL)
            cut_off.cut()
            torn = {key for key, row in runs(service).items() if row.ended_at is None}
            torn = {key for key in torn if runs(service)[key].host != slow.name}
            assert {runs(service)[key].host for key in torn} == {lost.name, cut_off.name}
            wait_until(lambda: all(runs(service)[key].ended_at for key in torn), 30, "given up")
            cut_off.join()
            for job_id in job_ids:
                job = service.wait(job_id, timeout_s=240)
                assert (job["status"], job["result"]) == ("succeeded", {"total": TOTAL}), job
            service.check(*job_ids)
            again = {job_id for job_id, _ in torn}
            assert all(service.read(job_id)["run_number"] > 1 for job_id in again)
            later = [row.host for key, row in runs(service).items() if key not in torn]
            assert {cut_off.name, slow.name} <= set(later)
        finally:
            service.stop()

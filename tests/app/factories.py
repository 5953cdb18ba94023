"""Rows for tests, made without the services that are under test elsewhere."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.db.session import make_session
from app.db.tables import Event, Job, Run, Tenant, new_id
from app.services import counters, keys, lifecycle
from app.services.child_lines import Line, read_line
from app.services.lifecycle import WorkerInfo
from tests.smallest import smallest

PATIENCE_S = 20.0
KIND = "saliency.map"
WORKER = WorkerInfo(id="w1", host="here", boot_id="b1", queues=("default",))


def add_job(tenant_id: str = keys.DEFAULT_TENANT, **values: Any) -> str:
    """Id of a new queued job."""
    spec = smallest(KIND)
    job = Job(
        id=new_id("job"),
        tenant_id=tenant_id,
        **{
            "kind": KIND,
            "method": "saliency",
            "spec": spec,
            "resolved_spec": spec,
            "resources": {"device": "auto"},
            "limits": {"timeout_s": 60, "queue_timeout_s": None, "max_runs": 3},
            "queue": "default",
            **values,
        },
    )
    with make_session() as session:
        if session.get(Tenant, tenant_id) is None:
            session.add(Tenant(id=tenant_id, name=tenant_id))
            session.flush()
        session.add(job)
        session.flush()
        counters.add(session, counters.JOBS, [((job.kind, job.status, job.queue), 1)])
    return job.id


def claim() -> Run:
    """The best waiting job, claimed; one that another thread is about to submit is waited for."""
    run, until = None, time.monotonic() + PATIENCE_S
    while run is None and time.monotonic() < until:
        with make_session() as session:
            run = lifecycle.claim(session, WORKER, "default")
        if run is None:
            time.sleep(0.05)
    assert run is not None
    return run


def start_run(**values: Any) -> Run:
    """The first run of a new job."""
    add_job(**values)
    return claim()


def requeue(run: Run) -> Run:
    """The next run of the same job, after a shutdown of the worker."""
    with make_session() as session:
        lifecycle.finish(session, run, lifecycle.Outcome(exit_code=75, stop_reason="shutdown"))
    return claim()


def finish(run: Run, exit_code: int = 0) -> None:
    """End a run and with it, if it succeeded, its job."""
    with make_session() as session:
        lifecycle.finish(session, run, lifecycle.Outcome(exit_code=exit_code))


def carry_out(steps: Iterable[None]) -> None:
    """All steps of a chore, without a rest."""
    for _ in steps:
        pass


def line(**fields: Any) -> Line:
    """A line of a child, as the worker reads it from the pipe."""
    return read_line(json.dumps(fields).encode())


def events_of(job_id: str, kind: str | None = None) -> list[Event]:
    """Events of a job in order, of one type or all."""
    with make_session(write=False) as session:
        found = session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.seq))
        return [event for event in found if kind in (None, event.type)]


def write(path: Path, data: bytes) -> Path:
    """A file with these bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path

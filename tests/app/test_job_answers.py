"""Answers about jobs keep their bytes: a list, each job, ETags that clients have kept.

The golden file was written by the release before reads were made cheaper. Names are in the order in
which PostgreSQL keeps them, numbers such as it gives back as they were.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.db.session import make_session
from app.db.tables import Job, Run, new_id
from app.schemas.jobs import JobRead
from app.services import jobs
from tests.app.factories import add_job

GOLDEN = Path(__file__).parent.parent / "golden" / "jobs.json"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
SPEC = {"a": 1e-07, "b": 0.1, "c": [1, 2.0, -3], "d": {}, "e": None, "f": 2**53, "g": "é\n\u2028"}
FIXED = {"spec": SPEC, "resolved_spec": SPEC, "line_at": AT} | dict.fromkeys(
    ("created_at", "queued_at", "updated_at"), AT
)
RUN = {"tenant_id": "tenant_default", "boot_id": "b1", "host": "here", "started_at": AT}
BEGUN = {"started_at": AT + timedelta(seconds=1.5), "lease_expires_at": LATER}


def job_id(number: int) -> str:
    return f"job_{number:032x}"


def _fill() -> None:
    """A job that succeeded in its second run, one that failed, runs, waits, is due later."""
    progress = {"step": 3, "fraction": 0.25, "updated_at": "2026-01-02T03:04:06Z"}
    error = {"code": "internal", "message": "ü", "hint": "", "class": "job", "run_number": 1}
    error |= {"retryable": False, "exit_code": 70, "signal": None, "traceback_artifact_id": None}
    rows = [
        {"status": "succeeded", "run_number": 2, "result": {"a": 0.25}, "finished_at": LATER},
        {"status": "failed", "run_number": 1, "error": error, "finished_at": LATER},
        {"status": "running", "run_number": 1, "progress": progress, "status_reason": "starting"},
        {"name": "waits", "labels": {"a": "1", "b": "2"}, "notes": "n"},
        {"not_before": LATER, "requested_not_before": LATER, "priority": 9},
    ]
    for number, row in enumerate(rows):
        begun = BEGUN if row.get("run_number") else {}
        made = add_job(**FIXED, **begun, **row)
        with make_session() as session:
            session.execute(sa.update(Job).where(Job.id == made).values(id=job_id(number)))
            for run in range(1, row.get("run_number", 0) + 1):
                devices = ["GPU-1"] if run == 2 else []
                more = {"worker_id": f"w{run}", "devices": devices}
                session.add(Run(job_id=job_id(number), number=run, **RUN, **more))


def answers(client) -> list[str]:
    """The bodies, and the ETags of the single ones."""
    _fill()
    found = [client.get("/v1/jobs").text]
    for number in range(5):
        answer = client.get(f"/v1/jobs/{job_id(number)}")
        found += [answer.text, answer.headers["etag"]]
    return found


def test_answers_keep_their_bytes(client):
    assert "\n".join(answers(client)) + "\n" == GOLDEN.read_text()


@pytest.mark.parametrize("text", ['"\\ud800"', "[" * 300 + "]" * 300, "1e400"])
def test_json_of_rows_that_a_fast_reader_refuses_is_read(settings, text):
    stored = new_id("job")
    made = add_job(result={"a": 1})
    with make_session() as session:
        if session.get_bind().dialect.name == "postgresql":
            pytest.skip("PostgreSQL refuses such JSON, or gives it back in another form")
        sql = sa.text("UPDATE jobs SET id = :id, result = :text WHERE id = :made")
        session.execute(sql, {"id": stored, "text": f'{{"a": {text}}}', "made": made})
    with make_session(write=False) as session:
        assert session.get_one(Job, stored).result is not None


def test_an_answer_holds_what_was_changed_in_the_same_session(session):
    made = add_job()
    job = session.get_one(Job, made)
    session.execute(sa.update(Job).where(Job.id == made).values(name="other"))
    session.expire(job)
    read = jobs.describe(session, [job])[0]
    assert isinstance(read, JobRead)
    assert read.name == "other"

"""Cancel and retry at once: every answer is one the contract names, and nothing is done twice."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select

from app.db.session import make_session
from app.db.tables import Event, Job
from tests.app.conftest import admin_key, anonymous, client, spec  # noqa: F401  # fixtures


def test_cancel_and_retry_at_once_leave_one_final_status_and_whole_retries(client, spec):  # noqa: F811
    job = client.post("/v1/jobs", json={"spec": spec}).json()["id"]

    def ask(number: int) -> tuple[str, int]:
        action, body = [("cancel", {}), ("retry", {"from": "scratch"})][number % 2]
        return action, client.post(f"/v1/jobs/{job}/{action}", json=body).status_code

    with ThreadPoolExecutor(8) as threads:
        answers = Counter(threads.map(ask, range(40)))
    assert answers[("cancel", 202)] == 1
    assert answers[("cancel", 200)] == 19
    made = answers[("retry", 201)]
    assert made + answers[("retry", 409)] == 20  # refused while the job was queued
    with make_session(write=False) as session:
        statuses = select(Event.data).where(Event.job_id == job, Event.type == "status")
        told = [data["status"] for data in session.scalars(statuses.order_by(Event.seq))]
        retries = session.scalars(select(Job).where(Job.parent_job_id == job)).all()
    assert told == ["queued", "cancelled"]
    assert len(retries) == made
    assert {retry.status for retry in retries} <= {"queued"}

"""A POST with an Idempotency-Key is carried out once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.db.session import make_session
from app.db.tables import Event, IdempotencyKey, Job, utc_now
from app.services import idempotency

pytestmark = pytest.mark.both_databases


def post(client, body, key="k1", path="/v1/jobs"):
    return client.post(path, json=body, headers={"Idempotency-Key": key})


def count(table) -> int:
    with make_session(write=False) as session:
        return session.scalar(select(func.count()).select_from(table))


def test_the_first_answer_again(client, spec):
    first, second = post(client, {"spec": spec}), post(client, {"spec": spec})
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert count(Job) == 1


def test_order_of_fields_does_not_matter(client, spec):
    first = post(client, {"spec": spec, "name": "a"})
    turned = {"name": "a", "spec": dict(reversed(spec.items()))}
    assert post(client, turned).json() == first.json()


def test_another_request_is_refused(client, spec):
    job = post(client, {"spec": spec}).json()
    answer = post(client, {"spec": spec, "name": "other"})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    answer = post(client, {}, path=f"/v1/jobs/{job['id']}/retry")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert count(Job) == 1


def test_our_refusals_are_kept(client, spec):
    job = client.post("/v1/jobs", json={"spec": spec}).json()
    url = f"/v1/jobs/{job['id']}/retry"
    first = post(client, {"from": "scratch"}, path=url)
    client.post(f"/v1/jobs/{job['id']}/cancel")
    second = post(client, {"from": "scratch"}, path=url)
    assert (first.status_code, second.status_code) == (409, 409)
    assert second.headers["content-type"] == "application/problem+json"
    assert second.headers["Idempotent-Replayed"] == "true"
    assert post(client, {"from": "scratch"}, key="k2", path=url).status_code == 201


def test_other_errors_are_not_kept(client, spec):
    assert post(client, {"spec": spec | {"seed": -1}}).status_code == 422
    assert post(client, {"spec": spec}).status_code == 201


def test_tenants_do_not_share_keys(client, spec, make_key):
    first = post(client, {"spec": spec}).json()
    client.headers["Authorization"] = f"Bearer {make_key('jobs:write', tenant_id='tenant_b')}"
    answer = post(client, {"spec": spec})
    assert answer.status_code == 201
    assert answer.json()["id"] != first["id"]


def test_expired_keys_are_new(client, spec):
    first = post(client, {"spec": spec}).json()
    with make_session() as session:
        session.execute(update(IdempotencyKey).values(expires_at=utc_now() - timedelta(seconds=1)))
    assert post(client, {"spec": spec, "name": "x"}).json()["id"] != first["id"]
    with make_session() as session:
        session.execute(update(IdempotencyKey).values(expires_at=utc_now() - timedelta(seconds=1)))
        idempotency.forget_expired(session)
    assert count(IdempotencyKey) == 0


def test_job_and_key_are_one_transaction(client, spec, monkeypatch):
    def fail(*_args, **_more):
        raise RuntimeError("after the work")

    monkeypatch.setattr("app.http.problems.respond", fail)
    monkeypatch.setattr("app.services.idempotency.IdempotencyKey", fail)
    assert post(client, {"spec": spec}).status_code == 500
    monkeypatch.undo()
    assert (count(Job), count(IdempotencyKey), count(Event)) == (0, 0, 0)


def test_dry_runs_leave_the_key_free(client, spec):
    assert post(client, {"spec": spec}, path="/v1/jobs?dry_run=true").status_code == 200
    assert post(client, {"spec": spec}).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\t"])
def test_keys_are_printable(client, spec, key):
    answer = post(client, {"spec": spec}, key=key)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["location"] == "header"
    assert count(Job) == 0


def test_200_at_once_make_one_job(client, spec):
    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(lambda _: post(client, {"spec": spec}), range(200)))
    assert count(Job) == 1
    made = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in made}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in made) == 1
    codes = {answer.json()["code"] for answer in answers if answer.status_code == 409}
    assert codes <= {"idempotency_in_flight"}

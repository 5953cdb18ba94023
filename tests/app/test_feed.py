"""The events of a tenant: one order, nothing missed, whatever is committed or rolled back when."""

import threading

import pytest
from sqlalchemy import func, select

from app.db.session import make_session
from app.db.tables import Event
from app.errors import InvalidError
from app.services import feed, jobs, lifecycle
from app.services.keys import DEFAULT_TENANT
from tests.app.factories import add_job, claim, finish, start_run
from tests.app.test_event_streams import client as client  # of a real server
from tests.app.test_event_streams import later, read


def page(after: int = 0, limit: int = 1000, **more):
    with make_session(write=False) as session:
        return feed.page(session, DEFAULT_TENANT, after, limit, **more)


def note(job_id: str, number: int) -> None:
    with make_session() as session:
        lifecycle.add_event(session, job_id, "log", {"n": number})


def test_what_is_committed_late_is_not_missed(settings):
    """A transaction that began first and ends last has the later position."""
    if "sqlite" in settings.database:
        pytest.skip("it has one writer at a time")
    slow, quick = add_job(), add_job()
    with make_session() as session:
        lifecycle.add_event(session, slow, "log", {"n": 1})
        session.flush()
        note(quick, 2)
        seen = page()
        assert [each.job.id for each in seen.data] == [quick]
    assert [each.job.id for each in page(seen.next_after).data] == [slow]


def test_readers_that_go_on_see_every_event_once_and_in_order(settings):
    job_ids = [add_job() for _ in range(4)]
    threads = [
        threading.Thread(target=lambda job=job: [note(job, n) for n in range(15)])
        for job in job_ids
    ]
    for thread in threads:
        thread.start()
    found, after = [], 0
    while any(thread.is_alive() for thread in threads) or page(after).data:
        part = page(after, 7)
        found += part.data
        after = part.next_after
    for thread in threads:
        thread.join()
    assert [each.position for each in found] == [*range(1, 61)]
    for job_id in job_ids:
        assert [each.data["n"] for each in found if each.job.id == job_id] == [*range(15)]


def test_what_is_rolled_back_leaves_neither_event_nor_gap(settings):
    job_id = add_job()
    with make_session() as session:
        lifecycle.add_event(session, job_id, "log", {"n": 1})
        session.rollback()
    with make_session() as session:
        lifecycle.add_event(session, job_id, "log", {"n": 2})
        with session.begin_nested() as savepoint:
            lifecycle.add_event(session, job_id, "log", {"n": 3})
            savepoint.rollback()
        with session.begin_nested():
            lifecycle.add_event(session, job_id, "log", {"n": 4})
    assert [(each.position, each.data["n"]) for each in page().data] == [(1, 2), (2, 4)]
    with make_session(write=False) as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 2


def test_of_other_tenants_and_deleted_jobs_nothing_is_told(settings):
    add_job("tenant_other")
    other = claim()
    run = start_run()
    finish(run)
    assert {each.job.id for each in page().data} == {run.job_id}
    assert page().data[0].position == 1
    assert other.job_id not in {each.job.id for each in page().data}
    with make_session() as session:
        jobs.delete(session, DEFAULT_TENANT, run.job_id)
    assert page().data == []


def test_status_alone_and_a_position_that_was_never_given(settings):
    run = start_run()
    finish(run)
    assert [each.data["status"] for each in page(wanted=feed.Wanted(only_status=True)).data] == [
        "running",
        "succeeded",
    ]
    newest = page().latest
    assert page(newest).data == []
    with pytest.raises(InvalidError, match="begin anew"):
        page(newest + 1)


def test_one_kind_alone_and_what_is_passed_over_is_not_read_again(settings):
    add_job(kind="lcw.train", method="lcw")
    mine, other = claim().job_id, start_run().job_id
    only = page(wanted=feed.Wanted(kind="lcw.train"))
    assert {each.job.id for each in only.data} == {mine}
    assert only.next_after == only.latest == page().data[-1].position
    first = page(limit=1, wanted=feed.Wanted(kind="saliency.map"))
    assert (first.data[0].job.id, first.has_more) == (other, True)
    assert first.next_after == first.data[0].position
    assert page(wanted=feed.Wanted(kind="no.such")).data == []


def test_pages_and_the_long_poll(client):
    run = start_run(name="mine", labels={"team": "a"})
    first = client.get("/v1/events", params={"limit": 1}).json()
    assert first["data"][0]["job"] == {
        "id": run.job_id, "kind": "saliency.map", "name": "mine", "metadata": {"team": "a"}
    }  # fmt: skip
    assert (first["has_more"], first["next_after"]) == (True, 1)
    worker = later(0.3, finish, run)
    query = {"after": first["latest"], "wait_s": 30, "type": "status"}
    waited = client.get("/v1/events", params=query).json()
    assert [each["data"]["status"] for each in waited["data"]] == ["succeeded"]
    worker.join()
    query = {"after": waited["latest"], "wait_s": 0.1}
    assert client.get("/v1/events", params=query).json()["data"] == []
    refused = client.get("/v1/events", params={"after": 10**6})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/after"


def test_the_stream_goes_on_where_it_stopped(client):
    run = start_run()
    stream = read(client, "/v1/events")
    begun = [next(stream) for _ in page().data]
    worker = later(0.2, finish, run)
    last = next(stream)
    worker.join()
    stream.close()
    assert [int(position) for position, _, _ in (*begun, last)] == [1, 2, 3]
    assert last[1:] == ("status", last[2])
    assert (last[2]["job"]["id"], last[2]["data"]["status"]) == (run.job_id, "succeeded")
    again = read(client, "/v1/events", {"Last-Event-ID": "2"}, type="status")
    assert next(again) == last
    again.close()

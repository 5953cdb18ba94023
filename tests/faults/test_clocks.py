"""A process whose clock is an hour off: what is compared between processes is the database's."""

from datetime import timedelta

import pytest
import time_machine

from app import storage
from app.db.session import make_session
from app.db.tables import Job, utc_now
from app.errors import UnauthorizedError
from app.schemas.jobs import JobCreate
from app.services import collection, jobs, keys, lifecycle
from tests.app.factories import add_job, carry_out, claim
from tests.conftest import make_database
from tests.smallest import smallest


@pytest.fixture(scope="module")
def database_url(request, tmp_path_factory) -> str:
    """SQLite: its clock is read below Python's, which alone is shifted here."""
    return make_database("sqlite", request, tmp_path_factory.mktemp("database"))


@pytest.fixture(params=[-1, 1], ids=["behind", "ahead"])
def shifted(request, settings):
    """How to shift the clock of this process by an hour, both ways."""
    return lambda: time_machine.travel(utc_now() + timedelta(hours=request.param), tick=True)


def test_a_lease_taken_or_judged_by_a_shifted_clock_holds(shifted):
    add_job()
    add_job()
    with shifted():
        theirs = claim()
    ours = claim()
    with make_session() as session:
        assert lifecycle.expire(session) == []
    with shifted(), make_session() as session:
        assert lifecycle.expire(session) == []
        assert not lifecycle.renew(session, ours).lost
    with make_session() as session:
        assert not lifecycle.renew(session, theirs).lost


def test_a_queue_timeout_is_that_long_whatever_the_clock_of_the_api(shifted):
    spec = smallest("saliency.map")
    asked = {"spec": dict(spec), "limits": {"queue_timeout_s": 600}}
    with make_session() as session:
        keys.ensure_tenant(session)
    with shifted(), make_session() as session:
        job = jobs.submit(session, keys.DEFAULT_TENANT, JobCreate.model_validate(asked))
    with make_session() as session:
        assert lifecycle.time_out_queued(session) == []
        row = session.get_one(Job, job.id)
        assert abs(row.queue_timeout_at - utc_now() - timedelta(seconds=600)) < timedelta(minutes=1)
        assert abs(row.created_at - utc_now()) < timedelta(minutes=1)


def test_a_key_ends_by_the_clock_of_the_database(shifted, session):
    keys.ensure_tenant(session)
    half_an_hour = timedelta(minutes=30)
    ends = {"valid": utc_now() + half_an_hour, "ended": utc_now() - half_an_hour}
    made = {
        name: keys.create(session, keys.DEFAULT_TENANT, name, ["admin"], utc_now() + half_an_hour)
        for name in ends
    }
    for name, end in ends.items():
        made[name][0].expires_at = end
    session.flush()
    with shifted():
        assert keys.verify(session, made["valid"][1]).name == "valid"
        with pytest.raises(UnauthorizedError, match="expired"):
            keys.verify(session, made["ended"][1])
        ids = [key.id for key, _ in made.values()]
        assert keys.invalid_of(session, ids) == {made["ended"][0].id}


def test_an_upload_under_way_is_not_swept_by_a_clock_ahead(shifted, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"of an upload that no row names yet")
    storage.put("t/tenant_default/d/ds_1/up_1", file)
    with shifted():
        carry_out(collection.sweep())
    assert [info.key for info in storage.list("t")] == ["t/tenant_default/d/ds_1/up_1"]

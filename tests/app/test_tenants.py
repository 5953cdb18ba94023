"""Tenants: made and disabled by the operator; a disabled one can do nothing and loses nothing."""

import json
import time

import pytest
from typer.testing import CliRunner

from app import cli
from app.db.session import make_session
from app.db.tables import Job
from app.errors import ConflictError, InvalidError, NotFoundError
from app.http import auth
from app.services import keys, lifecycle, tenants
from tests.app.factories import WORKER, add_job, claim, finish
from tests.app.test_keys import with_key


def run(*arguments: str) -> str:
    """What the command prints; a refusal is raised as it is."""
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False).output


def make(name: str) -> str:
    with make_session() as session:
        return tenants.create(session, name).id


def disable(name: str) -> None:
    with make_session() as session:
        tenants.disable(session, tenants.find(session, name))


def status_of(job_id: str) -> tuple[str, str | None]:
    with make_session(write=False) as session:
        job = session.get_one(Job, job_id)
        return job.status, job.status_reason


def test_a_tenant_and_its_first_key_by_commands(anonymous, admin_key):
    made = json.loads(run("tenants", "create", "acme", "--json"))
    key = json.loads(
        run("keys", "create", "root", "--tenant", "acme", "--scope", "admin", "--json")
    )
    own = with_key(key["key"])
    assert anonymous.get("/v1/keys", headers=own).json()["data"][0]["id"] == key["id"]
    assert (
        anonymous.get("/v1/keys", headers=with_key(admin_key)).json()["data"][0]["name"] == "admin"
    )
    listed = {row["name"]: row for row in json.loads(run("tenants", "list", "--json"))}
    assert listed["acme"] == made
    assert (made["name"], made["disabled_at"], made["quotas"]) == ("acme", None, {})
    assert set(listed) == {"acme", "default"}
    assert "acme" in run("tenants", "list")


def test_tenants_do_not_see_each_other(client, make_key, spec):
    job = client.post("/v1/jobs", json={"spec": spec}).json()["id"]
    client.headers |= with_key(make_key("admin", tenant_id=make("acme")))
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("name", ["", "a b", "-x", "ö", "x" * 121])
def test_names_are_plain_words(session, name):
    with pytest.raises(InvalidError, match="use 1 to 120"):
        tenants.create(session, name)


def test_one_tenant_of_a_name(settings):
    make("acme")
    with pytest.raises(ConflictError, match="already"):
        make("acme")


def test_an_unknown_tenant_is_answered_with_those_there_are(settings):
    make("acme")
    with make_session() as session, pytest.raises(NotFoundError, match="there are acme"):
        tenants.find(session, "acne")
    with pytest.raises(ValueError, match="there are acme, default"):
        run("keys", "create", "--tenant", "acne")


def test_a_key_of_a_tenant_has_known_scopes(settings):
    make("acme")
    with pytest.raises(ValueError, match="scopes"):
        run("keys", "create", "--tenant", "acme", "--scope", "root")


def test_keys_of_a_disabled_tenant_are_refused_until_it_is_enabled(anonymous, make_key):
    owner = with_key(make_key("admin", tenant_id=make("acme")))
    other = with_key(make_key("admin"))
    assert anonymous.get("/v1/jobs", headers=owner).status_code == 200
    assert "its keys are refused" in run("tenants", "disable", "acme")
    time.sleep(auth.RECENT_S)
    answer = anonymous.get("/v1/jobs", headers=owner)
    assert answer.status_code == 401
    assert "disabled" in answer.json()["detail"]
    assert anonymous.get("/v1/jobs", headers=other).status_code == 200
    assert json.loads(run("tenants", "list", "--json"))[0]["disabled_at"] is not None
    run("tenants", "enable", "acme")
    assert anonymous.get("/v1/jobs", headers=owner).status_code == 200


def test_streams_of_a_disabled_tenant_are_found_invalid(make_key):
    tenant_id = make("acme")
    ids = [f"key_{make_key('admin', tenant_id=each).split('_')[1]}" for each in (tenant_id, "b")]
    with make_session(write=False) as session:
        assert keys.invalid_of(session, ids) == set()
    disable("acme")
    with make_session(write=False) as session:
        assert keys.invalid_of(session, ids) == {ids[0]}


def test_queued_jobs_of_a_disabled_tenant_wait_and_start_when_it_is_enabled(settings):
    held = add_job(tenant_id=make("acme"))
    disable("acme")
    other = add_job(tenant_id="tenant_b")
    assert claim().job_id == other  # the held one is older
    with make_session() as session:
        assert lifecycle.claim(session, WORKER, "default") is None
    assert status_of(held) == ("queued", None)
    with make_session() as session:
        tenants.enable(tenants.find(session, "acme"))
    assert claim().job_id == held


def test_a_running_job_of_a_disabled_tenant_goes_on_to_its_end(settings):
    job_id = add_job(tenant_id=make("acme"))
    running = claim()
    disable("acme")
    with make_session() as session:
        assert not lifecycle.renew(session, running).lost
    finish(running)
    assert status_of(job_id) == ("succeeded", None)


def test_disabling_may_stop_what_the_tenant_has_begun(settings):
    tenant_id = make("acme")
    running_id, queued_id = add_job(tenant_id=tenant_id), add_job(tenant_id=tenant_id)
    other = add_job(tenant_id="tenant_b")
    running = claim()
    assert running.job_id == running_id
    assert "asked 2 jobs to stop" in run("tenants", "disable", "acme", "--stop-jobs")
    assert status_of(queued_id) == ("cancelled", None)
    assert status_of(running_id) == ("running", "cancelling")
    with make_session() as session:
        assert lifecycle.renew(session, running).cancel_mode == "graceful"
    assert status_of(other) == ("queued", None)

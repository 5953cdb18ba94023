"""Migrations run both ways on both databases and leave exactly what the tables say."""

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic import command

from app.db import migrate
from app.db.session import get_engine, make_engine, make_session
from app.db.tables import Job, JobInput, JobLabel, utc_now
from app.local import doctor
from app.schemas.jobs import JobFilters
from app.services import counters, jobs, search, workers
from app.services.keys import DEFAULT_TENANT
from app.settings import get_settings
from tests.app.factories import add_job, finish, start_run


def tables() -> set[str]:
    return set(sa.inspect(get_engine()).get_table_names())


def test_up_down_up(settings):
    engine = get_engine()
    full = tables()
    with engine.connect() as connection:
        command.downgrade(migrate.alembic_config(connection), "base")
        connection.commit()
    assert tables() == {"alembic_version"}
    assert migrate.current(engine) is None
    migrate.upgrade(engine)
    assert tables() == full
    assert migrate.current(engine) == migrate.head()


def test_references_of_waiting_jobs_are_held_after_the_upgrade(settings):
    pinned = {"job": "job_1", "artifact": "a", "sha256": "5" * 64}
    data = {"dataset": "d", "sha256": "6" * 64}
    spec = {"kind": "k", "resume_from": pinned, "more": [{"data": data}, {"dataset": "digits"}]}
    waiting = add_job(resolved_spec=spec)
    add_job(resolved_spec=spec, status="succeeded")
    with get_engine().connect() as connection:
        command.downgrade(migrate.alembic_config(connection), "0002")
        connection.commit()
    migrate.upgrade(get_engine())
    with make_session(write=False) as session:
        rows = session.scalars(sa.select(JobInput).order_by(JobInput.source)).all()
    found = [(row.job_id, row.source, row.sha256) for row in rows]
    assert found == [(waiting, "d", "6" * 64), (waiting, "job_1", "5" * 64)]


def test_labels_and_counters_are_there_after_the_upgrade(settings):
    run = start_run(labels={"team": "a", "note": "it's"})
    finish(run)
    add_job(labels={"team": "b"})
    add_job(labels={"team": "c"}, status="failed", deleted_at=utc_now())
    with get_engine().connect() as connection:
        command.downgrade(migrate.alembic_config(connection), "0003")
        connection.commit()
    migrate.upgrade(get_engine())
    with make_session(write=False) as session:
        labels = session.execute(sa.select(JobLabel.name, JobLabel.value, JobLabel.status)).all()
        assert sorted(map(tuple, labels)) == [
            ("note", "it's", "succeeded"),
            ("team", "a", "succeeded"),
            ("team", "b", "queued"),
        ]
        counted = counters.recount(session)
        assert {name: counters.read(session, name) for name in counted} == counted
    assert sum(counted[counters.JOBS].values()) == 2
    assert counted[counters.RUNS] == {("succeeded",): 1}


def test_the_start_that_was_asked_for_is_kept_in_the_upgrade(settings):
    later = datetime(2100, 1, 1, tzinfo=UTC)
    asked = add_job(not_before=later)
    lost = add_job(not_before=later, failures=1)  # it waits for its next run, nobody asked
    with get_engine().connect() as connection:
        command.downgrade(migrate.alembic_config(connection), "0005")
        connection.commit()
    migrate.upgrade(get_engine())
    with make_session(write=False) as session:
        assert session.get_one(Job, asked).requested_not_before == later
        assert session.get_one(Job, lost).requested_not_before is None


def test_an_upgrade_waits_for_workers_of_the_older_schema_and_refuses_while_they_run(
    settings, monkeypatch
):
    quick = {"LEASE_S": 1, "LEASE_KILL_S": 0.6, "LEASE_STOP_S": 0.4, "LEASE_RENEW_S": 0.2}
    for name, value_s in (quick | {"WORKER_DISPATCH_S": 0.1}).items():
        monkeypatch.setenv(f"SEXTANT_{name}", str(value_s))
    get_settings.cache_clear()
    values = {"host": "h", "boot_id": "b", "pid": 1, "queues": [], "slots": 1, "slots_free": 1}

    def beat() -> None:
        while not gone.wait(0.1):
            with make_session() as session:
                workers.beat(session, "w1", **values)

    gone, beating = threading.Event(), threading.Thread(target=beat)
    with get_engine().connect() as connection:
        command.downgrade(migrate.alembic_config(connection), "0005")
        connection.commit()
    beating.start()
    try:
        time.sleep(0.3)
        with pytest.raises(RuntimeError, match=r"0005 and workers of that version .*\(w1\); stop"):
            migrate.upgrade(get_engine())
        assert migrate.current(get_engine()) == "0005"
    finally:
        gone.set()
        beating.join()
    migrate.upgrade(get_engine())  # its last heartbeat is waited out
    assert migrate.current(get_engine()) == migrate.head()


def test_migrations_and_tables_agree(settings):
    with get_engine().connect() as connection:
        command.check(migrate.alembic_config(connection))


def test_an_unknown_newer_revision_is_refused(settings):
    engine = get_engine()
    with engine.execution_options(write=True).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(RuntimeError, match="newer than this code"):
            migrate.upgrade(engine)
    finally:
        with engine.execution_options(write=True).begin() as connection:
            sql = "UPDATE alembic_version SET version_num = :head"
            connection.execute(sa.text(sql), {"head": migrate.head()})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_four_processes_at_once_migrate_once(settings, tmp_path):
    url = f"sqlite:///{tmp_path / 'fresh' / 'new.db'}"
    code = (
        "import sys; from app.db import migrate; from app.db.session import make_engine; "
        "migrate.upgrade(make_engine(sys.argv[1]))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_role_that_may_make_no_extension_gets_all_but_the_index_of_names(settings):
    named = add_job(name="Night run")
    with get_engine().begin() as connection:
        command.downgrade(migrate.alembic_config(connection), "0013")
        for sql in (
            "DROP EXTENSION pg_trgm",
            "CREATE ROLE plain LOGIN",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain",
            "GRANT ALL ON SCHEMA public TO plain",
            "ALTER TABLE jobs OWNER TO plain",
        ):
            connection.execute(sa.text(sql))
    plain = make_engine(str(sa.make_url(settings.database).set(username="plain")))
    migrate.upgrade(plain)
    plain.dispose()
    assert migrate.current(get_engine()) == migrate.head()
    (finding,) = doctor._search()
    assert "reads every name" in finding.found
    with get_engine().begin() as connection:
        for sql in search.MAKE:
            assert sql in finding.hint
            connection.execute(sa.text(sql))
    assert doctor._search() == []
    filters = JobFilters.model_validate({"search": "NIGHT"})
    with make_session(write=False) as session:
        page = jobs.list_page(session, DEFAULT_TENANT, filters)
        assert [job.id for job in page.data] == [named]
    with get_engine().begin() as connection:
        for sql in ("REASSIGN OWNED BY plain TO CURRENT_USER", "DROP OWNED BY plain"):
            connection.execute(sa.text(sql))
        connection.execute(sa.text("DROP ROLE plain"))

"""Backups: one moment of the database and every file; damage found; restored elsewhere."""

import json

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from app import cli, storage
from app.db.session import get_engine, make_session
from app.db.tables import Artifact, Counter, Dataset, Job, Tenant, utc_now
from app.services import artifacts, backup, counters, garbage, jobs, restore, verify
from app.services.backup_format import FILES, MANIFEST, table_path, tables
from app.services.keys import DEFAULT_TENANT
from tests.app.factories import add_job, claim, events_of, finish, start_run, write
from tests.conftest import empty, fresh_caches


@pytest.fixture
def state(settings, tmp_path) -> dict[str, str]:
    """A job that ended with two files, one that runs with a checkpoint, one that waits."""
    run = start_run(labels={"team": "a"}, name="ü")
    for name in ("a.csv", "maps/b.npy"):
        artifacts.store(run, write(tmp_path / "f", name.encode() * 900), "table", name)
    artifacts.put_log(run, write(tmp_path / "log", b"text"))
    finish(run)
    running = start_run()
    artifacts.store(running, write(tmp_path / "f", b"weights"), "checkpoint", "step-1", step=1)
    with make_session() as session:
        row = Dataset(
            id="ds_1", tenant_id=DEFAULT_TENANT, name="d", format="images", preview=b"\x00\xff"
        )
        session.add(row)
    return {"done": run.job_id, "running": running.job_id, "waiting": add_job()}


def rows() -> dict[str, list[tuple]]:
    with make_session(write=False) as session:
        return {
            each.name: sorted(map(repr, session.execute(each.select()).all())) for each in tables()
        }


@pytest.fixture
def elsewhere(settings, tmp_path, monkeypatch):
    """Call to go on with an empty database and an empty store."""

    def move() -> None:
        empty(get_engine())
        monkeypatch.setenv("SEXTANT_STATE_DIR", str(tmp_path / "elsewhere"))
        fresh_caches()

    return move


def test_everything_comes_back(state, elsewhere, tmp_path):
    before = rows()
    made = backup.make(tmp_path / "backup")
    assert made.faults == []
    assert made.manifest.files == 4
    assert [*backup.check(tmp_path / "backup")] == []
    elsewhere()
    restore.restore(tmp_path / "backup")
    after = rows()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"jobs", "runs", "events", "feeds", "counters"}  # the run was ended
    with make_session(write=False) as session:
        again = session.get_one(Job, state["running"])
        assert (again.status, again.failures) == ("queued", 0)
        assert session.get_one(Job, state["done"]).name == "ü"
        stored = counters.ARTIFACT_BYTES
        assert counters.read(session, stored) == counters.recount(session)[stored]
    assert [*verify.faults()] == [None] * 3
    with make_session(write=False) as session:
        keys = session.scalars(select(Artifact.storage_key)).all()
    assert b"a.csv" * 900 in [b"".join(storage.open(key)) for key in keys]
    run = claim()  # in the old order, under the next number
    assert (run.job_id, run.number) == (state["running"], 2)
    with make_session() as session:  # PostgreSQL counts on behind the numbers that came back
        counters.add(session, counters.JOBS, [(("a", "b", "c"), 1)])
        assert session.scalar(select(func.count()).select_from(Counter)) > 0


def test_it_is_one_moment(state, tmp_path, monkeypatch):
    """What is written while tables are read is in none of them."""
    write_table = backup._write_table

    def busy(*arguments):
        made = write_table(*arguments)
        add_job()
        return made

    monkeypatch.setattr(backup, "_write_table", busy)
    sums = backup.make(tmp_path / "backup").manifest.tables
    assert sums["jobs"].rows == 3
    assert sums["events"].rows == len([e for job in state.values() for e in events_of(job)])


def test_damage_is_found(state, tmp_path):
    folder = tmp_path / "backup"
    backup.make(folder)
    stored = sorted(path for path in (folder / FILES).rglob("*") if path.is_file())
    stored[0].write_bytes(b"other")
    stored[1].unlink()
    table = table_path(folder, "events")
    table.write_bytes(table.read_bytes()[:-9])
    found = [*backup.check(folder)]
    assert len(found) == 3
    assert "events" in found[0]
    with pytest.raises(ValueError, match="damaged"):
        restore.restore(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match="no whole backup"):
        [*backup.check(folder)]


def test_a_store_that_lost_files_is_told_of(state, tmp_path):
    with make_session(write=False) as session:
        first, second = session.scalars(select(Artifact.storage_key).limit(2)).all()
    storage.delete(first)
    storage.put(second, write(tmp_path / "f", b"other"))
    found = [fault for fault in verify.faults() if fault is not None]
    assert sorted(text.rpartition(" ")[2] for text in found) == ["damaged", "missing"]
    assert len(backup.make(tmp_path / "backup").faults) == 2


def test_only_into_what_is_empty_and_only_of_this_schema(state, elsewhere, tmp_path):
    folder = tmp_path / "backup"
    backup.make(folder)
    with pytest.raises(ValueError, match="not empty"):
        backup.make(folder)
    with pytest.raises(ValueError, match="has rows in"):
        restore.restore(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"revision": "0001"}))
    elsewhere()
    with pytest.raises(ValueError, match="schema 0001"):
        restore.restore(folder)


def test_killed_in_the_middle_and_done_again(state, elsewhere, tmp_path, monkeypatch):
    backup.make(tmp_path / "backup")
    elsewhere()
    with monkeypatch.context() as patch:
        patch.setattr(restore, "_set_sequence", None)
        with pytest.raises(TypeError):
            restore.restore(tmp_path / "backup")
    with make_session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        session.add(Tenant(id=DEFAULT_TENANT, name="default"))  # a first start in between
    restore.restore(tmp_path / "backup")
    assert events_of(state["done"])[-1].data["status"] == "succeeded"


def test_the_commands(state, elsewhere, tmp_path):
    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    folder = str(tmp_path / "backup")
    assert "4 files" in call("backup", folder)
    assert "as it should be" in call("verify", folder)
    assert "3 files read" in call("verify")
    with make_session() as session:
        jobs.delete(session, DEFAULT_TENANT, state["done"])
    assert json.loads(call("gc", "--dry-run", "--json"))["deleted_jobs"] == 1
    assert garbage.find().deleted_jobs == 1
    call("gc")
    assert garbage.find() == (0, 0, 0, 0, 0)
    elsewhere()
    assert "4 files" in call("restore", folder)
    assert utc_now() > jobs_created(state["done"])


def jobs_created(job_id: str):
    with make_session(write=False) as session:
        return session.get_one(Job, job_id).created_at

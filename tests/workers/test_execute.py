"""A run from its claim to its end, where it cannot even start; folders that nobody needs."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from app import storage
from app.db.session import make_session
from app.db.tables import Dataset, Job, Tenant
from app.schemas.errors import ReportedError
from app.services import datasets, keys
from tests.app.factories import events_of, finish, start_run
from workers import run_folder
from workers.dataset_check import check
from workers.execute import execute
from workers.host import Grant


def job_of(run):
    with make_session(write=False) as session:
        return session.get_one(Job, run.job_id)


@pytest.mark.parametrize(
    "stored",
    [{"kind": "gone.train"}, {}, {"kind": "freetickets.train", "model": 3}, {"kind": None},
     {"kind": "freetickets.train", "prune_rate": {"p": "x"}, "escape": [1]}],
)  # fmt: skip
def test_a_stored_spec_that_is_refused_fails_its_job_at_once(settings, stored):
    run = start_run(resolved_spec=stored)
    execute(run, Grant((), 1))
    job = job_of(run)
    assert (job.status, job.error["code"], job.run_number) == ("failed", "spec_invalid", 1)
    assert "submit the job again" in job.error["message"]
    assert not run_folder.path_of(run).exists()


def test_a_store_that_is_away_requeues(settings, monkeypatch):
    def away(*_args):
        raise storage.StoreAwayError("the artifact store is not available: timeout")

    monkeypatch.setattr(run_folder, "prepare", away)
    run = start_run()
    execute(run, Grant((), 1))
    job = job_of(run)
    assert (job.status, job.error["code"]) == ("queued", "storage_unavailable")


def test_a_defect_fails_the_run_and_shows_no_path(settings, monkeypatch, tmp_path):
    def broken(*_args):
        raise RuntimeError(f"cannot open {tmp_path}/state/secret.bin")

    monkeypatch.setattr(run_folder, "prepare", broken)
    run = start_run()
    execute(run, Grant((), 1))
    job = job_of(run)
    assert (job.status, job.error["code"]) == ("failed", "internal")
    assert "cannot open secret.bin" in job.error["message"]
    assert str(tmp_path) not in job.error["message"]


def test_a_whole_run_is_stored_and_leaves_no_folder(stub):
    stub("steps", steps=6, step_s=0)
    run = start_run()
    execute(run, Grant((), 1))
    job = job_of(run)
    assert (job.status, job.result) == ("succeeded", {"total": 21})
    assert [event.data["status"] for event in events_of(run.job_id, "status")][-1] == "succeeded"
    assert not run_folder.path_of(run).exists()


def test_folders_of_runs_that_are_over_are_swept(settings):
    over, alive = start_run(), start_run()
    finish(over)
    names = ["job_00-r1", "ds_00-1", "notes", "job_00", "ds_00-x"]
    folders = [run_folder.path_of(over), run_folder.path_of(alive)]
    folders += [run_folder.runs_folder() / name for name in names]
    for folder in folders:
        (folder / "inputs").mkdir(parents=True)
    run_folder.sweep()
    left = {folder.name for folder in folders if folder.exists()}
    assert left == {run_folder.path_of(alive).name, "notes", "job_00", "ds_00-x"}


# -- checks of datasets ----------------------------------------------------------------------


@pytest.fixture
def dataset(settings, tmp_path) -> Dataset:
    """A dataset under the lease of worker ``w``."""
    (tmp_path / "bytes").write_bytes(b"no npz")
    stored = storage.put("t/x/d/y/content-1", tmp_path / "bytes")
    row = Dataset(
        id="ds_00", tenant_id=keys.DEFAULT_TENANT, name="d", format="npz", status="checking",
        storage_key="t/x/d/y/content-1", sha256=stored.sha256, size_bytes=stored.size_bytes,
    )  # fmt: skip
    with make_session() as session:
        session.add(Tenant(id=keys.DEFAULT_TENANT, name="t"))
        session.flush()
        session.add(row)
    with make_session() as session:
        return datasets.claim_check(session, "w")


def read(dataset) -> Dataset:
    with make_session(write=False) as session:
        return session.get_one(Dataset, dataset.id)


def test_a_column_name_that_no_database_holds_fails_the_dataset(dataset, tmp_path):
    parquet.write_table(pa.table({"a\0b": [1]}), tmp_path / "bytes")
    stored = storage.put(dataset.storage_key, tmp_path / "bytes")
    dataset.format, dataset.sha256 = "parquet", stored.sha256
    check(dataset, "w")
    row = read(dataset)
    assert (row.status, row.error["code"], row.failures) == ("failed", "data_invalid", 1)
    assert "ab" in row.error["message"]
    assert not run_folder.check_path_of(dataset).exists()


@pytest.mark.parametrize("fault", ["gone", "damaged"])
def test_bytes_of_a_dataset_that_are_gone_or_damaged_fail_it_at_once(dataset, fault):
    path = storage.local_path(dataset.storage_key)
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(b"other")
    check(dataset, "w")
    row = read(dataset)
    assert (row.status, row.error["code"], row.failures) == ("failed", "data_missing", 1)


def test_a_defect_in_a_check_fails_the_dataset(dataset, monkeypatch):
    monkeypatch.setattr(run_folder, "prepare_check", lambda _dataset: 1 / 0)
    check(dataset, "w")
    assert read(dataset).error["code"] == "internal"


def test_a_check_that_is_given_back_costs_no_try(dataset):
    with make_session() as session:
        assert datasets.release_check(session, dataset, "w")
        error = ReportedError(code="c", message="m")
        assert not datasets.finish_check(session, dataset, "w", None, error)
    row = read(dataset)
    assert (row.status, row.failures, row.lease_owner) == ("checking", 0, None)

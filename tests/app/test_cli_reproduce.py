"""``sextant reproduce``: the same bits, or what is different. Runs are played by the test."""

import json
import threading

import pytest
from typer.testing import CliRunner

from app import cli
from app.cli.reproduce import compare
from app.db.session import make_session
from app.services import artifacts, events
from tests.app.factories import claim, finish, line, write
from tests.app.test_cli import SMALLEST, client, database_url, service  # noqa: F401  # fixtures
from tests.service import wait_until


def play(folder, content, threads):
    """A run with a map of some bytes, on so many threads."""
    run = claim()
    with make_session() as session:
        lineage = line(type="event", event="lineage", device="cpu", threads=threads)
        events.record_many(session, run, [lineage])
    artifacts.store(run, write(folder / "m.npy", content), "saliency_map", "saliency/a/map.npy")
    artifacts.store(
        run, write(folder / "r.json", str(run.job_id).encode()), "report", "report.json"
    )
    finish(run, 0)


@pytest.fixture
def first(client, tmp_path):  # noqa: F811
    job = client.submit(SMALLEST)
    play(tmp_path, b"bits", 2)
    return job["id"]


def reproduced(client, job, folder, content, threads):  # noqa: F811
    def work():
        wait_until(lambda: list(client.jobs(status=["queued"])), 60)
        play(folder, content, threads)

    worker = threading.Thread(target=work)
    worker.start()
    result = CliRunner().invoke(cli.app, ["reproduce", job, "--json"])
    worker.join()
    return result.exit_code, json.loads(result.stdout)


def test_the_same_bits(client, first, tmp_path):  # noqa: F811
    code, verdict = reproduced(client, first, tmp_path, b"bits", 2)
    assert (code, verdict["same"], verdict["differs"]) == (0, True, {})
    assert verdict["files"] == {"saliency/a/map.npy": True}  # reports tell of times
    assert client.get(verdict["again"])["resolved_spec"]["threads"] == 2


def test_other_bits_are_named_with_what_was_different(client, first, tmp_path):  # noqa: F811
    code, verdict = reproduced(client, first, tmp_path, b"other", 1)
    assert (code, verdict["same"]) == (1, False)
    assert verdict["files"] == {"saliency/a/map.npy": False}
    assert verdict["differs"] == {"threads": [2, 1]}


def test_a_job_that_has_not_succeeded_is_refused(client):  # noqa: F811
    job = client.submit(SMALLEST)
    result = CliRunner().invoke(cli.app, ["reproduce", job["id"]])
    assert result.exit_code != 0
    assert "only a job that succeeded" in " ".join((result.output + str(result.exception)).split())


def test_a_run_that_failed_is_not_the_same():
    job = {"id": "a", "lineage": {}, "resolved_spec": {"seed": 1, "threads": None}}
    again = job | {"status": "failed", "resolved_spec": {"seed": 2, "threads": 4}}
    verdict = compare(job, again, {"w": "1"}, {"w": "1"})
    assert not verdict["same"]
    assert verdict["differs"] == {"spec.seed": [1, 2]}

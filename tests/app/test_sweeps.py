"""Sweeps: checked before they begin, made a few at a time, ranked and compared seed by seed."""

import csv
import io
import math
import statistics
import threading
from xml.etree import ElementTree

import pytest
from scipy import stats
from sqlalchemy import select, update

from app.db.session import make_session
from app.db.tables import Job, Sweep, Tenant
from app.services import jobs, lifecycle, metrics, sweeps
from app.services.child_lines import MetricLine
from app.services.keys import DEFAULT_TENANT
from tests.app.factories import add_job, claim, events_of, finish
from tests.smallest import smallest
from workers.dispatcher import advance_sweeps

KIND = "freetickets.train"
METRIC = "test_accuracy"
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def request(**more) -> dict:
    """A sweep of two learning rates over two seeds, with a baseline."""
    return {
        "name": "rates",
        "job": {"spec": smallest(KIND), "metadata": {"team": "a"}},
        "parameters": {"optimizer.lr": {"values": [0.1, 0.2]}},
        "seeds": [3, 5],
        "objective": {"metric": METRIC},
        "baseline": {"optimizer.lr": 0.05},
        **more,
    }


@pytest.fixture
def post(client):
    def send(**more) -> dict:
        answer = client.post("/v1/sweeps", json=request(**more))
        assert answer.status_code == 201, answer.text
        return answer.json()

    return send


@pytest.fixture
def read(client):
    return lambda sweep: client.get(f"/v1/sweeps/{sweep['id']}").json()


def run_next(value: float | None = None, *, step: int = 1, exit_code: int | None = 0):
    """Claim the next job, let it report its metric, and end it unless ``exit_code`` is None."""
    run = claim()
    if value is not None:
        with make_session() as session:
            line = MetricLine(type="metric", step=step, values={METRIC: value})
            metrics.write(session, run, [line])
    if exit_code is not None:
        finish(run, exit_code)
    return run


def jobs_of(sweep: dict) -> list[Job]:
    with make_session(write=False) as session:
        query = select(Job).where(Job.sweep_id == sweep["id"]).order_by(Job.sweep_place)
        return [*session.scalars(query)]


class TestOnBothDatabases:
    def test_from_the_request_to_the_ranks(self, client, post, read):
        sweep = post(max_parallel=2)
        assert (sweep["status"], sweep["jobs"]["unmade"]) == ("running", 6)
        scores = {0.05: [0.5, 0.7], 0.1: [0.6, 0.9], 0.2: [0.4, 0.5]}
        while read(sweep)["status"] == "running":
            advance_sweeps()
            open_jobs = [job for job in jobs_of(sweep) if job.status == "queued"]
            assert len(open_jobs) <= 2
            if open_jobs:
                spec = open_jobs[0].resolved_spec
                run_next(scores[spec["optimizer"]["lr"]][[3, 5].index(spec["seed"])])
        after = read(sweep)
        assert (after["status"], after["jobs"]["succeeded"]) == ("finished", 6)
        ranked = [(t["values"]["optimizer.lr"], t["rank"], t["baseline"]) for t in after["trials"]]
        assert ranked == [(0.1, 1, False), (0.05, 2, True), (0.2, 3, False)]
        best = after["trials"][0]
        assert best["objective"]["mean"] == pytest.approx(0.75)
        low, high = stats.t.interval(0.95, 1, loc=0.15, scale=stats.sem([0.1, 0.2]))
        assert best["difference"]["mean"] == pytest.approx(0.15)
        assert best["difference"]["interval"] == pytest.approx([low, high], abs=1e-4)
        assert [job["seed"] for job in best["jobs"]] == [3, 5]
        listed = client.get("/v1/jobs", params={"sweep": sweep["id"]}).json()["data"]
        assert len(listed) == 6
        assert {job["metadata"]["team"] for job in listed} == {"a"}

    def test_a_few_ended_jobs_are_made_up_for_together_or_at_the_next_look(self, post):
        sweep = post(max_parallel=16, seeds=list(range(10)))
        advance_sweeps()
        run_next(0.5)
        advance_sweeps()
        assert len(jobs_of(sweep)) == 16
        advance_sweeps(look_at_metrics=True)
        assert len(jobs_of(sweep)) == 17
        run_next(0.5)
        run_next(0.5)
        advance_sweeps()
        assert len(jobs_of(sweep)) == 19

    def test_many_dispatchers_make_each_job_once(self, post):
        sweep = post(max_parallel=64)
        threads = [threading.Thread(target=advance_sweeps) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [job.sweep_place for job in jobs_of(sweep)] == list(range(6))


@ONE_DATABASE
class TestGoingOn:
    def test_a_job_without_the_metric_leaves_its_trial_without_a_rank(self, post, read):
        sweep = post(seeds=[1, 2], baseline=None)
        advance_sweeps()
        for value in (0.5, None, 0.6, 0.7):
            run_next(value)
        trials = read(sweep)["trials"]
        assert [(t["rank"], t["objective"]["count"]) for t in trials] == [(1, 2), (None, 1)]

    def test_equal_means_share_a_rank(self, post, read):
        values = {"optimizer.lr": {"values": [0.1, 0.2, 0.3]}}
        sweep = post(seeds=[1], baseline=None, parameters=values)
        advance_sweeps()
        for value in (0.6, 0.7, 0.7):
            run_next(value)
        trials = read(sweep)["trials"]
        assert [(t["trial"], t["rank"]) for t in trials] == [(1, 1), (2, 1), (0, 3)]

    def test_the_last_or_the_best_value_of_a_job(self, post, read):
        last, best = (
            post(objective={"metric": METRIC, "take": take}, seeds=[1], baseline=None)
            for take in ("last", "best")
        )
        advance_sweeps()
        for _ in range(4):
            run = run_next(0.9, step=1, exit_code=None)
            with make_session() as session:
                metrics.write(
                    session, run, [MetricLine(type="metric", step=2, values={METRIC: 0.4})]
                )
            finish(run)
        assert read(last)["trials"][0]["objective"]["mean"] == 0.4
        assert read(best)["trials"][0]["objective"]["mean"] == 0.9

    def test_without_a_success_it_has_failed(self, post, read):
        sweep = post(seeds=[1], baseline=None)
        advance_sweeps()
        with make_session() as session:
            for job in session.scalars(select(Job)):
                lifecycle.request_cancel(session, job, "kill", save=False)
        advance_sweeps()
        after = read(sweep)
        assert (after["status"], after["error"]["code"]) == ("failed", "no_result")

    def test_killed_in_the_middle_the_next_goes_on(self, post):
        sweep = post(max_parallel=3)
        with make_session() as session:
            sweeps.advance(session, sweep["id"], look_at_metrics=False)
            session.rollback()
        assert jobs_of(sweep) == []
        advance_sweeps()
        assert [job.sweep_place for job in jobs_of(sweep)] == [0, 1, 2]

    def test_what_can_no_longer_be_submitted_ends_it_with_the_reason(self, post, read):
        sweep = post(max_parallel=1)
        with make_session() as session:
            broken = request()["job"] | {"queue": "nobody"}
            row = session.get_one(Sweep, sweep["id"])
            row.request = row.request | {"job": broken}
        advance_sweeps()
        error = read(sweep)["error"]
        assert "nobody" in error["message"]
        assert read(sweep)["status"] == "failed"

    def test_a_full_store_only_delays_it(self, post, read):
        sweep = post()
        with make_session() as session:
            session.get_one(Tenant, DEFAULT_TENANT).quotas = {"stored_bytes": 0}
        advance_sweeps()
        assert (read(sweep)["status"], jobs_of(sweep)) == ("running", [])
        with make_session() as session:
            session.get_one(Tenant, DEFAULT_TENANT).quotas = {}
        advance_sweeps()
        assert len(jobs_of(sweep)) == 4

    def test_it_counts_once_against_the_quota_of_queued_jobs(self, client, post, spec):
        with make_session() as session:
            session.get_one(Tenant, DEFAULT_TENANT).quotas = {"queued_jobs": 2}
        post()
        advance_sweeps()
        assert client.get("/v1/usage").json()["queued_jobs"]["used"] == 1
        assert client.post("/v1/jobs", json={"spec": spec}).status_code == 201
        assert client.post("/v1/sweeps", json=request()).status_code == 429


@ONE_DATABASE
class TestStopping:
    def test_a_job_worse_than_the_median_is_stopped_and_told_why(self, post, read):
        values = [round(0.1 + n / 100, 2) for n in range(5)]
        sweep = post(
            parameters={"optimizer.lr": {"values": values}},
            seeds=[1],
            early_stop={"others": 3, "after_step": 5},
            max_parallel=8,
        )
        advance_sweeps()
        runs = [run_next(score, step=5, exit_code=None) for score in (0.1, 0.5, 0.6, 0.7, 0.2)]
        run_next(0.0, step=4, exit_code=None)
        advance_sweeps(look_at_metrics=True)
        asked = [job.sweep_place for job in jobs_of(sweep) if job.cancel_requested_at]
        assert asked == [4]  # not the baseline, nor one that has not come so far
        warning = events_of(runs[4].job_id, "warning")[0].data
        assert warning["code"] == "stopped_early"
        assert "0.2 at step 5" in warning["message"]

    def test_cancel_makes_no_more_and_stops_those_made(self, client, post, read):
        sweep = post(max_parallel=2)
        advance_sweeps()
        running = run_next(0.5, exit_code=None)
        path = f"/v1/sweeps/{sweep['id']}/cancel"
        assert [client.post(path).status_code for _ in range(2)] == [202, 200]
        advance_sweeps()
        first, second = jobs_of(sweep)
        assert (first.status, second.status) == ("running", "cancelled")
        assert first.id == running.job_id
        assert first.cancel_requested_at is not None
        assert read(sweep)["status"] == "cancelled"

    def test_a_tenant_whose_jobs_are_stopped_makes_no_more(self, post, read):
        sweep = post(max_parallel=2)
        advance_sweeps()
        with make_session() as session:
            sweeps.cancel_all(session, DEFAULT_TENANT)
            jobs.cancel_all(session, DEFAULT_TENANT)
        advance_sweeps()
        assert [job.status for job in jobs_of(sweep)] == ["cancelled"] * 2
        assert read(sweep)["status"] == "cancelled"

    def test_ended_ones_are_deleted_and_leave_their_jobs(self, client, post, read):
        sweep = post(seeds=[1], baseline=None)
        path = f"/v1/sweeps/{sweep['id']}"
        assert client.delete(path).status_code == 409
        advance_sweeps()
        for _ in range(2):
            run_next(0.5)
        advance_sweeps()
        assert client.post(f"{path}/cancel").status_code == 409
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == 404
        assert len(client.get("/v1/jobs").json()["data"]) == 2

    def test_of_another_tenant_is_not_there(self, client, post):
        sweep = post()
        add_job("tenant_other")
        with make_session() as session:
            session.execute(update(Sweep).values(tenant_id="tenant_other"))
        path = f"/v1/sweeps/{sweep['id']}"
        codes = [
            client.get(path), client.delete(path), client.post(f"{path}/cancel"),
            client.get(f"{path}/report"),
        ]  # fmt: skip
        assert [each.status_code for each in codes] == [404] * 4
        assert client.get("/v1/sweeps").json()["data"] == []


@ONE_DATABASE
@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"parameters": {"optimizer.lr": {"values": [0.1, -1]}}}, "/parameters/optimizer.lr", "-1"),
        ({"parameters": {"optimiser.lr": {"values": [1]}}}, "/parameters/optimiser.lr", "optim"),
        ({"parameters": {"epochs.x": {"values": [1]}}}, "/parameters/epochs.x", ""),
        ({"parameters": {"seed": {"values": [1]}}}, "/parameters/seed", "give seeds"),
        (
            {"parameters": {"optimizer.lr": {"low": 1, "high": 0}}},
            "/parameters/optimizer.lr/low",
            "below",
        ),
        ({"parameters": {"optimizer.lr": {"low": 1}}}, "/parameters/optimizer.lr/high", "required"),
        ({"parameters": {"optimizer.lr": {"low": 0, "high": 1}}}, None, "another sampler"),
        ({"baseline": {"optimizer.momentum": 0.1}}, "/baseline/optimizer.momentum", "parameters"),
        ({"objective": {"metric": "test_acuracy"}}, "/objective/metric", "test_accuracy"),
        ({"objective": {"metric": "lr"}}, "/objective/goal", "min or max"),
        ({"seeds": [1, 1]}, "/seeds", "differ"),
        ({"sampler": "random"}, "", "how many"),
        ({"job": {"spec": {"kind": "no.kind"}}}, "/job/spec", "freetickets"),
        ({"job": {"spec": smallest(KIND), "queue": "nobody"}}, "/job/queue", "no worker"),
    ],
)
def test_nothing_is_stored_of_a_wrong_one(client, change, pointer, words):
    sent = request(**({"baseline": None} | change))
    answer = client.post("/v1/sweeps", json=sent)
    assert answer.status_code == 422, answer.text
    errors = answer.json()["errors"]
    assert pointer in (None, errors[0]["pointer"])
    assert any(words in error["detail"] for error in errors)
    assert client.get("/v1/sweeps").json()["data"] == []


@ONE_DATABASE
def test_draws_are_repeatable_and_within_their_range(client, post):
    more = {
        "sampler": "random",
        "trials": 20,
        "parameters": {
            "optimizer.lr": {"low": 1e-3, "high": 1, "log": True},
            "batch_size": {"low": 8, "high": 16, "integer": True},
            "optimizer.nesterov": {"values": [True, False]},
        },
        "baseline": {},
    }
    first, again = (post(**more)["trials"] for _ in range(2))
    other = post(**more, sampler_seed=1)["trials"]
    values = [each["values"] for each in first]
    assert values[0] == {}
    assert values == [each["values"] for each in again]
    assert values != [each["values"] for each in other]
    rates = [each["optimizer.lr"] for each in values[1:]]
    assert all(1e-3 <= rate <= 1 for rate in rates)
    assert -2.5 < statistics.fmean(map(math.log10, rates)) < -0.5
    assert {each["batch_size"] for each in values[1:]} <= set(range(8, 17))


@ONE_DATABASE
def test_the_report_is_a_page_a_table_and_a_figure(client, post):
    sweep = post(name="<b>rates</b>", seeds=[1], baseline=None)
    advance_sweeps()
    for value in (0.5, 0.9):
        run_next(value)
    get = lambda form: client.get(f"/v1/sweeps/{sweep['id']}/report", params={"format": form})  # noqa: E731
    rows = list(csv.DictReader(io.StringIO(get("csv").text)))
    assert [(row["rank"], row["optimizer.lr"], row[METRIC]) for row in rows] == [
        ("1", "0.2", "0.9"),
        ("2", "0.1", "0.5"),
    ]
    figure = ElementTree.fromstring(get("svg").text)  # noqa: S314  # ours
    assert len(figure.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    page = get("html")
    assert "<b>rates</b>" not in page.text
    assert "<svg" in page.text
    assert "attachment" in page.headers["Content-Disposition"]


@ONE_DATABASE
def test_a_repetition_with_its_key_makes_no_second(client):
    headers = {"Idempotency-Key": "once"}
    first, again = (client.post("/v1/sweeps", json=request(), headers=headers) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert len(client.get("/v1/sweeps").json()["data"]) == 1

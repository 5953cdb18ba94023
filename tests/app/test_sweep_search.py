"""Sweeps whose sampler learns: reproducible, resumed, and better than chance."""

import sys

import pytest

from app.db.session import make_session
from app.db.tables import Sweep
from app.services import jobs, metrics
from app.services.child_lines import MetricLine
from app.services.keys import DEFAULT_TENANT
from tests.app.factories import claim, finish
from tests.app.test_sweeps import METRIC, jobs_of, request, run_next
from tests.app.test_sweeps import post as post
from tests.app.test_sweeps import read as read
from workers.dispatcher import advance_sweeps

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
RATES = {"optimizer.lr": {"low": 0.001, "high": 1.0, "log": True}}
SEARCH = {"sampler": "tpe", "parameters": RATES, "seeds": [0], "baseline": None}


def score(rate: float) -> float:
    """Best at 0.1."""
    return 1 - abs(rate - 0.1)


def trials_of(sweep: dict) -> list[dict]:
    with make_session(write=False) as session:
        return session.get_one(Sweep, sweep["id"]).trials


def rate_of(run) -> float:
    with make_session(write=False) as session:
        return jobs.get(session, DEFAULT_TENANT, run.job_id).spec["optimizer"]["lr"]


def carry_out(sweep: dict, read) -> list[float]:
    """Run all jobs; the values of the trials in their order."""
    while read(sweep)["status"] == "running":
        advance_sweeps()
        for job in jobs_of(sweep):
            if job.status == "queued":
                run_next(score(job.spec["optimizer"]["lr"]))
    return [values["optimizer.lr"] for values in trials_of(sweep)]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_it_learns_and_equal_results_give_equal_values(post, read, sampler):
    search = {**SEARCH, "sampler": sampler, "trials": 16, "max_parallel": 1}
    sweep = post(**search)
    assert (sweep["jobs"]["total"], sweep["trials"]) == (16, [])
    first = carry_out(sweep, read)
    assert len(first) == len(set(first)) == 16
    assert read(sweep)["status"] == "finished"
    assert carry_out(post(**search), read) == first
    assert carry_out(post(**search, sampler_seed=1), read) != first
    best = read(sweep)["trials"][0]
    assert score(best["values"]["optimizer.lr"]) == max(map(score, first))


def test_the_order_in_which_jobs_end_changes_nothing(post, read):
    search = {**SEARCH, "trials": 9, "max_parallel": 3}
    in_order = carry_out(post(**search), read)
    sweep = post(**search)
    while read(sweep)["status"] == "running":
        advance_sweeps()
        runs = [claim() for job in jobs_of(sweep) if job.status == "queued"]
        for run in runs[::-1]:
            end(run)
            advance_sweeps()
            assert len([job for job in jobs_of(sweep) if job.status != "succeeded"]) <= 3
    assert [values["optimizer.lr"] for values in trials_of(sweep)] == in_order


def end(run) -> None:
    with make_session() as session:
        values = {METRIC: score(rate_of(run))}
        metrics.write(session, run, [MetricLine(type="metric", step=1, values=values)])
    finish(run)


def test_a_killed_dispatcher_draws_nothing_twice(post, read, monkeypatch):
    search = {**SEARCH, "trials": 4, "max_parallel": 1}
    whole = carry_out(post(**search), read)
    sweep = post(**search)
    advance_sweeps()
    run_next(score(trials_of(sweep)[0]["optimizer.lr"]))
    with monkeypatch.context() as patch:  # after the draw, before the commit
        patch.setattr(jobs, "submit", lambda *_, **__: 1 / 0)
        advance_sweeps()
    assert len(trials_of(sweep)) == len(jobs_of(sweep)) == 1
    assert carry_out(sweep, read) == whole


def test_trials_that_fail_and_baselines_outside_are_no_samples(post, read):
    search = {**SEARCH, "trials": 3, "max_parallel": 1, "baseline": {"optimizer.lr": 5.0}}
    sweep = post(**search)
    assert sweep["jobs"]["total"] == 4
    for exit_code in (0, 70, 0, 0):
        advance_sweeps()
        run_next(0.5, exit_code=exit_code)
        for job in jobs_of(sweep):  # a lost run waits; here it is given up
            if job.status == "queued":
                with make_session() as session:
                    jobs.cancel(session, DEFAULT_TENANT, job.id, "kill", save=False)
    advance_sweeps()
    assert read(sweep)["status"] == "finished"
    assert trials_of(sweep)[0] == {"optimizer.lr": 5.0}


def test_lists_of_any_values_and_whole_numbers(post, read):
    parameters = {
        "optimizer.lr": {"values": [0.1, 0.2]},
        "max_steps": {"low": 20, "high": 24, "integer": True},
    }
    sweep = post(**{**SEARCH, "parameters": parameters, "trials": 5, "max_parallel": 2})
    carry_out(sweep, read)
    for values in trials_of(sweep):
        assert values["optimizer.lr"] in (0.1, 0.2)
        assert isinstance(values["max_steps"], int)


def test_what_is_wrong_is_said_at_the_submission(client, post, monkeypatch):
    def refused(**more) -> str:
        answer = client.post("/v1/sweeps", json=request(**{**SEARCH, **more}))
        assert answer.status_code == 422, answer.text
        return str(answer.json())

    assert "how many to draw" in refused()
    outside = {"optimizer.lr": {"low": -1.0, "high": 1.0}}
    assert "/parameters/optimizer.lr" in refused(trials=3, parameters=outside)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "sextant-jobs[sweeps]" in refused(trials=3)

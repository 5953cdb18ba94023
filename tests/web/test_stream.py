"""All tabs of a browser share one stream, which tells of the tenant's own jobs alone."""

import json
import time

import pytest
from playwright.sync_api import expect

from app.http import event_streams
from app.services import keys
from tests.app.factories import add_job
from tests.service import wait_until
from tests.web.sample import report_steps, training

TABS = 12


@pytest.mark.slow
def test_twelve_tabs_hold_one_stream_and_all_hear(user, tmp_path):
    run = training(tmp_path, "for all tabs", 40)
    tabs = [user] + [user.context.new_page() for _ in range(TABS - 1)]
    for number, tab in enumerate(tabs):
        tab.goto("/" if number % 2 else f"/jobs/{run.job_id}")
        expect(tab.locator("#link-state")).to_have_text("live", timeout=30_000)
    wait_until(lambda: event_streams.open_streams() == 1, 10, "connections before the last end")
    report_steps(run, 40, 120)
    for tab in tabs:
        tab.bring_to_front()
        expect(tab.get_by_text("120 / 400")).to_be_visible(timeout=30_000)
    assert event_streams.open_streams() == 1
    for tab in tabs[1:]:
        tab.close()
    user.goto("/login")
    wait_until(lambda: event_streams.open_streams() == 0, 10, "the stream ends with the last tab")


def changed(lines) -> list[str]:
    """Ids of the next event."""
    return json.loads(next(line for line in lines if line.startswith("data: "))[6:])


def test_the_stream_tells_of_new_and_changed_jobs(visitor, tmp_path):
    run = training(tmp_path, steps=1)
    address = f"/stream?jobs={run.job_id.removeprefix('job_')}"
    with visitor.stream("GET", address) as answer:
        lines = answer.iter_lines()
        assert sorted(changed(lines)) == sorted([run.job_id, keys.DEFAULT_TENANT])
        time.sleep(1.5)  # the hub knows both by now
        report_steps(run, 1, 3)
        told = changed(lines)
        while run.job_id not in told:
            told = changed(lines)
        add_job()
        while keys.DEFAULT_TENANT not in changed(lines):
            pass


def test_the_stream_says_nothing_of_jobs_of_others(visitor):
    foreign = add_job("tenant_b")
    with visitor.stream("GET", f"/stream?jobs={foreign.removeprefix('job_')}") as answer:
        assert changed(answer.iter_lines()) == [keys.DEFAULT_TENANT]


def test_the_stream_counts_for_the_limit_of_its_key(visitor, monkeypatch):
    monkeypatch.setattr(event_streams, "MAX_STREAMS_PER_KEY", 1)
    with visitor.stream("GET", "/stream") as first:
        assert first.status_code == 200
        refused = visitor.get("/stream", headers={"Accept": "text/event-stream"})
        assert refused.status_code == 429


def test_a_wrong_list_of_jobs_is_refused(visitor):
    for jobs in ("x", "0" * 31, ",", ",".join(["0" * 32] * 501)):
        answer = visitor.get(f"/stream?jobs={jobs}", headers={"Accept": "application/json"})
        assert answer.status_code == 422

"""Several jobs beside each other."""

import re

import pytest
from playwright.sync_api import expect

from app.db.session import make_session
from app.db.tables import Job
from tests.app.factories import add_job
from tests.web.conftest import LOOKS, photograph, violations
from tests.web.sample import SPEC, end, report_steps, training


def address(*jobs: str) -> str:
    return f"/compare?jobs={','.join(job.removeprefix('job_') for job in jobs)}"


LONG = "every second step cheap, learning rate 0.05, cosine to nothing, seed 17"


def two(folder, second="period 2") -> list[str]:
    """Two trainings that differ in one field; their results and ids."""
    made = []
    for number, (name, accuracy) in enumerate([("period 5", 0.9775), (second, 0.9688)]):
        run = training(folder, name, 300 + 100 * number, 90 - 35 * number)
        result = {"test_accuracy": accuracy, "note": "no figure"}
        end(run, exit_code=0, result=result)
        with make_session() as session:
            job = session.get_one(Job, run.job_id)
            job.resolved_spec = dict(SPEC) | {"batch_size": 16 + number}
        made.append(run.job_id)
    return made


@pytest.mark.parametrize("look", LOOKS[:3], ids=str)
def test_looks(user, tmp_path, look):
    look.apply(user)
    user.goto(address(*two(tmp_path, LONG)))
    expect(user.locator(".chart")).to_have_count(3)
    first = user.locator(".chart").first.locator(".u-series")
    expect(first.nth(3)).to_contain_text("every second …thing, seed 17")
    photograph(user, "compare", look)
    assert violations(user) == []


def test_jobs_are_marked_in_the_list_and_compared(user, tmp_path):
    two(tmp_path)
    user.goto("/")
    user.get_by_label("Mark period 5").check()
    compare = user.get_by_role("button", name="Compare")
    expect(compare).to_be_disabled()
    user.get_by_label("Mark period 2").check()
    compare.click()
    user.wait_for_url(re.compile("/compare"))
    loss = user.locator(".chart").first
    expect(loss.locator(".u-series")).to_have_count(5)  # the steps, and two series of each job
    expect(loss.locator(".plot")).to_have_attribute("aria-label", re.compile("at step 399"))


def test_results_differing_fields_and_pictures_stand_in_rows(visitor, tmp_path):
    jobs = two(tmp_path)
    text = visitor.get(address(*jobs)).text
    row = re.search(r'class="mono">test_accuracy</th>(.*?)</tr>', text, re.DOTALL)[1]
    assert re.findall(r'"value">([^<]+)<', row) == ["0.9775", "0.9688"]
    assert "no figure" not in text
    differing = text[text.index("specs-title") :]
    assert re.findall(r'scope="row" class="mono">([^<]+)<', differing) == ["batch_size"]
    assert differing.count('alt="curves.png of period') == 2


def test_it_follows_jobs_that_run(user, tmp_path):
    first, second = training(tmp_path, "one", 40), training(tmp_path, "two", 40)
    user.goto(address(first.job_id, second.job_id))
    plot = user.locator(".chart .plot").first
    expect(plot).to_have_attribute("aria-label", re.compile("at step 39"))
    expect(user.locator("#link-state")).to_have_text("live")
    report_steps(second, 40, 90)
    expect(plot).to_have_attribute("aria-label", re.compile("at step 89"))


def test_one_job_eleven_jobs_and_those_of_others_are_refused(visitor):
    jobs = [add_job() for _ in range(11)]
    assert visitor.get(address(*jobs[:1])).status_code == 404
    assert visitor.get(address(*jobs)).status_code == 404
    assert visitor.get(address(*jobs[:10])).status_code == 200
    assert visitor.get(address(jobs[0], add_job("tenant_b"))).status_code == 404
    same = visitor.get(address(jobs[0], jobs[1])).text
    assert "Nowhere: these jobs ask for the same." in same

"""The list of jobs in a browser."""

import re

import pytest
from playwright.sync_api import expect

from app.db.tables import JobStatus
from tests.app.factories import add_job
from tests.web.conftest import LOOKS, photograph, violations
from tests.web.sample import end, every_status, report_steps, training


def test_a_key_is_typed_and_opens_the_list(tab, admin_key):
    tab.goto("/login")
    tab.get_by_label("Key").fill(admin_key)
    tab.get_by_role("button", name="Log in").click()
    tab.wait_for_url("**/")
    expect(tab.get_by_role("button", name="Log out")).to_be_visible()


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_looks(user, tmp_path, look):
    """Nothing for axe-core to complain of, nothing wider than the screen; pictures for the docs."""
    every_status(tmp_path)
    look.apply(user)
    user.goto("/")
    expect(user.locator("#link-state")).to_have_text("live")
    photograph(user, "jobs", look)
    assert violations(user) == []


def test_a_row_says_what_a_job_is_and_what_it_waits_for(user, tmp_path):
    every_status(tmp_path)
    user.goto("/")
    rows = user.locator("tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.nth(0)).to_contain_text("waits for a worker, number 1 in the queue default")
    expect(rows.nth(1)).to_contain_text("200 / 400 · training")
    expect(rows.nth(1).locator("progress")).to_have_attribute("value", "0.5")
    expect(rows.nth(3)).to_contain_text("the bytes of dataset 'roads' are gone")
    expect(rows.nth(4)).to_contain_text("test_accuracy 0.9775")


def test_search_and_filters_narrow_the_list_and_stand_in_the_address(user, tmp_path):
    every_status(tmp_path)
    user.goto("/")
    user.get_by_placeholder("Part of a name").fill("LOST")
    expect(user.locator("tbody tr")).to_have_count(1)
    assert "search=LOST" in user.url
    user.get_by_placeholder("Part of a name").fill("")
    user.get_by_label("running").check()
    user.get_by_label("queued").check()
    expect(user.locator("tbody tr")).to_have_count(2)
    user.get_by_label("Kind").select_option("saliency.map")
    expect(user.locator("tbody tr")).to_have_count(1)
    user.reload()
    expect(user.locator("tbody tr")).to_have_count(1)
    expect(user.get_by_label("running")).to_be_checked()
    user.get_by_label("Kind").select_option("lcw.train")
    expect(user.get_by_text("No job fits these filters.")).to_be_visible()


def test_without_scripts_the_list_can_be_read_and_filtered(visitor, tmp_path):
    every_status(tmp_path)
    assert visitor.get("/").text.count('name="picked"') == 5
    assert visitor.get("/?status=failed&status=queued").text.count('name="picked"') == 2
    assert visitor.get("/?search=%25").text.count('name="picked"') == 0  # no wildcard
    for wrong in ("/?status=lost", "/?nothing=1", "/?cursor=x"):
        assert visitor.get(wrong).status_code in (404, 422), wrong


def test_pages_lead_to_every_job(visitor):
    made = {add_job(name=f"job {n}") for n in range(120)}
    seen, address = set(), "/"
    while address:
        text = visitor.get(address).text
        seen |= set(re.findall(r'name="picked" value="(job_\w+)"', text))
        following = re.search(r'href="([^"]+)" rel="next"', text)
        address = following and following[1].replace("&amp;", "&")
    assert seen == made


def test_a_new_job_and_its_progress_appear_by_themselves(user, tmp_path):
    user.goto("/")
    expect(user.get_by_text("No jobs yet")).to_be_visible()
    expect(user.locator("#link-state")).to_have_text("live")
    run = training(tmp_path, "fresh", 40)
    expect(user.get_by_text("40 / 400")).to_be_visible()
    report_steps(run, 40, 300)
    expect(user.get_by_text("300 / 400")).to_be_visible()
    end(run, exit_code=0)
    expect(user.locator("tbody .status")).to_have_text("succeeded")


def test_several_jobs_are_cancelled_and_deleted_at_once(user):
    for name in ("first", "second", "third"):
        add_job(name=name)
    user.goto("/")
    user.get_by_label("Mark first").check()
    user.get_by_label("Mark third").check()
    expect(user.get_by_text("2 marked")).to_be_visible()
    user.get_by_role("button", name="Cancel").click()
    user.get_by_role("button", name="Yes").click()
    expect(user.locator("tbody .status.cancelled")).to_have_count(2)
    expect(user.locator("tbody .status.queued")).to_have_count(1)
    user.get_by_label("Mark all").check()
    user.get_by_role("button", name="Delete").click()
    user.get_by_role("button", name="Yes").click()
    expect(user.locator("tbody tr")).to_have_count(1)
    expect(user.get_by_text(re.compile("cancel it first"))).to_be_visible()
    user.get_by_label("Mark second").check()
    user.get_by_role("button", name="Cancel").click()
    user.get_by_role("button", name="No", exact=True).click()
    expect(user.locator("tbody .status.queued")).to_have_count(1)


def test_several_jobs_are_hidden_and_shown_again(user):
    for name in ("first", "second", "third"):
        add_job(name=name)
    user.goto("/")
    user.get_by_label("Mark first").check()
    user.get_by_label("Mark third").check()
    user.get_by_role("button", name="Hide").click()
    expect(user.locator("tbody tr")).to_have_count(1)
    expect(user.get_by_text("2 hidden")).to_be_visible()
    user.get_by_label("hidden", exact=True).check()
    expect(user.locator("tbody tr")).to_have_count(2)
    assert "hidden=true" in user.url
    user.get_by_label("Mark first").check()
    user.get_by_role("button", name="Show again").click()
    expect(user.locator("tbody tr")).to_have_count(1)
    user.goto("/")
    expect(user.locator("tbody tr")).to_have_count(2)


def test_marks_outlive_a_refresh_of_the_list(user, tmp_path):
    run = training(tmp_path, "goes on", 40)
    add_job(name="marked")
    user.goto("/")
    user.get_by_label("Mark marked").check()
    report_steps(run, 40, 80)
    expect(user.get_by_text("80 / 400")).to_be_visible()
    expect(user.get_by_label("Mark marked")).to_be_checked()


def test_names_are_text_and_nothing_else(user):
    add_job(name="<img src=x onerror=alert(1)><b>bold</b>")
    user.goto("/")
    expect(user.get_by_text("<img src=x onerror=alert(1)><b>bold</b>")).to_be_visible()


def test_the_list_is_used_by_keys_alone(user, tmp_path):
    job = every_status(tmp_path)[JobStatus.QUEUED]
    user.goto("/")
    user.keyboard.press("Tab")
    expect(user.get_by_text("Skip to the content")).to_be_focused()
    user.keyboard.press("Enter")
    user.get_by_label("Mark waits").focus()
    user.keyboard.press("Space")
    expect(user.get_by_text("1 marked")).to_be_visible()
    user.keyboard.press("Tab")
    user.keyboard.press("Enter")
    user.wait_for_url(f"**/jobs/{job}")

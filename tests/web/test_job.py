"""One job in a browser: curves, files, log, spec, what can be done with it."""

import io
import json
import re
import zipfile

import pytest
from playwright.sync_api import expect

from app.db.session import make_session
from app.db.tables import Job, JobStatus
from app.services import artifacts
from tests.app.factories import add_job, start_run, write
from tests.web.conftest import LOOKS, photograph, violations
from tests.web.sample import end, every_status, put, put_log, report_steps, training

POINTS = """name => {
  const charts = [...document.querySelectorAll(".chart")];
  const chart = charts.find(each => each.querySelector("h3").textContent === name);
  const ink = chart.querySelector("canvas").getContext("2d");
  const {width, height} = ink.canvas;
  return ink.getImageData(0, 0, width, height).data.filter((v, n) => n % 4 === 3 && v > 0).length;
}"""

# pixels of the first chart in the colour of its first line
INK = """() => {
  const hex = getComputedStyle(document.documentElement).getPropertyValue("--series-0").trim();
  const colour = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const ink = document.querySelector(".chart canvas").getContext("2d");
  const {data} = ink.getImageData(0, 0, ink.canvas.width, ink.canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4)
    count += data[at + 3] > 250 && colour.every((value, n) => Math.abs(value - data[at + n]) < 8);
  return count;
}"""


@pytest.mark.parametrize("look", LOOKS, ids=str)
@pytest.mark.parametrize(
    "status",
    ["succeeded", *(pytest.param(each, marks=pytest.mark.slow) for each in ("running", "failed"))],
)
def test_looks(user, tmp_path, look, status):
    jobs = every_status(tmp_path)
    look.apply(user)
    user.goto(f"/jobs/{jobs[JobStatus(status)]}")
    if status != "failed":
        expect(user.locator(".chart")).to_have_count(3)
    photograph(user, f"job_{status}", look)
    assert violations(user) == []


def test_series_of_one_unit_whose_names_end_alike_share_a_chart(user, tmp_path):
    user.goto(f"/jobs/{training(tmp_path).job_id}")
    titles = user.locator(".chart h3")
    expect(titles).to_have_text(["loss", "lr", "test_accuracy"])
    first = user.locator(".chart").first
    expect(first.locator(".u-series").nth(1)).to_contain_text("loss")
    expect(first.locator(".u-series").nth(2)).to_contain_text("baseline_loss")
    assert user.evaluate(POINTS, "loss") > 500  # something was drawn
    label = first.locator(".plot").get_attribute("aria-label")
    assert re.search(r"loss 0\.\d+ at step 399", label)


def test_a_series_of_one_step_can_be_seen(user):
    run = start_run(name="one step")
    report_steps(run, 0, 1)
    user.goto(f"/jobs/{run.job_id}")
    expect(user.locator(".chart")).to_have_count(2)
    assert user.evaluate(INK) > 40  # a filled marker, no line


def test_curves_log_and_files_grow_while_the_job_runs(user, tmp_path):
    run = training(tmp_path, steps=100)
    user.goto(f"/jobs/{run.job_id}")
    plot = user.locator(".chart .plot").first
    expect(plot).to_have_attribute("aria-label", re.compile("at step 99"))
    expect(user.locator("#log-text")).to_contain_text("step   59")
    report_steps(run, 100, 180)
    expect(plot).to_have_attribute("aria-label", re.compile("at step 179"))
    expect(user.locator("#state")).to_contain_text("180 / 400")
    put_log(run, tmp_path, 90)
    put(run, tmp_path, "late.csv", "table", b"a,b\n1,2\n")
    expect(user.locator("#log-text")).to_contain_text("step   89")
    expect(user.locator("#files")).to_contain_text("late.csv")
    end(run, exit_code=0, result={"test_accuracy": 0.9})
    expect(user.get_by_role("button", name="Retry…")).to_be_visible()
    expect(user.locator(".figures")).to_contain_text("0.9")


def test_zoom_scale_and_smoothing(user, tmp_path):
    user.goto(f"/jobs/{training(tmp_path).job_id}")
    over = user.locator(".chart .u-over").first
    reset = user.get_by_role("button", name="Reset zoom")
    expect(reset).to_be_disabled()
    box = over.bounding_box()
    user.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 60)
    user.mouse.down()
    user.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=5)
    user.mouse.up()
    expect(reset).to_be_enabled()
    reset.click()
    expect(reset).to_be_disabled()
    plain = user.evaluate(POINTS, "loss")
    user.get_by_label("Log scale").check()
    assert user.evaluate(POINTS, "loss") != plain
    user.get_by_label("Smoothing").fill("0.9")
    expect(user.locator("#smoothing-value")).to_have_text("0.90")
    expect(user.locator(".chart").first.locator(".u-series")).to_have_count(5)
    user.reload()
    expect(user.get_by_label("Log scale")).to_be_checked()
    expect(user.locator("#smoothing-value")).to_have_text("0.90")


def test_files_are_shown_as_what_they_are(user, tmp_path):
    user.goto(f"/jobs/{training(tmp_path).job_id}")
    picture = user.get_by_role("img", name="curves.png")
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("naturalWidth", 120)
    figure = user.get_by_role("figure").filter(has_text="curves.png")
    expect(figure.get_by_role("link", name="download curves.svg")).to_be_visible()
    expect(user.get_by_text("curves.svg")).to_have_count(1)  # nowhere else
    frame = user.frame_locator("iframe")
    user.locator("iframe").scroll_into_view_if_needed()
    expect(frame.locator("#words")).to_have_text("Its own style, no script.")
    user.get_by_text("history.csv").first.click()
    expect(user.get_by_role("region", name="history.csv").locator("tbody tr")).to_have_count(12)
    user.get_by_text("report.json").first.click()
    expect(user.get_by_role("region", name="report.json")).to_contain_text('"test_accuracy": 0.977')
    with user.expect_download() as download:
        user.get_by_role("link", name="download weights.safetensors").click()
    assert download.value.path().read_bytes() == b"0" * 4096


def test_a_long_table_is_cut_and_says_so(visitor, tmp_path):
    run = training(tmp_path, steps=2)
    rows = "a,b\n" + "".join(f"{n},x\n" for n in range(50_000))
    put(run, tmp_path, "long.csv", "table", rows.encode())
    put(run, tmp_path, "bad.json", "report", b"{no json \xff")
    shown = visitor.get(f"/jobs/{run.job_id}/preview/long.csv").text
    assert shown.count("<tr>") == 101
    assert "Only the beginning is shown" in shown
    assert "{no json" in visitor.get(f"/jobs/{run.job_id}/preview/bad.json").text
    short = visitor.get(f"/jobs/{run.job_id}/preview/history.csv").text
    assert "Only the beginning" not in short


def test_all_files_come_as_one_zip(visitor, tmp_path):
    job = training(tmp_path, steps=2).job_id
    address = f"/jobs/{job}/archive"
    assert address in visitor.get(f"/jobs/{job}").text
    names = zipfile.ZipFile(io.BytesIO(visitor.get(address).content)).namelist()
    assert f"{job}/curves.svg" in names
    assert address not in visitor.get(f"/jobs/{add_job()}").text


def test_the_spec_is_told_as_sent_resolved_and_against_presets(visitor):
    spec = {"kind": "dynamic_downsampling.train", "model": {"name": "resnet8"}, "epochs": 3}
    job = add_job(kind=spec["kind"], spec=spec, resolved_spec=spec | {"seed": 0})
    text = visitor.get(f"/jobs/{job}").text
    assert "Against the preset <code>digits</code>" in text
    row = re.search(r"<tr><td class=\"value\">epochs</td>(.*?)</tr>", text, re.DOTALL)[1]
    assert row.count("<td") == 2
    assert ">3</td>" in row
    assert "&#34;seed&#34;: 0" in text


def test_cancel_retry_and_delete(user, tmp_path):
    job = add_job(name="to be stopped")
    user.goto(f"/jobs/{job}")
    user.get_by_role("button", name="Cancel").click()
    user.get_by_role("button", name="Yes").click()
    expect(user.locator("#state .status")).to_have_text("cancelled")
    user.get_by_role("button", name="Retry…").click()
    user.get_by_label("Changes to the spec (JSON)").fill('{"seed": -1}')
    user.get_by_role("button", name="Submit").click()
    expect(user.locator("#retry-refused")).to_contain_text("/overrides/seed")
    user.faults.clear()  # the browser tells of the 422 in its console
    user.get_by_label("Changes to the spec (JSON)").fill('{"seed": 7}')
    user.get_by_role("button", name="Submit").click()
    user.wait_for_url(re.compile(rf"/jobs/job_(?!{job[4:]})"))
    expect(user.locator("#state")).to_contain_text("Retry of")
    expect(user.locator("#spec pre").first).to_contain_text('"seed": 7')
    user.goto(f"/jobs/{job}")
    user.get_by_role("button", name="Delete").click()
    user.get_by_role("button", name="Yes").click()
    user.wait_for_url("**/")
    with make_session() as session:
        assert session.get_one(Job, job).deleted_at is not None


def test_series_come_in_columns_with_the_extremes_of_ranges(visitor, tmp_path):
    run = training(tmp_path, steps=300)
    read = visitor.get(f"/jobs/{run.job_id}/series").json()
    assert [chart["name"] for chart in read["charts"]] == ["loss", "lr", "test_accuracy"]
    assert read["series"]["loss"]["step"] == list(range(300))
    assert "min" not in read["series"]["loss"]
    part = visitor.get(f"/jobs/{run.job_id}/series?names=loss&from_step=290").json()
    assert list(part["series"]) == ["loss"]
    assert part["series"]["loss"]["step"] == list(range(290, 300))
    json.dumps(read, allow_nan=False)


def test_a_log_is_read_in_parts_without_a_gap(visitor, tmp_path):
    run = training(tmp_path, steps=1)
    text = "".join(f"line {n}\n" for n in range(2000))
    artifacts.put_log(run, write(tmp_path / "long.txt", text.encode()))
    tail = visitor.get(f"/jobs/{run.job_id}/log").json()
    assert tail["text"] == "".join(f"line {n}\n" for n in range(1600, 2000))
    artifacts.put_log(run, write(tmp_path / "long.txt", (text + "half").encode()))
    more = visitor.get(f"/jobs/{run.job_id}/log?offset={tail['offset']}").json()
    assert (more["text"], more["offset"]) == ("", tail["offset"])  # a line comes when it is whole
    end(run, exit_code=0)
    assert visitor.get(f"/jobs/{run.job_id}/log?offset={tail['offset']}").json()["text"] == "half"
    assert visitor.get(f"/jobs/{add_job()}/log").json()["text"] == ""

"""Terrain in a browser: GeoTIFFs by ranges, depth over time, one layer beside another, gauges."""

import re

import pytest
from playwright.sync_api import expect

from tests.web.conftest import LOOKS, photograph, violations
from tests.web.view_sample import terrain_job

PIXEL = """([id, x, y]) =>
  [...document.getElementById(id).getContext("2d").getImageData(x, y, 1, 1).data]"""


def test_depth_over_time_with_coordinates_and_gauges(user, tmp_path):
    statuses = {}
    user.on("response", lambda answer: statuses.update({answer.url: answer.status}))
    user.goto(f"/jobs/{terrain_job(tmp_path)}")
    user.get_by_role("link", name="Look at the terrain").click()
    expect(user.locator("#time-name")).to_have_text("20 min")  # the last one at first
    assert {status for url, status in statuses.items() if url.endswith(".tif")} == {206}
    user.locator("#stage").focus()
    user.keyboard.press("ArrowDown")  # row 20, column 30
    expect(user.locator("#where")).to_have_text("easting (m) 382152.5, northing (m) 6354897.5")
    values = user.locator("#values tbody tr")
    expect(values).to_have_count(2)  # one layer, nothing beside it
    expect(user.locator("#field-swipe")).to_be_hidden()
    expect(values.nth(0)).to_have_text(re.compile(r"ground\s*9.6"))
    expect(values.nth(1)).to_have_text(re.compile(r"depth\s*2\s*m"))
    assert user.evaluate(PIXEL, ["left-map", 30, 20])[3] == 255
    assert user.evaluate(PIXEL, ["left-map", 30, 2])[3] == 0  # dry
    user.get_by_role("slider", name="Time").fill("0")
    expect(values.nth(1)).to_have_text(re.compile(r"depth\s*1\s*m"))
    expect(user.locator(".mark")).to_have_text("mouth")
    user.get_by_role("combobox", name="Reading").select_option("depth_m")
    expect(user.locator("#plot .u-legend")).to_contain_text("mouth")


def test_coarse_beside_fine_and_their_difference(user, tmp_path):
    user.goto(f"/jobs/{terrain_job(tmp_path)}/view?left=1&right=2")
    expect(user.locator("#left-name")).to_have_text("fine")
    swipe = user.get_by_role("slider", name="Swipe")
    swipe.fill("0.25")
    clip = user.locator("#right-map").evaluate("node => node.style.clipPath")
    assert float(re.search(r"([\d.]+)%\)", clip)[1]) == pytest.approx(25 * 60 / 64, abs=0.01)
    user.get_by_role("combobox", name="Shown as").select_option("difference")
    expect(user.locator("#bars")).to_contain_text("coarse less fine (m)")
    user.locator("#stage").focus()
    user.keyboard.press("ArrowUp")
    expect(user.locator("#values tbody tr").last).to_have_text(re.compile(r"first\s*5.3"))
    assert user.evaluate(PIXEL, ["left-map", 2, 2])[3] == 0  # no height, no difference


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_looks(user, tmp_path, look):
    look.apply(user)
    user.goto(f"/jobs/{terrain_job(tmp_path)}/view")
    expect(user.locator("#plot .u-legend")).to_contain_text("mouth")
    user.locator("#stage").click(position={"x": 100, "y": 100})
    photograph(user, "view_rasters", look)
    assert violations(user) == []

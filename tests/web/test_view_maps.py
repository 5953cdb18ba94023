"""Maps over their images in a browser: one scale, the value at a pixel, curves and their states."""

import re

import pytest
from playwright.sync_api import expect

from tests.web.conftest import LOOKS, photograph, violations
from tests.web.sample import end, training
from tests.web.view_sample import maps_job

PIXEL = """([id, x, y]) =>
  [...document.getElementById(id).getContext("2d").getImageData(x, y, 1, 1).data]"""


def test_one_scale_for_all_maps_of_a_quantity_and_the_value_at_a_pixel(user, tmp_path):
    user.goto(f"/jobs/{maps_job(tmp_path)}")
    user.get_by_role("link", name="Look into the maps").click()
    expect(user.locator("#bar")).to_have_text("-0.5fall of probability when covered0.5")
    strongest = user.evaluate(PIXEL, ["map", 23, 5])
    assert strongest == [0x67, 0x00, 0x1F, 255]  # the last colour of the scale
    user.get_by_role("combobox", name="Baseline").select_option("blur")
    expect(user).to_have_url(re.compile("baseline=blur"))
    expect(user.locator("#bar")).to_contain_text("0.5")  # black's map reaches further
    assert user.evaluate(PIXEL, ["map", 23, 5]) != strongest
    user.get_by_role("combobox", name="Colours").select_option("one")
    expect(user.locator("#bar")).to_contain_text("0.25")
    assert user.evaluate(PIXEL, ["map", 23, 5]) == strongest
    user.locator("#stage").focus()
    user.keyboard.press("ArrowRight")
    expect(user.locator("#where")).to_have_text("row 12, column 13")
    values = user.locator("#values tbody tr")
    expect(values).to_have_count(2)  # those looked at before
    expect(values.nth(1)).to_contain_text(f"{0.25 * 13 / 23:.4f}".rstrip("0"))
    expect(user.locator("#left-out")).to_contain_text("first 1 of 3")
    user.reload()
    expect(user.get_by_role("combobox", name="Baseline")).to_have_value("blur")


def test_a_state_of_a_curve_is_shown_on_the_image(user, tmp_path):
    user.goto(f"/jobs/{maps_job(tmp_path)}/view")
    over = user.locator("#plot .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    user.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    expect(user.locator("#state")).to_be_visible()
    shown = [user.evaluate(PIXEL, ["state", x, 3])[3] for x in (2, 20)]
    assert shown == [0, 255]  # at one half, the half with the larger values is gone
    user.get_by_role("combobox", name="Curve").select_option("insertion")
    ends = user.locator("#end-states tbody tr").last
    expect(ends).to_have_text(re.compile(r"occlusion\s*black\s*0.05\s*0.75\s*0.52"))


def test_a_job_without_a_view_says_so(visitor, tmp_path):
    run = training(tmp_path)
    end(run, exit_code=0)
    answer = visitor.get(f"/jobs/{run.job_id}/view")
    assert answer.status_code == 404
    assert "nothing that a viewer" in answer.text
    assert "/view" not in visitor.get(f"/jobs/{run.job_id}").text


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_looks(user, tmp_path, look):
    look.apply(user)
    user.goto(f"/jobs/{maps_job(tmp_path)}/view")
    expect(user.locator("#end-states tbody tr")).to_have_count(2)
    user.locator("#stage").click(position={"x": 100, "y": 100})
    photograph(user, "view_maps", look)
    assert violations(user) == []

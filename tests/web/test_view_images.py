"""Images of generators and members of ensembles in a browser."""

import pytest
from playwright.sync_api import expect

from tests.web.conftest import LOOKS, photograph, violations
from tests.web.view_sample import ensemble_job, generator_job

CENTRE = """id => {
  const canvas = document.getElementById(id);
  return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0];
}"""


def test_samples_and_the_ways_between_them(user, tmp_path):
    """Each is drawn from its bytes: the chosen sample large, the step of a way by the slider."""
    user.goto(f"/jobs/{generator_job(tmp_path)}")
    user.get_by_role("link", name="Look at the images").click()
    expect(user.locator("#sample-name")).to_have_text("sample 1 of 20")
    user.locator("#samples").focus()
    user.keyboard.press("ArrowDown")
    user.keyboard.press("ArrowRight")
    expect(user.locator("#sample-name")).to_have_text("sample 18 of 20")
    expect(user.locator("#beside-name")).to_contain_text("0.25 away")
    assert user.evaluate(CENTRE, "sample") == user.evaluate(CENTRE, "beside") == 17 * 12
    user.get_by_label("Along the way").fill("3")
    expect(user.locator("#step-name")).to_have_text("pair 1, step 4 of 5")
    assert user.evaluate(CENTRE, "step-image") == 150
    user.get_by_role("combobox", name="Way").select_option("spherical")
    expect(user).to_have_url(f"{user.url.partition('?')[0]}?way=1")
    expect(user.locator("#step-name")).to_have_text("pair 1, step 4 of 5")


def test_how_far_members_agree(user, tmp_path):
    user.goto(f"/jobs/{ensemble_job(tmp_path)}")
    user.get_by_role("link", name="Compare the members").click()
    expect(user.locator("#gain")).to_contain_text("3 points above its best member")
    expect(user.locator("#matrix tbody tr").first).to_contain_text("0.08")
    user.get_by_role("combobox", name="Measure").select_option("masks in common")
    expect(user.locator("#matrix-unit")).to_contain_text("masks in common")
    expect(user.locator("#calibration-plot .u-series")).to_have_count(5)
    first = user.locator("#disputed figure").first
    expect(first).to_contain_text("test image 4: three")
    expect(first.locator("tr")).to_have_count(3)
    expect(first.locator("tr").nth(1)).to_contain_text("eight")


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_looks(user, tmp_path, look):
    look.apply(user)
    for name, make in (("images", generator_job), ("members", ensemble_job)):
        user.goto(f"/jobs/{make(tmp_path / name)}/view")
        shown = {"images": "#step-name", "members": "#disputed figure"}[name]
        expect(user.locator(shown).first).to_contain_text("pair" if name == "images" else "three")
        photograph(user, f"view_{name}", look)
        assert violations(user) == []

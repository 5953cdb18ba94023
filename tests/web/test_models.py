"""Pages of registered models."""

import pytest

from app.services import artifacts
from tests.app.factories import add_job, claim, finish, write
from tests.web.conftest import LOOKS, photograph, token_of, violations

FILE = "weights.safetensors"


@pytest.fixture
def trained(site, tmp_path) -> str:
    """A job that has left weights."""
    add_job(kind="freetickets.train", method="freetickets")
    run = claim()
    artifacts.store(run, write(tmp_path / "f", b"weights"), "weights", FILE)
    finish(run)
    return run.job_id


@pytest.mark.parametrize("look", LOOKS[:2], ids=str)
def test_a_file_is_registered_and_an_alias_moved(user, trained, look):
    look.apply(user)
    for alias in ("production", ""):
        user.goto(f"/jobs/{trained}")
        user.get_by_role("link", name="Register…").click()
        user.get_by_label("Model; a new name").fill("digits")
        user.get_by_label("Alias that moves").fill(alias)
        assert violations(user) == []
        user.get_by_role("button", name="Register").click()
        user.wait_for_url("**/models/digits")
    user.get_by_role("button", name="production here").click()
    user.locator("dialog[open]").get_by_role("button").first.click()
    user.get_by_role("row").filter(has_text="model:digits/2").get_by_text(
        "production", exact=True
    ).wait_for()
    user.goto("/new?kind=classify.predict")
    assert user.locator('option[value="model:digits@production"]').count() == 1
    for page in ("models", "models/digits"):
        user.goto(f"/{page}")
        photograph(user, page.replace("/digits", "_one"), look)
        assert violations(user) == []


def test_a_refused_form_says_why(visitor, trained):
    page = visitor.get(f"/models/register/{trained}").text
    form = {"csrf_token": token_of(page), "name": "digits", "artifact": "other", "alias": ""}
    refused = visitor.post(f"/models/register/{trained}", data=form)
    assert (refused.status_code, "has no artifact" in refused.text) == (422, True)
    wrong = visitor.post(f"/models/register/{trained}", data=form | {"name": "a b", "alias": "1"})
    assert (wrong.status_code, "name, alias: letters" in wrong.text) == (422, True)
    assert visitor.get("/models/digits").status_code == 404
    assert "No model yet" in visitor.get("/models").text

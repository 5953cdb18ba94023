"""The documentation of the API, offline."""

import re

from playwright.sync_api import expect

from app.main import create_app
from app.schemas.jobs import JobCreate
from models.catalog import kinds
from tests.service import connect


def test_it_loads_nothing_from_elsewhere_and_has_an_example_for_each_kind(tab, site):
    addresses: list[str] = []
    tab.on("request", lambda request: addresses.append(request.url))
    tab.goto("/docs")
    post = tab.locator("#operations-jobs-create_job")
    post.locator(".opblock-summary-control").click(timeout=100_000)  # draws every kind
    choice = post.locator("select").filter(has_text="lcw.sample").first
    expect(choice.locator("option")).to_have_text(list(kinds()))
    choice.select_option("lcw.sample")
    expect(post.locator(".opblock-section-request-body")).to_contain_text('"lcw.sample"')
    assert {address for address in addresses if not address.startswith((site, "data:"))} == set()


def test_every_example_is_a_body_that_is_accepted():
    document = create_app().openapi()
    content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert list(content["examples"]) == list(kinds())
    for name, example in content["examples"].items():
        assert JobCreate.model_validate(example["value"]).spec.kind == name
        assert example["description"]


def test_no_page_of_the_framework_is_left(site):
    with connect(site) as client:
        assert client.get("/redoc").status_code == 404
        text = client.get("/docs").text
    assert re.findall(r'(?:src|href)="(?!/)', text) == []

"""The studies of docs/reproducibility.md are requests that the service takes."""

import json
from pathlib import Path

import pytest

from tests.app.test_needs import add_dataset

DOCS = Path(__file__).parents[2] / "docs"
STUDIES = sorted((DOCS / "studies").glob("*.json"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_accepted(client, path):
    add_dataset("cifar10", train=50_000, test=10_000, classes=10, height=32, width=32, channels=3)
    add_dataset("photographs", images=20)
    request = json.loads(path.read_text())
    where = "/v1/sweeps" if "job" in request else "/v1/jobs"
    answer = client.post(where, json=request)
    assert answer.status_code == 201, answer.text


def test_the_page_names_each_study():
    text = (DOCS / "reproducibility.md").read_text()
    assert all(f"studies/{path.name}" in text for path in STUDIES)

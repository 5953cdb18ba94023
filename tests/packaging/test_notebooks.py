"""Each notebook runs from its first cell to its last, at a real service, and ends in a picture."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.live.conftest import ONE_DATABASE, database_url, live
from tests.packaging import notebooks

__all__ = ["database_url", "live"]
pytestmark = pytest.mark.timeout(300)
# the first flood of a machine is compiled, which takes a minute of a core
LONG = {"terrain"}


@ONE_DATABASE
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=pytest.mark.slow if each in LONG else pytest.mark.docs)
        for each in notebooks.NAMES
    ],
)
def test_a_notebook_ends_in_a_picture(live, name, tmp_path):
    notebooks.execute(name, tmp_path / "last.png", live.url, live.key)
    with Image.open(tmp_path / "last.png") as picture:
        assert min(picture.size) > 300
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.docs
@pytest.mark.parametrize("name", [*notebooks.NAMES, notebooks.OF_FILES])
def test_a_notebook_is_kept_without_outputs(name):
    for cell in json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None

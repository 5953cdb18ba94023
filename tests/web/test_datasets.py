"""Datasets in a browser: what there is, upload by choice and by drop, refusals."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from playwright.sync_api import expect

from app.db.session import make_session
from app.db.tables import Dataset, utc_now
from app.schemas.datasets import DatasetCreate
from app.services import datasets, keys
from models.data import preview
from tests.web.conftest import LOOKS, photograph, token_of, violations

DROP = """([name, text]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([text], name));
  document.getElementById("upload").dispatchEvent(
    new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""
FOUND = {
    "taken": {".png": 1200},
    "left_out": [{"what": ".txt", "count": 2, "reason": "no picture"}],
    "split": "by the names train and test",
    "label": "the folder of each picture",
    "sizes": "32 x 32",
    "notes": ["transparent pixels are white"],
    "classes": {"flat": 700, "gabled": 500},
}


def add(name: str, status: str = "ready", **values) -> None:
    with make_session() as session:
        row = datasets.create(session, keys.DEFAULT_TENANT, name, "image_folder", {}, None)
        for column, value in ({"status": status, "size_bytes": 2**21} | values).items():
            setattr(row, column, value)


def picture(folder: Path) -> bytes:
    """Images of rising grey, as a check leaves them."""
    images = [np.full((40, 30, 3), level, np.uint8) for level in range(20, 220, 25)]
    preview.write_images(folder / "preview.jpg", [preview.square(image) for image in images])
    return (folder / "preview.jpg").read_bytes()


def three(folder: Path) -> None:
    """One of each: ready, refused, being checked."""
    counts = {"train": 1000, "test": 200, "classes": 2}
    add("roofs", counts=counts, contents=FOUND, preview=picture(folder))
    error = {
        "code": "dataset_invalid",
        "message": "no pictures in it",
        "hint": "one class, one folder",
    }
    add("scans", "failed", error=error)
    add("leaves", "checking", lease_expires_at=utc_now())


@pytest.mark.parametrize("look", LOOKS[:3], ids=str)
def test_looks(user, tmp_path, look):
    three(tmp_path)
    look.apply(user)
    user.goto("/datasets")
    user.get_by_text("What was found").click()
    photograph(user, "datasets", look)
    assert violations(user) == []


def test_every_format_of_the_api_can_be_chosen_and_endings_choose_it(user):
    user.goto("/datasets")
    offered = user.locator("#format option").all_text_contents()
    assert offered == list(get_args(DatasetCreate.model_fields["format"].annotation))
    for name, expected in {
        "tide.csv": "series",
        "radar.nc": "netcdf",
        "dem.tif": "elevation",
    }.items():
        user.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": b"1"})
        expect(user.locator("#format")).to_have_value(expected)


def test_it_tells_what_was_found_and_what_was_refused(visitor, tmp_path):
    three(tmp_path)
    text = visitor.get("/datasets").text
    assert re.search(r"train 1000.*test 200.*classes 2", text, re.DOTALL)
    for part in ("no pictures in it", "2 .txt: no picture", "transparent pixels", "digits"):
        assert part in text
    assert "gabled 500" in text


def test_images_of_a_dataset_are_shown_where_it_has_some(visitor, tmp_path):
    three(tmp_path)
    (address,) = re.findall(r'src="(/datasets/ds_\w+/preview)"', visitor.get("/datasets").text)
    answer = visitor.get(address)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.content == picture(tmp_path)
    assert visitor.get("/datasets/scans/preview").status_code == 404


def test_a_chosen_file_is_uploaded_and_handed_to_a_check(user, tmp_path):
    path = tmp_path / "my digits!.npz"
    path.write_bytes(b"0" * 300_000)
    user.goto("/datasets")
    user.locator("#file").set_input_files(path)
    expect(user.get_by_label("Name", exact=True)).to_have_value("my-digits-")
    expect(user.get_by_label("Format")).to_have_value("npz")
    expect(user.get_by_label("Cell size")).to_be_hidden()
    user.get_by_role("button", name="Upload").click()
    expect(user.locator("article .status")).to_have_text("checking")
    with make_session(write=False) as session:
        row = datasets.get(session, keys.DEFAULT_TENANT, "my-digits-")
    assert (row.size_bytes, row.format, row.options) == (300_000, "npz", {})
    with make_session() as session:
        session.get_one(Dataset, row.id).status = "ready"
    expect(user.locator("article .status")).to_have_text("ready")  # without a reload


def test_a_dropped_file_brings_its_options(user):
    user.goto("/datasets")
    user.evaluate(DROP, ["dem.asc", "ncols 2"])
    expect(user.get_by_label("Format")).to_have_value("elevation")
    user.get_by_label("Cell size").fill("2.5")
    user.get_by_role("button", name="Upload").click()
    expect(user.locator("article")).to_contain_text("dem")
    with make_session(write=False) as session:
        assert datasets.get(session, keys.DEFAULT_TENANT, "dem").options == {"cell_size_m": 2.5}


def test_a_refused_upload_says_why_and_leaves_nothing(user):
    add("taken")
    user.goto("/datasets")
    user.evaluate(DROP, ["taken.npz", "x"])
    user.get_by_role("button", name="Upload").click()
    expect(user.locator("#upload-refused")).to_contain_text("there is a dataset 'taken' already")
    user.faults.clear()


def test_a_dataset_is_deleted(user):
    add("old")
    user.goto("/datasets")
    user.get_by_role("button", name="Delete old").click()
    user.get_by_role("button", name="Yes").click()
    expect(user.get_by_text("Nothing uploaded yet.")).to_be_visible()


def test_an_upload_needs_the_token(visitor):
    add("open", "uploading")
    address = "/datasets/open/content"
    assert visitor.put(address, content=b"x").status_code == 403
    headers = {"X-CSRF-Token": token_of(visitor.get("/datasets").text)}
    assert visitor.put(address, content=b"x", headers=headers).status_code == 204

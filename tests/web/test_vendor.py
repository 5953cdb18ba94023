"""The files of others: pinned, with their licences, none unlisted, none from elsewhere."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from app.web import assets

ROOT = Path(__file__).parents[2]
FOLDERS = (assets.FOLDER / "vendor", ROOT / "tests/web/vendor")
LISTED = [
    pytest.param(folder, row, id=row["file"])
    for folder in FOLDERS
    for row in json.loads((folder / "vendor.json").read_text())
]
OURS = [
    path
    for folder in (assets.FOLDER, ROOT / "app/web/templates")
    for path in folder.rglob("*.*")
    if "vendor" not in path.parts
]


@pytest.mark.parametrize(("folder", "row"), LISTED)
def test_a_file_is_what_the_list_says(folder, row):
    assert hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", row["version"])
    assert len((folder / row["licence_file"]).read_text()) > 500
    assert min(len(row["package"]), len(row["licence"])) > 2


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parts[-4])
def test_no_file_is_missing_in_the_list(folder):
    rows = json.loads((folder / "vendor.json").read_text())
    named = {"vendor.json"} | {row[key] for row in rows for key in ("file", "licence_file")}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == named


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere_or_written_inline(path):
    """The strict policy holds: no script, style or handler inside of a page."""
    text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert re.findall(r"""(?:https?:)?//[a-z0-9-]+\.[a-z]{2,}""", text) == []
    if path.suffix == ".html":
        assert re.findall(r"<script(?![^>]*\bsrc=)|<style\b|\sstyle=|\son[a-z]+=", text) == []

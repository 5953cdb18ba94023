"""Datasets written for Hugging Face's hub come back as they were."""

import json
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.core.errors import DataError
from models.data import files, hub, samples

SOME = {"name": "some", "format": "npz", "options": {}}


def stored(path, **arrays):
    np.savez(path, **arrays)
    return path


def zipped(folder, target):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    return target


def same(one, other):
    assert one.classes == other.classes
    for part in ("train", "test"):
        for before, after in zip(getattr(one, part), getattr(other, part), strict=True):
            np.testing.assert_array_equal(before, after)


def test_a_builtin_set_comes_back(tmp_path):
    counts = hub.export({"name": "digits", "format": None}, tmp_path / "none", tmp_path / "hub")
    assert counts == {"train": 1437, "test": 360}
    digits = samples.images("digits")
    same(digits, files.read_images(zipped(tmp_path / "hub", tmp_path / "hub.zip")))
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "  - split: test\n    path: data/test-*.parquet" in card
    about = pq.read_schema(tmp_path / "hub/data/test-00000-of-00001.parquet").metadata
    features = json.loads(about[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": digits.classes, "_type": "ClassLabel"}


@pytest.mark.parametrize("channels", [1, 3])
def test_an_uploaded_set_in_several_files_comes_back(tmp_path, monkeypatch, channels):
    monkeypatch.setattr(hub, "ROWS_A_FILE", 7)
    monkeypatch.setattr(hub, "ROWS_A_BATCH", 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 5, 6, channels), dtype=np.uint8)
    path = stored(tmp_path / "a.npz", images=images, labels=np.arange(20) % 3)
    hub.export(SOME, path, tmp_path / "hub")
    names = sorted(path.name for path in (tmp_path / "hub/data").iterdir())
    assert names[1:] == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    same(
        files.read_images(path),
        files.read_images(zipped(tmp_path / "hub", tmp_path / "hub.zip")),
    )


@pytest.mark.parametrize(
    ("dataset", "shape", "words"),
    [
        (SOME | {"format": "elevation"}, (4, 5, 5, 1), "some is elevation; labelled images alone"),
        (SOME, (6, 5, 5, 4), "has 4 channels; pictures of the hub have 1 or 3"),
    ],
)
def test_what_the_hub_does_not_take_is_refused(tmp_path, dataset, shape, words):
    path = stored(
        tmp_path / "a.npz", images=np.zeros(shape, np.uint8), labels=np.arange(shape[0]) % 2
    )
    with pytest.raises(DataError, match=words):
        hub.export(dataset, path, tmp_path / "hub")


def test_tables_of_many_row_groups_are_read(tmp_path):
    """As the library ``datasets`` writes them: a hundred images a group."""
    hub.export({"name": "digits", "format": None}, tmp_path / "none", tmp_path / "hub")
    path = tmp_path / "hub/data/test-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=100)
    assert pq.read_metadata(path).num_row_groups == 4
    digits = samples.images("digits")
    same(digits, files.read_images(zipped(tmp_path / "hub", tmp_path / "hub.zip")))

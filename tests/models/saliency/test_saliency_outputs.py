"""Whole jobs on nets whose outputs are easily misread: one number, labels, constants, saturation.

The programs of ``tests/data/saliency`` take 32 x 32 RGB: one logit, five sigmoids, a constant.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.core.errors import SpecError
from models.saliency.evaluate import evaluate
from models.saliency.map import map_images
from models.saliency.net import load
from models.saliency.net.space import Space
from models.saliency.spec.evaluate import SaliencyEvaluate, SaliencySweep
from models.saliency.spec.map import SaliencyMap
from models.saliency.sweep import sweep
from tests.models.saliency.saliency_nets import conv_net

NETS = Path(__file__).parents[2] / "data" / "saliency"
FIELDS = {
    "images": [{"dataset": "photos", "index": 1}],
    "methods": [
        {"id": "occlusion", "window": 7, "stride": 3},
        {"id": "rise", "masks": 64, "grid": 4},
        {"id": "gradient"},
    ],
    "outputs": ["npz"],
}


def with_net(run, name, **fields):
    """Fields of a job on one of the programs."""
    digest = hashlib.sha256((NETS / f"{name}.pt2").read_bytes()).hexdigest()
    (run.dir / "inputs").mkdir()
    shutil.copy(NETS / f"{name}.pt2", run.dir / "inputs" / digest)
    given = {"mean": [0.5] * 3, "std": [0.25] * 3, "margin": 1.0}
    model = {"dataset": "mine", "sha256": digest, "input": given}
    return {"model": model, **FIELDS, **fields}


def explained(run, name, **fields):
    """The report of a ``saliency.map`` job on one of the programs."""
    spec = {"kind": "saliency.map", **with_net(run, name, **fields)}
    map_images(SaliencyMap.model_validate(spec), run)
    return json.loads((run.dir / "report.json").read_text())


def evaluated(run, name, **fields):
    """The report of a ``saliency.evaluate`` job on one of the programs."""
    spec = {"kind": "saliency.evaluate", **with_net(run, name, **fields)}
    del spec["outputs"]
    evaluate(SaliencyEvaluate.model_validate(spec), run)
    return json.loads((run.dir / "metrics.json").read_text())


def events(run):
    return [json.loads(line) for line in (run.dir / "events.jsonl").read_text().splitlines()]


def codes(run):
    return [event.get("code") for event in events(run) if event.get("event") == "warning"]


@pytest.mark.parametrize("score", ["prob", "logprob"])
def test_a_softmax_over_one_output_is_refused_and_its_scores_are_offered(score, new_run):
    with pytest.raises(SpecError, match="one output") as error:
        explained(new_run(), "one_logit", score=score)
    assert "'sigmoid'" in error.value.hint
    assert "'logit'" in error.value.hint


def test_one_output_is_a_number_or_a_label_as_asked(new_run):
    """As a number it has no probability, so nothing is said of neutrality; as a label it has."""
    number = explained(new_run(), "one_logit", score="logit")
    assert number["outputs"] == "regression"
    (target,) = number["images"][0]["targets"]
    assert target["probability"] is None
    impact = number["images"][0]["baselines"]["zero"]
    assert impact["neutrality"] is impact["entropy"] is None
    label = explained(new_run(), "one_logit", score="sigmoid")
    assert label["outputs"] == "labels"
    (other,) = label["images"][0]["targets"]
    assert other["score"] == other["probability"]
    assert other["score"] == pytest.approx(1 / (1 + np.exp(-target["score"])), abs=1e-6)
    assert all(entry["max"] > entry["min"] for entry in number["maps"] + label["maps"])


def test_maps_of_one_output_are_graded_as_the_score_says(new_run):
    """As a probability insertion was 1 whatever the map."""
    with pytest.raises(SpecError, match="one output"):
        evaluated(new_run(), "one_logit")
    curves = [{"id": "insertion", "points": 4}, {"id": "deletion", "points": 4}]
    report = evaluated(new_run(), "one_logit", score="logit", graders=curves)
    assert report["outputs"] == "regression"
    insertion = {row["values"]["insertion@blur"] for row in report["grades"]}
    assert len(insertion) == 3
    another = [{"id": "random_logit"}]
    with pytest.raises(SpecError, match=r"graders.0: random_logit.*one output"):
        evaluated(new_run(), "one_logit", score="logit", graders=another)


def test_labels_have_scores_of_their_own_and_several_are_explained_in_one_job(new_run):
    """Five sigmoids: each score is the net's output, and they do not sum to 1."""
    run = new_run()
    report = explained(run, "sigmoid_labels", target="topk:3")
    assert "outputs_are_labels" in codes(run)
    assert report["outputs"] == "labels"
    targets = report["images"][0]["targets"]
    assert len(targets) == 3
    assert [t["score"] for t in targets] == sorted((t["score"] for t in targets), reverse=True)
    assert all(t["score"] == t["probability"] for t in targets)
    every = explained(new_run(), "sigmoid_labels", target=[0, 1, 2, 3, 4])
    scores = [t["score"] for t in every["images"][0]["targets"]]
    assert abs(sum(scores) - 1) > 0.1
    for maps in (report["maps"], every["maps"]):
        assert {entry["class"] for entry in maps} >= {t["class"] for t in targets}


def test_a_net_that_ignores_its_input_is_told_before_any_map(new_run):
    run = new_run()
    report = explained(run, "constant", score="logit")
    order = [event.get("code") or event.get("type") for event in events(run)]
    assert order.index("score_does_not_move") < order.index("artifact")
    assert codes(run).count("map_is_zero") == 3
    assert all(entry["min"] == entry["max"] == 0 for entry in report["maps"])


class Saturated(torch.nn.Module):
    """A conv net whose logits are far apart."""

    def __init__(self) -> None:
        super().__init__()
        self.net = conv_net()
        self.register_buffer("far", torch.tensor([0.0, 0.0, 5000.0, 0.0, 0.0]))

    def forward(self, x):
        return self.net(x) + self.far


def test_a_saturated_softmax_is_told_and_logits_are_offered(new_run, monkeypatch):
    subject = load.Subject(
        Saturated().eval(), list("abcde"), Space([0.5] * 3, [0.25] * 3), (24, 24), 3, 1.0
    )
    monkeypatch.setattr(load, "load_subject", lambda *_: subject)
    fields = {
        "model": {"job": "job_" + "0" * 32, "artifact": "weights.safetensors"},
        "images": FIELDS["images"],
        "methods": FIELDS["methods"][:1],
    }
    run = new_run()
    spec = {"kind": "saliency.map", **fields, "outputs": []}
    map_images(SaliencyMap.model_validate(spec), run)
    assert codes(run)[0] == "score_saturated"
    messages = [event["message"] for event in events(run) if event.get("code") == "map_is_zero"]
    assert "use score 'logit'" in messages[0]
    run = new_run()
    map_images(SaliencyMap.model_validate(spec | {"score": "logit"}), run)
    assert not {"score_saturated", "map_is_zero"} & set(codes(run))
    (entry,) = json.loads((run.dir / "report.json").read_text())["maps"]
    assert entry["max"] > entry["min"]
    graders = [{"id": "deletion", "points": 2}]
    swept = new_run()
    sweep(
        SaliencySweep.model_validate({"kind": "saliency.sweep", **fields, "graders": graders}),
        swept,
    )
    assert "saturated at 1" in (swept.dir / "report.html").read_text()

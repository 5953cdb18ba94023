"""Tickets of nets of other libraries: masks, resumed bits, files, what is refused by name."""

import json
import math

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from models.classify.classifier import load as load_classifier
from models.classify.spec import ClassifyPredict
from models.core.errors import SpecError
from models.core.run import Run
from models.data import images, loading, synthetic
from models.freetickets import infer, layers, sparse
from models.freetickets import train as method
from models.freetickets.topology import Topology
from models.nets import tickets
from models.nets.build import build_net
from models.nets.files import load_net
from models.supervised.steps import make_optimizer, moments
from tests.models.nets.libraries import library

VIT = {"library": "timm", "name": "test_vit"}
CONVS = {"library": "timm", "name": "test_efficientnet"}
ADAMW = {"name": "adamw", "lr": 0.002, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def data():
    """Four classes of 32 x 32 grey patterns: 32 training and 16 test images."""
    train = synthetic.blobs(32, classes=4, size=32, channels=1, seed=1)
    test = synthetic.blobs(16, classes=4, size=32, channels=1, seed=2)
    return images.from_tensors(list(train), list(test), ["a", "b", "c", "d"], "cpu")


@pytest.mark.parametrize(
    ("model", "optimizer"), [(VIT, ADAMW), (CONVS, {"lr": 0.02})], ids=["vit", "efficientnet"]
)
def test_counts_stay_and_zeros_are_zeros(data, make_spec, new_run, watched, model, optimizer):
    """Properties 1 and 2, on names of parameters."""
    library("timm")
    spec, steps = make_spec(model=model, optimizer=optimizer, max_steps=12), []

    def look(training, optimizer, step):
        topology, buffers = training.topology, moments(training.net, optimizer)
        for name, mask in topology.masks.items():
            assert int(mask.sum()) == topology.active[name]
            assert not topology.weights[name][~mask].any()
            assert not any(x[~mask].any() for x in buffers[topology.parameters[name]])
        steps.append(step)

    training, _ = watched(spec, data, new_run(), look)
    assert steps == list(range(12))
    assert training.form.active == math.floor(0.2 * training.form.size + 0.5)
    assert all(row["dropped"] > 0 for row in training.changes())


@pytest.mark.parametrize(("model", "variant"), [(VIT, "dst"), (CONVS, "edst")])
def test_resumed_bits(data, make_spec, new_run, trained, stopped, model, variant):
    """Property 9, in the second member."""
    library("timm")
    spec = make_spec(model=model, variant=variant, max_steps=12)
    whole, _ = trained(spec, data, new_run())
    again, _ = trained(spec, data, new_run(resume=stopped(spec, data, 9), step=9))
    expected = whole.net.state_dict() | whole.extras()
    for name, tensor in (again.net.state_dict() | again.extras()).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_job_leaves_what_others_load(data, make_spec, new_run, monkeypatch):
    """From weights of a file, a part of them frozen: ticket, ensemble, prediction."""
    library("timm")
    monkeypatch.setattr(loading, "load", lambda *_: data)
    run, ref = new_run(), {"job": f"job_{'0' * 32}", "artifact": "weights.safetensors"}
    (run.dir / "inputs").mkdir()
    torch.manual_seed(5)
    start = build_net(VIT, 9, 1, (32, 32))
    save_file(start.state_dict(), run.dir / "inputs" / ("1" * 64))
    model = {**VIT, "weights": {"dataset": "mine", "sha256": "1" * 64}, "freeze": ["blocks.0.*"]}
    export = {"onnx": False, "timings": [2]}
    method.train(make_spec(model=model, max_steps=6, update_interval=1, export=export), run)
    report = json.loads((run.dir / "report.json").read_text())
    assert report["fresh_parameters"] == ["head.bias", "head.weight"]
    assert report["unmasked"]["blocks.0.mlp.fc1.weight"] == "frozen"
    assert "no convolution" in report["unmasked"]["pos_embed"]
    assert (
        report["timings"]["ways"][0]["left_out"]["grouped"] == "made for nets of the project alone"
    )
    path = run.dir / "tickets/ticket-1.safetensors"
    plain, members = load_net(path, "cpu"), tickets.load(run.dir / "ensemble.safetensors").nets
    x = torch.randn(3, 1, 32, 32)
    assert torch.equal(plain.net(x), members[1](x))
    written = load_file(path)
    for name, tensor in start.state_dict().items():
        if name.startswith("blocks.0."):
            assert torch.equal(written[name], tensor), name
    for row in report["layers"]:
        assert int((written[f"{row['name']}.weight"] != 0).sum()) <= row["active"]
    spec = TypeAdapter(ClassifyPredict).validate_python(
        {"kind": "classify.predict", "model": {**ref, "sha256": "2" * 64}, "data": {"dataset": "x"}}
    )
    (run.dir / "inputs" / ("2" * 64)).write_bytes((run.dir / "ensemble.safetensors").read_bytes())
    with (run.dir / "more.jsonl").open("w") as events:
        classifier = load_classifier(spec.model, Run(run.dir, events))
    assert len(classifier.nets) == 2
    assert classifier.log_probabilities(x).exp().sum(1) == pytest.approx([1, 1, 1])


@pytest.mark.slow
def test_the_ensemble_of_foreign_nets_for_other_programs(data, make_spec, new_run, monkeypatch):
    library("timm")
    monkeypatch.setattr(loading, "load", lambda *_: data)
    run = new_run()
    export = {"onnx": True, "program": True}
    method.train(make_spec(model=VIT, max_steps=6, update_interval=1, export=export), run)
    gaps = json.loads((run.dir / "report.json").read_text())["result"]["export_gaps"]
    assert set(gaps) == {"ensemble.pt2", "ensemble.onnx"}


class Standardised(nn.Conv2d):
    """Its filter is another tensor than its parameter."""

    def forward(self, x):
        return functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True))


class Mixed(nn.Module):
    """A layer of each kind: plain, wide, standardised, normed, attention, a table."""

    def __init__(self, side: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, side, (1, 7), stride=4)
        self.plain = nn.Conv2d(side, side, 3, groups=2)
        self.standard = Standardised(side, side, 1)
        self.attention = nn.MultiheadAttention(side, 2, batch_first=True)
        self.normed = weight_norm(nn.Linear(side, side))
        self.table = nn.Parameter(torch.zeros(1, side))
        self.head = nn.Linear(side, 4)

    def forward(self, x):
        x = self.standard(self.plain(self.stem(x))).flatten(2).mT + self.table
        x = self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.normed(x).mean(1))


def test_layers_by_what_they_compute_with(data, make_spec):
    """Attention included; filters that are computed first stay dense, with the reason."""
    net, spec = Mixed(), make_spec(model=VIT, sparsity=0.5)
    found = layers.find(net, spec, data)
    assert [layer.name for layer in found.layers] == [
        "stem", "plain", "attention.in_proj_weight", "attention.out_proj", "head",
    ]  # fmt: skip
    assert [layer.sides for layer in found.layers][:3] == [(1, 7), (3, 3), (0, 0)]
    assert [layer.size for layer in found.layers] == [
        net.get_parameter(n).numel()
        for n in ("stem.weight", "plain.weight", "attention.in_proj_weight",
                  "attention.out_proj.weight", "head.weight")
    ]  # fmt: skip
    assert set(found.unmasked) == {
        "table", "standard.weight", "normed.parametrizations.weight.original0",
        "normed.parametrizations.weight.original1",
    }  # fmt: skip
    topology = Topology(net, found.layers, spec)
    topology.draw(0)
    attention = net.attention.in_proj_weight
    assert int((attention != 0).sum()) == topology.active["attention.in_proj_weight"]
    assert topology.active["attention.in_proj_weight"] < attention.numel()


def test_a_change_clears_every_state_of_the_optimizer(data, make_spec):
    """AdamW keeps two; a weight that is grown again begins without either."""
    net, spec = Mixed(), make_spec(model=VIT, sparsity=0.5, optimizer=ADAMW, growth="random")
    topology = Topology(net, layers.find(net, spec, data).layers, spec)
    optimizer = make_optimizer(net, spec.optimizer)
    topology.attach(optimizer)
    topology.draw(0)
    for state in moments(net, optimizer).values():
        for x in state:
            x.fill_(1)
    net(torch.randn(2, 1, 32, 32)).sum().backward()
    before = {name: mask.clone() for name, mask in topology.masks.items()}
    topology.update(0.5, 0)
    state = moments(net, optimizer)
    for name in topology.open_layers:
        survived = before[name] & topology.masks[name]
        for x in state[topology.parameters[name]]:
            assert not x[~survived].any(), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_dense": ["conv9"]}, "'conv9' names no layer of test_vit; there are stem"),
        ({"sparsity": 0.99}, "so that most have no input: give at most"),
        ({"model": {**VIT, "freeze": ["*"]}}, "leaves no weight of a convolution"),
    ],
)
def test_fields_that_do_not_fit_the_layers(data, make_spec, fields, message):
    net, spec = Mixed(), make_spec(**{"model": VIT, "sparsity": 0.5, **fields})
    if spec.model.freeze:
        net.requires_grad_(False)
    with pytest.raises(SpecError, match=message):
        layers.find(net, spec, data)


def test_a_net_that_masks_do_not_reach_is_refused(data, make_spec):
    """Four fifths of zeros in a standardised filter are none: no such ticket is called sparse."""
    net = nn.Sequential(Standardised(1, 64, 8), nn.Flatten(), nn.LazyLinear(4))
    net(torch.zeros(1, 1, 32, 32))
    wide = nn.Sequential(Standardised(1, 64, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    wide.append(nn.Linear(64, 4))
    assert layers.find(net, make_spec(model=VIT, sparsity=0.5), data).unmasked.keys() == {
        "0.weight"
    }
    with pytest.raises(SpecError, match=r"reach 256 of the 4352 .* largest is 0\.weight"):
        layers.find(wide, make_spec(model=VIT, sparsity=0.5), data)
    assert layers.find(wide, make_spec(model=VIT, variant="dense", members=1), data).layers


def test_zeros_are_skipped_in_plain_layers_alone():
    """Linear layers over tokens give the dense answer; a layer with its own forward is left."""
    library("timm")
    net = build_net(VIT, 4, 1, (32, 32)).eval()
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        net.blocks[0].mlp.fc1.weight[:, ::2] = 0
        rows = sparse.CsrLinear(net.blocks[0].mlp.fc1.weight, net.blocks[0].mlp.fc1.bias)
        tokens = torch.randn(2, 5, 64)[..., : net.blocks[0].mlp.fc1.in_features]
        torch.testing.assert_close(rows(tokens), net.blocks[0].mlp.fc1(tokens))
    standard = nn.Sequential(Standardised(1, 4, 1)).eval()
    standard[0].weight.data[:2] = 0
    _, told = sparse.choose_layers(standard, x, 1)
    assert told[0].reason == "has a forward pass of its own"
    assert infer.fold(net) is not net
    choice = infer.fastest([net, net], x, 1)
    assert "sequential" in choice.milliseconds


def test_the_spec_of_a_foreign_net(make_spec):
    spec = make_spec(model={**VIT, "weights": {"dataset": "mine"}})
    assert spec.net() == VIT
    assert "/model/weights" in [need.pointer for need in spec.needs()]
    told = spec.estimate({"none": {"train": 64, "height": 32, "width": 32}})
    assert told.total_steps == 24 + spec.tests
    assert "weights" not in told.details

"""Training with rounds: properties 7, 9, 10, 12, 13, pitfalls 5, 6, 12 and 13, specs, files."""

import csv
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.core import checkpoint
from models.core.errors import SpecError
from models.core.run import StoppedError
from models.data import images, loading
from models.nets.files import load_net
from models.nets.selective.unit import SelectiveUnit
from models.selective_convolution import report
from models.selective_convolution import train as method
from models.selective_convolution.export import compact
from models.selective_convolution.rounds import COLUMNS, Rounds, units_of
from models.supervised.hooks import SubRun
from models.supervised.loop import test as score_of
from models.supervised.steps import make_optimizer, moments


def trained(spec, data, run):
    net = method.new_net(spec, data, "cpu")
    rounds, fitted = method.fit_selective(net, spec, data, run, SubRun())
    return net, rounds, fitted


def events(run, kind):
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def test_no_closed_slot_is_the_plain_training(data, make_spec, new_run):
    """Property 13: a threshold that closes nothing gives the plain net's losses, and a warning."""
    run, plain_run = new_run(), new_run()
    net, rounds, _ = trained(make_spec(selective={"threshold": 1e-12}), data, run)
    plain, _, _ = trained(make_spec(selective={"enabled": False}), data, plain_run)
    assert not rounds.record[:, :, COLUMNS.index("closed_now")].any()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name
    assert [event["code"] for event in events(run, "event")] == ["nothing_reallocated"]
    assert not events(plain_run, "event")


CHOICES = [{}, {"apply_to": "all", "score": "rms"}, {"realloc": False}, {"top_k": 0}]


@pytest.mark.parametrize("fields", CHOICES)
def test_slots_are_conserved(data, make_spec, new_run, fields):
    """Property 9: open and closed make up all slots, after every round and at the end.

    With K = 0, an edge of property 12, slots are only closed.
    """
    spec, run = make_spec(selective=fields), new_run()
    _, rounds, fitted = trained(spec, data, run)
    assert not events(run, "event")  # no warning: what was asked for was done
    table = dict(zip(COLUMNS, rounds.record.unbind(2), strict=True))
    widths = torch.tensor([len(unit.gate) for unit in rounds.units.values()])
    opened, closed = table["reallocated_now"], table["closed_now"]
    before = torch.cat([widths[None], table["open"][:-1]])
    assert torch.equal(table["open"], before - closed + opened)
    assert closed.sum() > 0
    assert (opened.sum() > 0) == (spec.selective.realloc and spec.selective.top_k > 0)
    assert int(rounds.done) == spec.rounds(64) == 3
    actual = report.slots(rounds)
    assert actual["open_at_the_end"] == table["open"][-1].sum()
    assert actual["copies_at_the_end"] == table["copies"][-1].sum()
    assert fitted.steps == 24


@pytest.mark.parametrize("stop", [4, 7, 8])
def test_resumed_run_is_the_uninterrupted_one(data, make_spec, new_run, stop):
    """Property 10: bits of weights, allocation and record, across rounds; from an epoch's end too.

    Pitfall 5: what a checkpoint at the end of an epoch holds is what was tested.
    """
    spec = make_spec()
    stopped, steps = new_run(), 0
    net = method.new_net(spec, data, "cpu")

    def count(*_):
        nonlocal steps
        steps += net.training
        if steps == stop:
            stopped.request_stop("test")

    net.register_forward_hook(count)
    with pytest.raises(StoppedError):
        method.fit_selective(net, spec, data, stopped, SubRun())
    resumed = new_run(resume=stopped, step=stop)
    again, rounds, _ = trained(spec, data, resumed)
    whole, expected, _ = trained(spec, data, new_run())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.equal(rounds.record, expected.record)
    assert rounds.record[:, :, COLUMNS.index("reallocated_now")].any()
    if stop % 4 == 0:
        saved = load_net(stopped.dir / checkpoint.name_of(stop), "cpu").net
        tested = events(stopped, "metric")[-1]["values"]["test_accuracy"]
        assert score_of(saved, data, spec, "cpu", "test").accuracy == tested


def test_momentum_of_reused_slots_is_forgotten(data, make_spec, new_run):
    """Section 3, momentum: with the reset nothing moves without a gradient, else it does."""
    moved = {}
    for reset in (True, False):
        spec = make_spec(selective={"reset_optimizer_state": reset, "threshold": 0.3})
        net = method.new_net(spec, data, "cpu")
        optimizer = make_optimizer(net, spec.optimizer.model_copy(update={"weight_decay": 0.0}))
        kept = moments(net, optimizer)
        for (buffer,) in kept.values():
            buffer.fill_(0.5)
        optimizer.param_groups[0]["lr"].fill_(0.1)
        Rounds(spec, net, 64, new_run()).before_step(4, kept)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        copied = [
            unit.conv.weight[:, unit.source >= 0]
            for unit in units_of(net).values()
            if isinstance(unit, SelectiveUnit)
        ]
        moved[reset] = sum(column.abs().sum().item() for column in copied)
        assert sum(column.numel() for column in copied) > 0
    assert moved[True] == 0.0
    assert moved[False] > 0


def test_shifts_decay_by_their_own_rate(data, make_spec):
    """Section 3; pitfalls 12 and 13: batch norms decay like weights, groups go by name."""
    net = method.new_net(make_spec(), data, "cpu")
    shifts = {name for name, _ in net.named_parameters() if name.endswith(".shift")}
    optimizer = make_optimizer(net, make_spec().optimizer, dict.fromkeys(shifts, 1e-5))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in net.named_parameters():
        assert decays[id(parameter)] == (1e-5 if name in shifts else 1e-4)


OTHER_NETS = [
    {"name": "resnet164", "width": 4, "blocks": 1},
    {"name": "resnext29", "width": 2, "blocks": 1},
    {"name": "condensenet182", "growth": 4, "layers": 1},
]


@pytest.mark.parametrize("model", OTHER_NETS)
def test_other_nets_train_and_export(data, make_spec, new_run, model):
    """Sections 4 and 5: rounds find the units of each net; compact is the net in eval mode."""
    spec, run = make_spec(model=model, selective={"threshold": 0.3, "top_k": 2}), new_run()
    net, rounds, _ = trained(spec, data, run)
    actual = report.slots(rounds)
    assert actual["closed"] > 0
    assert (actual["reallocated"] > 0) == (model["name"] != "condensenet182")
    assert not events(run, "event")
    small, _ = compact(net, spec.model, 4, 1, whole=False)
    x, _ = next(images.evaluation_batches(data))
    with torch.no_grad():
        torch.testing.assert_close(small(x), net.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("fields", [{}, {"realloc": False}, {"threshold": 0.999}])
def test_export_is_the_net_in_eval_mode(data, make_spec, new_run, fields, whole):
    """Property 7: to 1e-5 in float32; with whole shifts, the net whose shifts were rounded."""
    spec = make_spec(selective=fields)
    net, _, _ = trained(spec, data, new_run())
    small, units = compact(net, spec.model, 4, 1, whole=whole)
    x, _ = next(images.evaluation_batches(data))
    if whole:
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.endswith(".shift"):
                    parameter.round_()
    with torch.no_grad():
        torch.testing.assert_close(small(x), net.eval()(x), rtol=1e-5, atol=1e-5)
    gates = [unit.gate for unit in units_of(net).values()]
    assert units.open == [max(1, int(gate.sum())) for gate in gates]


def test_job_leaves_nets_that_load_and_tables_that_agree(data, make_spec, new_run, monkeypatch):
    """The whole job: every file, figures that fit one another, nets for other methods."""
    monkeypatch.setattr(loading, "load", lambda *_: data)
    run, spec = new_run(), make_spec(export="compact", compare_with_plain=True)
    method.train(spec, run)
    (result,) = (event["values"] for event in events(run, "result"))
    x, labels = next(images.evaluation_batches(data))
    for name, figure in (
        ("weights.safetensors", "test_accuracy"),
        ("export.safetensors", "export_test_accuracy"),
    ):
        net = load_net(run.dir / name, "cpu").net
        actual = (net(x).argmax(1) == labels).float().mean().item()
        assert actual == pytest.approx(result[figure])
    arrays = np.load(run.dir / "allocation.npz")
    gates = [arrays[name] for name in arrays if name.endswith(".gate")]
    assert sum(gate.sum() for gate in gates) == result["open_at_the_end"]
    rows = list(csv.DictReader((run.dir / "allocation.csv").read_text().splitlines()))
    assert len(rows) == result["rounds"] * len(gates)
    assert sum(float(row["reallocated_now"]) for row in rows) == result["reallocated"] > 0
    history = list(csv.DictReader((run.dir / "history.csv").read_text().splitlines()))
    assert result["test_accuracy"] == float(history[-1]["test_accuracy"])  # pitfall 6
    assert result["best_test_accuracy"] == max(float(row["test_accuracy"]) for row in history)
    assert result["parameters"] > result["plain_parameters"]
    assert result["effective_weights"] <= result["convolution_weights"]
    declared = {info.name for info in spec.artifacts if "*" not in info.name} - {"net.pt2"}
    left = [e for e in events(run, "artifact") if e["role"] not in ("checkpoint", "figure")]
    assert declared == {e["name"] for e in left}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"selective": {"threshold": 0.0}}, "threshold"),
        ({"selective": {"threshold": 1.0}}, "threshold"),
        ({"selective": {"top_k": 9}}, "top_k 9 is more than the 5 channels"),
        ({"selective": {"active_fraction": 0.0}}, "active_fraction"),
        ({"selective": {"max_copies": 0}}, "max_copies"),
        ({"selective": {"enabled": False}, "export": "compact"}, "set selective.enabled"),
        ({"epochs": 1}, "have no round"),
        ({"selective": {"interval_epochs": 6}}, "interval_epochs 6 have no round"),
        ({"model": {"name": "densenet41"}}, "densenet40"),
        ({"model": {"name": "condensenet182", "growth": 6}}, "multiple of 4"),
        ({"model": {"name": "resnet164", "growth": 4}}, "growth"),
    ],
)
def test_impossible_specs_are_refused(make_spec, fields, message):
    with pytest.raises(ValidationError, match=message):
        make_spec(**fields)


def test_estimate_counts_and_refuses(make_spec):
    """Steps of both arms and rounds; without a round, a way out."""
    spec = make_spec(compare_with_plain=True, validation=0.0)
    counts = {"none": {"train": 64, "classes": 4, "height": 8, "width": 8, "channels": 1}}
    actual = spec.estimate(counts)
    assert actual.total_steps == 48
    assert actual.details["rounds"] == 3
    with pytest.raises(SpecError, match="have no round"):
        make_spec(epochs=None, max_steps=4, validation=0.0).estimate(counts)

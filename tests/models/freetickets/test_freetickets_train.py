"""Training: properties 1, 2, 4, 8 and 9; escapes, members."""

import math

import pytest
import torch

from models.freetickets import ensemble
from models.freetickets import train as method
from models.nets import tickets
from models.supervised.steps import moments

VARIANTS = ["edst", "dst", "static", "dense_ensemble", "snapshot"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"growth": "random"},
        {"precision": "bf16"},
        {"optimizer": {"lr": 0.05, "nesterov": True, "weight_decay": 0.1}},
        {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "clip_norm": 1.0}},
        {"optimizer": {"name": "lamb", "lr": 0.01, "weight_decay": 0.1}},
        {"variant": "dst", "prune_rate": {"schedule": "cosine"}},
        {"structure": "cap24", "sparsity": 0.9},
        {"regrown_value": "keep", "escape": {"regrow_dropped": False}},
        {"ema": 0.9, "accumulate": 2},
    ],
    ids=["edst", "random", "bf16", "nesterov", "adamw", "lamb", "dst", "cap24", "keep", "average"],
)
def test_counts_stay_and_zeros_are_zeros(data, make_spec, new_run, watched, fields):
    """Properties 1 and 2: after every step and escape: counts exact, weights, momentum 0."""
    spec, steps = make_spec(**fields), []

    def look(training, optimizer, step):
        topology, buffers = training.topology, moments(training.net, optimizer)
        for name, mask in topology.masks.items():
            assert int(mask.sum()) == topology.active[name]
            assert not topology.weights[name][~mask].any()
            assert not any(x[~mask].any() for x in buffers[f"{name}.weight"])
            if topology.average:
                assert not topology.average.tensors[f"{name}.weight"][~mask].any()
        steps.append(step)

    training, _ = watched(spec, data, new_run(), look)
    assert steps == list(range(24))
    total = sum(layer.size for layer in training.topology.layers)
    assert training.form.active == math.floor((1 - spec.sparsity) * total + 0.5)
    assert len(training.changes()) == len(training.updates) + (spec.variant == "edst")
    assert all(row["dropped"] > 0 for row in training.changes())


def test_masks_rest_between_updates_and_dense_layers_always(data, make_spec, new_run, watched):
    """Property 4: masks change at updates and escapes only; layers that are dense never."""
    seen = []

    def look(training, optimizer, step):
        del optimizer
        seen.append({n: m.clone() for n, m in training.topology.masks.items()})

    training, _ = watched(make_spec(), data, new_run(), look)
    changed = {
        step
        for step in range(1, 24)
        if any(not torch.equal(seen[step][n], seen[step - 1][n]) for n in seen[0])
    }
    assert changed == set(training.updates) | {16}  # the escape, between the two tickets
    dense = set(seen[0]) - set(training.topology.open_layers)
    assert "head" in dense
    assert all(mask[n].all() for mask in seen for n in dense)


def test_an_update_grows_the_largest_gradients_and_spares_the_rest(data, make_spec, new_run):
    """Property 4: new weights and their momentum are 0, survivors keep their bits."""
    spec = make_spec(regrow_dropped=False)
    training = method.prepare(spec, data, new_run())
    topology = training.topology
    before = {n: w.detach().clone() for n, w in topology.weights.items()}
    old = {n: m.clone() for n, m in topology.masks.items()}
    draw = torch.Generator().manual_seed(0)
    for weight in topology.weights.values():
        weight.grad = torch.randn(weight.shape, generator=draw)
    topology.update(0.3, 0)
    for name in topology.open_layers:
        new, weight = topology.masks[name], topology.weights[name]
        stayed, grown, left = old[name] & new, new & ~old[name], ~old[name] & ~new
        assert torch.equal(weight[stayed], before[name][stayed])
        assert not weight[grown].any()
        assert weight.grad[grown].abs().min() >= weight.grad[left].abs().max()


def test_masks_do_not_depend_on_history(data, make_spec, new_run):
    """Property 8: masks of a member are keyed, whatever was drawn before."""
    training = method.prepare(make_spec(), data, new_run())
    first = {n: m.clone() for n, m in training.topology.masks.items()}
    torch.randn(100)
    training.topology.draw(1)
    assert any(not torch.equal(first[n], m) for n, m in training.topology.masks.items())
    training.topology.draw(0)
    assert all(torch.equal(first[n], m) for n, m in training.topology.masks.items())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [11, 16])
def test_resumed_bits(data, make_spec, new_run, variant, step, trained, stopped):
    """Property 9: stopped within a phase and at an escape; tickets, masks and weights alike."""
    spec = make_spec(variant=variant)
    whole, _ = trained(spec, data, new_run())
    again, _ = trained(spec, data, new_run(resume=stopped(spec, data, step), step=step))
    for actual, expected in (
        (again.net.state_dict(), whole.net.state_dict()),
        (again.extras(), whole.extras()),
    ):
        assert actual.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("variant", ["edst", "dst"])
def test_averaged_tickets(data, make_spec, new_run, monkeypatch, trained, stopped, variant):
    """Of one phase each, resumed bit for bit; beside them the training is that without."""
    spec, raw = make_spec(variant=variant, ema=0.8), {}
    plain, _ = trained(make_spec(variant=variant), data, new_run())
    first, end = stopped(spec, data, 18), method._end_phase

    def seen(training, done):
        raw[done] = {n: x.clone() for n, x in training.net.state_dict().items()}
        end(training, done)

    monkeypatch.setattr(method, "_end_phase", seen)
    whole, _ = trained(spec, data, new_run())
    again, _ = trained(spec, data, new_run(resume=first, step=18))
    for name, tensor in whole.extras().items():
        assert torch.equal(again.extras()[name], tensor), name
    last = tickets.state_of(plain.kept[1], plain.form)
    averaged = tickets.state_of(whole.kept[1], whole.form)
    for name, tensor in plain.net.state_dict().items():
        assert torch.equal(last[name], tensor), name
        assert torch.equal(whole.net.state_dict()[name], averaged[name]), name
    for name in ("head.weight", "stem.weight"):
        assert torch.equal(raw[24][name], last[name]), name
        assert not torch.equal(averaged[name], last[name])


@pytest.mark.parametrize("variant", ["dst", "static", "dense_ensemble"])
def test_members_are_trainings_of_their_own(data, make_spec, new_run, variant, trained):
    """A member's masks and first weights are those of its number; members differ."""
    training, _ = trained(make_spec(variant=variant), data, new_run())
    a, b = (tickets.state_of(kept, training.form) for kept in training.kept)
    assert not torch.equal(a["head.weight"], b["head.weight"])
    if variant == "static":
        fresh = method.prepare(training.spec, data, new_run()).topology
        for number, kept in enumerate(training.kept):
            fresh.draw(number)
            actual = tickets.masks_of(kept, training.form)
            assert all(torch.equal(actual[f"{n}.weight"], m) for n, m in fresh.masks.items())


def test_tickets_are_the_net_at_their_ends(data, make_spec, new_run, watched):
    """The second ticket is the final net; the escape after the first moved its share of masks."""
    spec = make_spec(escape={"fraction": 0.8, "regrow_dropped": False}, growth="random")
    seen = {}

    def look(training, optimizer, step):
        del optimizer
        seen[step] = {f"{n}.weight": m.clone() for n, m in training.topology.masks.items()}

    training, _ = watched(spec, data, new_run(), look)
    last = tickets.state_of(training.kept[1], training.form)
    for name, tensor in training.net.state_dict().items():
        assert torch.equal(last[name], tensor), name
    first = tickets.masks_of(training.kept[0], training.form)
    wide = f"{training.topology.layers[-3].name}.weight"  # has room for all that is dropped
    both = (first[wide] & seen[16][wide]).sum() / (first[wide] | seen[16][wide]).sum()
    assert both == pytest.approx(0.2 / 1.8, abs=0.01)


def test_tickets_differ_as_their_escape_allows(data, make_spec, new_run, trained):
    """Property 7: masks of tickets have less in common the stronger the escape.

    Growth by gradient takes back part of what was dropped, so the true escape is weaker than
    asked; a position that may not come back at once is not taken back.
    """

    def overlap(**fields):
        training, _ = trained(make_spec(max_steps=60, **fields), data, new_run())
        a, b = (tickets.masks_of(kept, training.form) for kept in training.kept)
        (escape,) = [row for row in training.changes() if row["escape"]] or [None]
        share = escape["regrown"] / max(1, escape["dropped"]) if escape else None
        flat = (torch.cat([m.flatten() for m in masks.values()]) for masks in (a, b))
        return float(ensemble.jaccard(list(flat))[0, 1]), share

    quiet = {"prune_rate": {"initial": 0.05}}  # the escape rules, not the updates
    none, _ = overlap(escape={"fraction": 0.0}, **quiet)
    gradient, taken_back = overlap(**quiet)
    barred, nothing = overlap(escape={"fraction": 0.8, "regrow_dropped": False}, **quiet)
    apart, _ = overlap(variant="dst", **quiet)
    assert 0 < taken_back < 1
    assert nothing == 0
    assert none > gradient > barred
    assert none > gradient > apart


def test_a_dense_net_is_the_first_of_a_dense_ensemble(data, make_spec, new_run, trained):
    """The same training, bit for bit: a benchmark need not run both."""
    one, _ = trained(make_spec(variant="dense", members=1, max_steps=12), data, new_run())
    many, _ = trained(make_spec(variant="dense_ensemble", max_steps=24), data, new_run())
    for name, tensor in one.kept[0].items():
        assert torch.equal(tensor, many.kept[0][name]), name

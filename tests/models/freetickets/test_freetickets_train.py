"""Training: properties 1, 2, 4, 8, 9 and 14; phases, escape, what a job leaves."""

import json
import math

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from models.core import checkpoint
from models.core.errors import DataError, SpecError
from models.core.run import StoppedError
from models.core.steps import momentum
from models.freetickets import report, tickets
from models.freetickets import train as method
from models.freetickets.timetable import phase_at

VARIANTS = ["edst", "dst", "static", "dense_ensemble", "snapshot"]


def trained(spec, data, run):
    training = method.prepare(spec, data, run)
    return training, method.fit_tickets(training)


@pytest.fixture
def watched(monkeypatch):
    """Calls ``look(training, optimizer, done)`` before each step, when all of the last is over."""

    def watch(spec, data, run, look):
        training, found = method.prepare(spec, data, run), {}
        attach = training.topology.attach
        training.topology.attach = lambda optimizer: (
            attach(optimizer),
            found.update(optimizer=optimizer),
        )
        real = method.fit

        def fit(*args, prepare, **named):
            def begin(x, step):
                changed = prepare(x, step)
                look(training, found["optimizer"], step)
                return changed

            return real(*args, prepare=begin, **named)

        monkeypatch.setattr(method, "fit", fit)
        fitted = method.fit_tickets(training)
        monkeypatch.setattr(method, "fit", real)
        return training, fitted

    return watch


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"growth": "random"},
        {"precision": "bf16"},
        {"optimizer": {"lr": 0.05, "nesterov": True, "weight_decay": 0.1}},
        {"variant": "dst", "prune_rate": {"schedule": "cosine"}},
        {"structure": "cap24", "sparsity": 0.9},
        {"regrown_value": "keep", "escape": {"regrow_dropped": False}},
    ],
    ids=["edst", "random", "bf16", "nesterov", "dst", "cap24", "keep"],
)
def test_counts_stay_and_zeros_are_zeros(data, make_spec, new_run, watched, fields):
    """Properties 1 and 2: after every step and escape: counts exact, weights, momentum 0."""
    spec, steps = make_spec(**fields), []

    def look(training, optimizer, step):
        topology, buffers = training.topology, momentum(training.net, optimizer)
        for name, mask in topology.masks.items():
            assert int(mask.sum()) == topology.active[name]
            assert not topology.weights[name][~mask].any()
            assert not buffers[f"{name}.weight"][~mask].any()
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
def test_resumed_bits(data, make_spec, new_run, monkeypatch, variant, step):
    """Property 9: stopped within a phase and at an escape; tickets, masks and weights alike."""
    spec, first = make_spec(variant=variant), new_run()
    whole, _ = trained(spec, data, new_run())
    rate = method.rate

    def stopping(spec, plan, at):
        if at == step - 1:
            first.request_stop("test")
        return rate(spec, plan, at)

    monkeypatch.setattr(method, "rate", stopping)
    with pytest.raises(StoppedError):
        trained(spec, data, first)
    monkeypatch.setattr(method, "rate", rate)
    again, _ = trained(spec, data, new_run(resume=first, step=step))
    for found, expected in (
        (again.net.state_dict(), whole.net.state_dict()),
        (again.extras(), whole.extras()),
    ):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("variant", ["dst", "static", "dense_ensemble"])
def test_members_are_trainings_of_their_own(data, make_spec, new_run, variant):
    """A member's masks and first weights are those of its number; members differ."""
    training, _ = trained(make_spec(variant=variant), data, new_run())
    a, b = (tickets.state_of(kept, training.form) for kept in training.kept)
    assert not torch.equal(a["head.weight"], b["head.weight"])
    if variant == "static":
        fresh = method.prepare(training.spec, data, new_run()).topology
        for number, kept in enumerate(training.kept):
            fresh.draw(number)
            found = tickets.masks_of(kept, training.form)
            assert all(torch.equal(found[f"{n}.weight"], m) for n, m in fresh.masks.items())


def test_tickets_are_the_net_at_their_ends(data, make_spec, new_run, watched):
    """The second ticket is the final net; the escape after the first moved the masks by q."""
    spec = make_spec(escape={"q": 0.8, "regrow_dropped": False}, growth="random")
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


@pytest.mark.parametrize(
    ("total", "explore", "members"), [(450, 150, 3), (850, 150, 7), (20, 7, 3), (9, 1, 4)]
)
def test_the_table_of_edst(make_spec, total, explore, members):
    """Property 14: rates and boundaries for every (T, T0, M), rounded up where L is not whole."""
    spec = make_spec(
        max_steps=None,
        epochs=total,
        explore=explore,
        members=members,
        optimizer={"lr": 0.1, "warmup": 0},
        update_interval=1,
    )
    plan, length = spec.phases(5), (total - explore) / members
    ends = [explore] + [math.ceil(explore + m * length - 1e-9) for m in range(1, members + 1)]
    assert [phase.stop for phase in plan] == [5 * end for end in ends]
    assert [phase.ticket for phase in plan] == [None, *range(members)]
    for step in range(5 * total):
        epoch = step // 5
        m = sum(end <= epoch for end in ends)  # 0 while exploring
        half = m > 0 and epoch >= math.ceil(explore + (m - 0.5) * length - 1e-9)
        expected = 0.1 if m == 0 else 0.001 if half else 0.01
        assert method.rate(spec, plan, step) == pytest.approx(expected)
        assert phase_at(plan, step).ticket == (None if m == 0 else m - 1)


def test_masks_rest_at_the_end_of_phases(make_spec):
    """No update falls on the last step of a ticket, nor in the frozen share."""
    spec = make_spec(max_steps=300, update_interval=10, freeze_last=0.2)
    plan = spec.phases(1)
    found = spec.updates(plan)
    assert [u.number for u in found.values()] == list(range(len(found)))
    for phase in plan:
        inside = [done - phase.start for done in found if phase.start < done <= phase.stop]
        assert max(inside) == 80
        assert len(inside) == 8
    cosine = make_spec(max_steps=300, update_interval=10, prune_rate={"schedule": "cosine"})
    rates = [u.rate for done, u in cosine.updates(plan).items() if done <= 100]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"explore": 10, "refine": 8}, "explore 10 [+] 2 members x refine 8 = 26, but the run"),
        ({"update_interval": 8}, "give at most 7"),
        ({"structure": "cap24", "sparsity": 0.1}, "raise sparsity to 0.6"),
        ({"keep_dense": ["sten*"]}, "names no layer"),
        ({"keep_dense": ["*"]}, "keep fewer layers dense"),
        ({"variant": "dense"}, "dense_ensemble, or members 1"),
        ({"variant": "dst", "explore": 3}, "leave them out"),
        ({"max_steps": 4, "members": 3}, "do not hold"),
        ({"prune_rate": {"p": 0.1, "p_min": 0.2}}, "p_min is above p"),
        ({"evaluate": {"fgsm_eps": [8.0]}}, "0.0314"),
    ],
)
def test_impossible_specs_are_refused_with_a_way_out(make_spec, fields, words):
    with pytest.raises(ValidationError, match=words):
        make_spec(**fields)


def test_an_interval_too_long_for_the_data_is_refused(data, make_spec, new_run):
    spec = make_spec(max_steps=None, epochs=6, update_interval=50)
    with pytest.raises(SpecError, match="give at most"):
        method.prepare(spec, data, new_run())
    with pytest.raises(SpecError, match="give at most"):
        spec.estimate({"none": {"train": 64, "classes": 4, "height": 8, "width": 8}})


def test_what_a_job_leaves(data, make_spec, new_run):
    """Property 13: ticket and ensemble file give the same log-probabilities as the report."""
    run = new_run()
    spec = make_spec(evaluate={"corruptions": True, "fgsm_eps": [0.03]})
    training, fitted = trained(spec, data, run)
    report.finish(training, fitted)
    told = json.loads((run.dir / "report.json").read_text())
    result = told["result"]
    loaded = tickets.load(run.dir / "ensemble.safetensors")
    x = torch.randn(3, 1, 8, 8)
    for number, net in enumerate(loaded.nets):
        plain = checkpoint.load_net(run.dir / f"tickets/ticket-{number}.safetensors", "cpu")
        assert torch.equal(plain.net(x), net(x))
    assert len(loaded.nets) == 2
    assert result["ensemble_nll"] <= result["ticket_nll_mean"]
    assert len(result["corruptions"]["sets"]) == 30
    assert result["fgsm"][0]["nll"] > result["ensemble_nll"]
    pooled = result["corruptions"]["nll"]
    assert pooled == pytest.approx(sum(x["nll"] for x in result["corruptions"]["sets"]) / 30)
    active = sum(layer["active"] for layer in told["layers"])
    values = load_file(run.dir / "ensemble.safetensors")["ticket.0.values"]
    assert len(values) == active == result["active_weights"]
    assert 0 < result["mask_iou"] < 1


def test_a_damaged_ensemble_is_refused(data, make_spec, new_run):
    training, fitted = trained(make_spec(variant="static"), data, new_run())
    report.finish(training, fitted)
    path = training.run.dir / "ensemble.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        tickets.load(path)
    ticket = training.run.dir / "tickets/ticket-0.safetensors"
    with pytest.raises(DataError, match="no ensemble file"):
        tickets.load(ticket)


def test_a_run_ended_early_keeps_what_there_is(data, make_spec, new_run):
    run = new_run()
    spec = make_spec(max_steps=5000, budget={"max_seconds": 0.2})
    training, fitted = trained(spec, data, run)
    report.finish(training, fitted)
    assert fitted.ended_by == "max_seconds"
    assert len(tickets.load(run.dir / "ensemble.safetensors").nets) == 1

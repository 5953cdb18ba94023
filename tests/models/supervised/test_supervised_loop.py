"""The supervised loop: rates, budget, stops, divergence, resuming, what it reports."""

import hashlib
import json
import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from models.catalog import JobSpec
from models.core.errors import DataError, DivergedError, SpecError
from models.core.run import Run, StoppedError
from models.core.spec import Optimizer
from models.data import images, synthetic
from models.nets.build import build_net
from models.nets.spec import ResidualNet
from models.supervised.hooks import Hooks
from models.supervised.loop import fit
from models.supervised.spec import SupervisedSpec
from models.supervised.state import spec_digest
from models.supervised.steps import (
    Batch,
    Mode,
    cross_entropy,
    learning_rate,
    make_optimizer,
    make_step,
)
from tests.models.nets.libraries import library


@pytest.fixture(scope="module")
def data():
    train, test = (synthetic.blobs(48, 3, 8, 3, seed) for seed in (1, 2))
    return images.from_tensors(list(train), list(test), ["a", "b", "c"], "cpu")


class Training(SupervisedSpec):
    """Of residual nets."""

    model: ResidualNet


def spec_of(**fields):
    base = {
        "model": {"name": "resnet8"},
        "data": {"dataset": "none"},
        "epochs": 3,
        "batch_size": 16,
        "optimizer": {"lr": 0.02},
    }
    return Training.model_validate(base | fields)


def net_of(seed=0):
    torch.manual_seed(seed)
    return build_net({"name": "resnet8"}, 3, 3)


def events(run, kind):
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def test_learns_and_reports(data, new_run, capsys):
    run = new_run()
    fitted = fit(net_of(), data, spec_of(epochs=8), run)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 8
    assert told[2].startswith("epoch 3 of 8: ")
    assert f"test_accuracy {fitted.history[2]['test_accuracy']:.4g}" in told[2]
    assert fitted.scores.accuracy > 0.9
    assert fitted.ended_by == "steps"
    losses = [e["values"]["loss"] for e in events(run, "metric") if "loss" in e["values"]]
    assert losses[-1] < losses[0]
    assert events(run, "progress")[-1]["step"] == 24
    assert [row["step"] for row in fitted.history] == [3 * k for k in range(1, 9)]
    saved = [e["step"] for e in events(run, "artifact")]
    assert saved[-1] == 24
    assert len(saved) <= 6


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_learning_rate(kind):
    """Rises in equal steps to the peak, then never rises again; ends near zero."""
    spec = Optimizer(lr=2.0, schedule=kind, warmup=0.1)
    rates = [learning_rate(spec, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[55] == pytest.approx({"constant": 2.0}.get(kind, 1.0))
    assert rates[99] == pytest.approx(2.0 if kind == "constant" else 0, abs=0.03)


def test_whole_run_as_warmup():
    rates = [learning_rate(Optimizer(lr=1.0, warmup=1.0), step, 4) for step in range(4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


def test_weights_decay_in_the_modes_that_ask_for_it_alone():
    """Without a gradient a step is decay alone; after a mode without it decay comes back."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    spec = spec_of(optimizer={"lr": 1.0, "momentum": 0.0, "weight_decay": 0.1})
    optimizer = make_optimizer(net, spec.optimizer)
    optimizer.param_groups[0]["lr"].fill_(0.5)
    step = make_step(net, optimizer, lambda net, batch, _: 0 * net(batch.images).sum(), spec, "cpu")
    batch, weights = Batch(torch.ones(1, 1), torch.zeros(1).long()), []
    for decaying in (True, False, True):
        step(Mode("a", weight_decay=decaying), batch)
        weights.append(net.weight.item())
    assert weights == pytest.approx([1.9, 1.9, 1.805])


def test_optimizer_is_sgd_by_hand():
    """Two steps with momentum, Nesterov and decay on one number."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    optimizer = make_optimizer(net, Optimizer(lr=1.0, momentum=0.5, weight_decay=0.1))
    optimizer.param_groups[0]["lr"].fill_(0.1)
    w, velocity = 2.0, 0.0
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        gradient = 1 + 0.1 * w
        velocity = 0.5 * velocity + gradient
        w -= 0.1 * (gradient + 0.5 * velocity)
        assert net.weight.item() == pytest.approx(w)


def test_adamw_is_that_of_torch():
    """Two groups by hand: norms and biases do not decay, unless all are asked to."""
    torch.manual_seed(0)
    for decay, spared in ((None, 0.0), ("all", 0.1)):
        nets = [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)) for _ in range(2)]
        nets[1].load_state_dict(nets[0].state_dict())
        spec = Optimizer(
            name="adamw", lr=0.01, momentum=0.8, beta2=0.9, weight_decay=0.1, decay=decay
        )
        ours = make_optimizer(nets[0], spec)
        ours.param_groups[0]["lr"].fill_(0.01)
        few = [p for p in nets[1].parameters() if p.ndim == 1]
        groups = [{"params": [nets[1][0].weight]}, {"params": few, "weight_decay": spared}]
        torchs = torch.optim.AdamW(groups, 0.01, (0.8, 0.9), weight_decay=0.1, fused=True)
        for _ in range(3):
            x = torch.randn(5, 3)
            for net, optimizer in zip(nets, (ours, torchs), strict=True):
                optimizer.zero_grad()
                net(x).square().sum().backward()
                optimizer.step()
        for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_lamb_by_hand():
    """Matrices move at their own scale, biases by the rate; no decay leaves the scale there."""
    torch.manual_seed(0)
    for decay in (0.1, 0.0):
        net = nn.Linear(3, 4)
        expected = [p.detach().clone() for p in net.parameters()]
        moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in expected]
        spec = Optimizer(name="lamb", lr=0.01, momentum=0.8, beta2=0.9, weight_decay=decay)
        optimizer = make_optimizer(net, spec)
        optimizer.param_groups[0]["lr"].fill_(0.01)
        for step in range(1, 4):
            x = torch.randn(5, 3)
            optimizer.zero_grad()
            net(x).square().sum().backward()
            gradients = [p.grad.clone() for p in net.parameters()]
            optimizer.step()
            for w, g, (m, v) in zip(expected, gradients, moments, strict=True):
                m.copy_(0.8 * m + 0.2 * g)
                v.copy_(0.9 * v + 0.1 * g * g)
                move = m / (1 - 0.8**step) / ((v / (1 - 0.9**step)).sqrt() + 1e-6)
                if w.ndim > 1:
                    move += decay * w
                    move *= w.norm() / move.norm()
                w -= 0.01 * move
        for actual, w in zip(net.parameters(), expected, strict=True):
            torch.testing.assert_close(actual.detach(), w, rtol=1e-5, atol=1e-7)


def test_lamb_is_that_of_timm():
    timm_lamb = library("timm.optim").Lamb
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    ours = make_optimizer(nets[0], Optimizer(name="lamb", lr=0.01, weight_decay=0.1))
    ours.param_groups[0]["lr"].fill_(0.01)
    few = [p for p in nets[1].parameters() if p.ndim == 1]
    groups = [{"params": [nets[1][0].weight]}, {"params": few, "weight_decay": 0.0}]
    theirs = timm_lamb(groups, lr=0.01, weight_decay=0.1, max_grad_norm=None)
    for _ in range(3):
        x = torch.randn(5, 3)
        for net, optimizer in zip(nets, (ours, theirs), strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped():
    """A step of sgd at rate 1 moves the parameters by the norm that is allowed."""
    net = nn.Linear(4, 3)
    before = [p.detach().clone() for p in net.parameters()]
    plain = {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False}
    spec = spec_of(optimizer={"lr": 1.0, "clip_norm": 0.01, **plain})
    optimizer = make_optimizer(net, spec.optimizer)
    optimizer.param_groups[0]["lr"].fill_(1.0)
    batch = Batch(100 * torch.randn(8, 4), torch.arange(8) % 3)
    make_step(net, optimizer, cross_entropy, spec, "cpu")(Mode(), batch)
    moved = [(a - b).flatten() for a, b in zip(net.parameters(), before, strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_smoothed_labels(data, new_run):
    """The loss is that of torch with the same smoothing."""
    seen = []

    def forward(net, batch, mode):
        seen.append((net(batch.images), batch.labels))
        return cross_entropy(net, batch)

    fit(net_of(), data, spec_of(max_steps=1, epochs=None, label_smoothing=0.3), new_run(),
        Hooks(forward=forward))  # fmt: skip
    logits, shares = seen[0]
    expected = nn.functional.cross_entropy(logits, shares.argmax(1), label_smoothing=0.3)
    torch.testing.assert_close(nn.functional.cross_entropy(logits, shares), expected)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_moments_resume_bit_for_bit(data, new_run, name):
    """They and their count are in the checkpoint; another optimizer is refused."""
    optimizer = {"name": name, "lr": 0.01, "clip_norm": 1.0, "warmup_steps": 2}
    spec, run, nets = spec_of(optimizer=optimizer, label_smoothing=0.1), new_run(), []
    for resume in (None, run):
        nets.append(net_of())
        fit(nets[-1], data, spec, run if resume is None else new_run(run, 3))
    for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    other, plain = new_run(), spec_of()
    fit(net_of(), data, plain, other)
    with pytest.raises(SpecError, match="kept no second_moment: ask for the same"):
        fit(net_of(), data, spec, new_run(other, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "lamb"}, "lamb needs a learning rate of its own: give lr, such as 0.005"),
        ({"name": "adamw"}, "adamw needs a learning rate of its own"),
        ({"name": "adamw", "lr": 0.01, "nesterov": False}, "nesterov means nothing with adamw"),
        ({"beta2": 0.9}, "beta2 means nothing with sgd"),
        ({"warmup": 0.1, "warmup_steps": 5}, "warmup or warmup_steps, not both"),
    ],
)
def test_optimizers_that_cannot_be_meant(fields, message):
    with pytest.raises(ValidationError, match=message):
        Optimizer.model_validate(fields)


def test_a_kind_without_nets_of_libraries_says_why():
    """And points at the net, with the way out."""
    kind = "selective_convolution.train"
    fields = {"kind": kind, "data": {"dataset": "digits"}}
    model = {"library": "timm", "name": "resnet18"}
    with pytest.raises(
        ValidationError, match=r"no net of timm.*8 of the 20.*name .*or train it by"
    ) as caught:
        TypeAdapter(JobSpec).validate_python(fields | {"model": model})
    (error,) = caught.value.errors()
    assert error["loc"] == (kind, "model")


def test_a_resolved_spec_is_accepted_again():
    """A stored spec holds every default."""
    spec = Optimizer(name="adamw", lr=0.01, warmup_steps=5)
    assert Optimizer.model_validate(spec.model_dump()) == spec
    assert [learning_rate(spec, step, 100) for step in range(5)] == pytest.approx(
        [0.002 * k for k in range(1, 6)]
    )
    assert spec.warm(3) == 3


def test_divergence_names_the_step(data, new_run):
    run = new_run()

    def forward(net, batch, mode):
        loss = cross_entropy(net, batch)
        return loss * math.nan if mode.name == "bad" else loss

    with pytest.raises(DivergedError, match="nan in step 5"):
        fit(
            net_of(),
            data,
            spec_of(),
            run,
            Hooks(forward=forward, mode_of=lambda step: Mode("bad" if step == 4 else "full")),
        )
    assert not [e for e in events(run, "artifact") if e["step"] > 4]


@pytest.mark.parametrize("save", [True, False])
def test_stop_is_obeyed_within_a_step(data, new_run, save):
    run = new_run()

    def after_step(done, mode):
        if done == 4:
            run.request_stop("test", save=save)

    with pytest.raises(StoppedError):
        fit(net_of(), data, spec_of(epochs=100), run, Hooks(after_step=after_step))
    saved = [e["step"] for e in events(run, "artifact")]
    assert saved == ([4] if save else [])


def stopped_at(step, data, run, spec):
    def after_step(done, mode):
        if done == step:
            run.request_stop("test")

    with pytest.raises(StoppedError):
        fit(net_of(), data, spec, run, Hooks(after_step=after_step))


@pytest.mark.parametrize("step", [1, 3, 5])
def test_resumed_bits(data, new_run, step):
    """Weights after an interrupted and resumed run are those of an uninterrupted one."""
    spec = spec_of(images={"augment": {"crop_padding": 1, "flip": True}})
    whole = net_of()
    expected = fit(whole, data, spec, new_run())
    first = new_run()
    stopped_at(step, data, first, spec)
    again = net_of(seed=99)
    actual = fit(again, data, spec, new_run(resume=first, step=step))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert actual.scores == expected.scores
    assert [row["step"] for row in actual.history] == [row["step"] for row in expected.history]


def test_resuming_a_finished_run_does_nothing_more(data, new_run):
    first, net = new_run(), net_of()
    expected = fit(net, data, spec_of(), first)
    again = net_of(seed=5)
    actual = fit(again, data, spec_of(), new_run(resume=first, step=9))
    assert actual.scores == expected.scores
    assert torch.equal(again.head.weight, net.head.weight)


def test_checkpoint_of_another_net_is_refused(data, new_run):
    first = new_run()
    stopped_at(2, data, first, spec_of())
    other = spec_of(model={"name": "resnet8", "width": 32})
    with pytest.raises(SpecError, match="checkpoint is of the net"):
        fit(net_of(), data, other, new_run(resume=first, step=2))
    resumed = new_run(resume=first, step=2)
    (path,) = (resumed.dir / "resume").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged"):
        fit(net_of(), data, spec_of(), resumed)


def test_other_spec_is_told(data, new_run):
    first = new_run()
    stopped_at(2, data, first, spec_of())
    run = new_run(resume=first, step=2)
    assert fit(net_of(), data, spec_of(epochs=4), run).steps == 12
    assert [e["code"] for e in events(run, "event")] == ["resumed_with_other_spec"]


def test_budget_ends_a_run_with_scores_and_checkpoint(data, new_run):
    run = new_run()
    fitted = fit(net_of(), data, spec_of(epochs=500, budget={"max_seconds": 0.01}), run)
    assert fitted.ended_by == "max_seconds"
    assert fitted.steps < 100
    assert fitted.history[-1]["step"] == fitted.steps == events(run, "artifact")[-1]["step"]
    fitted = fit(net_of(), data, spec_of(epochs=500, budget={"target_accuracy": 0.5}), new_run())
    assert fitted.ended_by == "target_accuracy"
    assert fitted.scores.accuracy >= 0.5


def test_checkpoints_by_time(data, tmp_path):
    """With an interval of zero every step leaves one."""
    (tmp_path / "resume").mkdir()
    with (tmp_path / "events.jsonl").open("w") as file:
        run = Run(tmp_path, file, checkpoint_interval_s=0.0)
        fit(net_of(), data, spec_of(max_steps=4, epochs=None), run)
    assert [e["step"] for e in events(run, "artifact")] == [1, 2, 3, 4]


def test_incomplete_last_batches_are_dropped(data):
    assert spec_of(batch_size=20).steps(48) == (2, 6)
    assert spec_of(batch_size=100).steps(48) == (1, 3)


def test_bf16_trains_in_float32_weights(data, new_run):
    net = net_of()
    fitted = fit(net, data, spec_of(precision="bf16", epochs=1), new_run())
    assert math.isfinite(fitted.scores.nll)
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_graphs_without_a_gpu_are_told(data, new_run):
    run = new_run()
    fit(net_of(), data, spec_of(compile="graphs", epochs=1), run)
    assert [e["code"] for e in events(run, "event")] == ["no_cuda_graphs"]


def test_before_step_may_change_net_and_momentum(data, new_run):
    """Told of every step from 0 on; what it zeroes without weight decay stays zero in one step."""
    net, steps = net_of(), []

    def before_step(step, momentum):
        steps.append(step)
        assert momentum.keys() == dict(net.named_parameters()).keys()
        with torch.no_grad():
            net.head.bias.zero_()
            momentum["head.bias"][0].fill_(1.0)

    fit(net, data, spec_of(max_steps=2, epochs=None), new_run(), Hooks(before_step=before_step))
    assert steps == [0, 1]
    assert net.head.bias.abs().sum() > 0


def test_named_parameters_decay_by_their_own_rate(data, new_run):
    """Without gradient and momentum, one step shrinks each parameter by rate times its decay."""
    net = net_of()
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    spec = spec_of(
        max_steps=1,
        epochs=None,
        optimizer={"lr": 0.5, "momentum": 0.0, "nesterov": False, "warmup": 0.0},
    )

    def forward(net, batch, mode):
        return cross_entropy(net, batch, mode) * 0

    fit(net, data, spec, new_run(), Hooks(forward=forward, weight_decays={"head.weight": 0.1}))
    for name, p in net.named_parameters():
        decay = 0.1 if name == "head.weight" else 5e-4
        torch.testing.assert_close(p.detach(), start[name] * (1 - 0.5 * decay))


@pytest.fixture(scope="module")
def parted():
    """The same images with labels of the test part that no net could learn."""
    train, held, test = (synthetic.blobs(48, 3, 8, 3, seed) for seed in (1, 2, 3))
    wrong = [test[0], (test[1] + 1) % 3]
    return images.from_tensors(list(train), wrong, ["a", "b", "c"], "cpu", list(held))


def test_validation_steers_and_the_test_part_is_read_once(parted, new_run, monkeypatch):
    """Best step and target go by what was held out; the test images are read at the end."""
    read, batches = [], images.evaluation_batches

    def spy(data, size=1024, part="test"):
        read.append(part)
        return batches(data, size, part)

    monkeypatch.setattr(images, "evaluation_batches", spy)
    run = new_run()
    fitted = fit(net_of(), parted, spec_of(epochs=8, budget={"target_accuracy": 0.9}), run)
    assert fitted.watched == "validation"
    assert fitted.ended_by == "target_accuracy"
    assert fitted.best_accuracy >= 0.9 > 0.5 > fitted.scores.accuracy
    assert read == ["validation"] * len(fitted.history) + ["test"]
    assert {"validation_accuracy", "validation_ece"} <= fitted.history[0].keys()
    told = [name for e in events(run, "metric") for name in e["values"] if "test" in name]
    assert told == ["test_accuracy", "test_nll"]


def test_a_checkpoint_of_another_split_is_refused(data, new_run):
    """Its net has seen what this training holds out."""
    first = new_run()
    stopped_at(1, data, first, spec_of(validation=0.0))
    with pytest.raises(SpecError, match="held out 0") as refused:
        fit(net_of(), data, spec_of(validation=0.2), new_run(resume=first, step=1))
    assert refused.value.pointer == "/validation"


def test_stored_specs_of_earlier_releases_hold_nothing_out():
    stored = spec_of().model_dump(mode="json")
    del stored["validation"]
    del stored["images"]["fit"]
    squashed = {"images": stored["images"] | {"fit": "squash"}, "validation": 0.0}
    digest = spec_digest(Training.model_validate(stored | squashed))
    old = hashlib.sha256(
        spec_of(validation=0.0)
        .model_dump_json(
            exclude={
                **dict.fromkeys(("resume_from", "threads", "validation", "label_smoothing"), True),
                **dict.fromkeys(("accumulate", "ema", "loading"), True),
                "budget": {"patience"},
                "images": {
                    "fit": True,
                    "augment": {"resized_crop", "trivial", "erase", "mixup", "cutmix"},
                },
                "optimizer": {"beta2", "decay", "clip_norm", "warmup_steps"},
            }
        )
        .encode()
    )
    assert digest == old.hexdigest()
    Training.upgrade(stored)
    assert stored["validation"] == 0
    assert stored["images"]["fit"] == "squash"
    by_hand = {"model": {"name": "resnet8"}, "data": {"dataset": "none"}, "images": {}}
    Training.upgrade(by_hand)
    assert "validation" not in by_hand
    assert not by_hand["images"]


@pytest.mark.parametrize(("images", "share", "held"), [(3, 0.5, 0), (4, 0.1, 1), (100, 0.1, 10)])
def test_images_held_out(images, share, held):
    spec = spec_of(validation=share, batch_size=2)
    assert spec.held(images) == held
    assert spec.used(images) == images - held

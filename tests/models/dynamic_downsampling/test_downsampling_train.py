"""Training with cheap steps: properties 9 to 13 and 15 to 17, resume, result."""

import csv
import json
import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from models.core.errors import SpecError
from models.core.run import StoppedError
from models.data import images, loading, order
from models.data.spec import Augment
from models.dynamic_downsampling import baselines, gradients, report
from models.dynamic_downsampling import setup as cheap_setup
from models.dynamic_downsampling import train as method
from models.dynamic_downsampling.cheap import plan_layers, shrink, time_layers
from models.dynamic_downsampling.fields import Downsample
from models.dynamic_downsampling.norms import NormMatcher, reestimate
from models.dynamic_downsampling.setup import prepare
from models.nets.files import load_net
from models.supervised.clock import StepClock
from models.supervised.evaluate import Scores
from models.supervised.hooks import SubRun
from models.supervised.initial import Initial
from models.supervised.loop import Fitted, fit
from models.supervised.steps import FULL, Batch, cross_entropy, learning_rate
from tests.models.dynamic_downsampling.plain import new_net

STEPS = 24
NONE = Augment()


def plain_trainer(spec, data):
    """The reference: torch's own SGD in a loop that shares no line with the service's."""
    net = new_net(spec, data, "cpu")
    net.to(memory_format=torch.channels_last)
    hyper, size = spec.optimizer, spec.batch_size
    optimizer = torch.optim.SGD(
        net.parameters(), hyper.lr, hyper.momentum, 0, hyper.weight_decay, nesterov=True, fused=True
    )
    per_epoch, warm = len(data.train) // size, math.ceil(hyper.warmup * STEPS)
    for step in range(STEPS):
        epoch, index = divmod(step, per_epoch)
        chosen = order.chosen(len(data.train), spec.seed, epoch, index * size, (index + 1) * size)
        x, labels = images.batch(data, chosen, spec.images.augment, spec.seed, step)
        decayed = hyper.lr * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm))) / 2
        rate = hyper.lr * (step + 1) / warm if step < warm else decayed
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        logits = net(x.contiguous(memory_format=torch.channels_last))
        functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    return net.state_dict()


def train_with(spec, data, run):
    setup = prepare(spec, data, run)
    fitted = method.fit_cheap(setup, run, SubRun())
    return setup, fitted


def parameters_of(setup):
    return {name: p.detach().clone() for name, p in setup.net.named_parameters()}


@pytest.mark.parametrize(
    "down",
    [
        {"schedule": {"type": "off"}},
        {"schedule": {"type": "bernoulli", "cheap_share": 0.0}},
        {"schedule": {"type": "periodic", "n_cheap": 0}, "cheap_lr_scale": "match_norm"},
        {"input_scale": 1.0, "kernel_pool": "none"},
        {"input_scale": 1.0, "kernel_pool": "none", "rate_over": "operations"},
    ],
    ids=["off", "no share", "no cheap step", "nothing smaller", "nothing smaller, operations"],
)
def test_no_downsampling_is_the_plain_trainer(data, make_spec, new_run, down):
    """Property 9: parameters bit-identical after 24 steps."""
    spec = make_spec(downsample=down)
    setup, _ = train_with(spec, data, new_run())
    expected = plain_trainer(spec, data)
    actual = parameters_of(setup)
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), name


def test_state_dict_is_the_plain_nets(data, make_spec, new_run):
    """Property 10: same keys and shapes, strict loading, same logits."""
    spec = make_spec(downsample={"bn_mode": "split", "kernel_gain": "white"})
    setup, _ = train_with(spec, data, new_run())
    plain = new_net(spec, data, "cpu").to(memory_format=torch.channels_last)
    plain.load_state_dict(setup.net.state_dict(), strict=True)
    x, _ = next(images.evaluation_batches(data))
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), setup.net.eval()(x))


def norm_states(setup):
    norms = [m for m in setup.net.modules() if isinstance(m, nn.BatchNorm2d)]
    return [{name: b.clone() for name, b in norm.named_buffers()} for norm in norms]


def test_skip_leaves_running_statistics(data, make_spec, new_run):
    """Property 11: a cheap pass under ``skip`` changes no buffer, a full one all."""
    setup = prepare(make_spec(), data, new_run())
    x = torch.randn(8, 1, 16, 16)
    before = norm_states(setup)
    with setup.mode.cheap():
        setup.net(setup.small(x))
    after = norm_states(setup)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(before, after, strict=True) for k in a)
    setup.net(x)
    assert not any(
        torch.equal(a["running_mean"], b["running_mean"])
        for a, b in zip(after, norm_states(setup), strict=True)
    )


def test_split_keeps_two_sets(data, make_spec, new_run):
    """Property 11: each set equals that of a net which saw only its mode."""
    split, full, cheap = (
        prepare(make_spec(downsample={"bn_mode": mode}), data, new_run())
        for mode in ("split", "shared", "shared")
    )
    for seed in range(4):
        x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
        if seed % 2:
            split.net(x)
            full.net(x)
            continue
        for setup in (split, cheap):
            with setup.mode.cheap():
                setup.net(setup.small(x))
    for a, b in zip(norm_states(split), norm_states(full), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    second, state = split.mode.statistics(), cheap.net.state_dict()
    assert second.keys() == {name for name in state if "running" in name}
    assert all(torch.equal(x, state[name]) for name, x in second.items())


def test_reestimation_is_the_mean_over_batches():
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    batches = [torch.randn(8, 3, 4, 4) + k for k in range(3)]
    reestimate(net, batches)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(net[0].running_mean, means)
    assert net[0].momentum == 0.1
    assert not net.training


def test_match_norm_scales_by_running_norms():
    """Property 12: factor EMA of full norms over EMA of cheap norms, clipped to [0.1, 1]."""
    net = nn.Linear(2, 1, bias=False)
    matcher = NormMatcher(net)

    def step(scale, cheap):
        net.zero_grad()
        matcher.prepare(cheap=cheap)
        (scale * net(torch.tensor([3.0, 4.0]))).sum().backward()
        matcher.update(cheap=cheap)
        return net.weight.grad.norm().item()

    assert step(4.0, cheap=True) == pytest.approx(20)  # nothing to match yet
    assert step(1.0, cheap=False) == pytest.approx(5)
    assert step(4.0, cheap=True) == pytest.approx(5)
    assert step(1.0, cheap=False) == pytest.approx(5)  # full steps are never scaled
    assert step(4000.0, cheap=True) == pytest.approx(20_000 * 0.25)
    assert step(4.0, cheap=True) == pytest.approx(20 * 0.1)


def test_gradients_agree_with_themselves_and_leave_the_net(data, make_spec, new_run):
    """Property 12: cosine and ratio are 1 when nothing is smaller; below 1 when pooled."""
    same = prepare(make_spec(downsample={"input_scale": 1, "kernel_pool": "none"}), data, new_run())
    cosine, ratio = gradients.agreement(same)
    assert cosine == pytest.approx(1, abs=1e-6)
    assert ratio == pytest.approx(1, abs=1e-6)
    setup = prepare(make_spec(downsample={"bn_mode": "split"}), data, new_run())
    before = [t.clone() for t in [*setup.net.state_dict().values(), *setup.extras().values()]]
    cosine, ratio = gradients.agreement(setup)
    after = [*setup.net.state_dict().values(), *setup.extras().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert -1 < cosine < 0.99
    assert ratio > 0


@pytest.mark.parametrize(
    "down",
    [
        {"schedule": {"type": "bernoulli", "cheap_share": 0.5}, "cheap_lr_scale": "match_norm"},
        {"bn_mode": "split", "input_resample": "crop", "wd_on_cheap": False},
        {"kernel_layers": "auto", "bn_mode": "shared", "cheap_lr_scale": 0.5},
        {"cheap_batch_multiplier": 2, "schedule": {"period": 4, "n_cheap": 3}},
    ],
    ids=["match_norm", "split, crop", "auto", "two batches"],
)
def test_resumed_run_is_the_uninterrupted_one(data, make_spec, new_run, down):
    """Property 13: bits of parameters, buffers and decisions, from the middle of an epoch."""
    spec = make_spec(downsample=down)
    stopped = new_run()
    setup = prepare(spec, data, stopped)
    taken = 0

    def stop_in_step_13():
        nonlocal taken
        taken += setup.net.training
        if taken == 13:
            stopped.request_stop("test")

    setup.net.register_forward_hook(lambda *_: stop_in_step_13())
    with pytest.raises(StoppedError):
        method.fit_cheap(setup, stopped, SubRun())
    step = events(stopped, "artifact")[-1]["step"]  # 13, or more with steps of several batches
    resumed = new_run(resume=stopped, step=step)
    again, fitted = train_with(spec, data, resumed)
    whole_run = new_run()
    whole = prepare(spec, data, whole_run)
    if down.get("kernel_layers") == "auto":  # timed anew, so take over the first run's answer
        whole = prepare(spec, data, new_run(resume=stopped, step=step))
    expected = method.fit_cheap(whole, whole_run, SubRun())
    assert fitted.steps == expected.steps == STEPS
    assert again.decisions == whole.decisions
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor), name
    for name, tensor in whole.extras().items():
        assert torch.equal(again.extras()[name], tensor), name


def test_cheap_factors_reach_the_optimizer(data, make_spec, new_run):
    """One cheap step from rest moves the weights by lambda times what it moves them at 1."""
    moved = []
    for scale in (1.0, 0.5):
        spec = make_spec(max_steps=1, downsample={"cheap_lr_scale": scale, "refine_fraction": 0})
        start = dict(new_net(spec, data, "cpu").named_parameters())
        setup, _ = train_with(spec, data, new_run())
        moved.append(torch.cat([(p - start[n]).flatten() for n, p in setup.net.named_parameters()]))
    torch.testing.assert_close(moved[1], moved[0] / 2, rtol=1e-3, atol=1e-7)


def test_evaluation_is_always_full(data, make_spec, new_run):
    """Property 15: a run that ends on a cheap step reports the scores of the full net."""
    spec = make_spec(downsample={"refine_fraction": 0.0, "schedule": {"period": 1, "n_cheap": 1}})
    setup, fitted = train_with(spec, data, new_run())
    assert all(setup.decisions)
    assert not setup.mode.is_cheap
    x, labels = next(images.evaluation_batches(data))
    plain = new_net(spec, data, "cpu")
    plain.load_state_dict(setup.net.state_dict())
    accuracy = (plain.eval()(x).argmax(1) == labels).float().mean().item()
    assert fitted.scores.accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize("size", [(31, 31), (33, 33), (24, 32)])
@pytest.mark.parametrize("policy", ["alternate", "pair", "low", "high"])
def test_odd_sizes_train(size, policy, make_spec, new_run):
    """Property 16: residual additions match in both modes, forward and backward."""
    spec = make_spec(downsample={"pad_policy": policy, "size_multiple": 1})
    pixels = torch.randint(0, 256, (16, *size, 3), dtype=torch.uint8)
    pair = [pixels, torch.arange(16) % 2]
    odd = images.from_tensors(pair, pair, ["a", "b"], "cpu")
    setup = prepare(spec, odd, new_run())
    x = images.normalise(pixels, odd.mean, odd.std)
    with setup.mode.cheap():
        loss = cross_entropy(setup.net, Batch(setup.small(x), pair[1]))
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in setup.net.parameters())


def test_fixed_size_head_is_refused_with_its_name(data, make_spec, new_run, monkeypatch):
    """Property 16, second half."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 16 * 16, 4))
    monkeypatch.setattr(cheap_setup, "initial_net", lambda *_: Initial(net, []))
    with pytest.raises(SpecError, match="layer 2 does not accept images of 8 x 8") as caught:
        prepare(make_spec(), data, new_run())
    assert caught.value.pointer == "/downsample/input_scale"
    assert net.training


def test_layers_are_left_with_a_reason():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, (1, 3), padding=(0, 1)),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 4, stride=4),
    )
    _, layers = plan_layers(net, Downsample(), 4, (16, 16))
    reasons = [layer.reason.split(":")[0] for layer in layers]
    expected = ["depthwise", "dilated", "not square", "padding given by name", "pooled"]
    assert reasons == [*expected, "not larger than its stride"]


def test_auto_times_every_pooled_layer(data, make_spec, new_run):
    setup = prepare(make_spec(), data, new_run())
    times = time_layers(setup.net, torch.randn(8, 1, 8, 8), setup.mode)
    assert set(times) == {layer.name for layer in setup.layers if layer.reason == "pooled"}
    assert all(min(each) > 0 for each in times.values())
    assert setup.net.training
    assert not setup.mode.is_cheap


@pytest.mark.parametrize("how", ["area", "bilinear_aa", "nearest", "crop"])
def test_shrink(how):
    """Sizes; a constant stays; area at half size is the 2 x 2 mean, bit for bit."""
    x = torch.randn(2, 3, 12, 8)
    assert shrink(x, (6, 4), how, 0, 0).shape == (2, 3, 6, 4)
    assert torch.equal(shrink(x, (12, 8), how, 0, 0), x)
    ones = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(shrink(ones, (4, 4), how, 0, 0), torch.ones(1, 1, 4, 4))
    if how == "area":
        assert torch.equal(shrink(x, (6, 4), how, 0, 0), functional.avg_pool2d(x, 2))


def test_nearest_keeps_the_noise_that_area_averages_out():
    """Pitfall: a subsample of white noise has its deviation, the 2 x 2 mean half of it."""
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert shrink(x, (32, 32), "nearest", 0, 0).std().item() == pytest.approx(1, abs=0.02)
    assert shrink(x, (32, 32), "area", 0, 0).std().item() == pytest.approx(0.5, abs=0.02)


def test_crop_depends_on_the_step_alone():
    x = torch.arange(400.0).view(1, 1, 20, 20)
    cuts = [shrink(x, (4, 4), "crop", 1, step)[0, 0, 0, 0].item() for step in range(30)]
    again = [shrink(x, (4, 4), "crop", 1, step)[0, 0, 0, 0].item() for step in range(30)]
    assert cuts == again
    assert len(set(cuts)) > 20


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": {"image_size": 8}}, "feature maps below 2 x 2 in resnet8"),
        ({"images": {"image_size": 4}}, "lower size_multiple"),
        ({"downsample": {"kernel_layers": ["stage.*"]}}, "names no convolution of resnet8"),
        ({"downsample": {"kernel_layers": "auto"}, "deterministic": True}, "decides by timing"),
        ({"epochs": 2}, "not both"),
        ({"model": {"name": "resnet8", "stem": "7x7"}}, "stem 7x7 needs"),
    ],
)
def test_impossible_specs_are_refused(make_spec, fields, message):
    with pytest.raises(ValidationError, match=message):
        make_spec(**fields)


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "bernoulli", "cheap_share": 0.0},
        {"type": "periodic", "n_cheap": 0},
        {"type": "anneal", "p0": 0.0},
        {"type": "list", "intervals": [{"start": 0.9, "end": 1.0}]},  # refine_fraction is .2
    ],
)
def test_a_run_without_a_cheap_step_is_refused(make_spec, schedule):
    counts = {"none": {"train": 64, "height": 16, "width": 16, "channels": 1, "classes": 4}}
    with pytest.raises(SpecError, match=r"none of the \d+ steps would be cheap") as refusal:
        make_spec(downsample={"schedule": schedule}).estimate(counts)
    assert refusal.value.pointer == "/downsample/schedule"
    make_spec(downsample={"schedule": {"type": "off"}}).estimate(counts)


def test_known_counts_refuse_small_images(make_spec):
    counts = {"none": {"train": 100, "height": 8, "width": 8, "channels": 1, "classes": 4}}
    with pytest.raises(SpecError, match="feature maps below 2 x 2"):
        make_spec().estimate(counts)
    estimate = make_spec().estimate({"none": counts["none"] | {"height": 16, "width": 16}})
    assert estimate.total_steps == 24
    share, ratio = estimate.details["cheap_share"], estimate.details["flop_ratio"]
    assert estimate.details["predicted_saving"] == pytest.approx(share * (1 - ratio))


def events(run, kind):
    lines = (run.dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def test_result_report_and_weights(data, make_spec, new_run, monkeypatch):
    """The whole entry: figures consistent with each other, weights that load by themselves."""
    monkeypatch.setattr(loading, "load", lambda *_: data)
    monkeypatch.setattr(method.baselines, "equal_time_steps", lambda *_: 15)
    down = {"bn_mode": "shared", "bn_reestimate_batches": 4, "gradient_probes": 2}
    spec, run = make_spec(compare_baseline=True, downsample=down, export=True), new_run()
    method.train(spec, run)
    (result,) = (event["values"] for event in events(run, "result"))
    assert result["steps"] == {"full": 14, "cheap": 10}
    assert result["predicted_saving"] == pytest.approx(10 / 24 * (1 - result["flop_ratio"]))
    ratio = result["train_seconds"] / result["baseline_train_seconds"]
    assert result["saving"] == pytest.approx(1 - ratio)
    assert result["shorter_steps"] == 15
    gain = result["test_accuracy"] - result["shorter_test_accuracy"]
    assert result["gain_over_shorter"] == pytest.approx(gain)
    names = {name for event in events(run, "metric") for name in event["values"]}
    declared = {metric.name for metric in spec.metrics if "validation" not in metric.name}
    assert names == declared  # nothing is held out of these data
    loaded = load_net(run.dir / "weights.safetensors", "cpu")
    x, labels = next(images.evaluation_batches(data))
    accuracy = (loaded.net(x).argmax(1) == labels).float().mean().item()
    assert accuracy == pytest.approx(result["test_accuracy"])
    program = torch.export.load(run.dir / "net.pt2")
    torch.testing.assert_close(program.module()(x), loaded.net(x), rtol=1e-4, atol=1e-4)
    assert result["export_gaps"].keys() == {"net.onnx", "net.pt2"}
    assert json.loads((run.dir / "report.json").read_text())["result"] == result
    rows = list(csv.DictReader((run.dir / "history.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [8, 16, 24]
    assert int(rows[-1]["full_steps"]) + int(rows[-1]["cheap_steps"]) == 24


def fitted_in(seconds, warmup_seconds, steps=20):
    """A training that took so long."""
    clock = StepClock("cpu")
    clock.seconds, clock.warmup_seconds = seconds, warmup_seconds
    return Fitted(Scores(0.5, 1.0, 0.0), "test", 0.5, 1, steps, "steps", [], clock)


def test_shorter_training_has_the_time_of_the_cheap_one():
    """Steps in proportion to the time after the warm-up: (7 - 1) of (12 - 2) seconds."""
    assert baselines.equal_time_steps(fitted_in(7.0, 1.0), fitted_in(12.0, 2.0)) == 12
    assert baselines.equal_time_steps(fitted_in(1.01, 1.0), fitted_in(12.0, 2.0)) == 1


def test_shorter_training_ends_with_its_schedule(data, make_spec, new_run):
    """Comparison: its rates are those of a run of its length; nothing is trained twice."""
    setup, run = prepare(make_spec(), data, new_run()), new_run()
    plain = fitted_in(12.0, 2.0, steps=24)
    shorter = baselines.train_shorter(setup, run, fitted_in(7.0, 1.0), plain)
    assert shorter.steps == 14
    by_hand = fit(new_net(setup.spec, data, "cpu"), data, make_spec(max_steps=14), new_run())
    assert shorter.scores == by_hand.scores
    assert shorter.history[-1]["lr"] == by_hand.history[-1]["lr"]
    assert {event["step"] for event in events(run, "metric")} <= set(range(49, 63))
    assert baselines.train_shorter(setup, run, fitted_in(13.0, 1.0), plain) is plain


def trained_on(spec, data, run):
    """Parameters after a training, and (learning rate, images) of each of its steps."""
    setup = prepare(spec, data, run)
    seen = []
    setup.net.register_forward_pre_hook(
        lambda net, args: seen.append(args[0].clone()) if net.training else None
    )
    fitted = method.fit_cheap(setup, run, SubRun())
    return setup, fitted, seen


def test_cheap_steps_of_several_batches_see_the_same_images(data, make_spec, new_run):
    """Section 4: order and augmentation are those of single steps; k batches are one step."""
    down = {"schedule": {"type": "list", "intervals": [{"start": 0.0, "end": 0.5}]}}
    _, _, single = trained_on(make_spec(downsample=down), data, new_run())
    several = make_spec(downsample=down | {"cheap_batch_multiplier": 3})
    setup, fitted, merged = trained_on(several, data, new_run())
    # 3 epochs of 8 batches, the first 12 cheap: 3 + 3, 2 left over, then 3 of the next epoch's 4
    assert fitted.clock.counts == {"cheap": 3, "full": 15}
    assert fitted.steps == 24
    assert [len(x) for x in merged[:6]] == [24, 24, 8, 8, 24, 8]
    torch.testing.assert_close(torch.cat(single[:6]), torch.cat(merged[:2]))
    torch.testing.assert_close(torch.cat(single[8:11]), merged[4])
    assert setup.decisions == bytes([1] * 6 + [0] * 2 + [1] * 3 + [0] * 13)


def test_sizes_follow_the_intervals(data, make_spec, new_run):
    """Each interval sees images of its scale; figures tell the sizes apart and weigh them."""
    parts = [{"start": 0.0, "end": 0.25}, {"start": 0.25, "end": 0.5, "input_scale": 0.75}]
    down = {"schedule": {"type": "list", "intervals": parts}, "kernel_pool": "none"}
    setup, fitted, seen = trained_on(make_spec(downsample=down), data, new_run())
    assert [x.shape[-1] for x in seen] == [8] * 6 + [12] * 6 + [16] * 12
    assert fitted.clock.counts == {"cheap 8 x 8": 6, "cheap 12 x 12": 6, "full": 12}
    actual = report.values(setup, fitted, fitted.scores)
    small, large = (costs.ratio for costs in setup.costs())
    assert small < large < 1
    assert actual["flop_ratio"] == pytest.approx((small + large) / 2)
    assert actual["predicted_saving"] == pytest.approx(0.5 * (1 - actual["flop_ratio"]))
    counts = {"none": {"train": 64, "height": 16, "width": 16, "channels": 1, "classes": 4}}
    details = setup.spec.estimate(counts).details
    assert details["predicted_saving"] == pytest.approx(actual["predicted_saving"])
    assert details["cheap_steps"] == 12


def test_every_size_must_be_possible(make_spec):
    parts = [{"start": 0.0, "end": 0.5}, {"start": 0.5, "end": 0.6, "input_scale": 0.2}]
    down = {"schedule": {"type": "list", "intervals": parts}}
    with pytest.raises(ValidationError, match=r"input_scale 0\.2 gives images of 4 x 4"):
        make_spec(downsample=down, images={"image_size": 16})


def test_rates_over_operations(data, make_spec, new_run):
    """At the switch the schedule has come as far as the operations, not as the steps."""
    down = {"schedule": {"type": "list", "intervals": [{"start": 0.0, "end": 0.5}]}}
    down |= {"rate_over": "operations", "kernel_pool": "none"}
    optimizer = {"lr": 1.0, "schedule": "linear", "warmup": 0.0}
    setup = prepare(make_spec(downsample=down, optimizer=optimizer), data, new_run())
    rate, ratio = method.rate_over_operations(setup), setup.costs()[0].ratio
    rates = [rate(step) for step in range(STEPS)]
    assert rates[0] == 1
    assert rates[12] == pytest.approx(1 / (1 + ratio))  # full steps do this share of the work
    falls = [a - b for a, b in pairwise(rates)]
    assert falls[:12] == pytest.approx([ratio * falls[-1]] * 12)
    _, fitted = train_with(setup.spec, data, new_run())
    assert fitted.history[-1]["lr"] == pytest.approx(rates[-1])
    warm = prepare(
        make_spec(downsample=down, optimizer={"lr": 1.0, "warmup": 0.2}), data, new_run()
    )
    rates = [method.rate_over_operations(warm)(step) for step in range(STEPS)]
    assert max(rates) == 1  # though the warm-up ends between two steps
    assert rates.index(1) > 5  # its 5 full steps are more of cheap ones


def test_several_batches_scale_the_rate(data, make_spec, new_run):
    """A cheap step of k batches moves the weights k times as far, as their mean gradient says."""
    moved = []
    for k in (1, 2):
        down = {"cheap_batch_multiplier": k, "refine_fraction": 0.0, "input_resample": "area"}
        down["schedule"] = {"type": "list", "intervals": [{"start": 0.0, "end": 1.0}]}
        optimizer = {"lr": 0.05, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
        spec = make_spec(max_steps=k, batch_size=16 // k, optimizer=optimizer, downsample=down)
        spec = spec.model_copy(update={"images": spec.images.model_copy(update={"augment": NONE})})
        start = dict(new_net(spec, data, "cpu").named_parameters())
        setup, _ = train_with(spec, data, new_run())
        moved.append(torch.cat([(p - start[n]).flatten() for n, p in setup.net.named_parameters()]))
    torch.testing.assert_close(moved[1], 2 * moved[0], rtol=1e-3, atol=5e-7)


def test_more_batches_than_an_epoch_has_are_refused(data, make_spec, new_run):
    spec = make_spec(batch_size=32, downsample={"cheap_batch_multiplier": 4})
    with pytest.raises(SpecError, match="cheap_batch_multiplier 4 is more than the 2 batches"):
        prepare(spec, data, new_run())
    counts = {"none": {"train": 64, "height": 16, "width": 16, "channels": 1, "classes": 4}}
    with pytest.raises(SpecError, match="lower it or batch_size"):
        spec.estimate(counts)


def test_split_reports_the_cheap_mode(data, make_spec, new_run):
    spec = make_spec(downsample={"bn_mode": "split"})
    setup, fitted = train_with(spec, data, new_run())
    assert 0 <= report.values(setup, fitted, fitted.scores)["cheap_test_accuracy"] <= 1


def test_plain_mode_is_the_default_of_fit(data, make_spec, new_run):
    """Fit without any function of a method takes full steps only."""
    spec = make_spec(max_steps=3)
    fitted = fit(new_net(spec, data, "cpu"), data, spec, new_run())
    assert fitted.clock.counts == {FULL.name: 3}
    assert learning_rate(spec.optimizer, 0, 24) == pytest.approx(0.05 / 2)

"""Averages of weights, batches in parts, ends for want of progress."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.core.errors import SpecError
from models.core.run import StoppedError
from models.data import images, synthetic
from models.supervised.average import Average
from models.supervised.hooks import Hooks
from models.supervised.loop import fit
from models.supervised.steps import FULL, Batch, Mode, cross_entropy, make_optimizer, make_step
from tests.models.supervised.test_supervised_loop import net_of, spec_of


@pytest.fixture(scope="module")
def parted():
    """Three classes of 8 x 8 images: 48 to train on, 24 to validate, 48 to test."""
    train, test = (list(synthetic.blobs(48, 3, 8, 3, seed)) for seed in (1, 2))
    held = list(synthetic.blobs(24, 3, 8, 3, seed=3))
    return images.from_tensors(train, test, ["a", "b", "c"], "cpu", held)


def test_the_average_by_hand():
    """The first weights are forgotten at once; whole numbers are copied; restart begins anew."""
    net = nn.BatchNorm1d(2)
    mean = Average(net, 0.9)
    expected = torch.zeros(2)
    for n, value in enumerate((1.0, 3.0, 2.0)):
        net.bias.data.fill_(value)
        net.num_batches_tracked.fill_(n)
        mean.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(mean.tensors["bias"], expected)
    assert int(mean.tensors["num_batches_tracked"]) == 2
    with mean.installed():
        assert torch.equal(net.bias, mean.tensors["bias"])
    assert torch.equal(net.bias, torch.full((2,), 2.0))
    mean.restart()
    assert torch.equal(mean.tensors["bias"], net.bias)
    assert float(mean.steps) == 0


def test_what_is_left_and_tested_is_the_average(parted, new_run):
    """The training itself is that without one, bit for bit: its last weights lie under it."""
    last, plain = {}, net_of()
    fit(plain, parted, spec_of(epochs=2), new_run())
    net = net_of()

    def after_step(done, _):
        last.update({name: x.clone() for name, x in net.state_dict().items()})

    fitted = fit(net, parted, spec_of(epochs=2, ema=0.5), new_run(), Hooks(after_step=after_step))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(last[name], tensor), name
    assert not torch.equal(net.head.weight, plain.head.weight)
    again = fit(net_of(), parted, spec_of(epochs=2, ema=0.5), new_run())
    assert again.scores == fitted.scores


@pytest.mark.parametrize("step", [2, 3, 9])
def test_an_average_in_parts_resumes_bit_for_bit(parted, new_run, step):
    """Within an epoch, at its end, and at the end of the run."""
    spec = spec_of(ema=0.9, accumulate=2, images={"augment": {"flip": True}})
    whole, first, again = net_of(), new_run(), net_of(seed=7)
    fit(whole, parted, spec, first if step == 9 else new_run())

    def after_step(done, _):
        if done == step:
            first.request_stop("test")

    if step < 9:
        with pytest.raises(StoppedError):
            fit(net_of(), parted, spec, first, Hooks(after_step=after_step))
    fit(again, parted, spec, new_run(resume=first, step=step))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    other = spec_of(ema=0.9, optimizer={"name": "adamw", "lr": 0.01})
    with pytest.raises(SpecError, match=r"the same optimizer\.name"):
        fit(net_of(), parted, other, new_run(resume=first, step=step))


def test_a_checkpoint_without_an_average_is_refused(parted, new_run):
    first = new_run()
    fit(net_of(), parted, spec_of(epochs=1), first)
    with pytest.raises(SpecError, match="kept no average: ask for the same ema") as refused:
        fit(net_of(), parted, spec_of(ema=0.9), new_run(resume=first, step=3))
    assert refused.value.pointer == "/ema"


def test_parts_of_a_batch_have_its_gradient():
    """Of a net without batch norm; the loss is the mean of all."""
    x, labels = torch.randn(8, 3, 4, 4), torch.arange(8) % 3
    gradients, losses = [], []
    for count in (1, 4):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        spec = spec_of(accumulate=count, optimizer={"lr": 0.1, "clip_norm": 0.5})
        optimizer = make_optimizer(net, spec.optimizer)
        step = make_step(net, optimizer, cross_entropy, spec, "cpu")
        losses.append(step(FULL, Batch(x, labels)))
        gradients.append(net[1].weight.grad.clone())
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(*losses)


def test_patience_counts_epochs_since_the_best(parted, new_run):
    """A rate too small to learn; a run that is resumed at its end stops there too."""
    spec = spec_of(epochs=9, budget={"patience": 2}, optimizer={"lr": 1e-9, "warmup": 0.0})
    run = new_run()
    fitted = fit(net_of(), parted, spec, run)
    assert fitted.ended_by == "patience"
    assert fitted.steps == fitted.best_step + 2 * 3 < 27
    again = fit(net_of(seed=1), parted, spec, new_run(resume=run, step=fitted.steps))
    assert (again.ended_by, again.steps) == ("patience", fitted.steps)
    learns = fit(net_of(), parted, spec_of(epochs=3, budget={"patience": 3}), new_run())
    assert learns.ended_by == "steps"


def test_epochs_of_cheap_steps_alone_try_nobodys_patience(parted, new_run):
    """The same training, its first four epochs under another name: it ends later."""
    spec = spec_of(epochs=9, budget={"patience": 1}, optimizer={"lr": 1e-9, "warmup": 0.0})
    cheap = Mode("cheap")
    hooks = Hooks(mode_of=lambda step: cheap if step < 12 else FULL)
    early, late = (fit(net_of(), parted, spec, new_run(), each) for each in (Hooks(), hooks))
    assert early.steps <= 12 < late.steps
    assert late.ended_by == "patience"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulate": 3}, "does not divide batch_size 16: give a multiple, such as 15 or 18"),
        ({"accumulate": 16}, "fewer than 2 of the 16 images .* at most 8"),
        ({"budget": {"patience": 2}, "validation": 0}, "validation 0 holds none out"),
        ({"ema": 1.0}, "less than 1"),
    ],
)
def test_options_that_cannot_be_meant(fields, message):
    with pytest.raises(ValidationError, match=message):
        spec_of(**fields)


def test_a_batch_of_all_images_is_a_multiple_of_its_parts():
    spec = spec_of(accumulate=4)
    spec = type(spec).model_validate(spec.model_dump(exclude={"batch_size"}))
    assert spec.batch(30) == 28
    with pytest.raises(SpecError, match="fewer than 2 of the 6 training images") as refused:
        spec.used(7)
    assert refused.value.pointer == "/accumulate"

"""Baselines, their neutrality, and the refusal of nets that cannot be explained."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from models.core.errors import SpecError
from models.saliency.methods.baselines import (
    baseline_impact,
    blur,
    impact_warnings,
    neutral_limit,
    replacements_of,
)
from models.saliency.methods.registry import compute_map
from models.saliency.net import images
from models.saliency.net.load import Subject
from models.saliency.net.scores import Scorer, check_mode, probe
from models.saliency.net.space import Space
from models.saliency.spec.fields import Blur, Constant, GaussianNoise, Noise, Plain
from models.saliency.spec.map import SaliencyMap
from models.saliency.spec.masks import Occlusion
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise
from tests.smallest import smallest

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SPACE = Space(MEAN, STD)


def pixels_of(part, x=None, space=SPACE):
    """The baseline of an image, back in pixels."""
    x = noise(3, 6, 5) if x is None else x
    (image,) = replacements_of(part, x, space, seed=0)
    assert image.shape == x.shape
    return image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


@pytest.mark.parametrize(("name", "level"), [("black", 0.0), ("white", 1.0), ("gray", 0.5)])
def test_grey_levels_are_pixels(name, level):
    pixels = pixels_of(Plain(id=name))
    torch.testing.assert_close(pixels, torch.full_like(pixels, level), atol=1e-7, rtol=0)


def test_zero_is_the_mean_not_black():
    pixels = pixels_of(Plain(id="zero"))
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor(MEAN).double(), atol=1e-7, rtol=0)


def test_dataset_mean_needs_a_net_that_records_it():
    x = noise(3, 4, 4)
    assert torch.equal(
        replacements_of(Plain(id="dataset_mean"), x, SPACE, 0)[0], torch.zeros_like(x)
    )
    with pytest.raises(SpecError, match="dataset_mean"):
        replacements_of(Plain(id="dataset_mean"), x, Space(MEAN, STD, recorded=False), 0)


@pytest.mark.parametrize(("space", "expected"), [("pixel", 0.5), ("normalised", None)])
def test_constant_says_in_which_space_it_was_given(space, expected):
    x = noise(3, 4, 4)
    (image,) = replacements_of(Constant(id="constant", value=[0.5], space=space), x, SPACE, 0)
    if expected is None:
        assert (image == 0.5).all()
    else:
        torch.testing.assert_close(image[1], torch.zeros(4, 4).double())  # mean of channel 1
    with pytest.raises(SpecError, match="2 values, the net's input 3"):
        replacements_of(Constant(id="constant", value=[0.5, 0.1]), x, SPACE, 0)


def test_channel_mean_is_of_this_image():
    x = noise(3, 6, 5)
    (image,) = replacements_of(Plain(id="channel_mean"), x, SPACE, 0)
    torch.testing.assert_close(image[:, 2, 3], x.mean((1, 2)))


@pytest.mark.parametrize("sigma", [0.7, 3.0, 20.0])
def test_blur_is_a_gaussian_with_repeated_border(sigma):
    """Against a direct sum over the kernel, wider than the image included."""
    ndimage = pytest.importorskip("scipy.ndimage")
    x = noise(2, 14, 9)
    radius = math.ceil(4 * sigma)
    expected = [
        ndimage.gaussian_filter(plane.numpy(), sigma, mode="nearest", radius=radius) for plane in x
    ]
    np.testing.assert_allclose(blur(x, sigma).numpy(), np.stack(expected), atol=1e-12)
    (image,) = replacements_of(Blur(id="blur", sigma=sigma), x, Space([0.0] * 2, [1.0] * 2), 0)
    torch.testing.assert_close(image, blur(x, sigma))


def test_shuffle_keeps_the_pixels_and_their_colours():
    x = noise(3, 6, 5)
    (image,) = replacements_of(Noise(id="shuffle"), x, SPACE, 0)
    assert not torch.equal(image, x)
    columns = [sorted(map(tuple, pixels.flatten(1).T.tolist())) for pixels in (image, x)]
    assert columns[0] == columns[1]


@pytest.mark.parametrize(
    "part",
    [
        Noise(id="uniform_noise", draws=2),
        Noise(id="shuffle", draws=2),
        GaussianNoise(id="gaussian_noise", draws=2),
    ],
)
def test_random_baselines_repeat_and_differ_by_seed_and_draw(part):
    """Property 9: drawn from (seed, draw) alone."""
    x = noise(3, 6, 5)
    first, second = replacements_of(part, x, SPACE, 0)
    assert not torch.equal(first, second)
    assert torch.equal(first, replacements_of(part, x, SPACE, 0)[0])
    assert not torch.equal(first, replacements_of(part, x, SPACE, 1)[0])
    other = part.model_copy(update={"seed": 5})
    assert not torch.equal(first, replacements_of(other, x, SPACE, 0)[0])


def test_noise_has_the_moments_it_promises():
    x = noise(3, 60, 60)
    (grey,) = replacements_of(Noise(id="uniform_noise"), x, Space([0.0] * 3, [1.0] * 3), 0)
    assert 0 < grey.min() < 0.01
    assert 0.99 < grey.max() < 1
    assert abs(grey.mean() - 0.5) < 0.02
    (normal,) = replacements_of(GaussianNoise(id="gaussian_noise", sigma=2.0), x, SPACE, 0)
    assert abs(normal.mean()) < 0.1
    assert abs(normal.std() - 2.0) < 0.1


def test_impact_reports_the_baseline_itself():
    """README, eq. 3, against the definitions."""
    net, x, b = conv_net().double(), noise(3, 8, 8), noise(3, 8, 8, seed=1)
    impact = baseline_impact(Scorer(net, "prob"), x, [b], torch.tensor([2, 0]), 4, "abcde")
    with torch.no_grad():
        p, at_x = net(b[None]).softmax(1)[0], net(x[None]).softmax(1)[0]
        t = torch.linspace(0, 1, 11).double()
        path = net(torch.stack([(1 - s) * b + s * x for s in t])).softmax(1)
    assert impact["score"] == pytest.approx(p[[2, 0]].tolist())
    assert impact["max_probability"] == pytest.approx(p.max().item())
    assert impact["neutrality"] == pytest.approx(1 - p.max().item())
    assert impact["entropy"] == pytest.approx(-(p * p.log()).sum().item())
    assert impact["kl_uniform"] == pytest.approx((p * (p * 5).log()).sum().item())
    assert impact["top_class"] == int(p.argmax())
    assert impact["top_class_changes"] == bool(p.argmax() != at_x.argmax())
    np.testing.assert_allclose(impact["path"][0], path[:, 2], atol=1e-6)
    area = (path[:-1, 0] + path[1:, 0]).sum().item() / 20
    assert impact["path_area"][1] == pytest.approx(area, abs=1e-6)


def test_impact_of_draws_is_their_mean_with_its_error():
    net, x = conv_net().double(), noise(3, 8, 8)
    draws = [noise(3, 8, 8, seed=seed) for seed in (1, 2, 3)]
    impact = baseline_impact(Scorer(net, "logit"), x, draws, torch.tensor([0]), 64, "abcde")
    with torch.no_grad():
        values = net(torch.stack(draws))[:, 0]
    assert impact["score"] == pytest.approx([values.mean().item()])
    assert impact["standard_error"] == pytest.approx([values.std().item() / math.sqrt(3)])


def test_net_in_training_mode_is_refused():
    """Property 11: one part in training mode is enough."""
    net = conv_net()
    check_mode(net)
    net[1].train()
    with pytest.raises(SpecError, match=r"BatchNorm2d.*training mode"):
        check_mode(net)


class AlwaysDropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x.flatten(1), 0.5, training=True)


class BatchMean(nn.Module):
    def forward(self, x):
        return x.flatten(1) - x.flatten(1).mean(0)


@pytest.mark.parametrize("net", [AlwaysDropout(), BatchMean()])
def test_rows_that_depend_on_their_batch_are_refused(net):
    """Property 11: one row alone against the same row inside a batch."""
    with torch.random.fork_rng(), pytest.raises(SpecError, match="rest of its batch"):
        probe(Scorer(net.eval(), "logit"), noise(3, 4, 4))


def test_no_second_softmax_is_applied():
    """Property 11: by the last module; outputs stay as they are for every score that reads them."""
    net = nn.Sequential(conv_net(), nn.Softmax(1)).eval().double()
    x = noise(3, 8, 8)
    for kind in ("prob", "logit"):
        scorer = Scorer(net, kind)
        probe(scorer, x)
        outputs = scorer.outputs(x[None])
        assert torch.equal(scorer.scores(outputs), outputs)
        assert torch.equal(scorer.probabilities(outputs), outputs)


@pytest.mark.parametrize(("classes", "limit"), [(1000, 0.01), (100, 0.1), (10, 0.55), (2, 0.75)])
def test_neutral_limit_can_be_exceeded_whatever_the_number_of_classes(classes, limit):
    """Ten times chance is a certainty for ten classes, and was never exceeded."""
    assert neutral_limit(classes) == pytest.approx(limit)


def test_a_baseline_that_looks_like_any_class_is_not_neutral():
    """The explained class has no share in it."""
    numbers = {"moved": True, "outcomes": 1000, "max_probability": 0.24, "top_name": "bib"}
    ((code, text),) = impact_warnings("blur", numbers)
    assert code == "baseline_not_neutral"
    assert "gives class 'bib' probability 0.24; chance is 0.001" in text
    assert not list(impact_warnings("gray", numbers | {"max_probability": 0.009}))


@pytest.mark.parametrize("kind", ["prob", "logit", "logprob"])
def test_scores_are_what_they_are_called(kind):
    net, x = conv_net().double(), noise(4, 3, 8, 8)
    rows = []
    scorer = Scorer(net, kind, rows.append)
    scores = scorer.scores(scorer.outputs(x))[:, [3, 1]]
    with torch.no_grad():
        logits = net(x)[:, [3, 1]], torch.logsumexp(net(x), 1, keepdim=True)
    expected = {
        "prob": (logits[0] - logits[1]).exp(),
        "logit": logits[0],
        "logprob": logits[0] - logits[1],
    }[kind]
    torch.testing.assert_close(scores, expected)
    assert rows == [4]


def test_another_image_is_a_baseline_at_the_size_of_the_input(new_run):
    """Built-in or uploaded, an image is brought to the size of the input, then normalised."""
    fields = {"baselines": [{"id": "other_image", "image": {"dataset": "photos", "index": 1}}]}
    spec = SaliencyMap.model_validate({**smallest("saliency.map"), **fields})
    space = Space(MEAN, STD)
    subject = Subject(conv_net(), list("abcde"), space, (24, 20), 3, 1.0)
    images.load_others(spec, new_run(), subject)
    pixels = images.prepare(images.samples.photo(1), subject, "image")
    actual = pixels_of(spec.baselines[0], noise(3, 24, 20), space)
    torch.testing.assert_close(actual, pixels.double(), atol=1e-6, rtol=0)
    beyond = {"baselines": [{"id": "other_image", "image": {"dataset": "photos", "index": 999}}]}
    spec = SaliencyMap.model_validate({**smallest("saliency.map"), **beyond})
    with pytest.raises(SpecError, match=r"baselines\.0\.image\.index is 999"):
        images.load_others(spec, new_run(), subject)


def sampled(new_run, **fields):
    """A spec with a sampled baseline, its subject with the images loaded."""
    part = {"id": "dataset_samples", "dataset": "digits", **fields}
    spec = SaliencyMap.model_validate({**smallest("saliency.map"), "baselines": [part]})
    subject = Subject(conv_net(), list("abcde"), Space(MEAN, STD), (12, 12), 3, 1.0)
    images.load_others(spec, new_run(), subject)
    return spec.baselines[0], subject.space


def test_a_sampled_baseline_is_the_mean_over_images_of_the_set(new_run):
    """For a linear score the mean over baselines is the map with their mean image, and no other."""
    part, space = sampled(new_run, draws=5)
    w, x = noise(1, 3, 12, 12), noise(3, 12, 12, seed=1)
    drawn = replacements_of(part, x, space, 3)
    assert len(drawn) == 5
    pixels = (
        torch.stack([*drawn]) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    )
    pool = space.samples["digits", "train"].double() / 255
    for image in pixels:
        assert (pool - image).abs().amax((1, 2, 3)).min() < 1e-6
    method, one = Occlusion(id="occlusion", window=4, stride=4), case(Linear(w), x)
    maps = torch.stack([compute_map(method, one, b) for b in drawn]).mean(0)
    by_hand = (w[0] * (x - torch.stack([*drawn]).mean(0))).sum(0)
    by_hand = by_hand.view(3, 4, 3, 4).sum((1, 3)).repeat_interleave(4, 0).repeat_interleave(4, 1)
    torch.testing.assert_close(maps[0], by_hand)


def test_samples_differ_by_image_and_leave_it_out(new_run):
    part, space = sampled(new_run, draws=32)
    x = noise(3, 12, 12)
    first, again, other = (torch.stack([*replacements_of(part, x, space, s)]) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.flatten(1).unique(dim=0)) == 32
    for own in first[:3]:
        left = torch.stack([*replacements_of(part, own, space, 0)])
        assert not (left == own).all((1, 2, 3)).any()


def test_a_set_must_have_more_images_than_draws(new_run):
    with pytest.raises(SpecError, match=r"baselines\.0\.draws is 7; photos has 7 images there"):
        sampled(new_run, dataset="photos", draws=7)


class Overflowing(nn.Module):
    """Infinite where the image is dark."""

    def forward(self, x):
        level = x.mean((1, 2, 3))
        return torch.stack([level, 1 / (level > 0)], 1)


def test_nets_that_give_no_numbers_are_refused():
    net, x = Overflowing(), noise(3, 4, 4).abs()
    with pytest.raises(SpecError, match="NaN or infinity for the first image"):
        probe(Scorer(net, "logit"), -x)

"""Baselines that depend on the removed region: by hand, by boxes, and their refusals."""

import pytest
import torch
from pydantic import ValidationError

from models.catalog import kinds
from models.saliency.engine.trace import trace
from models.saliency.methods.baselines import image_of, replacements_of
from models.saliency.methods.case import Case
from models.saliency.methods.registry import compute_map
from models.saliency.net.scores import Scorer
from models.saliency.net.space import Space
from models.saliency.spec.evaluate import SaliencyEvaluate
from models.saliency.spec.fields import Inpainted, LocalMean, NoisyLinear
from models.saliency.spec.masks import FeatureAblation, GridSegments, KernelShap, Occlusion
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise
from tests.smallest import smallest

SPACE = Space([0.5] * 3, [0.25] * 3)
MEAN = LocalMean(id="local_mean", ring=2)
SMOOTH = NoisyLinear(id="noisy_linear", noise=0.0)
BIHARMONIC = Inpainted(id="inpainted")
METHODS = [
    Occlusion(id="occlusion", window=5, stride=3),
    FeatureAblation(id="feature_ablation", segments=GridSegments(id="grid", rows=3)),
]


def fill(part, x, seed=0):
    (replacement,) = replacements_of(part, x, SPACE, seed)
    return replacement


def square(height, width, top, left, bottom, right):
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("box", [(4, 3, 7, 8), (0, 0, 3, 3), (6, 9, 10, 12)])
def test_local_mean_is_the_mean_of_the_ring(box):
    """A loop over the pixels within two of the square, cut at the border."""
    x, (top, left, bottom, right) = noise(3, 10, 12), box
    ring = [
        x[:, i, j]
        for i in range(max(0, top - 2), min(10, bottom + 2))
        for j in range(max(0, left - 2), min(12, right + 2))
        if not (top <= i < bottom and left <= j < right)
    ]
    removed = square(10, 12, *box)
    (filled,) = fill(MEAN, x)(removed, x)
    inside = filled[:, removed[0]]
    torch.testing.assert_close(inside, torch.stack(ring).mean(0)[:, None].expand_as(inside))
    assert torch.equal(filled[:, ~removed[0]], x[:, ~removed[0]])


def test_linear_interpolation_reproduces_a_slope():
    """An affine image solves the equations of the imputation, so it does not change inside."""
    rows, columns = torch.arange(12.0)[:, None], torch.arange(14.0)
    x = torch.stack([rows + 2 * columns, 3 - columns + 0 * rows, 0.5 * rows - columns]).double()
    (filled,) = fill(SMOOTH, x)(square(12, 14, 3, 4, 8, 10), x)
    torch.testing.assert_close(filled, x, atol=1e-4, rtol=0)


def test_noise_is_of_the_seed_and_lies_in_the_region_alone():
    x, removed = noise(3, 10, 12), square(10, 12, 2, 3, 6, 9)
    noisy = NoisyLinear(id="noisy_linear", noise=0.1)
    plain, first, again, other = (
        fill(part, x, seed)(removed, x)[0]
        for part, seed in ((SMOOTH, 0), (noisy, 0), (noisy, 0), (noisy, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[:, ~removed[0]], x[:, ~removed[0]])
    spread = (first - plain)[:, removed[0]].std() / (0.1 * (x.max() - x.min()))
    assert 0.6 < spread < 1.4  # 72 normal numbers


def test_inpainting_reproduces_biharmonic_functions():
    """Their bilaplacian is 0 on the grid too: affine, saddle, cubic; means of rings are none."""
    rows, columns = torch.arange(14.0)[:, None].double(), torch.arange(15.0).double()
    x = torch.stack(
        [rows + 2 * columns, rows**2 - columns**2 + rows * columns, columns**3 - 9 * rows**2]
    )
    removed = square(14, 15, 4, 5, 9, 10)
    (filled,) = fill(BIHARMONIC, x)(removed, x)
    torch.testing.assert_close(filled, x, atol=1e-9, rtol=0)
    (mean,) = fill(MEAN, x)(removed, x)
    assert (mean - x).abs().max() > 10


def test_inpainting_stays_within_the_range_of_the_image():
    x = noise(3, 16, 16)
    for box in ((0, 0, 9, 9), (2, 2, 15, 15)):
        (filled,) = fill(BIHARMONIC, x)(square(16, 16, *box), x)
        assert x.min() - 1e-12 <= filled.min()
        assert filled.max() <= x.max() + 1e-12
    flat = torch.full((3, 16, 16), 0.25, dtype=torch.float64)
    (filled,) = fill(BIHARMONIC, flat)(square(16, 16, 3, 3, 9, 16), flat)
    torch.testing.assert_close(filled, flat)


@pytest.mark.parametrize("part", [MEAN, SMOOTH, BIHARMONIC])
def test_an_image_with_nothing_left_is_its_mean_colour(part):
    x = noise(3, 8, 8)
    replacement = fill(part, x)
    everything = torch.ones(1, 8, 8, dtype=torch.bool)
    expected = x.mean((1, 2))[:, None, None].expand_as(x)
    torch.testing.assert_close(replacement(everything, x)[0], expected)
    torch.testing.assert_close(image_of(replacement), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", [MEAN, NoisyLinear(id="noisy_linear"), BIHARMONIC])
@torch.no_grad()
def test_boxes_agree_with_whole_images(method, part):
    """Property 8: the engine computes boxes of images that differ from region to region."""
    net, x = conv_net().double(), noise(3, 17, 19)
    plain = case(net, x, targets=(0, 2))
    scorer = Scorer(net, "logit", plan=trace(net, (3, 17, 19)))
    fast = Case(x, scorer, plain.targets, plain.full, 0, 4)
    wanted = compute_map(method, plain, fill(part, x))
    for _ in range(2):  # the second time with cached routes
        torch.testing.assert_close(
            compute_map(method, fast, fill(part, x)), wanted, atol=1e-6, rtol=0
        )
    assert wanted.abs().max() > 0.01


def test_shapley_values_sum_to_the_drop_to_the_mean_colour():
    """Property 5 with a baseline that fills each coalition anew."""
    w, x = noise(2, 3, 9, 9), noise(3, 9, 9, seed=1)
    part = KernelShap(id="kernel_shap", segments=GridSegments(id="grid", rows=3), samples=40)
    one = case(Linear(w), x)
    values, b = compute_map(part, one, fill(MEAN, x)), fill(MEAN, x)
    total = values[0].view(3, 3, 3, 3).mean((1, 3)).sum()  # a value a segment
    torch.testing.assert_close(total, one.full[0] - one.score(image_of(b)[None])[0, 0])


def refusal(kind, **fields):
    with pytest.raises(ValidationError) as caught:
        kinds()[kind].model_validate({**smallest(kind), **fields})
    return str(caught.value)


@pytest.mark.parametrize("name", ["local_mean", "noisy_linear"])
def test_methods_and_graders_without_regions_refuse_them_in_words(name):
    given = {"baselines": [{"id": "black"}, {"id": name}]}
    message = refusal("saliency.map", **given)
    assert f"{name} fills removed regions of pixels, and methods.1, rise, has none" in message
    message = refusal("saliency.evaluate", graders=[{"id": "deletion", "baseline": {"id": name}}])
    assert name in message
    # random: no baseline
    SaliencyEvaluate.model_validate({**smallest("saliency.evaluate"), **given})

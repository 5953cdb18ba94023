"""Complexity, sparseness and information curves, and occlusion of one channel, by hand."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from models.core.errors import SpecError
from models.saliency.graders.grade import GradedMap
from models.saliency.graders.registry import grade
from models.saliency.methods.baselines import blur, replacements_of
from models.saliency.methods.registry import compute_map
from models.saliency.net.space import Space
from models.saliency.spec.fields import LocalMean
from models.saliency.spec.masks import Occlusion
from models.saliency.spec.simplicity import InformationCurve, Simplicity
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise

SPACE = Space([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


def graded(values, one=None) -> GradedMap:
    return GradedMap(values, one, 0, SPACE, None)


def simple(name, values):
    return grade(Simplicity(id=name), graded(values)).value


def test_complexity_and_sparseness_of_one_and_of_equal_pixels():
    one, equal = torch.zeros(5, 8), torch.full((5, 8), -0.3)
    one[2, 3] = -7.0
    assert simple("complexity", one) == pytest.approx(0, abs=1e-12)
    assert simple("complexity", equal) == pytest.approx(math.log(40))
    assert simple("sparseness", one) == pytest.approx(39 / 40)
    assert simple("sparseness", equal) == pytest.approx(0, abs=1e-12)
    for name in ("complexity", "sparseness"):
        assert simple(name, torch.zeros(5, 8)) is None


def test_sparseness_is_half_the_relative_mean_difference_of_all_pairs():
    """The Gini index by its definition over pairs."""
    values = noise(6, 7)
    size = values.abs().flatten()
    expected = (size[:, None] - size).abs().mean() / (2 * size.mean())
    assert simple("sparseness", values) == pytest.approx(expected.item())
    assert simple("sparseness", 5 * values) == pytest.approx(expected.item())


def photo() -> torch.Tensor:
    """A smooth picture with a noisy square, normalised."""
    ramp = (torch.arange(24.0).double() / 24).expand(24, 24)
    pixels = torch.stack([ramp.T, ramp, torch.full_like(ramp, 0.5)])
    pixels[:, 6:14, 8:16] = torch.rand(
        3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return SPACE.normalise((pixels * 255).round() / 255)


def webp(x: torch.Tensor) -> int:
    pixels = (SPACE.pixels(x).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True)
    return len(stream.getvalue())


@pytest.mark.parametrize("target", [0, 1, 2, 3, 4])
@torch.no_grad()
def test_an_information_curve_state_by_state(target):
    x, net = photo(), conv_net().double()
    one, values = case(net, x, targets=(target,)), noise(24, 24, seed=3)
    b = blur(x, 10.0)
    order = values.flatten().argsort(descending=True)
    sizes, scores, highest = [], [], []
    for count in (0, 144, 288, 432, 576):
        image = b.flatten(1).clone()
        image[:, order[:count]] = x.flatten(1)[:, order[:count]]
        outputs = net(image.view_as(x)[None])[0]
        sizes.append(max([webp(image.view_as(x)), *sizes]))
        scores.append(outputs[target].item())
        highest.append(float(outputs.argmax() == target))
    share = (np.array(sizes) - sizes[0]) / (sizes[-1] - sizes[0])
    rise = (np.array(scores) - scores[0]) / (scores[-1] - scores[0])
    expected = np.trapezoid(rise.clip(0, 1), share) if scores[-1] > scores[0] else None
    result = grade(InformationCurve(id="sic", points=4), graded(values, one))
    assert result.value == (None if expected is None else pytest.approx(expected))
    result = grade(InformationCurve(id="aic", points=4), graded(values, one))
    assert result.value == pytest.approx(np.trapezoid(highest, share))
    assert [y for _, y in result.curves[""]] == highest


@torch.no_grad()
def test_pixels_that_matter_shown_first_have_the_larger_area():
    """The score is of the noisy square alone; little information is elsewhere."""
    x, w = photo(), torch.zeros(1, 3, 24, 24, dtype=torch.float64)
    w[..., 6:14, 8:16] = (x - blur(x, 10.0))[:, 6:14, 8:16].sign()
    one, inside = case(Linear(w), x), (w[0, 0] != 0).double()
    part = InformationCurve(id="sic", points=9)
    best, worst = (grade(part, graded(values, one)).value for values in (inside, -inside))
    assert 0 <= worst < best <= 1


@pytest.mark.parametrize("name", ["sic", "aic"])
@torch.no_grad()
def test_an_image_of_one_colour_has_no_information_curve(name):
    x = SPACE.normalise(torch.full((3, 24, 24), 0.5, dtype=torch.float64))
    one = case(conv_net().double(), x)
    assert grade(InformationCurve(id=name), graded(noise(24, 24), one)).value is None


@torch.no_grad()
def test_accuracy_needs_classes():
    x = photo()
    one = case(Linear(noise(1, 3, 24, 24)), x)
    one.scorer.meaning = one.scorer.meaning._replace(kind="regression")
    with pytest.raises(SpecError, match=r"aic asks which class is the highest.*regression"):
        grade(InformationCurve(id="aic"), graded(noise(24, 24), one))


@torch.no_grad()
def test_channels_of_an_occlusion_sum_to_all_for_a_linear_score():
    w, x, b = noise(1, 3, 9, 9), noise(3, 9, 9, seed=1), noise(3, 9, 9, seed=2)
    one = case(Linear(w), x)
    whole = Occlusion(id="occlusion", window=4, stride=2)
    for baseline in (b, replacements_of(LocalMean(id="local_mean"), x, SPACE, 0)[0]):
        alone = [
            compute_map(whole.model_copy(update={"channel": channel}), one, baseline)
            for channel in range(3)
        ]
        torch.testing.assert_close(torch.stack(alone).sum(0), compute_map(whole, one, baseline))
        assert (alone[0] - alone[1]).abs().max() > 0.1


def test_a_channel_that_is_not_there_is_refused():
    part = Occlusion(id="occlusion", window=4, stride=2, channel=3)
    x = noise(3, 9, 9)
    with pytest.raises(SpecError, match="channel 3; the net's input has channels 0 to 2"):
        compute_map(part, case(Linear(noise(1, 3, 9, 9)), x), x)

"""Score-CAM, Ablation-CAM and Sobol indices, against loops and against closed forms."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from models.core.errors import SpecError
from models.saliency.methods.registry import compute_map
from models.saliency.spec.channels import AblationCam, ScoreCam
from models.saliency.spec.sobol import Sobol
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise

SCORE, ABLATION = ScoreCam(id="score_cam", layer="4"), AblationCam(id="ablation_cam", layer="4")


def pooled_net(channels: int = 6, classes: int = 3) -> nn.Module:
    """A linear layer over the means of feature maps."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, classes),
        )
    return net.eval().double()


@torch.no_grad()
def test_score_cam_is_the_published_algorithm_channel_by_channel():
    net, x, b = conv_net().double(), noise(3, 12, 12), 0.1 * noise(3, 12, 12, seed=1)
    maps = net[:5](x[None])[0]
    scores = []
    for each in maps:
        large = F.interpolate(each[None, None], (12, 12), mode="bilinear")[0, 0]
        mask = (large - large.min()) / (large.max() - large.min())
        scores.append(net((mask * x + (1 - mask) * b)[None])[0, [2, 0]] - net(b[None])[0, [2, 0]])
    weights = torch.stack(scores).exp()
    weights = weights / weights.sum(0)
    total = (weights.T[:, :, None, None] * maps).sum(1).clamp(min=0)
    expected = F.interpolate(total[:, None], (12, 12), mode="bilinear")[:, 0]
    actual = compute_map(SCORE, case(net, x, targets=(2, 0)), b)
    torch.testing.assert_close(actual, expected)
    assert actual.max() > 0


@torch.no_grad()
def test_ablation_of_a_pooled_net_is_its_weight_times_the_mean_of_the_map():
    """Y - y_k = w_k mean(A_k) in closed form."""
    net, x = pooled_net(), noise(3, 10, 10)
    one = case(net, x, targets=(1, 2))
    maps = net[:2](x[None])[0]
    fall = net[4].weight[[1, 2]] * maps.mean((1, 2))
    size = net(x[None])[0, [1, 2]].abs()
    expected = torch.einsum("kl,lij->kij", fall, maps).clamp(min=0) / size[:, None, None]
    part = AblationCam(id="ablation_cam", layer="1")
    torch.testing.assert_close(compute_map(part, one, x), expected)
    assert expected.amax((1, 2)).min() > 0


@torch.no_grad()
def test_the_largest_feature_maps_are_used_where_there_are_too_many():
    net, x = pooled_net(), noise(3, 10, 10)
    maps = net[:2](x[None])[0]
    order = maps.mean((1, 2)).argsort(descending=True)[:2]
    fall = net[4].weight[0, order] * maps[order].mean((1, 2))
    expected = torch.einsum("l,lij->ij", fall, maps[order]).clamp(min=0)
    part = AblationCam(id="ablation_cam", layer="1", channels=2)
    (actual,) = compute_map(part, case(net, x), x) * net(x[None])[0, 0].abs()
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["score_cam", "ablation_cam"])
@torch.no_grad()
def test_a_layer_before_its_activation_gives_the_map_of_the_one_behind_it(name):
    """Nets that apply activations as functions have no layer behind them."""
    x, b, kind = noise(3, 10, 10), 0 * noise(3, 10, 10), {"score_cam": ScoreCam}
    maps = [
        compute_map(kind.get(name, AblationCam)(id=name, layer=layer), case(pooled_net(), x), b)
        for layer in ("0", "1")
    ]
    torch.testing.assert_close(*maps)
    assert maps[0].max() > 0


@pytest.mark.parametrize("part", [SCORE, ABLATION, Sobol(id="sobol", grid=3, designs=4)])
@torch.no_grad()
def test_rows_are_as_estimated_and_do_not_depend_on_the_batch(part):
    net, x, b = conv_net().double(), noise(3, 12, 12), torch.zeros(3, 12, 12, dtype=torch.float64)
    maps = []
    for chunk in (3, 64):
        rows, one = [], case(net, x, chunk=chunk)
        one.scorer._tick = rows.append
        maps.append(compute_map(part, one, b))
        exact = 8 + 2 if part in (SCORE, ABLATION) else part.rows(12, 12)
        assert sum(rows) == exact <= part.rows(12, 12)
    torch.testing.assert_close(*maps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", [SCORE, ABLATION, Sobol(id="sobol", grid=3, designs=4)])
@torch.no_grad()
def test_a_net_that_ignores_its_input_has_maps_of_zero(part):
    net = conv_net().double()
    net[-1].weight.zero_()
    x = torch.full((3, 12, 12), 0.5, dtype=torch.float64)
    maps = compute_map(part, case(net, x), torch.zeros_like(x))
    assert not maps.any()


@pytest.mark.parametrize("part", [SCORE, ABLATION])
def test_a_layer_without_maps_is_refused_by_the_name_of_the_method(part):
    x = noise(3, 12, 12)
    for layer, message in (("6", "gives no maps"), ("head", "is no part of this net")):
        wrong = part.model_copy(update={"layer": layer})
        with pytest.raises(SpecError, match=rf"{part.id}.layer '{layer}' {message}"):
            compute_map(wrong, case(conv_net().double(), x), x)


@torch.no_grad()
def test_sobol_indices_of_a_sum_are_the_shares_of_its_squares():
    """F = sum a_j m_j with uniform m: the total index of j is a_j^2 / sum a^2."""
    w = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    w[0, 0, ::3, ::3] = torch.tensor([[1.0, 2.0, 0.0], [-3.0, 0.5, 1.5], [0.0, 1.0, -2.0]])
    x = torch.ones(1, 9, 9, dtype=torch.float64)
    part = Sobol(id="sobol", grid=3, designs=2048)
    (actual,) = compute_map(part, case(Linear(w), x), torch.zeros_like(x))
    squares = w[0, 0, ::3, ::3].square()
    torch.testing.assert_close(actual[::3, ::3], squares / squares.sum(), atol=0.01, rtol=0)
    assert torch.equal(actual, actual[::3, ::3].repeat_interleave(3, 0).repeat_interleave(3, 1))


class Product(nn.Module):
    """The product of two pixels."""

    def forward(self, x):
        return (x[:, 0, 0, 0] * x[:, 0, 0, 1])[:, None]


@torch.no_grad()
def test_total_indices_count_interactions():
    """F = m_1 m_2: V_1 = V_2 = 1/48, V_12 = 1/144, so each total index is 4/7 and their sum 8/7."""
    x = torch.ones(1, 2, 2, dtype=torch.float64)
    part = Sobol(id="sobol", grid=2, designs=4096)
    (actual,) = compute_map(part, case(Product(), x), torch.zeros_like(x))
    torch.testing.assert_close(
        actual, torch.tensor([[4 / 7, 4 / 7], [0.0, 0.0]]).double(), atol=0.01, rtol=0
    )


def test_the_design_depends_on_the_seed_alone():
    x = noise(3, 12, 12)
    one, part = case(conv_net().double(), x), Sobol(id="sobol", grid=3, designs=8)
    with torch.no_grad():
        first, again, other = (
            compute_map(part, one.with_seed(seed), torch.zeros_like(x)) for seed in (0, 0, 1)
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_design_that_is_not_balanced_is_refused_with_its_neighbours():
    with pytest.raises(ValidationError, match=r"designs 48 is no power of two.*use 32 or 64"):
        Sobol(id="sobol", designs=48)

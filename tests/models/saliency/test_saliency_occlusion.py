"""Occlusion against answers computed by hand; property numbers are those of the README."""

import pytest
import torch

from models.saliency.methods.occlusion import average_over_windows, occlusion, score_drops, windows
from models.saliency.methods.registry import compute_map
from models.saliency.spec.masks import Occlusion, OcclusionRaw
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise

CPU = torch.device("cpu")


def raw(window, stride):
    return OcclusionRaw(id="occlusion_raw", window=window, stride=stride)


def smooth(window, stride):
    return Occlusion(id="occlusion", window=window, stride=stride)


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (3, 3), ([2, 5], [1, 3]), (7, 4)])
def test_linear_net_gives_the_sum_of_its_weights(window, stride):
    """Property 1: a window's value is sum w (x - b) over the window and channels."""
    w, x, b = noise(2, 3, 9, 11), noise(3, 9, 11, seed=1), noise(3, 9, 11, seed=2)
    part = raw(window, stride)
    drops = score_drops(part, case(Linear(w, 0.7), x, targets=(1, 0)), b)
    over = windows(part, 9, 11, CPU)
    worth = (w * (x - b)).sum(1)[[1, 0]]
    for i, rows in enumerate(over.rows):
        for j, columns in enumerate(over.columns):
            expected = worth[:, rows][:, :, columns].sum((1, 2))
            torch.testing.assert_close(drops[:, i, j], expected)


def test_cut_windows_are_counted_as_the_method_says():
    """Positions are ceil((n - w) / s) + 1 along an axis; the last may be cut at the edge."""
    over = windows(raw([4, 4], [3, 2]), 9, 11, CPU)
    assert over.rows.shape == (3, 9)
    assert over.columns.shape == (5, 11)
    assert over.rows.sum(1).tolist() == [4, 4, 3]
    assert over.columns.sum(1).tolist() == [4, 4, 4, 4, 3]
    assert over.rows[2].nonzero().ravel().tolist() == [6, 7, 8]


def test_tiling_windows_are_the_ablation_of_each_tile():
    """Property 2: stride = window, dividing the side; each pixel has the value of its tile."""
    x, b, net = noise(3, 8, 8), noise(3, 8, 8, seed=1), conv_net().double()
    values = occlusion(smooth(4, 4), case(net, x), b)[0]
    for top in (0, 4):
        for left in (0, 4):
            changed = x.clone()
            changed[:, top : top + 4, left : left + 4] = b[:, top : top + 4, left : left + 4]
            drop = (net(x[None]) - net(changed[None]))[0, 0].detach()
            tile = values[top : top + 4, left : left + 4]
            torch.testing.assert_close(tile, drop.expand(4, 4), atol=1e-12, rtol=0)


def test_single_pixel_windows_are_single_pixel_ablation():
    """Property 2: window 1, stride 1."""
    w, x = noise(1, 3, 5, 6), noise(3, 5, 6, seed=1)
    values = occlusion(smooth(1, 1), case(Linear(w), x), torch.zeros_like(x))
    torch.testing.assert_close(values[0], (w[0] * x).sum(0))


def test_baseline_equal_to_the_image_gives_zero():
    """Property 3, exactly if every image is a batch of one."""
    x = noise(3, 8, 8)
    values = occlusion(smooth(3, 2), case(conv_net(), x, chunk=1), x)
    assert values.abs().max() == 0


def test_window_over_everything_gives_the_whole_drop():
    """Property 3: the map is constant, f(x) - f(b)."""
    x, b, net = noise(3, 8, 8), noise(3, 8, 8, seed=1), conv_net()
    one = case(net, x, kind="prob", targets=(3,))
    values = occlusion(smooth(8, 8), one, b)
    expected = one.full - one.score(b[None])[0]
    torch.testing.assert_close(values, expected.expand(1, 8, 8), atol=1e-14, rtol=0)


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (4, 3), ([2, 6], [2, 5])])
def test_constant_values_give_a_constant_map(window, stride):
    """Property 4: edges and cut windows included."""
    over = windows(raw(window, stride), 10, 13, CPU)
    values = torch.full((2, len(over.rows), len(over.columns)), 0.3, dtype=torch.float64)
    torch.testing.assert_close(
        average_over_windows(values, over),
        torch.full_like(values[:1, :1, :1], 0.3).expand(2, 10, 13),
        atol=1e-15,
        rtol=0,
    )


def test_value_of_a_pixel_is_the_mean_over_covering_windows():
    over = windows(raw([3, 4], [2, 3]), 8, 9, CPU)
    values = noise(1, len(over.rows), len(over.columns))
    mean = average_over_windows(values, over)[0]
    for row, column in [(0, 0), (2, 3), (7, 8), (4, 4)]:
        covering = over.rows[:, row][:, None] & over.columns[:, column][None, :]
        torch.testing.assert_close(mean[row, column], values[0][covering].mean())


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_chunk_size_does_not_matter(chunk):
    """Property 8: within 1e-5 in float32."""
    x, b, net = noise(3, 16, 16, dtype=torch.float32), torch.zeros(3, 16, 16), conv_net()
    actual = compute_map(smooth(5, 3), case(net, x, "prob", (0, 2), chunk), b)
    expected = compute_map(smooth(5, 3), case(net, x, "prob", (0, 2), 8), b)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_float64_net_gives_a_float64_map():
    """Property 10: as exact as a plain loop in float64."""
    x, b, net = noise(3, 8, 8), noise(3, 8, 8, seed=1), conv_net().double()
    drops = compute_map(raw(4, 2), case(net, x), b)
    changed = x.clone()
    changed[:, 2:6, 4:8] = b[:, 2:6, 4:8]
    with torch.no_grad():
        expected = (net(x[None]) - net(changed[None]))[0, 0]
    assert drops.dtype == torch.float64
    assert abs(drops[0, 1, 2] - expected) < 1e-13

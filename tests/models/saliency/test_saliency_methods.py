"""Methods against closed forms for a linear score, and against each other."""

import pytest
import torch

from models.core.errors import SpecError
from models.saliency.methods.registry import compute_map
from models.saliency.methods.segments import segment
from models.saliency.methods.surrogates import draw_coalitions
from models.saliency.spec import gradients, masks, methods
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise

GRID = masks.GridSegments(id="grid", rows=3)
H, W = 12, 13


def linear(kind="logit"):
    w, x, b = noise(2, 3, H, W), noise(3, H, W, seed=1), noise(3, H, W, seed=2)
    return w, x, b, case(Linear(w, 0.3), x, kind, (1, 0), chunk=64)


def expected_by_segment(w, x, b, labels):
    worth = (w * (x - b)).sum(1)[[1, 0]]
    sums = torch.zeros(2, int(labels.max()) + 1, dtype=torch.float64)
    sums.index_add_(1, labels.flatten(), worth.flatten(1))
    return sums[:, labels]


@pytest.mark.parametrize(
    "part",
    [
        masks.FeatureAblation(id="feature_ablation", segments=GRID),
        masks.ShapleyExact(id="shapley_exact", segments=GRID),
        masks.KernelShap(id="kernel_shap", segments=GRID, samples=60),
        masks.Lime(id="lime", segments=GRID, samples=100),
    ],
    ids=lambda part: part.id,
)
def test_linear_score_gives_each_segment_its_contribution(part):
    """Property 1: Shapley = feature ablation = LIME coefficients = sum w (x - b)."""
    w, x, b, one = linear()
    expected = expected_by_segment(w, x, b, segment(GRID, one))
    torch.testing.assert_close(compute_map(part, one, b), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("part_id", ["input_x_gradient", "integrated_gradients"])
def test_linear_score_gives_each_pixel_its_contribution(part_id):
    """Property 1: the pixel version, for any number of steps."""
    w, x, b, one = linear()
    part = (
        gradients.IntegratedGradients(id=part_id, steps=3)
        if part_id.startswith("integrated")
        else gradients.Gradient(id=part_id)
    )
    torch.testing.assert_close(compute_map(part, one, b), (w * (x - b)).sum(1)[[1, 0]])


def test_integrated_gradients_are_complete():
    """Property 1: the sum is f(x) - f(b), here up to the error of the midpoint rule."""
    x, b, net = noise(3, 12, 12), noise(3, 12, 12, seed=1), conv_net().double()
    one = case(net, x, "prob", (2,), chunk=64)
    part = gradients.IntegratedGradients(id="integrated_gradients", steps=400)
    gap = compute_map(part, one, b).sum() - (one.full - one.score(b[None])[0])[0]
    assert abs(gap) < 2e-4


@pytest.mark.parametrize("samples", [12, 30, 200])
def test_shapley_values_are_complete(samples):
    """Property 5: kernel_shap sums to v(full) - v(empty) at any N, the exact values to 1e-12."""
    x, b, net = noise(3, 12, 12), noise(3, 12, 12, seed=1), conv_net().double()
    one = case(net, x, "prob", (2, 0), chunk=64)
    total = one.full - one.score(b[None])[0]
    size = torch.bincount(segment(GRID, one).flatten())
    for part in (
        masks.KernelShap(id="kernel_shap", segments=GRID, samples=samples),
        masks.ShapleyExact(id="shapley_exact", segments=GRID),
    ):
        values = compute_map(part, one, b) / size[segment(GRID, one)]
        torch.testing.assert_close(values.sum((1, 2)), total, atol=1e-12, rtol=0)


def test_kernel_shap_tends_to_the_exact_values():
    x, b, net = noise(3, 12, 12), noise(3, 12, 12, seed=1), conv_net().double()
    one = case(net, x, "logit", (1,), chunk=256)
    exact = compute_map(masks.ShapleyExact(id="shapley_exact", segments=GRID), one, b)
    part = masks.KernelShap(id="kernel_shap", segments=GRID, samples=4000)
    assert (compute_map(part, one, b) - exact).abs().max() < 0.02 * exact.abs().max()


def test_coalitions_come_in_pairs_with_the_sizes_of_the_kernel():
    one = linear()[3]
    kept = draw_coalitions(masks.KernelShap(id="kernel_shap", samples=4000), one, 4)
    assert (kept[::2] ^ kept[1::2]).all()
    sizes = torch.bincount(kept.sum(1), minlength=5).double() / 4000
    expected = torch.tensor([0, 1 / 3, 1 / 4, 1 / 3, 0]).double()  # 1 / (k (4 - k))
    expected /= expected.sum()
    assert (sizes - expected).abs().max() < 0.03


def test_ablation_of_tiles_is_occlusion_of_tiles():
    """Property 2: stride = window that divides the side, exactly."""
    x, b, net = noise(3, 12, 12), noise(3, 12, 12, seed=1), conv_net().double()
    one = case(net, x, "prob", (2, 0))
    tiles = masks.Occlusion(id="occlusion", window=4, stride=4)
    cells = masks.FeatureAblation(id="feature_ablation", segments=GRID)
    torch.testing.assert_close(
        compute_map(tiles, one, b), compute_map(cells, one, b), atol=1e-15, rtol=0
    )


def test_slic_gives_every_pixel_a_segment_and_no_more_than_asked():
    x = noise(3, 40, 40, seed=5)
    one = case(conv_net().double(), x)
    one.pixels = torch.sigmoid(torch.nn.functional.avg_pool2d(x[None], 9, 1, 4)[0])
    labels = segment(masks.Slic(id="slic", count=12), one)
    assert 2 <= int(labels.max()) + 1 <= 12
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))


LEARNED = [
    gradients.Gradient(id="gradient"),
    gradients.SmoothGrad(id="smoothgrad", samples=3),
    gradients.GradCam(id="gradcam"),
    gradients.Meaningful(id="meaningful", iterations=5, side=6),
    gradients.Extremal(id="extremal", iterations=6, step=4, sigma=6),
    gradients.Extremal(id="extremal", iterations=4, step=4, sigma=6, variant="dual"),
    gradients.Extremal(id="extremal", iterations=4, step=4, sigma=6, perturbation="fade"),
]


@pytest.mark.parametrize("part", LEARNED, ids=lambda part: part.id)
def test_learned_maps_repeat_and_count_their_rows(part):
    """Property 9; and the rows of each class are those of the estimate."""
    rows = []
    x, b = noise(3, 24, 20), noise(3, 24, 20, seed=1)
    one = case(conv_net().double(), x, "prob", (1, 3), chunk=64)
    one.scorer._tick = rows.append
    with torch.no_grad():
        first = compute_map(part, one, b)
        assert sum(rows) == methods.rows_of(part, 24, 20, 2)
        assert torch.equal(first, compute_map(part, one, b))
    assert first.shape == (2, 24, 20)
    assert first.dtype == torch.float64
    assert first.isfinite().all()


@pytest.mark.parametrize(
    "part",
    [
        gradients.Meaningful(id="meaningful", iterations=2, side=6),
        gradients.Extremal(id="extremal", iterations=2, step=4, sigma=6),
    ],
    ids=lambda part: part.id,
)
def test_masks_are_learned_without_gradients_of_the_weights(part):
    x, b, net = noise(3, 12, 12), noise(3, 12, 12, seed=1), conv_net().double()
    assert any(weight.requires_grad for weight in net.parameters())
    compute_map(part, case(net, x, "prob", (2,), chunk=64), b)
    assert all(weight.grad is None for weight in net.parameters())


def test_extremal_mask_finds_the_pixels_that_matter():
    """A score that is the mean of one corner: the mask of a tenth of the image lies there."""
    w = torch.zeros(1, 1, 28, 28, dtype=torch.float64)
    w[..., :9, :9] = 0.2
    x = 1 + 0 * w[0]
    part = gradients.Extremal(
        id="extremal", areas=[0.1], iterations=150, step=4, sigma=5, perturbation="fade"
    )
    mask = compute_map(part, case(Linear(w), x), torch.zeros_like(x))[0]
    flipped_too = mask[:9, :9].sum() + mask[:9, -9:].sum()  # each second step sees a mirror image
    assert flipped_too / mask.sum() > 0.5
    assert 0 <= mask.min() <= mask.max() <= 1 + 1e-12


def test_meaningful_mask_removes_the_pixels_that_matter():
    w = torch.zeros(1, 1, 28, 28, dtype=torch.float64)
    w[..., :9, :9] = 0.2
    x = 1 + 0 * w[0]
    part = gradients.Meaningful(id="meaningful", iterations=60, side=14, l1=0.5, tv=0, jitter=0)
    mask = compute_map(part, case(Linear(w), x), torch.zeros_like(x))[0]
    assert mask[:8, :8].mean() > 0.9
    assert mask[12:, 12:].mean() < 0.1


@pytest.mark.parametrize("name", ["random", "centre_gaussian", "edge", "constant"])
def test_controls_do_not_depend_on_the_net(name):
    x = noise(3, 16, 18)
    part = methods.Control(id=name)
    maps = [
        compute_map(part, case(net, x, targets=(0, 1)), x)
        for net in (conv_net().double(), Linear(noise(5, 3, 16, 18)))
    ]
    assert torch.equal(*maps)
    assert torch.equal(maps[0][0], maps[0][1])
    assert maps[0].shape == (2, 16, 18)


def test_gradcam_layer_that_is_not_there_is_refused():
    one = case(conv_net().double(), noise(3, 12, 12))
    with pytest.raises(SpecError, match=r"layer 'top' is no part.*0, 1, 2"):
        compute_map(gradients.GradCam(id="gradcam", layer="top"), one, one.x)
    with pytest.raises(SpecError, match="gives no maps"):
        compute_map(gradients.GradCam(id="gradcam", layer="7"), one, one.x)


CONSTANT = [
    *(masks.Rise(id="rise", masks=64, grid=4, estimator=name)
      for name in ("raw", "coverage", "centred", "slope")),
    masks.Occlusion(id="occlusion", window=4, stride=2),
    masks.FeatureAblation(id="feature_ablation", segments=GRID),
    masks.Lime(id="lime", segments=GRID, samples=50),
]  # fmt: skip


@pytest.mark.parametrize("part", CONSTANT, ids=lambda part: getattr(part, "estimator", part.id))
def test_a_score_that_never_moves_gives_zero_not_the_pattern_of_the_masks(part):
    """Of two classes the first is constant; the map of the second stays what it was."""
    w, x, b = noise(1, 3, H, W), noise(3, H, W, seed=1), noise(3, H, W, seed=2)
    still = torch.zeros(1, 3, H, W, dtype=torch.float64)
    one = case(Linear(torch.cat([still, w]), 0.3), x, "logit", (0, 1), chunk=64)
    first, second = compute_map(part, one, b)
    assert not first.any()
    alone = case(Linear(w, 0.3), x, "logit", (0,), chunk=64)
    torch.testing.assert_close(second, compute_map(part, alone, b)[0])
    assert second.any()
    small = case(Linear(torch.cat([still, w * 1e-9]), 0.3), x, "logit", (1,), chunk=64)
    assert compute_map(part, small, b).any()  # a small movement is one nevertheless

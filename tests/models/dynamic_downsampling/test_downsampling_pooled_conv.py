"""Pooled convolutions: section 2 and properties 1 to 8 of the method's README."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from models.dynamic_downsampling import pooled_conv
from models.dynamic_downsampling.cheap import plan_layers
from models.dynamic_downsampling.cheap_mode import CheapMode
from models.dynamic_downsampling.fields import Downsample
from models.dynamic_downsampling.pooled_conv import (
    GROW,
    HIGH,
    LOW,
    SHRINK,
    Pooling,
    gain_of,
    paddings,
    pool_filter,
)

EXTRAS = {"low": LOW, "high": HIGH, "grow": GROW, "shrink": SHRINK}


def conv(c_in=4, c_out=6, kernel=3, seed=0, **fields):
    torch.manual_seed(seed)
    fields = {"padding": kernel // 2, "bias": False, "dtype": torch.float64} | fields
    return nn.Conv2d(c_in, c_out, kernel, **fields)


def pooled(layer, side=2, how="avg", gain=1.0, extra=HIGH):
    return layer, CheapMode(layer, {"weight": Pooling(side, how, gain, extra)})


def planned(net, size, **fields):
    """The mode of a net, and a line for each of its convolutions."""
    poolings, layers = plan_layers(net, Downsample(**fields), *size)
    return CheapMode(net, poolings), layers


def test_small_filters_by_hand():
    """Property 1: ones stay ones; averages and maxima of arange(9)."""
    ones = pool_filter(torch.ones(1, 1, 3, 3), 2, "avg", 1.0)
    assert ones.flatten().tolist() == [1, 1, 1, 1]
    counted = torch.arange(9.0).view(1, 1, 3, 3)
    assert pool_filter(counted, 2, "avg", 1.0).flatten().tolist() == [2, 3, 5, 6]
    assert pool_filter(counted, 2, "max", 1.0).flatten().tolist() == [4, 5, 7, 8]


@settings(deadline=None, max_examples=30)
@given(n=st.integers(4, 12), groups=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**16))
def test_output_is_the_mean_over_sub_filters(n, groups, seed):
    """Property 2: one pooled filter or the mean over its four 2 x 2 sub-filters, the same."""
    layer = conv(4, 8, groups=groups, seed=seed)
    module, mode = pooled(layer)
    x = torch.randn(2, 4, n, n, dtype=torch.float64)
    with mode.cheap():
        out = module(x)
    w, padded = layer.weight, functional.pad(x, (0, 1, 0, 1))
    parts = [
        functional.conv2d(padded, w[:, :, i : i + 2, j : j + 2], groups=groups)
        for i, j in itertools.product((0, 1), repeat=2)
    ]
    torch.testing.assert_close(out, sum(parts) / 4, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("how", ["avg", "max"])
def test_gradcheck(groups, how):
    """Property 3: exact gradients through pooling, padding and convolution, groups kept."""
    module, mode = pooled(conv(4, 4, groups=groups), how=how, gain=1.5)
    assert pool_filter(module.weight, 2, how, 1.0).shape == (4, 4 // groups, 2, 2)
    x = torch.randn(1, 4, 4, 5, dtype=torch.float64, requires_grad=True)

    def call(x, _):
        with mode.cheap():
            return module(x)

    assert torch.autograd.gradcheck(call, (x, module.weight))


def pooling_matrix():
    """A of vec(w') = A vec(w), column by column."""
    columns = torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3)
    return pool_filter(columns, 2, "avg", 1.0).reshape(9, 4).T


def test_gradient_is_the_transposed_pooling():
    """Property 4: dL/dw = gain A' dL/dw'; singular values of A; rank 4 of 9."""
    a, gain = pooling_matrix(), 2.5
    w = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    pool_filter(w, 2, "avg", gain).backward(upstream)
    expected = gain * upstream.view(6, 4) @ a
    torch.testing.assert_close(w.grad.view(6, 9), expected, rtol=0, atol=1e-12)
    values = torch.linalg.svdvals(a)
    expected = torch.tensor([3 / 4, math.sqrt(3) / 4, math.sqrt(3) / 4, 1 / 4]).double()
    torch.testing.assert_close(values, expected)
    assert torch.linalg.matrix_rank(a) == 4


def test_null_space_gets_no_gradient_and_only_decays():
    """Property 5: the checkerboard pools to 0 and shrinks by (1 - lr wd); Sobel pools as stated."""
    board = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]], dtype=torch.float64)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3)
    assert pool_filter(board.view(1, 1, 3, 3), 2, "avg", 1.0).abs().max() == 0
    assert pool_filter(sobel, 2, "avg", 1.0).flatten().tolist() == [-0.75, 0.75, -0.75, 0.75]
    module, mode = pooled(conv(2, 2))
    optimizer = torch.optim.SGD([module.weight], lr=0.1, weight_decay=0.01)
    before = (module.weight.detach() * board).sum((2, 3))
    with mode.cheap():
        loss = module(torch.randn(4, 2, 6, 6, dtype=torch.float64)).square().mean()
    loss.backward()
    assert module.weight.grad.abs().max() > 1e-3
    optimizer.step()
    after = (module.weight.detach() * board).sum((2, 3))
    torch.testing.assert_close(after, before * (1 - 0.1 * 0.01), rtol=1e-12, atol=1e-14)


def gradient_with_gain(gain, eps=1e-5):
    layer = conv(3, 5, seed=3)
    module, mode = pooled(layer, gain=gain)
    norm = nn.BatchNorm2d(5, eps=eps, dtype=torch.float64)
    torch.manual_seed(7)
    x = 10 * torch.randn(8, 3, 9, 9, dtype=torch.float64)
    head = torch.randn(5, 8, 8, dtype=torch.float64)
    with mode.cheap():
        out = norm(module(x))
    (out[..., :8, :8].tanh() * head).mean((0, 2, 3)).sum().backward()
    return layer.weight.detach(), layer.weight.grad


def test_gain_cancels_before_batch_norm():
    """Property 6: the gradient does not depend on the gain and is orthogonal to the filter."""
    w, one = gradient_with_gain(1.0)
    _, three = gradient_with_gain(3.0)
    assert (one - three).norm() / one.norm() <= 1e-5
    _, exact_one = gradient_with_gain(1.0, eps=1e-12)
    _, exact_three = gradient_with_gain(3.0, eps=1e-12)
    assert (exact_one - exact_three).norm() / exact_one.norm() < 1e-9
    cosine = (w * exact_one).sum() / (w.norm() * exact_one.norm())
    assert abs(cosine) < 1e-6


def test_one_by_one_layers_are_left_alone():
    """Property 6, second half: a 1x1 convolution is neither pooled nor scaled."""
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 3, padding=1))
    x = torch.randn(1, 2, 6, 6)
    plain = net[0](x)
    mode, layers = planned(net, (2, (6, 6)), kernel_gain="dc")
    assert [layer.reason for layer in layers] == ["1x1", "pooled"]
    with mode.cheap():
        assert torch.equal(net[0](x), plain)


@pytest.mark.parametrize(("kernel", "sides"), [(1, [1]), (3, [2]), (5, [3, 4]), (7, [4, 6])])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("extra", ["low", "high"])
def test_output_sizes_equal_those_of_the_full_filter(kernel, sides, stride, extra):
    """Property 7: residual additions match at every size."""
    for n, side, p in itertools.product(range(5, 65), sides, {0, kernel // 2}):
        if n + 2 * p < kernel:
            continue
        low, high = paddings(n, p, kernel, side, stride, EXTRAS[extra])
        cheap = (n + low + high - side) // stride + 1
        assert cheap == (n + 2 * p - kernel) // stride + 1, (n, side, p)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(31, 33), (8, 8), (7, 12)])
def test_modules_agree_on_sizes(padding, stride, size):
    """Properties 7 and 16: the module itself, odd and unequal sides, cropping without padding."""
    for extra in (LOW, HIGH):
        module, mode = pooled(conv(padding=padding, stride=stride), extra=extra)
        x = torch.randn(1, 4, *size, dtype=torch.float64)
        full = module(x)
        with mode.cheap():
            assert module(x).shape == full.shape


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_are_kept(mode):
    """A constant image stays constant only if the border is filled in the layer's own mode."""
    layer = conv(1, 1, padding_mode=mode)
    module, mode = pooled(layer)
    with mode.cheap():
        out = module(torch.ones(1, 1, 6, 6, dtype=torch.float64))
    torch.testing.assert_close(out, out[..., :1, :1].expand_as(out))


def stack(depth, policy):
    """``depth`` 3x3 convolutions of ones over nine, with a padding policy."""
    net = nn.Sequential(*[conv(1, 1, dtype=torch.float32) for _ in range(depth)])
    for layer in net:
        nn.init.constant_(layer.weight, 1.0)
    mode, _ = planned(net, (1, (65, 65)), pad_policy=policy)
    return net.double(), mode


def centroid(image):
    weight = image / image.sum()
    positions = torch.arange(len(image), dtype=torch.float64)
    return torch.stack([(weight.sum(1) * positions).sum(), (weight.sum(0) * positions).sum()])


@pytest.mark.parametrize(("policy", "drift"), [("alternate", 0.0), ("low", 8.0), ("high", -8.0)])
def test_alternated_sides_do_not_drift(policy, drift):
    """Property 8: 16 alternated layers keep an impulse's centroid; same-sided ones move it 8 px."""
    net, mode = stack(16, policy)
    x = torch.zeros(1, 1, 65, 65, dtype=torch.float64)
    x[..., 32, 32] = 1
    with mode.cheap():
        out = net(x)[0, 0]
    torch.testing.assert_close(
        centroid(out) - 32, torch.full((2,), drift).double(), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize(("gain", "factor"), [(1.0, 4 / 9), (2.0, 8 / 9), ("dc", 1.0)])
def test_constant_image_scales_by_the_pooled_taps(gain, factor):
    """Property 8, second half: the interior scales by gain k'^2 / k^2 per layer."""
    layer = conv(1, 1)
    nn.init.constant_(layer.weight, 0.3)
    x = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    full = layer(x)[0, 0, 4, 4]
    module, mode = pooled(layer, gain=gain_of(gain, 3, 2))
    with mode.cheap():
        assert module(x)[0, 0, 4, 4].item() == pytest.approx(full.item() * factor)


@pytest.mark.parametrize(("kernel", "side"), [(3, 2), (5, 3), (5, 4), (7, 4)])
def test_white_gain_keeps_the_variance(kernel, side):
    """Gain ``white``: independent taps answer white noise with the variance they had."""
    w = torch.randn(20_000, 1, kernel, kernel, generator=torch.Generator().manual_seed(0))
    small = pool_filter(w, side, "avg", gain_of("white", kernel, side))
    full_power, power = (x.square().sum((1, 2, 3)).mean().item() for x in (w, small))
    assert power == pytest.approx(full_power, rel=0.05)


def test_pair_padding_equals_explicit_padding_inside():
    """A pair without copies equals padding (1, 0) then (0, 1), but for last row and column."""
    layers = [conv(2, 2, seed=seed) for seed in (0, 1)]
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    outs = []
    for extras in ((GROW, SHRINK), (LOW, HIGH)):
        out = x
        for layer, extra in zip(layers, extras, strict=True):
            module, mode = pooled(layer, extra=extra)
            with mode.cheap():
                out = module(out)
        outs.append(out)
    assert outs[0].shape == outs[1].shape == x.shape
    torch.testing.assert_close(outs[0][..., :-1, :-1], outs[1][..., :-1, :-1])
    assert not torch.allclose(outs[0], outs[1])


def test_filters_are_pooled_in_float32():
    """Pitfall: under bf16 the mean of four taps is rounded once, after it was taken."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.weight[0, 0, 0, 0] = 1 + 2**-7  # its mean with three ones needs 2 more bits than bf16
    mode = CheapMode(conv, {"weight": Pooling(2, "avg", 1.0, HIGH)})
    seen = []
    functional_conv = torch.nn.functional.conv2d

    def watch(x, w, *rest):
        seen.append(w)
        return functional_conv(x, w, *rest)

    with pytest.MonkeyPatch.context() as patch, mode.cheap():
        patch.setattr(pooled_conv.functional, "conv2d", watch)
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(torch.ones(1, 1, 4, 4))
    assert out.dtype == torch.bfloat16
    assert seen[-1].dtype == torch.float32  # after that of the layer itself
    assert seen[-1][0, 0, 0, 0].item() == 1 + 2**-9


def test_exception_inside_leaves_full_mode():
    """Property 15, second half."""
    module, mode = pooled(conv())
    with pytest.raises(RuntimeError), mode.cheap():
        module(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    assert not mode.is_cheap

"""Densities, drop and grow: properties 1 and 3 to 7 of the method."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.freetickets import masks
from models.freetickets.cost import costs
from models.freetickets.densities import MaskableLayer, counts, densities, layers_of
from models.nets.spec import ResidualNet, WideResNet


def wide(depth=28, widen=10, classes=10):
    return layers_of(WideResNet(name="wide_resnet", depth=depth, widen=widen), 3, classes, 32, 32)


def numbers(seed):
    return torch.Generator().manual_seed(seed)


shapes = st.lists(
    st.builds(
        lambda o, i, k: MaskableLayer("x", o, i, k, 1),
        st.integers(1, 64),
        st.integers(1, 64),
        st.sampled_from([0, 1, 3]),
    ),
    min_size=1,
    max_size=8,
)


@given(shapes, st.floats(0, 0.99), st.sampled_from(["erk", "er", "uniform"]))
def test_densities_meet_the_total(layers, sparsity, distribution):
    """Property 3: in (0, 1], the total exact, the order of layers irrelevant."""
    actual = densities(layers, sparsity, distribution)
    assert all(0 < d <= 1 for d in actual)
    total = sum(d * x.size for d, x in zip(actual, layers, strict=True))
    assert total == pytest.approx((1 - sparsity) * sum(x.size for x in layers), rel=1e-9)
    backwards = densities(layers[::-1], sparsity, distribution)[::-1]
    assert actual == pytest.approx(backwards, rel=1e-9)


@given(shapes, st.floats(0, 0.99))
def test_counts_are_exact(layers, sparsity):
    """Property 1: whole numbers that add up to floor((1 - S) N + 1/2), each near its share."""
    shares = densities(layers, sparsity, "erk")
    actual = counts(layers, shares, sparsity)
    n = sum(x.size for x in layers)
    assert sum(actual) == math.floor((1 - sparsity) * n + 0.5)
    for k, share, layer in zip(actual, shares, layers, strict=True):
        assert abs(k - share * layer.size) < 1 + 1e-6
        assert 0 <= k <= layer.size


def test_densities_follow_their_formulas():
    """Property 3: without a dense layer the densities stand as the formulas, to one factor."""
    layers = [
        MaskableLayer("a", 64, 32, 3, 1),
        MaskableLayer("b", 128, 64, 1, 1),
        MaskableLayer("c", 10, 128, 0, 1),
    ]
    er = [(64 + 32) / (64 * 32), (128 + 64) / (128 * 64), (10 + 128) / (10 * 128)]
    erk = [(64 + 32 + 6) / (64 * 32 * 9), (128 + 64 + 2) / (128 * 64), er[2]]
    for distribution, raw in (("er", er), ("erk", erk), ("uniform", [1, 1, 1])):
        shares = densities(layers, 0.95, distribution)
        assert max(shares) < 1
        assert [share / shares[0] for share in shares] == pytest.approx([x / raw[0] for x in raw])


def test_a_single_layer_and_no_sparsity():
    """Property 3: one layer has 1 - S; S = 0 leaves all dense."""
    assert densities([MaskableLayer("x", 8, 8, 3, 1)], 0.7, "erk") == pytest.approx([0.3])
    assert densities(wide(), 0.0, "erk") == pytest.approx([1.0] * 29)


def test_densities_of_wrn_28_10():
    """Dense layers and densities of WRN-28-10 with 10 classes, worked out beforehand."""
    layers = wide()
    assert sum(x.size for x in layers) == 36_479_194 - 8_976 * 2 - 10  # less norms and bias
    at = {
        s: dict(zip([x.name for x in layers], densities(layers, s, "erk"), strict=True))
        for s in (0.8, 0.9, 0.95)
    }
    dense = {s: {n for n, d in actual.items() if d == 1} for s, actual in at.items()}
    shortcuts = {f"stages.{i}.0.shortcut" for i in range(3)}
    assert dense[0.8] == {"stem", "stages.0.0.conv1", "head"} | shortcuts
    assert dense[0.9] == dense[0.8] - {"stages.2.0.shortcut"}
    assert dense[0.95] == {"stem", "stages.0.0.shortcut", "head"}
    assert at[0.8]["stages.0.1.conv1"] == pytest.approx(0.574, abs=1e-3)
    assert at[0.8]["stages.1.0.conv1"] == pytest.approx(0.428, abs=1e-3)
    assert at[0.9]["stages.2.1.conv2"] == pytest.approx(0.068, abs=1e-3)
    assert at[0.9]["stages.2.0.shortcut"] == pytest.approx(0.918, abs=1e-3)


@pytest.mark.parametrize(
    ("net", "size", "classes", "sparsity", "ratio"),
    [
        (WideResNet(name="wide_resnet", depth=28, widen=10), 32, 10, 0.8, 0.3396),
        (WideResNet(name="wide_resnet", depth=28, widen=10), 32, 10, 0.9, 0.1686),
        (WideResNet(name="wide_resnet", depth=28, widen=10), 32, 100, 0.95, 0.0828),
        (WideResNet(name="wide_resnet", depth=22, widen=2), 32, 10, 0.8, 0.352),
        (ResidualNet(name="resnet50", stem="7x7"), 224, 1000, 0.8, 0.414),
        (ResidualNet(name="resnet50", stem="7x7"), 224, 1000, 0.9, 0.242),
    ],
)
def test_operations_are_those_published(net, size, classes, sparsity, ratio):
    """ERK ratios of RigL (ResNet-50: .42, .24) and those worked out for wide nets."""
    layers = layers_of(net, 3, classes, size, size)
    actual = costs(layers, densities(layers, sparsity, "erk"), 1000)
    assert actual.forward_ratio == pytest.approx(ratio, abs=6e-4)


def test_operations_of_the_published_runs():
    """WRN-28-10 10.487 G; EDST M=3 .611 and dense gradients .560 a step at S=.8."""
    layers = wide()
    actual = costs(layers, densities(layers, 0.8, "erk"), 1000)
    assert 2 * actual.dense == pytest.approx(10.487e9, rel=1e-4)
    assert 1.8 * actual.counted_ratio == pytest.approx(0.611, abs=1e-3)
    assert actual.executed_ratio == pytest.approx(0.560, abs=1e-3)


def layer(seed, n=60, k=24):
    """Weight, mask and wish of a layer with many equal values, so that ties matter."""
    draw = numbers(seed)
    mask = masks.random_mask(n, k, draw).view(3, -1)
    weight = torch.randint(-3, 4, mask.shape, generator=draw).float() * mask
    wish = torch.randint(0, 4, mask.shape, generator=draw).float()
    return weight, mask, wish


@given(st.integers(0, 2**16), st.floats(0, 1), st.booleans())
def test_a_change_keeps_the_count_and_the_strongest(seed, rate, regrow):
    """Properties 1 and 4: against a plain sort by (score, index) in Python."""
    weight, mask, wish = layer(seed)
    actual = masks.change(weight, mask, wish, rate, regrow_dropped=regrow)
    w, m, g = (x.flatten().tolist() for x in (weight, mask, wish))
    active = [i for i in range(60) if m[i]]
    k = math.ceil(rate * 24 - 1e-9)
    k = k if regrow else min(k, 60 - 24)
    dropped = sorted(active, key=lambda i: (abs(w[i]), i))[:k]
    kept = set(active) - set(dropped)
    free = [i for i in range(60) if i not in (kept if regrow else active)]
    grown = sorted(free, key=lambda i: (-g[i], i))[:k]
    assert actual.mask.flatten().nonzero().flatten().tolist() == sorted(kept | set(grown))
    assert actual.kept.flatten().nonzero().flatten().tolist() == sorted(kept)
    assert actual.dropped == k
    assert actual.regrown == len(set(grown) & set(dropped))


@given(st.integers(0, 2**16))
def test_extreme_rates(seed):
    """Property 5: p = 0 is the identity; p = 1 replaces all that can be replaced."""
    weight, mask, wish = layer(seed, k=40)
    same = masks.change(weight, mask, wish, 0.0, regrow_dropped=True)
    assert torch.equal(same.mask, mask)
    full = masks.change(weight, mask, wish, 1.0, regrow_dropped=False)
    assert full.mask[~mask].all()  # all 20 free places are taken
    left = weight.abs()[full.mask & mask]
    assert left.min() >= weight.abs()[mask & ~full.mask].max()  # the strongest 20 stay
    weight, mask, _ = layer(seed, k=24)  # 36 free places: room for all
    wish = torch.rand(mask.shape, generator=numbers(seed))
    replaced = masks.change(weight, mask, wish, 1.0, regrow_dropped=False)
    assert int(replaced.mask.sum()) == 24
    assert not (replaced.mask & mask).any()


def test_overlap_after_an_escape():
    """Property 7: without regrowth the overlap with the old mask is (1 - q) / (1 + q)."""
    draw = numbers(0)
    mask = masks.random_mask(10_000, 1_000, draw)
    weight = torch.randn(10_000, generator=draw) * mask
    actual = masks.change(weight, mask, torch.rand(10_000), 0.8, regrow_dropped=False)
    assert masks.overlap(actual.mask, mask) == pytest.approx(0.2 / 1.8, abs=1e-6)
    other = masks.random_mask(10_000, 1_000, draw)
    assert masks.overlap(mask, other) == pytest.approx(0.01 / 0.19, abs=0.015)


@pytest.mark.parametrize(("sparsity", "expected"), [(0.8, 0.161), (0.9, 0.100), (0.95, 0.059)])
def test_overlap_of_independent_masks(sparsity, expected):
    """Property 7: sum d^2 n / sum (2 d - d^2) n; of WRN-28-10, worked out, and of drawn masks."""
    layers = wide()
    shares = densities(layers, sparsity, "erk")
    both = sum(d * d * x.size for d, x in zip(shares, layers, strict=True))
    either = sum((2 * d - d * d) * x.size for d, x in zip(shares, layers, strict=True))
    assert both / either == pytest.approx(expected, abs=1e-3)
    d, n = shares[5], 200_000
    a, b = (masks.random_mask(n, round(d * n), numbers(seed)) for seed in (1, 2))
    assert masks.overlap(a, b) == pytest.approx(d * d / (2 * d - d * d), rel=0.03)


def test_random_growth_is_uniform():
    """Property 6: over many updates each free place is taken equally often."""
    mask = torch.zeros(40, dtype=torch.bool)
    mask[:10] = True
    taken = torch.zeros(40)
    for seed in range(2000):
        wish = torch.rand(40, generator=numbers(seed))
        actual = masks.change(torch.ones(40) * mask, mask, wish, 0.5, regrow_dropped=False)
        taken += actual.mask & ~mask
    expected = 2000 * 5 / 30
    assert taken[:10].sum() == 0
    chi2 = ((taken[10:] - expected) ** 2 / expected).sum()
    assert chi2 < 58.3  # 29 degrees of freedom, p = .001


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 96), st.floats(0, 1), st.booleans())
def test_cap_holds_at_start_and_after_changes(seed, k, rate, regrow):
    """At most 2 of 4 neighbouring inputs, the count kept, the best wishes granted."""
    draw = numbers(seed)
    shape = torch.Size((3, 8, 2, 4))
    mask = masks.capped_mask(shape, k, draw)
    assert int(mask.sum()) == k
    assert masks.groups(mask).sum(-1).max() <= 2
    weight, wish = torch.randn(shape, generator=draw) * mask, torch.rand(shape, generator=draw)
    actual = masks.change(weight, mask, wish, rate, regrow_dropped=regrow, capped=True)
    assert int(actual.mask.sum()) == k
    assert masks.groups(actual.mask).sum(-1).max() <= 2
    free = ~actual.kept if regrow else ~mask
    grown, left = actual.mask & ~actual.kept, free & ~actual.mask
    room = (masks.groups(actual.mask).sum(-1, keepdim=True) < 2).expand(*masks.groups(mask).shape)
    missed = wish[left & room.flatten(-2).movedim(-1, 1)]
    assert not grown.any() or not missed.numel() or wish[grown].min() >= missed.max()


def test_order_of_smallest_does_not_depend_on_the_sort():
    """Equal scores, as bfloat16 has many: the lower index first."""
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 2.0])
    assert masks.smallest(scores, 3).tolist() == [True, True, False, True, False, False]
    assert not masks.smallest(scores, 0).any()

"""Score, closing and re-use: properties 2 to 5, 9 and 12, pitfalls 1, 3, 4, 7, 8, 10 and 11."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.selective_convolution.allocate import copies, deallocate, importance, reallocate
from models.selective_convolution.score import damage, relu_moments, shares, spread
from tests.models.selective_convolution.selective_units import make_unit

MOMENTS = [
    (1, 0, 0.3989422804),
    (1, 1, 1.0833154706),
    (1, -1, 0.0833154706),
    (0.5, 0.25, 0.3488982787),
    (0.5, -0.8, 0.0116209840),
    (-0.7, 0.4, 0.5236517218),
    (0, 0.5, 0.5),
    (0, -0.5, 0),
    (2, -3, 0.0586135875),
]


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("g", "b", "expected"), MOMENTS)
def test_first_moment(g, b, expected):
    """Property 2: the table, E(g, b) - E(g, -b) = b, and a quadrature of both moments."""
    g, b = (torch.tensor(value, dtype=torch.float64) for value in (g, b))
    first, second = relu_moments(b, g)
    assert first.item() == pytest.approx(expected, abs=1e-10)
    assert (first - relu_moments(-b, g)[0]).item() == pytest.approx(b.item(), abs=1e-12)
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5
    a = torch.relu(b + g.abs() * x)
    assert torch.trapezoid(a * density, x).item() == pytest.approx(first.item(), abs=1e-8)
    assert torch.trapezoid(a**2 * density, x).item() == pytest.approx(second.item(), abs=1e-8)


@pytest.mark.parametrize("kernel", [1, 3])
def test_damage_is_the_mean_change(kernel):
    """Property 3: for normal batch-norm outputs, within 5 standard errors; spread likewise."""
    unit = make_unit(4, 3, kernel, closed=(2,))
    draws = 100_000
    noise = torch.randn(draws, 4, kernel, kernel, generator=numbers(1), dtype=torch.float64)
    scale, offset = (t.detach()[:, None, None] for t in (unit.norm.weight, unit.norm.bias))
    a = torch.relu(noise * scale + offset) * unit.gate[:, None, None]
    change = torch.einsum("ncuv,ocuv->noc", a, unit.conv.weight.detach())
    for sample, expected in ((change, damage(unit)), (change.square(), spread(unit).square())):
        error = sample.std(0) / draws**0.5
        assert ((sample.mean(0) - expected).abs() <= 5 * error + 1e-5).all()
    assert not damage(unit)[:, 2].any()


def test_edge_filters_have_spread_but_no_damage():
    """Pitfall 4: a filter whose sum is zero."""
    unit = make_unit(3, 2, 3)
    with torch.no_grad():
        unit.conv.weight[:, 0] = torch.tensor([[1.0, 0, -1]] * 3)
    assert not shares(unit)[:, 0].any()
    assert (shares(unit, "rms")[:, 0] > 0.01).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 6), st.floats(1e-4, 0.99), st.integers(0, 999))
def test_closing_is_the_longest_bounded_prefix(c, o, threshold, seed):
    """Property 4: the bound holds, formerly closed slots included; one slot more breaks it."""
    unit = make_unit(c, o, 1, closed=range(0, c, 4), seed=seed)
    share, before = shares(unit), unit.gate.clone()
    newly = deallocate(unit, threshold)
    closed = unit.gate == 0
    if not share.any():
        assert torch.equal(before, unit.gate)
        return
    assert closed[before == 0].all()
    assert torch.equal(newly, closed & (before > 0))
    lost = share[:, closed].sum(1)
    assert (lost <= threshold + 1e-12).all()
    if not closed.all():
        at = share.amax(0).masked_fill(closed, torch.inf).argmin()
        assert (lost + share[:, at]).max() > threshold
    assert (unit.source[closed] == -1).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.floats(0.01, 0.5), st.floats(-3, 3).filter(lambda x: abs(x) > 0.01))
def test_closing_ignores_scale_and_grows_with_the_threshold(seed, threshold, factor):
    """Property 4, rest."""
    first, scaled, wider = (make_unit(9, 4, 3, seed=seed) for _ in range(3))
    with torch.no_grad():
        scaled.conv.weight *= factor
        scaled.conv.weight[1] *= -7
    for unit, gamma in ((first, threshold), (scaled, threshold), (wider, 1.5 * threshold)):
        deallocate(unit, gamma)
    assert torch.equal(first.gate, scaled.gate)
    assert (wider.gate <= first.gate).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_reuse_leaves_the_function(training, kernel):
    """Properties 5 and 9: output the same to the last bit, columns zero, statistics copied."""
    unit = make_unit(8, 4, kernel, moved=(1, 2), closed=(0, 3, 5)).train(training)
    with torch.no_grad():
        unit.norm.momentum = 0.0  # so that the pass before leaves the statistics
    x = torch.randn(3, 8, 6, 6, dtype=torch.float64)
    before, weights = unit(x), unit.conv.weight.numel()
    rooted = unit.source.clone()
    opened = reallocate(unit, 3, 1.5, numbers())
    assert opened.nonzero().flatten().tolist() == [0, 3, 5]
    assert torch.equal(unit(x), before)
    assert not unit.conv.weight[:, opened].any()
    assert (unit.gate == 1).all()
    assert unit.conv.weight.numel() == weights
    assert (unit.shift[opened].abs() <= 1.5).all()
    assert torch.equal(unit.source[~opened], rooted[~opened])
    pairs = torch.stack([unit.norm.weight, unit.norm.bias], 1)
    for slot in opened.nonzero().flatten():
        root = unit.source[slot].item()
        assert 0 <= root < 8
        holders = [s for s in range(8) if not opened[s] and root in (s, rooted[s].item())]
        assert any(torch.equal(pairs[slot], pairs[s]) for s in holders)


def test_copies_of_copies_read_the_root():
    """Section 3, opening, and pitfall 1: a source that is itself a copy."""
    unit = make_unit(3, 2, moved=(1,), closed=(0, 2))
    unit.source[1] = 2
    reallocate(unit, 3, 1.5, numbers())
    assert unit.source.tolist() == [2, 2, 2]


def test_only_useful_open_slots_are_sources():
    """Pitfall 3: one open slot of five is the only source; no slot useful opens nothing."""
    unit = make_unit(5, 3, closed=(0, 1, 2, 4))
    reallocate(unit, 9, 1.5, numbers())
    assert unit.source.tolist() == [3, 3, 3, -1, 3]
    unit = make_unit(5, 3, closed=range(5))
    assert not reallocate(unit, 3, 1.5, numbers()).any()
    assert not unit.gate.any()
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    assert not unit(x).any()
    assert not deallocate(unit, 0.5).any()


def test_crowded_channels_are_no_sources():
    """Step 2 of re-allocation: more than ``max_copies`` copies exclude channel and copies."""
    unit = make_unit(6, 3, moved=(0, 1, 2))
    unit.source[:3] = 4
    unit.source[5] = 3
    assert copies(unit).tolist() == [0, 0, 0, 1, 3, 0]
    assert (importance(unit, "mean", 3) > 0).all()
    assert (importance(unit, "mean", 2) == 0).tolist() == [True, True, True, False, True, False]


def test_draws_follow_the_seed_and_all_top_sources():
    """Property 10, last part; sources are drawn from the K best, each with about 1 / K."""
    best = importance(make_unit(60, 4, seed=5), "mean", None)
    closed = best.argsort()[:50].tolist()
    first, second = (make_unit(60, 4, closed=closed, seed=5) for _ in range(2))
    reallocate(first, 3, 1.5, numbers(2))
    reallocate(second, 3, 1.5, numbers(2))
    assert torch.equal(first.source, second.source)
    assert torch.equal(first.shift, second.shift)
    best = importance(make_unit(60, 4, closed=closed, seed=5), "mean", None)
    drawn = first.source[closed].unique(return_counts=True)
    assert set(drawn[0].tolist()) == set(best.topk(3).indices.tolist())
    assert drawn[1].min() > 5


def test_a_new_copy_closes_again_without_a_step():
    """Pitfall 7: its shares are 0 until it is trained."""
    unit = make_unit(8, 4, closed=(1, 2))
    reallocate(unit, 3, 1.5, numbers())
    assert deallocate(unit, 1e-6).nonzero().flatten().tolist() == [1, 2]


def test_dead_statistics_do_not_matter():
    """Edge of section 2: a batch norm of weight 0 passes its bias alone."""
    unit = make_unit(3, 2)
    with torch.no_grad():
        unit.norm.weight.zero_()
        unit.norm.bias.copy_(torch.tensor([1.0, -1.0, 2.0]))
    sums = unit.conv.weight.sum((2, 3)).detach() * torch.tensor([1.0, 0.0, 2.0])
    assert torch.equal(damage(unit).detach(), sums)
    a = functional.relu(unit.norm(torch.randn(2, 3, 4, 4, dtype=torch.float64)))
    assert torch.equal(a[:, 1], torch.zeros_like(a[:, 1]))


def test_ties_close_in_order():
    """Pitfall 10: equal slots go by their number."""
    unit = make_unit(10, 2)
    with torch.no_grad():
        unit.conv.weight.fill_(0.1)
        unit.norm.weight.fill_(1)
        unit.norm.bias.fill_(0.3)
    assert deallocate(unit, 0.35).nonzero().flatten().tolist() == [0, 1, 2]


def test_copied_variance_gives_way():
    """Pitfall 8: interpolation smooths, so a copy's variance is less once batches were seen."""
    unit = make_unit(3, 2, closed=(1,))
    x = torch.randn(8, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        unit.norm.momentum = 1.0
        unit(x)
        reallocate(unit, 1, 1.5, numbers())
        unit.shift[1] = torch.tensor([0.5, -0.5])
        source = unit.source[1]
        assert unit.norm.running_var[1] == unit.norm.running_var[source]
        unit(x)
    assert unit.norm.running_var[1] < 0.5 * unit.norm.running_var[source]


def test_draws_ignore_other_random_numbers():
    """Pitfall 11: ranks, whose other streams differ, draw the same sources."""
    drawn = []
    for seed in (1, 2):
        unit = make_unit(20, 4, closed=range(5, 15))
        torch.manual_seed(seed)
        torch.rand(seed)
        reallocate(unit, 3, 1.5, numbers(7))
        drawn.append((unit.source.clone(), unit.shift.detach().clone()))
    assert all(torch.equal(p, q) for p, q in zip(*drawn, strict=True))

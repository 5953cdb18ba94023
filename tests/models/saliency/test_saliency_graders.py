"""Graders of maps and agreement between maps against their definitions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats
from torch import nn

from models.saliency.graders import agreement
from models.saliency.graders.curves import pixel_curve, region_curve
from models.saliency.graders.faithfulness import correlation, infidelity, monotonicity
from models.saliency.graders.grade import GradedMap
from models.saliency.graders.localisation import localise
from models.saliency.graders.randomisation import _entropy_rise
from models.saliency.graders.registry import grade
from models.saliency.methods import imputation
from models.saliency.methods.registry import compute_map
from models.saliency.net.space import Space
from models.saliency.ranks import ranks, spearman_matrix
from models.saliency.spec import graders
from models.saliency.spec.masks import Occlusion
from models.saliency.spec.methods import Control
from tests.models.saliency.saliency_nets import Linear, case, conv_net, noise

SPACE = Space([0.0] * 3, [1.0] * 3)
WEIGHTS = {  # of the 8 neighbours (README, eq. 11)
    (a, b): 1 / 6 if 0 in (a, b) else 1 / 12
    for a, b in itertools.product((-1, 0, 1), repeat=2)
    if (a, b) != (0, 0)
}


def subject(kind="prob"):
    x, b, net = noise(3, 12, 14), noise(3, 12, 14, seed=1), conv_net().double()
    return x, b, case(net, x, kind, (2, 0))


def curve(name, points=20, **fields):
    return graders.Curve(id=name, points=points, **fields)


def test_deletion_goes_from_the_image_to_the_baseline():
    """Property 7; and every state by hand."""
    _x, b, one = subject()
    values = noise(12, 14, seed=3)
    (deleted,) = pixel_curve(curve("deletion"), values, b, one, 0)
    assert deleted.score[0] == pytest.approx(one.full[0].item(), abs=1e-12)
    assert deleted.score[-1] == pytest.approx(one.score(b[None])[0, 0].item(), abs=1e-12)
    order = values.flatten().argsort(descending=True)
    image = one.x.clone().flatten(1)
    image[:, order[:84]] = b.flatten(1)[:, order[:84]]  # half of 168 pixels
    middle = one.score(image.view_as(one.x)[None])[0, 0]
    assert deleted.score[10] == pytest.approx(middle.item(), abs=1e-12)
    assert deleted.share[10] == 0.5


def test_insertion_is_the_reversed_deletion_of_the_negated_map():
    """Property 7."""
    _x, b, one = subject()
    values = noise(12, 14, seed=3)
    (inserted,) = pixel_curve(curve("insertion"), values, b, one, 0)
    (deleted,) = pixel_curve(curve("deletion"), -values, b, one, 0)
    torch.testing.assert_close(inserted.score, deleted.score.flip(0), atol=1e-12, rtol=0)


def test_monotone_transforms_change_nothing():
    """Property 7."""
    _x, b, one = subject()
    values = noise(12, 14, seed=3)
    first, second = (
        pixel_curve(curve("morf"), v, b, one, 0)[0] for v in (values, (3 * values).exp() - 7)
    )
    assert torch.equal(first.score, second.score)


@pytest.mark.parametrize("name", ["deletion", "insertion", "lerf"])
def test_flat_curves_have_their_own_level_as_area(name):
    """Properties 3 and 7: b = x; the trapezoid and the rule of RISE agree."""
    x, _b, one = subject()
    (flat,) = pixel_curve(curve(name, points=13), noise(12, 14), x, one, 0)
    level = one.full[0].item()
    assert flat.auc == pytest.approx(level, abs=1e-12)
    assert flat.auc_rise == pytest.approx(level, abs=1e-12)
    assert flat.aopc == pytest.approx(0, abs=1e-12)


def test_ties_go_by_index_or_by_seeded_shuffles():
    values = torch.zeros(4, 5)
    assert ranks(values, lowest_first=False).flatten().tolist() == list(range(20))
    first, second = (ranks(values, False, shuffle, 7).flatten() for shuffle in (1, 2))
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == list(range(20))
    assert torch.equal(first, ranks(values, False, 1, 7).flatten())
    untied = noise(4, 5)
    assert torch.equal(ranks(untied, False), ranks(untied, False, 3, 1))


def test_regions_are_swapped_whole_and_in_order():
    _x, b, one = subject()
    part = graders.RegionCurve(id="region_perturbation", patch=4, regions=3)
    values = torch.zeros(12, 14).double()
    values[4:8, 8:12] = 5.0
    actual = region_curve(part, values, b, one, 0)
    image = one.x.clone()
    image[:, 4:8, 8:12] = b[:, 4:8, 8:12]
    assert actual.score[1] == pytest.approx(one.score(image[None])[0, 0].item(), abs=1e-12)
    assert actual.share.tolist() == pytest.approx([0, 16 / 168, 32 / 168, 48 / 168])


def test_gradient_of_a_linear_score_has_no_infidelity():
    """Property 1: a map that serves one channel."""
    w, x = noise(1, 1, 12, 12), noise(1, 12, 12, seed=1)
    one = case(Linear(w), x)
    for kind in ("noise", "square"):
        scaled = graders.Infidelity(id="infidelity", perturbation=kind, samples=20, side=4)
        part = scaled.model_copy(update={"optimal_scale": False})
        assert infidelity(part, w[0, 0], one, 0) < 1e-20
        assert infidelity(scaled, 5 * w[0, 0], one, 0) < 1e-20
        assert infidelity(part, 5 * w[0, 0], one, 0) > 1e-3


def test_worth_of_pixels_correlates_perfectly_for_a_linear_score():
    w, x, b = noise(1, 3, 12, 12), noise(3, 12, 12, seed=1), noise(3, 12, 12, seed=2)
    one, worth = case(Linear(w), x), (w[0] * (x - b)).sum(0)
    part = graders.Correlation(id="faithfulness_correlation", runs=20, subset=30)
    assert correlation(part, worth, b, one, 0) == pytest.approx(1)
    assert correlation(part, -worth, b, one, 0) == pytest.approx(-1)
    assert correlation(part, torch.ones_like(worth), b, one, 0) is None


def test_localisation_by_hand():
    values = torch.zeros(20, 20)
    values[5, 6], values[15, 15] = 3.0, 1.0
    graded = GradedMap(values, None, 0, None, None)
    box = [4, 10, 9, 14]
    pointing = [
        localise(graders.Localisation(id="pointing_game", box=box, tolerance=t), graded)
        for t in (3, 4)
    ]
    assert pointing == [0, 1]  # the maximum is 4 columns left of the box
    mass = graders.Localisation(id="mass_in_box", box=[0, 0, 10, 10])
    assert localise(mass, graded) == pytest.approx(0.75)


def test_imputed_pixels_solve_the_published_system():
    """README, eq. 11: each imputed pixel is the weighted mean of its neighbours."""
    x = noise(2, 7, 6)
    removed = noise(3, 7, 6, seed=4) > 0.2
    imputed = imputation.impute(x, removed)
    weights = WEIGHTS
    for state, gone in enumerate(removed):
        for row, column in gone.nonzero().tolist():
            near = {
                (row + a, column + b): w
                for (a, b), w in weights.items()
                if 0 <= row + a < 7 and 0 <= column + b < 6
            }
            mean = sum(w * imputed[state, :, i, j] for (i, j), w in near.items())
            torch.testing.assert_close(
                imputed[state, :, row, column], mean / sum(near.values()), atol=1e-9, rtol=0
            )
        assert torch.equal(imputed[state][:, ~gone], x[:, ~gone])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_imputed_pixels_are_those_of_a_direct_solution(share):
    """README, eq. 11, solved by sparse elimination: 1e-8, with smooth holes as maps leave them."""
    side, x = 64, noise(1, 64, 64)
    smooth = nn.functional.avg_pool2d(noise(1, side + 8, side + 8, seed=3), 9, stride=1)
    removed = smooth < smooth.flatten().quantile(share)
    weight = sparse.lil_matrix((side * side, side * side))
    for row, column in itertools.product(range(side), repeat=2):
        for (a, b), w in WEIGHTS.items():
            if 0 <= row + a < side and 0 <= column + b < side:
                weight[row * side + column, (row + a) * side + column + b] = w
    weight = weight.tocsr()
    system = sparse.diags(np.asarray(weight.sum(1)).ravel()) - weight
    gone, values = removed.flatten().numpy(), x.flatten().numpy()
    right = weight[gone][:, ~gone] @ values[~gone]
    exact = sparse.linalg.spsolve(system[gone][:, gone].tocsc(), right)
    solved = imputation.impute(x, removed)[0, 0].flatten().numpy()[gone]
    assert np.abs(solved - exact).max() < 1e-8


@pytest.mark.parametrize("side", [17, 40, 150])
def test_the_preconditioner_is_symmetric_and_its_iterations_do_not_grow(side, monkeypatch):
    """A hole as wide as the image: plain conjugate gradients need about its width."""
    x, hole = noise(1, side, side), torch.ones(1, side, side, dtype=torch.bool)
    hole[0, 0, 0] = hole[0, -1, 3] = False
    cycle = imputation.Multigrid(hole[:, None].float())
    u, v = (noise(1, 1, side, side, seed=seed) * hole for seed in (1, 2))
    one, other = (u * cycle(v)).sum().item(), (cycle(u) * v).sum().item()
    assert one == pytest.approx(other, rel=1e-4, abs=1e-3)
    assert (v * cycle(v)).sum() > 0
    monkeypatch.setattr(imputation, "ITERATIONS", 40)
    imputed = imputation.impute(x, hole)[0]
    around = (
        imputation._sum(imputed[None])[0]
        / imputation._sum(torch.ones(1, 1, side, side).double())[0]
    )
    assert (imputed - around)[:, hole[0]].abs().max() < 1e-4


@given(st.integers(0, 1000))
def test_agreement_is_symmetric_and_perfect_with_itself(seed):
    """Property 12."""
    a, b = noise(12, 12, seed=seed).numpy(), noise(12, 12, seed=seed + 1).numpy()
    one, other = agreement.compare(a, b), agreement.compare(b, a)
    for name, value in one.items():
        assert value == pytest.approx(other[name], abs=1e-9), name
    same = agreement.compare(a, a)
    assert same.pop("centre_shift") == 0
    assert all(value == pytest.approx(1) for value in same.values())
    monotone = agreement.compare(np.exp(a), b)
    assert monotone["spearman"] == pytest.approx(one["spearman"], abs=1e-9)
    assert all(0 <= one[name] <= 1 for name in one if name.startswith("iou"))


def test_constant_maps_give_null_with_a_reason():
    figures = agreement.compare(np.zeros((9, 9)), noise(9, 9).numpy())
    assert figures["spearman"] is None
    assert figures["reason"] == "a map is constant"
    matrix = spearman_matrix(np.stack([np.zeros((9, 9)), noise(9, 9).numpy()]))
    assert np.isnan(matrix[0]).all()
    assert matrix[1, 1] == pytest.approx(1)


def test_top_sets_tied_at_the_threshold_are_not_compared():
    a = np.zeros((20, 20))
    a[:2] = 1.0
    assert agreement.top_iou(a, noise(20, 20).numpy(), 0.2) is None


def test_pixels_tied_at_the_threshold_are_members_in_part():
    """Four of 500 pixels: three above, the last place shared by two in one map, sole in the other.

    Sums of the smaller and of the larger membership: 3.5 / 4.5.
    """
    a = np.arange(500.0).reshape(20, 25)
    b = a.copy()
    b.ravel()[495:497] = 496.0
    assert agreement.top_iou(a, b, 4 / 500) == pytest.approx(3.5 / 4.5)
    assert agreement.top_iou(b, a, 4 / 500) == pytest.approx(3.5 / 4.5)
    assert agreement.top_iou(b, b, 4 / 500) == 1


def test_kendalls_tau_is_named_by_the_size_it_compares():
    a, b = noise(56, 60).numpy(), noise(56, 60, seed=1).numpy()
    pooled = [torch.from_numpy(m)[None].unfold(1, 2, 2).mean(-1)[0] for m in (a[:, :56], b[:, :56])]
    pooled = [m.unfold(1, 2, 2).mean(-1).ravel() for m in pooled]
    expected = stats.kendalltau(*pooled).statistic
    figures = agreement.compare(a[:, :56], b[:, :56])
    assert figures["kendall_28x28"] == pytest.approx(expected)
    small = agreement.compare(a[:9, :12], b[:9, :12])
    assert small["kendall_9x12"] == pytest.approx(
        stats.kendalltau(a[:9, :12].ravel(), b[:9, :12].ravel()).statistic
    )


def test_spearman_matrix_is_that_of_scipy():
    maps = np.round(noise(4, 6, 6).numpy(), 0)  # with ties
    matrix = spearman_matrix(maps)
    for i, j in itertools.combinations(range(4), 2):
        assert matrix[i, j] == pytest.approx(agreement.compare(maps[i], maps[j])["spearman"])


def test_krippendorff_is_one_where_raters_agree():
    ranks_of = np.array([[1.0, 2, 3, 4]] * 3)
    assert agreement.krippendorff(ranks_of) == pytest.approx(1)
    assert agreement.krippendorff(np.array([[1.0, 2], [2.0, 1]])) < 0


def run_grader(part, method, one):
    def recompute(other):
        return compute_map(method, other, torch.zeros_like(other.x))

    return grade(part, GradedMap(recompute(one)[0], one, 0, SPACE, recompute)).value


def test_randomisation_shows_which_maps_depend_on_the_net():
    """README, eq. 17: new weights or another class change an occlusion map, but no control."""
    one = subject()[2]
    occlusion, edge = Occlusion(id="occlusion", window=4, stride=2), Control(id="edge")
    for name in ("mprt", "random_logit"):
        part = graders.Randomisation(id=name, layers=2)
        assert run_grader(part, edge, one) == pytest.approx(1)
        assert run_grader(part, occlusion, one) < 0.9


def test_robustness_of_a_linear_score_is_that_of_its_input():
    """Occlusion of a linear score moves with x alone; maximum and mean are in order."""
    one = subject()[2]
    part = graders.Robustness(id="sensitivity_max", samples=4)
    occlusion = Occlusion(id="occlusion", window=4, stride=2)
    largest = run_grader(part, occlusion, one)
    mean = run_grader(part.model_copy(update={"id": "sensitivity_avg"}), occlusion, one)
    assert 0 < mean <= largest
    assert run_grader(part, Control(id="centre_gaussian"), one) == 0


def test_channel_values_are_swapped_one_by_one():
    """README, eq. 12, with Quantus' convention: every channel value has its own rank."""
    _x, b, one = subject()
    values = noise(12, 14, seed=3)
    (deleted,) = pixel_curve(
        curve("deletion", points=7 * 12, order_unit="channel_value"), values, b, one, 0
    )
    order = values.expand(3, -1, -1).flatten().argsort(descending=True, stable=True)
    image = one.x.flatten().clone()
    image[order[:6]] = b.flatten()[order[:6]]  # 504 values in 84 steps
    expected = one.score(image.view_as(one.x)[None])[0, 0].item()
    assert deleted.score[1] == pytest.approx(expected, abs=1e-12)
    assert deleted.score[-1] == pytest.approx(one.score(b[None])[0, 0].item(), abs=1e-12)


class Additive(nn.Module):
    """f(x) = sum of a_p x_p, equal in all channels: the mean effect of a pixel is a_p^2."""

    def __init__(self, a):
        super().__init__()
        self.a = a

    def forward(self, x):
        return (x * self.a).sum((1, 2, 3))[:, None]


def test_monotonicity_of_an_additive_score_is_perfect():
    """Groups of higher weight change the score more; the reversed map has the opposite sign."""
    weight = torch.zeros(12, 12).double()
    weight.view(-1)[:] = torch.arange(144).double().sub(143).div(12).exp()
    one = case(Additive(weight), torch.full((3, 12, 12), 4.0).double())
    part = graders.Monotonicity(id="monotonicity_correlation", groups=12, draws=5)
    assert monotonicity(part, weight, SPACE, one, 0) == pytest.approx(1)
    assert monotonicity(part, -weight, SPACE, one, 0) == pytest.approx(1)  # the sign plays no part
    assert monotonicity(part, weight.flip(0, 1), SPACE, one, 0) == pytest.approx(-1)
    assert monotonicity(part, torch.ones_like(weight), SPACE, one, 0) is None


def test_entropy_rises_where_a_map_spreads():
    """Efficient MPRT by hand: one bin of two values, then uniform over 100 bins."""
    before, after = torch.zeros(10, 10), torch.arange(100.0).view(10, 10)
    before[:5] = 1.0
    assert _entropy_rise(before, after) == pytest.approx(np.log(100) / np.log(2) - 1)
    assert _entropy_rise(after, after) == 0
    assert _entropy_rise(torch.zeros(10, 10), after) is None
    one = subject()[2]
    part = graders.Randomisation(id="efficient_mprt")
    assert run_grader(part, Control(id="edge"), one) == pytest.approx(0)
    assert run_grader(part, Occlusion(id="occlusion", window=4, stride=2), one) != 0

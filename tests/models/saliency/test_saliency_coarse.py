"""Adaptive curves: fewer rows, an area within the tolerance, the same states."""

import pytest
import torch

from models.saliency.graders.curves import COARSE, intervals_to_refine, pixel_curve
from models.saliency.spec.graders import Curve
from tests.models.saliency.saliency_nets import Linear, case, noise


def curves(tolerance, points=100, **fields):
    """A curve of a linear net in the order of its contributions, and its rows."""
    w = noise(1, 3, 12, 14).abs() ** 3
    one = case(Linear(w), noise(3, 12, 14, seed=1).abs())
    rows = []
    one.scorer._tick = rows.append
    b = torch.zeros_like(one.x)
    part = Curve(id="deletion", points=points, tolerance=tolerance, **fields)
    values = (w[0] * one.x).sum(0)  # deleted in this order, the score falls at each step
    (curve,) = pixel_curve(part, values, b, one, 0)
    return curve, sum(rows)


@pytest.mark.parametrize("tolerance", [0.1, 1.0, 5.0])
def test_the_area_of_a_monotone_curve_is_within_the_tolerance(tolerance):
    exact, every = curves(0.0)
    coarse, rows = curves(tolerance)
    assert abs(coarse.auc - exact.auc) <= tolerance
    assert rows == len(coarse.share) <= every == 101


def test_a_steep_curve_is_refined_where_it_is_steep():
    """Fewer rows than states; they are closer together at the start, where the score drops."""
    exact, _ = curves(0.0)
    height = (exact.score[0] - exact.score[-1]).item()
    coarse, rows = curves(0.01 * height)
    assert 100 / COARSE < rows < 101
    gaps = coarse.share.diff()
    assert gaps[0] < gaps[-1]
    counts = (coarse.share * 168).round().long()
    every = (exact.share * 168).round().long().tolist()
    exact_scores = dict(zip(every, exact.score.tolist(), strict=True))
    for count, score in zip(counts.tolist(), coarse.score.tolist(), strict=True):
        assert score == pytest.approx(exact_scores[count], abs=1e-9)


def test_refinement_ends_at_neighbouring_states():
    """An interval without inner states is not refined, however steep."""
    assert intervals_to_refine({0: 0.0, 1: 9.0, 3: 9.0, 9: 0.0}, 0.1) == [6]
    assert intervals_to_refine({0: 0.0, 8: 0.1}, 0.1) == []

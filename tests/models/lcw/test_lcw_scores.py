"""Scores against closed forms and independent references."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import cdist

from models.lcw import objectives, scores


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_is_the_matrix_square_root_formula():
    """Section 6: the general formula by scipy's square root of a matrix that is not symmetric."""
    a, b = points(200, 6) @ points(6, 6, 1), points(150, 6, 2) + 1
    s1, s2 = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + np.trace(s1 + s2 - 2 * root)
    assert scores.frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_moved_and_scaled_points():
    """Zero on itself; |shift|^2 for a shift; (k - 1)^2 tr S for a scaling about the mean."""
    a = points(100, 5)
    for seed in range(20):
        same = points(200, 8, seed)
        assert 0 <= scores.frechet(same, same) < 1e-9
    assert scores.frechet(a, a + 2) == pytest.approx(20, rel=1e-9)
    scaled = (a - a.mean(0)) * 3 + a.mean(0)
    assert scores.frechet(a, scaled) == pytest.approx(4 * torch.cov(a.T).trace().item(), rel=1e-9)


def test_frechet_refuses_singular_covariances():
    with pytest.raises(ValueError, match="5 samples of 5 features"):
        scores.frechet(points(5, 5), points(9, 5))


def test_kid_has_mean_zero_on_one_distribution_and_finds_a_shift():
    """Section 6: unbiased; all pairs of one block by hand."""
    pairs = [(points(200, 8, s), points(200, 8, s + 50)) for s in range(8)]
    means, spreads = np.array([scores.kid(a, b, 0) for a, b in pairs]).T
    assert abs(np.mean(means)) < 4 * np.std(means) / np.sqrt(8)
    assert scores.kid(points(200, 8), points(200, 8, 1) + 1, 0)[0] > 10 * np.std(means)
    assert max(spreads) < 1e-9  # every block is the whole set
    x, y = points(6, 3), points(6, 3, 1)
    kernel = lambda p, q: ((p @ q.T / 3 + 1) ** 3).numpy()  # noqa: E731
    off = ~np.eye(6, dtype=bool)
    expected = kernel(x, x)[off].mean() + kernel(y, y)[off].mean() - 2 * kernel(x, y).mean()
    assert scores.kid(x, y, 0)[0] == pytest.approx(expected, rel=1e-9)


def test_prdc_is_the_reference_formula():
    """Precision, recall, density, coverage as in Naeem et al., over explicit distances."""
    real, made, k = points(60, 3).numpy(), points(50, 3, 1).numpy() * 0.6, 5
    radius = np.sort(cdist(real, real))[:, k]
    made_radius = np.sort(cdist(made, made))[:, k]
    gaps = cdist(real, made)
    expected = {
        "precision": (gaps < radius[:, None]).any(0).mean(),
        "recall": (gaps < made_radius[None]).any(1).mean(),
        "density": (gaps < radius[:, None]).sum(0).mean() / k,
        "coverage": (gaps.min(1) < radius).mean(),
    }
    actual = scores.prdc(torch.from_numpy(real), torch.from_numpy(made), k)
    assert actual == pytest.approx(expected)


def test_modes_are_counted_and_both_divergences_told():
    """Section 6, stacked MNIST: half of 4 uniform classes hit, in equal shares: log 2 one way."""
    labels = torch.arange(4).repeat(25)
    actual = scores.modes(torch.tensor([0, 2, 2, 0]), labels, 4)
    assert actual["modes"] == 2
    assert actual["kl_generated"] == pytest.approx(math.log(2), abs=1e-4)
    missing = 0.5 * math.log(0.25 / 1e-6) + 0.5 * math.log(0.25 / 0.5)
    assert actual["kl_training"] == pytest.approx(missing, abs=1e-4)
    same = scores.modes(labels.flip(0), labels, 4)
    assert same["modes"] == 4
    assert same["kl_generated"] == pytest.approx(0, abs=1e-5)


def test_prdc_of_copies():
    """Copies of the real points: all precise, all recalled, all covered."""
    real = points(80, 4)
    actual = scores.prdc(real, real.clone(), 5)
    assert actual["precision"] == actual["recall"] == actual["coverage"] == 1


def test_mardia_of_normal_points():
    """Section 6: skewness near 0, kurtosis near d (d + 2); a heavy tail raises the latter."""
    z = points(4000, 5)
    actual = objectives.mardia(z)
    # Its mean is that of the diagonal, E |z|^6 / n = d (d + 2) (d + 4) / n.
    assert actual["mardia_skewness"] == pytest.approx(315 / 4000, abs=0.08)
    assert objectives.mardia(z.exp())["mardia_skewness"] > 100
    assert actual["mardia_kurtosis_excess"] == pytest.approx(0, abs=3)
    assert objectives.mardia(z**3)["mardia_kurtosis_excess"] > 100


def test_wae_mmd_is_unbiased_and_grows():
    actual = [
        objectives.wae_mmd(points(40, 4, s), points(40, 4, 500 + s)).item() for s in range(30)
    ]
    assert abs(np.mean(actual)) < 4 * np.std(actual) / np.sqrt(30)
    assert objectives.wae_mmd(points(40, 4) + 2, points(40, 4, 1)) > 10 * np.std(actual)


def test_swae_is_the_wasserstein_distance_of_projections():
    """In one dimension the mean squared gap of sorted points: the square of a shift."""
    a, line = points(50, 1), torch.ones(1, 1, dtype=torch.float64)
    assert objectives.swae(a, a.flip(0) + 3, line).item() == pytest.approx(9)

"""The Cramer-Wold distance against closed forms, Monte Carlo and its own symmetries."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import hyp1f1, ive

from models.lcw import profile
from models.lcw.distance import FACTOR, normality, silverman, silverman_normal, two_sample


def points(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference(x, y, gamma, mode):
    """The two-sample formula over explicit differences, no algebra."""
    d = x.shape[1]

    def mean(a, b):
        s = (a[:, None] - b[None]).square().sum(2) / (4 * gamma)
        if mode == "asymptotic":
            return ((1 + 4 * s / (2 * d - 3)) ** -0.5).mean()
        return torch.from_numpy(hyp1f1(0.5, d / 2, -s.numpy())).mean()

    factor = 1 / (2 * math.sqrt(math.pi * gamma))
    return factor * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


STATED = {torch.float64: (1e-9, 4e-6), torch.float32: (5e-7, 3e-4)}  # of phi, of its slope


@pytest.mark.parametrize("dtype", STATED, ids=str)
@pytest.mark.parametrize("d", [*range(2, 13), 16, 24, 32, 64, 128, 784, 3072, 4096])
def test_phi_and_its_slope_keep_the_stated_tolerance(d, dtype):
    """Property 1: 1F1(1/2; D/2; -s), and by DLMF 13.3.15 the slope of it, for s from 0 to 1e6."""
    q = (1 + np.concatenate([[0.0], np.geomspace(1e-6, 1e6, 500)]) * 4 * profile.scale(d)).astype(
        "float32"
    )
    s = (q.astype("float64") - 1) / (4 * profile.scale(d))
    value, slope = profile.evaluate(profile.make(d, "exact", dtype), torch.from_numpy(q).to(dtype))
    wanted = hyp1f1(0.5, d / 2, -s)
    wanted_slope = hyp1f1(1.5, d / 2 + 1, -s) / d / (2 * profile.scale(d))
    for actual, exact, tolerance in zip(
        (value, slope), (wanted, wanted_slope), STATED[dtype], strict=True
    ):
        assert np.abs(actual.double().numpy() / exact - 1).max() <= tolerance
    assert (value.diff() <= 0).all()
    assert value[0].item() == pytest.approx(1, abs=STATED[dtype][0])


def test_phi_2_is_the_bessel_form():
    """Property 1: phi_2(s) = exp(-s/2) I0(s/2)."""
    s = torch.linspace(0, 50, 101, dtype=torch.float64)
    expected = torch.from_numpy(ive(0, s.numpy() / 2))
    torch.testing.assert_close(profile.phi(s, 2), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("d", [2, 3, 4, 16])
def test_slopes_belong_to_the_values(d):
    """Property 4: V = -2 dphi/dq, by central differences over seven decades of q - 1."""
    q = 1 + torch.logspace(-3, 4, 200, dtype=torch.float64)
    kernel, step = profile.make(d, "exact", torch.float64), 1e-5 * q
    up, down = (profile.evaluate(kernel, q + sign * step)[0] for sign in (1, -1))
    actual = profile.evaluate(kernel, q.clone())[1]
    torch.testing.assert_close(actual, (down - up) / step, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("d", [4, 8, 24, 64])
def test_asymptotic_phi_underestimates_by_the_known_amount(d):
    """Section 2: never above the exact one; the largest relative error is near 0.19 / D or more."""
    s = torch.linspace(0, 4 * d, 2000, dtype=torch.float64)
    gap = 1 - profile.phi(s, d, "asymptotic") / profile.phi(s, d)
    assert gap.min() >= -1e-7
    assert gap.max().item() == pytest.approx(
        {4: 0.079, 8: 0.030, 24: 0.0084, 64: 0.0030}[d], rel=0.03
    )


@pytest.mark.parametrize("mode", ["asymptotic", "exact"])
@pytest.mark.parametrize(("n", "m", "d"), [(7, 12, 5), (40, 30, 8), (33, 70, 24), (20, 10, 100)])
def test_value_is_the_formula(n, m, d, mode):
    """Section 2: equal to the formula written out, n != m."""
    x, y = points(n, d), points(m, d, 1) * 1.3 + 0.4
    expected = reference(x, y, 0.1, mode)
    assert two_sample(x, y, 0.1, mode).item() == pytest.approx(expected.item(), rel=2e-5)
    if mode == "asymptotic":
        assert two_sample(x, y, 0.1, mode).item() == pytest.approx(expected.item(), rel=1e-11)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(4, 30), st.integers(0, 2**16))
def test_distance_is_one(n, m, d, seed):
    """Property 2: not negative, zero on itself, symmetric, blind to row order and repetition."""
    x, y = points(n, d, seed), points(m, d, seed + 1) + 0.5
    value = two_sample(x, y, 0.2)
    assert value >= -1e-12
    assert abs(two_sample(x, x.clone(), 0.2)) <= 1e-12
    for other in (
        two_sample(y, x, 0.2),
        two_sample(x.flip(0), y.roll(1, 0), 0.2),
        two_sample(torch.cat([x, x]), y, 0.2),
    ):
        assert other.item() == pytest.approx(value.item(), abs=1e-12)


@pytest.mark.parametrize("mode", ["asymptotic", "exact"])
def test_invariances(mode):
    """Property 2: a common orthogonal map and, with two samples, a common translation."""
    x, y = points(30, 9), points(20, 9, 1) * 2
    rotation = torch.linalg.qr(points(9, 9, 2))[0]
    value = two_sample(x, y, 0.3, mode).item()
    moved = two_sample(x @ rotation + 5, y @ rotation + 5, 0.3, mode).item()
    assert moved == pytest.approx(value, abs=1e-12)
    own = normality(x, mode=mode)
    assert normality(x @ rotation, mode=mode).item() == pytest.approx(own.item(), abs=1e-12)
    assert normality(x + 1, mode=mode) > own + 1e-3


@pytest.mark.parametrize("d", [2, 3, 8])
def test_exact_is_the_mean_over_projections(d):
    """Property 3: within 3 standard errors of a Monte Carlo over directions."""
    x, y, gamma = points(12, d), points(9, d, 1) + 0.7, 0.2
    directions = torch.nn.functional.normalize(points(20_000, d, 2), dim=1)
    p, q = x @ directions.T, y @ directions.T

    def mean(a, b):  # integral of the product of two smoothed samples, one a direction
        gap = (a[:, None] - b[None]).square() / (4 * gamma)
        return torch.exp(-gap).mean((0, 1)) / math.sqrt(4 * math.pi * gamma)

    each = mean(p, p) + mean(q, q) - 2 * mean(p, q)
    error = each.std() / math.sqrt(len(each))
    assert abs(two_sample(x, y, gamma, "exact") - each.mean()) <= 3 * error + 1e-7


@pytest.mark.parametrize("mode", ["exact", "imq"])
@pytest.mark.parametrize("d", [4, pytest.param(8, marks=pytest.mark.slow), 32])
def test_normality_is_the_limit_of_two_samples(d, mode):
    """Property 3: against ever more normal points, up to their own 1/m and sampling error."""
    x, gamma = points(40, d) * 1.5 + 0.3, 0.2
    kernel = "asymptotic" if mode == "imq" else mode
    actual = []
    for seed in range(6):
        y = points(3000, d, 10 + seed)
        # The diagonal of y is missing in the expectation over N(0, I): make it an unbiased mean.
        within = two_sample(y, y[:1], gamma, kernel, include_yy=False, statistic="u")
        near = two_sample(y, y[:1], gamma, kernel, include_yy=False)
        actual.append(two_sample(x, y, gamma, kernel) + within - near)
    values = torch.stack(actual)
    error = values.std() / math.sqrt(len(values))
    assert abs(normality(x, gamma, mode) - values.mean()) <= 4 * error + 1e-6


def test_published_normality_form_is_biased_at_low_dimension():
    """Section 2: the asymptotic form leaves a floor near 1.05e-2 at D = 8, the others do not."""
    x = points(256, 8)
    asymptotic, exact, imq = (normality(x, mode=m).item() for m in ("asymptotic", "exact", "imq"))
    assert 1.0e-2 < asymptotic - exact < 1.1e-2
    assert imq == pytest.approx(exact, rel=0.05)
    assert exact == pytest.approx(2.03e-3, rel=0.2)


@pytest.mark.parametrize("mode", ["asymptotic", "exact"])
@pytest.mark.parametrize("d", [2, 3, 4, 8])
def test_gradients(d, mode):
    """Property 4: as finite differences say, for both samples, coincident rows included."""
    if d < 4:
        mode = "exact"
    x, y = points(6, d), points(5, d, 1)
    x[1], y[2] = x[0], x[3]
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: two_sample(a, b, 0.3, mode, rows=4, columns=3), (x, y)
    )
    unbiased = lambda a: two_sample(a, y.detach(), 0.3, mode, include_yy=False, statistic="u")  # noqa: E731
    assert torch.autograd.gradcheck(unbiased, (x,))


@pytest.mark.parametrize("mode", ["asymptotic", "exact", "imq"])
def test_gradients_of_normality(mode):
    """Property 4, against N(0, I)."""
    x = points(6, 5)
    x[1] = x[0]
    assert torch.autograd.gradcheck(lambda a: normality(a, 0.3, mode), (x.requires_grad_(),))


def test_zero_gradient_where_samples_coincide():
    """Property 4: no NaN at x = y, but a gradient of zero."""
    x = points(50, 8, dtype=torch.float32).requires_grad_()
    (actual,) = torch.autograd.grad(two_sample(x, x.detach().clone(), 0.1), x)
    assert actual.abs().max() < 1e-7
    one = torch.zeros(1, 8, requires_grad=True)
    (actual,) = torch.autograd.grad(two_sample(one, torch.zeros(3, 8), 0.1), one)
    assert torch.equal(actual, torch.zeros_like(one))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("sizes", [(1, 1), (16, 16), (7, 50), (100, 3), (1000, 1000)])
def test_blocks_do_not_change_the_result(sizes, dtype, tolerance):
    """Property 5: chunked, chunked otherwise, in one piece; n != m."""
    x = points(53, 12, dtype=dtype).requires_grad_()
    y = points(38, 12, 1, dtype) * 2
    rows, columns = sizes
    whole = two_sample(x, y, 0.2)
    value = two_sample(x, y, 0.2, rows=rows, columns=columns)
    assert value.item() == pytest.approx(whole.item(), rel=tolerance)
    g, h = (torch.autograd.grad(v, x)[0] for v in (whole, value))
    assert (g - h).norm() <= 5 * tolerance * h.norm()


@pytest.mark.parametrize("mode", ["asymptotic", "exact"])
def test_a_broken_point_is_seen(mode):
    """NaN reaches the value, so that a training which diverges is stopped; no root hides it."""
    x, y = points(40, 8, dtype=torch.float32), points(30, 8, 1, torch.float32)
    x[3, 2] = math.nan
    assert two_sample(x, y, 0.1, mode).isnan()
    assert two_sample(y, x.clone(), 0.1, mode).isnan()


@pytest.mark.parametrize("moves", [(True, False), (False, True), (True, True), (False, False)])
def test_what_moves_does_not_change_the_value(moves):
    """Rows that move meet both samples at once, still ones halve their own pairs: one sum."""
    x, y = points(53, 7), points(38, 7, 1) * 2
    expected = reference(x, y, 0.2, "asymptotic").item()
    a, b = (p.clone().requires_grad_(moving) for p, moving in zip((x, y), moves, strict=True))
    assert two_sample(a, b, 0.2, rows=16, columns=20).item() == pytest.approx(expected, rel=1e-11)


def test_near_coincident_sets_in_single_precision():
    """Property 6: x = y + 1e-3 noise, n = 1024, D = 784: the value is right to 2 %."""
    y = points(1024, 784, dtype=torch.float32)
    x = y + 1e-3 * points(1024, 784, 1, torch.float32)
    gamma = silverman(1.0, 1024)
    exact = two_sample(x.double(), y.double(), gamma).item()
    assert two_sample(x, y, gamma).item() == pytest.approx(exact, rel=2e-2)


def test_common_offset_in_single_precision():
    """Property 7: mean 30, sd 1, D = 64: relative error below 1e-5."""
    x, y = points(256, 64) + 30, (points(256, 64, 1) + 30) * 1.01
    x32, y32 = x.float(), y.float()
    exact = two_sample(x32.double(), y32.double(), 0.1).item()
    assert two_sample(x32, y32, 0.1).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_the_loss(dtype):
    """Property 8: rounded inputs, float32 mathematics."""
    x, y = points(200, 64, dtype=torch.float32), points(200, 64, 1, torch.float32) * 1.5
    plain = two_sample(x, y, 0.1).item()
    with torch.autocast("cpu", dtype=dtype):
        assert two_sample(x, y, 0.1).item() == plain
        rounded = two_sample(x.to(dtype), y.to(dtype), 0.1).item()
    assert rounded == pytest.approx(plain, rel=2e-3)


def test_unbiased_statistic_has_mean_zero_between_equal_distributions():
    """Section 3 (b): with both own terms unbiased the mean is 0; the V form is above it."""
    actual = []
    for seed in range(40):
        x, y = points(30, 6, seed), points(30, 6, 1000 + seed)
        u = two_sample(x, y, 0.3, include_yy=False, statistic="u")
        own = two_sample(y, x, 0.3, include_yy=False, statistic="u") - two_sample(
            y, x, 0.3, include_yy=False
        )
        actual.append(
            (u + two_sample(x, y, 0.3) - two_sample(x, y, 0.3, include_yy=False) + own).item()
        )
    values = np.array(actual)
    assert abs(values.mean()) <= 4 * values.std() / math.sqrt(len(values))
    assert two_sample(points(30, 6), points(30, 6, 1), 0.3) > 10 * abs(values.mean())


def test_bandwidths():
    """Section 2: Silverman's rules with the published figures of MNIST (sigma .3081)."""
    actual = [silverman(0.3081, n) for n in (64, 128, 256)]
    assert actual == pytest.approx([0.0202, 0.0153, 0.0116], abs=6e-5)
    assert silverman_normal(256) == pytest.approx((4 / 768) ** 0.4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: two_sample(x, x, 0.0), "gamma 0.0"),
        (lambda x: two_sample(x[:, :3], x[:, :3], 0.1), "use exact"),
        (lambda x: normality(x[:, :1]), "1 dimensions"),
        (lambda x: two_sample(x, x, 0.1, "rough"), "rough"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(points(4, 6))


def test_single_form_of_the_factor():
    """One point at the origin against N(0, I): the formula by hand."""
    gamma = 0.5
    q = 1.0
    expected = FACTOR * (gamma**-0.5 + (1 + gamma) ** -0.5 - 2 * q * (gamma + 0.5) ** -0.5)
    actual = normality(torch.zeros(1, 4, dtype=torch.float64), gamma)
    assert actual.item() == pytest.approx(expected, rel=1e-6)


def test_threads_and_inference_mode_share_no_block():
    """A thread keeps its block for the next call: not that of another, nor bound to a mode."""

    def work(seed):
        x, y = points(300, 8, seed), points(200, 8, seed + 1)
        with torch.inference_mode():
            actual = [two_sample(x, y, 0.1).item()]
        actual += [two_sample(x.clone().requires_grad_(), y, 0.1).item() for _ in range(20)]
        return actual

    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(work, range(4)))
    for seed, values in enumerate(actual):
        expected = reference(points(300, 8, seed), points(200, 8, seed + 1), 0.1, "asymptotic")
        assert values == pytest.approx([expected.item()] * 21, rel=1e-10)

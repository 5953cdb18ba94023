"""The kernel of the Cramer-Wold distance as a function of q = 1 + 4 s / (2 D - 3).

phi_D(s) = 1F1(1/2; D/2; -s) is the mean over directions of a smoothed projection's kernel (JMLR 21,
2020, theorem 1). Its asymptotic form is q^(-1/2). With v = q^(-1/2) the exact one is v Q(v^2), Q a
polynomial fitted once a dimension; its slope dphi/dq is -v^3 R(v^2) / 2 with R = Q + 2 v^2 Q'. Both
share the square root and need no division, which is why Q is fitted in v^2.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import hyp1f1
from torch import Tensor

MODES = ("asymptotic", "exact")
TOLERANCE = {torch.float32: 3e-7, torch.float64: 1e-9}  # relative, of the fitted phi
MAX_DEGREE = 32  # D = 4 in float64 needs it
NODES = 400
CLOSED = (2, 3)  # dimensions with a closed form; a polynomial would need a degree above 20 there
SERIES_TERMS = 12  # of the slope at D = 3 near s = 0
FAR, FAR_TERMS = 30.0, 14  # I0 - I1 from here on by its asymptotic series, to 1e-14


class Profile(NamedTuple):
    """How to evaluate a kernel.

    Attributes:
        closed: dimension whose closed form to use, 2 or 3; 0 for the polynomials.
        value: coefficients of Q in 2 v^2 - 1, the highest power first; (1,) is asymptotic.
        slope: coefficients of R, likewise.
    """

    closed: int = 0
    value: tuple[float, ...] = (1.0,)
    slope: tuple[float, ...] = (1.0,)


def make(dim: int, mode: str, dtype: torch.dtype) -> Profile:
    """The kernel of a dimension.

    Evaluated in its type, phi is within 5e-7 (float32) or 1e-9 (float64) of the exact one,
    relative, for every D from 2 to 4,096 and s from 0 to 1e6; its slope, the derivative of the
    fit, within 3e-4 or 4e-6.

    Args:
        dim: D, at least 2.
        mode: ``asymptotic`` or ``exact``.
        dtype: float32 or float64; decides how closely phi is fitted.

    Raises:
        ValueError: if there is no such kernel.
    """
    if dim < 2 or mode not in MODES:
        raise ValueError(f"dimension {dim}, mode {mode!r}; use D >= 2 and one of {MODES}")
    if mode == "asymptotic":
        return Profile()
    return Profile(closed=dim) if dim in CLOSED else _fitted(dim, TOLERANCE[dtype])


@lru_cache(maxsize=64)
def _fitted(dim: int, tolerance: float) -> Profile:
    """Q of the least degree within the tolerance, by least squares on Chebyshev nodes."""
    y = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
    z = (y + 1) / 2
    s = (1 / z - 1) * (2 * dim - 3) / 4
    wanted = hyp1f1(0.5, dim / 2, -s) / np.sqrt(z)
    for degree in range(1, MAX_DEGREE + 1):
        fit = Chebyshev.fit(y, wanted, degree, domain=[-1, 1])
        if np.abs(fit(y) / wanted - 1).max() <= tolerance:
            break
    q = fit.convert(kind=Polynomial)
    r = q + 2 * Polynomial([1.0, 1.0]) * q.deriv()  # dy/dz = 2, z = (1 + y) / 2
    return Profile(0, tuple(map(float, q.coef[::-1])), tuple(map(float, r.coef[::-1])))


def scale(dim: int) -> float:
    """K = 1 / (2 D - 3): a squared distance r2 has q = 1 + K r2 / gamma."""
    return 1 / (2 * dim - 3)


def horner(coefficients: tuple[float, ...], y: Tensor, out: Tensor) -> Tensor:
    """The polynomial at ``y``, written to ``out`` pass by pass.

    ``y`` and ``out`` have one shape [...].
    """
    out.fill_(coefficients[0])
    for coefficient in coefficients[1:]:
        torch.addcmul(torch.full((), coefficient, dtype=y.dtype, device=y.device), out, y, out=out)
    return out


def evaluate(profile: Profile, q: Tensor, *, slope: bool = True) -> tuple[Tensor, Tensor]:
    """Kernel and V = -2 dphi/dq (unless unwanted) at ``q >= 1``; ``q`` is overwritten.

    ``q`` and both results have one shape [...].
    """
    if profile.closed:
        return (_bessel if profile.closed == 2 else _error_function)(q)
    v = q.rsqrt_()
    if profile.value == (1.0,):
        return v, v**3 if slope else v
    y = (v * v).mul_(2).sub_(1)
    value = horner(profile.value, y, torch.empty_like(v)).mul_(v)
    if not slope:
        return value, v
    return value, horner(profile.slope, y, torch.empty_like(v)).mul_(v.pow_(3))


def _bessel(q: Tensor) -> tuple[Tensor, Tensor]:
    """D = 2, s = (q - 1) / 4: phi = exp(-s/2) I0(s/2), dphi/ds = exp(-s/2) (I1 - I0) / 2.

    In float64: the difference cancels as s grows, and far out only its series is left.
    """
    half = (q.double() - 1) / 8
    value = torch.special.i0e(half)
    gap = torch.where(half < FAR, value - torch.special.i1e(half), _far_gap(half.clamp_min(FAR)))
    return value.to(q.dtype), (gap / 4).to(q.dtype)


def _far_gap(x: Tensor) -> Tensor:
    """exp(-x) (I0(x) - I1(x)) for large x, by Hankel's expansions of both (DLMF 10.40.1)."""
    total = torch.zeros_like(x)
    for coefficient in reversed(_gap_coefficients()):
        total.div_(x).add_(coefficient)
    return total / (2 * math.pi * x).sqrt()


@lru_cache(maxsize=1)
def _gap_coefficients() -> tuple[float, ...]:
    """(-1)^k (a_k(0) - a_k(1)), a_k(nu) = prod_(j <= k) (4 nu^2 - (2 j - 1)^2) / (8 j)."""
    zero, one, coefficients = 1.0, 1.0, []
    for k in range(FAR_TERMS + 1):
        coefficients.append((-1) ** k * (zero - one))
        zero *= -((2 * k + 1) ** 2) / (8 * (k + 1))
        one *= (4 - (2 * k + 1) ** 2) / (8 * (k + 1))
    return tuple(coefficients)


def _error_function(q: Tensor) -> tuple[Tensor, Tensor]:
    """D = 3, s = 3 (q - 1) / 4: phi = sqrt(pi) erf(sqrt s) / (2 sqrt s), -2 s phi' = phi - e^-s."""
    s = (q - 1) * 0.75
    root = s.clamp_min(1e-12).sqrt()
    value = torch.erf(root) / root * (math.sqrt(math.pi) / 2)
    near = torch.zeros_like(s)
    for k in range(SERIES_TERMS, 0, -1):  # the difference cancels near 0, its series does not
        near.mul_(-s).add_(2 * k / (math.factorial(k) * (2 * k + 1)))
    ratio = torch.where(s < 0.5, near, (value - torch.exp(-s)) / s.clamp_min(0.5))
    return value, ratio * 0.75


def phi(s: Float[Tensor, "*n"], dim: int, mode: str = "exact") -> Float[Tensor, "*n"]:
    """phi_D(s) = 1F1(1/2; D/2; -s) for s >= 0; 1 at 0 and falling (JMLR 21, eq. 4)."""
    q = 1 + s * (4 * scale(dim))
    return evaluate(make(dim, mode, s.dtype), q)[0]


@lru_cache(maxsize=64)  # a copy from the host cannot be part of a CUDA graph
def quadrature(
    gamma: float, dtype: torch.dtype, device: torch.device, nodes: int = 128
) -> tuple[Tensor, Tensor]:
    """Nodes t and weights of (gamma + a)^(-1/2) = sum_k w_k exp(-t_k a), for a >= 0.

    Trapezoid rule in log t of pi^(-1/2) int t^(-1/2) exp(-t (gamma + a)) dt.

    Args:
        gamma: smoothing variance.
        dtype: of the results.
        device: of the results.
        nodes: of the rule.

    Returns:
        t and w, [nodes] each.
    """
    low, high = -48.0, math.log(60 / gamma)
    tau = torch.linspace(low, high, nodes, dtype=torch.float64)
    step = (high - low) / (nodes - 1)
    t = tau.exp()
    weights = t.sqrt() * torch.exp(-t * gamma) * (step / math.sqrt(math.pi))
    return t.to(device, dtype), weights.to(device, dtype)

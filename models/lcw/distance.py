"""Cramer-Wold distance of two samples, or of a sample and N(0, I): value and gradient in one pass.

It is the squared L2 distance of Gaussian-smoothed one-dimensional projections, averaged over all
directions (JMLR 21, 2020, theorems 1 and 3): a squared MMD with a characteristic kernel.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.lcw import fused, pairs, profile

Statistic = Literal["v", "u"]
FACTOR = 1 / (2 * math.sqrt(math.pi))  # in front of every distance here


class DistanceConfig(NamedTuple):
    """What a distance is made of.

    Attributes:
        gamma: smoothing variance.
        mode: of the kernel.
        include_yy: whether pairs within y count; they are a constant where only x is trained.
        statistic: ``u`` leaves x's pairs of a point with itself out.
        rows: of a block; the result does not depend on it.
        columns: of a block.
    """

    gamma: float
    mode: str
    include_yy: bool
    statistic: Statistic
    rows: int
    columns: int


def two_sample(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    gamma: float,
    mode: str = "asymptotic",
    *,
    include_yy: bool = True,
    statistic: Statistic = "v",
    rows: int = pairs.ROWS,
    columns: int = pairs.COLUMNS,
) -> Float[Tensor, ""]:
    """d2(X, Y) = T [mean phi(xx) + mean phi(yy) - 2 mean phi(xy)], T = 1 / (2 sqrt(pi gamma)).

    phi takes |a - b|^2 / (4 gamma). The sums are float64, products float32 or float64 whatever the
    autocast; the target is centred first. Once differentiable.

    Args:
        x: points, one a row.
        y: points; n and m may differ.
        gamma: smoothing variance, above 0.
        mode: ``asymptotic`` or ``exact`` phi.
        include_yy: False drops the pairs within y, a constant when y is.
        statistic: ``u`` for x's own pairs without the diagonal; the value may then be negative.
        rows: of a block.
        columns: of a block.

    Returns:
        Non-negative scalar in float64 (up to rounding), 0 where the samples agree.

    Raises:
        ValueError: if gamma is not positive or the asymptotic form is asked for D < 4.
    """
    _check(x.shape[1], gamma, mode)
    config = DistanceConfig(gamma, mode, include_yy, statistic, rows, columns)
    with _autocast_off(x):
        return _TwoSample.apply(_at_least_float32(x), _at_least_float32(y), config)


def normality(
    x: Float[Tensor, "n d"], gamma: float | None = None, mode: str = "exact"
) -> Float[Tensor, ""]:
    """d2(X, N(0, I)), with the factor 1 / (2 sqrt(pi)) (JMLR 21, theorem 3).

    Args:
        x: points, one a row.
        gamma: smoothing variance; by Silverman's rule of the sample's size where left out.
        mode: ``exact``; ``asymptotic`` as published, biased at low D; ``imq``, the asymptotic
            kernel with an exact expectation over N(0, I).

    Returns:
        Scalar in float64; non-negative (up to rounding) for ``exact`` and ``imq``.
    """
    gamma = silverman_normal(len(x)) if gamma is None else gamma
    _check(x.shape[1], gamma, "asymptotic" if mode == "imq" else mode)
    with _autocast_off(x):
        x = _at_least_float32(x)
        nothing = x[:0].detach()
        config = DistanceConfig(gamma, "asymptotic" if mode == "imq" else mode, False, "v", *BLOCK)
        within = _TwoSample.apply(x, nothing, config)
        if mode == "imq":
            return within + FACTOR * _imq_terms(x.double(), gamma)
        radius = x.double().square().sum(1) * (profile.scale(x.shape[1]) / (gamma + 0.5))
        near = _Kernel.apply(radius, x.shape[1], mode).mean()
        return within + FACTOR * ((1 + gamma) ** -0.5 - 2 * (gamma + 0.5) ** -0.5 * near)


BLOCK = (pairs.ROWS, pairs.COLUMNS)


def _imq_terms(x: Float[Tensor, "n d"], gamma: float) -> Float[Tensor, ""]:
    """E k(Z, Z') - 2 mean_i E k(x_i, Z), k(a, b) = (gamma + K |a - b|^2)^(-1/2), by quadrature."""
    d = x.shape[1]
    t, weights = profile.quadrature(gamma, x.dtype, x.device)
    tk = t * profile.scale(d)
    spread = 1 + 2 * tk
    radius = x.square().sum(1, keepdim=True)
    cross = torch.exp(-radius * (tk / spread)) @ (weights * spread ** (-d / 2))
    return (weights * (1 + 4 * tk) ** (-d / 2)).sum() - 2 * cross.mean()


def silverman_normal(count: int) -> float:
    """Smoothing variance against N(0, I): (4 / (3 n))^(2/5)."""
    return (4 / (3 * count)) ** 0.4


def silverman(std: float, count: int) -> float:
    """Smoothing variance for two samples: (1.06 sigma n^(-1/5))^2.

    Args:
        std: one scalar over all elements of the target.
        count: rows of a batch.
    """
    return (1.06 * std) ** 2 * count**-0.4


def _check(dim: int, gamma: float, mode: str) -> None:
    if not gamma > 0:
        raise ValueError(f"gamma {gamma}; the smoothing variance must be above 0")
    if dim < 2 or (dim < 4 and mode == "asymptotic"):
        raise ValueError(f"mode {mode!r} in {dim} dimensions; use exact for D = 2, 3")


def _autocast_off(x: Tensor) -> AbstractContextManager[object]:
    """A context without autocast; entering one takes time, so only where autocast is on."""
    on = x.device.type
    return torch.autocast(on, enabled=False) if torch.is_autocast_enabled(on) else nullcontext()


def _at_least_float32(x: Tensor) -> Tensor:
    """Half-precision inputs in float32, others as they are."""
    return x if x.dtype == torch.float64 else x.float()


class _Kernel(torch.autograd.Function):
    """phi as a function of q - 1, elementwise."""

    @staticmethod
    def forward(ctx: Any, excess: Tensor, dim: int, mode: str) -> Tensor:
        value, slope = profile.evaluate(profile.make(dim, mode, excess.dtype), 1 + excess)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope * -0.5, None, None


class _TwoSample(torch.autograd.Function):
    """The distance; its gradients are made with the value, since both need the same kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, config: DistanceConfig) -> Tensor:
        wanted = ctx.needs_input_grad[:2]
        value, grads = _value_and_gradients(x, y, config, *wanted)
        ctx.save_for_backward(*grads)
        ctx.wanted = wanted
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        gradients = [next(saved) if needed else None for needed in ctx.wanted]
        dx, dy = (None if g is None else (grads[0] * g).to(g.dtype) for g in gradients)
        return dx, dy, None


def _value_and_gradients(
    x: Tensor, y: Tensor, config: DistanceConfig, need_x: bool, need_y: bool
) -> tuple[Tensor, list[Tensor]]:
    """Value in float64 and the wanted gradients; without y only x's own pairs count."""
    n, m, dim = len(x), len(y), x.shape[1]
    centre = (y if m else x).mean(0)
    kernel, unbiased = profile.make(dim, config.mode, x.dtype), config.statistic == "u"
    scale = FACTOR / math.sqrt(config.gamma)
    weights = pairs.Weights(
        scale / (n * (n - 1) if unbiased else n**2),
        -2 * scale / (n * m) if m else 0.0,
        scale / m**2 if m and config.include_yy else 0.0,
    )
    what = x, y, centre, profile.scale(dim) / config.gamma, kernel, weights, (need_x, need_y)
    if fused.fits(x, kernel):
        value, gradients = fused.sums(*what)
    else:
        value, gradients = pairs.sums(*what, config.rows, config.columns)
    if unbiased:
        value = value - n * weights.x  # the diagonal, where phi is 1
    return torch.as_tensor(value, dtype=torch.float64, device=x.device), gradients

"""How much the output of a unit would change without one of its slots (README, section 2)."""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.special import ndtr

from models.nets.selective.unit import GatedUnit

TINY = 1e-8  # keeps rows of zeros zero
DENSITY = 1 / math.sqrt(2 * math.pi)


def relu_moments(
    mean: Float[Tensor, "*c"], std: Float[Tensor, "*c"]
) -> tuple[Float[Tensor, "*c"], Float[Tensor, "*c"]]:
    """First and second moment of ReLU(N(mean, std^2)); the sign of ``std`` does not matter."""
    std = std.abs()
    t = mean / std.clamp(min=torch.finfo(mean.dtype).tiny)
    share, peak = ndtr(t), DENSITY * torch.exp(-0.5 * t.square())
    first = std * peak + mean * share
    second = (std.square() + mean.square()) * share + mean * std * peak
    still = std == 0
    rest = mean.clamp(min=0)
    return torch.where(still, rest, first), torch.where(still, rest.square(), second)


def damage(unit: GatedUnit) -> Float64[Tensor, "o c"]:
    """D: expected change of each output when a slot is removed, normal inputs assumed.

    D[o, c] = m_c E_c sum of W[o, c], the expected channel damage matrix of the paper.
    """
    first, _ = relu_moments(unit.norm.bias.double(), unit.norm.weight.double())
    return unit.conv.weight.double().sum((2, 3)) * (first * unit.gate)


def spread(unit: GatedUnit) -> Float64[Tensor, "o c"]:
    """Root of the expected squared change, for inputs that are white over space (not the paper's).

    sqrt(Var_c sum of W[o, c]^2 + D[o, c]^2): a filter that sums to zero has damage 0, but spread.
    """
    first, second = relu_moments(unit.norm.bias.double(), unit.norm.weight.double())
    variance = (second - first.square()).clamp(min=0) * unit.gate
    squares = unit.conv.weight.double().square().sum((2, 3))
    return (squares * variance + damage(unit).square()).sqrt()


@torch.no_grad()
def shares(unit: GatedUnit, score: str = "mean") -> Float64[Tensor, "o c"]:
    """Dn: damage (``mean``) or spread (``rms``) as shares; rows sum to 1, or are 0."""
    magnitudes = (damage(unit) if score == "mean" else spread(unit)).abs_()
    return magnitudes.div_(magnitudes.sum(1, keepdim=True) + TINY)

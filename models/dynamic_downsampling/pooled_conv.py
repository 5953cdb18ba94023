"""Convolutions whose filters are pooled to a smaller side in cheap steps (README, section 2).

One parameter set: the pooled filter is computed from the full one in every cheap forward pass, so
the chain rule brings its gradient to the full filter. Padding is chosen so that the output keeps
the size that the full filter would give.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Extra = tuple[int, int]  # pixels added to half the padding, before and after
LOW: Extra = (1, 0)
HIGH: Extra = (0, 1)
GROW: Extra = (1, 1)  # first of a pair: one pixel too many
SHRINK: Extra = (0, 0)  # second of a pair: takes it back


class Pooling(NamedTuple):
    """What cheap steps do with the filter of one convolution, square in all and undilated.

    Attributes:
        side: k' of the pooled filter.
        how: ``avg`` or ``max``.
        gain: factor on the pooled filter.
        extra: side of the odd padded pixel.
    """

    side: int
    how: str
    gain: float
    extra: Extra


def pool_filter(
    w: Float[Tensor, "o i k k"], side: int, how: str, gain: float
) -> Float[Tensor, "o i side side"]:
    """Pooled filter, w' = gain * P_q(w) with q = k - side + 1 and window stride 1.

    Args:
        w: full filter.
        side: k' of the pooled filter, 1 to k.
        how: ``avg`` or ``max``.
        gain: factor on the result.
    """
    pool = functional.avg_pool2d if how == "avg" else functional.max_pool2d
    return pool(w, w.shape[-1] - side + 1, stride=1) * gain


def gain_of(gain: float | str, kernel: int, side: int) -> float:
    """The factor that ``kernel_gain`` means for one layer.

    ``dc`` is k^2 / k'^2: a constant filter answers a constant image as before. ``white`` is
    k q / k': under white noise the output of independent taps keeps its variance, because k'^2
    means of q^2 taps have the variance k'^2 / q^2 where the k^2 taps had k^2.
    """
    if gain == "dc":
        return kernel**2 / side**2
    if gain == "white":
        return kernel * (kernel - side + 1) / side
    return float(gain)


def paddings(
    size: int, padding: int, kernel: int, side: int, stride: int, extra: Extra
) -> tuple[int, int]:
    """Pixels before and after one axis, P' = 2p - (k - k') in all; negative ones crop.

    Args:
        size: of the axis.
        padding: p of the full convolution.
        kernel: k of the full filter.
        side: k' of the pooled filter.
        stride: of the convolution; a border that no window reaches is left out.
        extra: where the odd pixel of an odd P' goes; without meaning for an even one.
    """
    total = 2 * padding - (kernel - side)
    if total % 2 == 0:
        low = high = total // 2
    else:
        low, high = total // 2 + extra[0], total // 2 + extra[1]
    unused = (size + low + high - side) % stride
    return low, high - min(unused, max(high, 0))


def pooled_conv2d(
    x: Float[Tensor, "b i h w"],
    filters: Float[Tensor, "o i2 k k"],
    bias: Float[Tensor, "o"] | None,
    stride: int,
    padding: int,
    groups: int,
    pooling: Pooling,
) -> Float[Tensor, "b o h2 w2"]:
    """``torch.conv2d`` with the pooled filters; the output has the size that the full ones give.

    A border filled in another way than with zeros comes with ``x``, and ``padding`` is 0 then.

    Args:
        x: features.
        filters: in full.
        bias: one for each output channel.
        stride: in pixels.
        padding: of the full convolution in pixels.
        groups: of input channels.
        pooling: of the filters.
    """
    side, kernel = pooling.side, filters.shape[-1]
    w = pool_filter(filters, side, pooling.how, pooling.gain)
    top, bottom = paddings(x.shape[2], padding, kernel, side, stride, pooling.extra)
    left, right = paddings(x.shape[3], padding, kernel, side, stride, pooling.extra)
    if (top, left) == (bottom, right) and min(top, left) >= 0:
        return functional.conv2d(x, w, bias, stride, (top, left), 1, groups)
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(x, w, bias, stride, 0, 1, groups)

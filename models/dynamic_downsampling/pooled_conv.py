"""Convolutions whose filters are pooled to a smaller side in cheap steps (README, section 2).

One parameter set: the pooled filter is computed from the full one in every cheap forward pass, so
the chain rule brings its gradient to the full filter. Padding is chosen so that the output keeps
the size that the full filter would give.
"""

from collections.abc import Generator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Extra = tuple[int, int]  # pixels added to half the padding, before and after
LOW: Extra = (1, 0)
HIGH: Extra = (0, 1)
GROW: Extra = (1, 1)  # first of a pair: one pixel too many
SHRINK: Extra = (0, 0)  # second of a pair: takes it back


class Switch:
    """Tells the layers of a net whether the present forward pass is a cheap one."""

    def __init__(self) -> None:
        self.is_cheap = False

    @contextmanager
    def cheap(self) -> Generator[None]:
        """Cheap inside, full again afterwards, whatever happens inside."""
        self.is_cheap = True
        try:
            yield
        finally:
            self.is_cheap = False


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


class PooledConv2d(nn.Conv2d):
    """A convolution, square in all and undilated, that takes over the parameters of ``conv``.

    Args:
        conv: the layer it replaces; parameters stay the same objects.
        switch: says when to pool.
        side: k' of the pooled filter.
        how: ``avg`` or ``max``.
        gain: factor on the pooled filter.
        extra: side of the odd padded pixel.
    """

    def __init__(
        self, conv: nn.Conv2d, switch: Switch, side: int, how: str, gain: float, extra: Extra
    ) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            conv.stride[0],
            int(conv.padding[0]),
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.switch, self.side, self.how, self.gain, self.extra = switch, side, how, gain, extra
        self.pools = True

    def forward(self, input: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        if not (self.switch.is_cheap and self.pools):
            return super().forward(input)
        w = pool_filter(self.weight, self.side, self.how, self.gain)
        top, bottom = self._paddings(input.shape[2])
        left, right = self._paddings(input.shape[3])
        fills = self.padding_mode != "zeros" and min(top, bottom, left, right) >= 0
        if (top, left) == (bottom, right) and min(top, left) >= 0 and not fills:
            return functional.conv2d(input, w, self.bias, self.stride, (top, left), 1, self.groups)
        mode = self.padding_mode if fills else "constant"
        x = functional.pad(input, (left, right, top, bottom), mode=mode)
        return functional.conv2d(x, w, self.bias, self.stride, 0, 1, self.groups)

    def _paddings(self, size: int) -> tuple[int, int]:
        padding, kernel, stride = int(self.padding[0]), self.kernel_size[0], self.stride[0]
        return paddings(size, padding, kernel, self.side, stride, self.extra)

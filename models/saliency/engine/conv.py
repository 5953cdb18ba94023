"""A convolution fused with bias, batch norm, residual addition and activation.

The fused kernels are oneDNN's on a CPU and cuDNN's on a GPU. Plain torch serves where they are
missing, or disagree with it on a small input.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 2e-2  # relative, fused kernel against plain torch; bfloat16 rounds at 4e-3


class KernelWindow(NamedTuple):
    """Geometry of a spatial operation.

    Attributes:
        kernel: rows and columns, dilation included.
        stride: of rows and of columns.
        pad: padding above and to the left of the map.
        fill: value of the padding, 0 or minus infinity.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    fill: float = 0.0


POINT_WINDOW = KernelWindow((1, 1), (1, 1), (0, 0))


@dataclass(frozen=True)
class Conv:
    """``clamp(conv(x) + bias + other, low, high)``.

    Attributes:
        weight: [out, in / groups, rows, columns].
        bias: [out] or None.
        stride: of rows and of columns.
        pads: zeros above, left, below, right.
        dilation: of rows and columns.
        groups: of channels.
        clamp: limits of the result, None for no limits; (0, inf) is ReLU.
        backend: ``mkldnn``, ``cudnn``, ``product`` or ``plain``.
        packed: the weight in the memory layout of the kernel.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    clamp: tuple[float, float] | None = None
    backend: str = "plain"
    packed: Tensor | None = None

    @property
    def window(self) -> KernelWindow:
        """Kernel, stride and padding."""
        rows, columns = self.weight.shape[2:]
        kernel = ((rows - 1) * self.dilation[0] + 1, (columns - 1) * self.dilation[1] + 1)
        return KernelWindow(kernel, self.stride, self.pads[:2])

    def __call__(
        self, x: Float[Tensor, "n c_in h w"], other: Float[Tensor, "n c_out i j"] | None = None
    ) -> Float[Tensor, "n c_out i j"]:
        """The result for whole maps; ``other`` is added before the clamp."""
        top, left, bottom, right = self.pads
        if (top, left) != (bottom, right):
            return self.valid(F.pad(x, (left, right, top, bottom)), other)
        return self._run(x, other, [top, left])

    def valid(
        self,
        x: Float[Tensor, "n c_in h w"],
        other: Float[Tensor, "n c_out i j"] | None = None,
        columns: int = 0,
    ) -> Float[Tensor, "n c_out i j"]:
        """The result for maps that include their padding, except ``columns`` of zeros."""
        return self._run(x, other, [0, columns])

    def _run(self, x: Tensor, other: Tensor | None, pad: list[int]) -> Tensor:
        if self.backend == "mkldnn":
            return self._mkldnn(x, other, pad)
        if self.backend == "product" and not torch.backends.cudnn.allow_tf32:
            return self._product(x, other)
        if self.backend in ("cudnn", "product") and self.clamp == (0.0, math.inf):
            return self._cudnn(x, other, pad)
        y = F.conv2d(x, self.weight, self.bias, self.stride, pad, self.dilation, self.groups)
        if other is not None:
            y += other
        return y if self.clamp is None else y.clamp_(*self.clamp)

    def _mkldnn(self, x: Tensor, other: Tensor | None, pad: list[int]) -> Tensor:
        shape = (pad, list(self.stride), list(self.dilation), self.groups)
        act, limits = _activation(self.clamp)
        run = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return run(x, self.packed, self.bias, *shape, act or "none", limits, "")
        y = run.binary(
            x, other, self.packed, self.bias, *shape, "add", None, act if act == "relu" else None,
            [], None,
        )  # fmt: skip
        return y.clamp_(*self.clamp) if self.clamp is not None and act != "relu" else y

    def _cudnn(self, x: Tensor, other: Tensor | None, pad: list[int]) -> Tensor:
        shape = (self.stride, pad, self.dilation, self.groups)
        if other is None:
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, *shape)
        return torch.cudnn_convolution_add_relu(x, self.weight, other, 1.0, self.bias, *shape)

    def _product(self, x: Tensor, other: Tensor | None) -> Tensor:
        """A 1x1 kernel as a matrix product over pixels: faster in full float32 on a GPU."""
        x = x[:, :, :: self.stride[0], :: self.stride[1]]
        n, c, h, w = x.shape
        rows, weight = x.permute(0, 2, 3, 1).reshape(-1, c), self.weight[:, :, 0, 0].T
        y = rows @ weight if self.bias is None else torch.addmm(self.bias, rows, weight)
        y = y.view(n, h, w, -1).permute(0, 3, 1, 2)
        if other is not None:
            y += other
        return y if self.clamp is None else y.clamp_(*self.clamp)


def _activation(clamp: tuple[float, float] | None) -> tuple[str | None, list[float]]:
    """The activation and its arguments as oneDNN names them."""
    if clamp is None:
        return None, []
    return ("relu", []) if clamp == (0.0, math.inf) else ("hardtanh", list(clamp))


def fastest(conv: Conv, size: tuple[int, int]) -> Conv:
    """The convolution with the fastest kernel of its device.

    Args:
        conv: with backend ``plain``.
        size: height and width of its input maps.
    """
    weight = conv.weight.contiguous(memory_format=torch.channels_last)
    name = kernel_of(weight.device.type, weight.dtype)
    return _with(replace(conv, weight=weight), name, size)


@cache
def kernel_of(device: str, dtype: torch.dtype) -> str:
    """The fused backend of this device, or ``plain`` where it disagrees with plain torch."""
    name = {"cpu": "mkldnn", "cuda": "cudnn"}.get(device, "plain")
    if name == "mkldnn" and dtype != torch.float32:
        return "plain"
    try:
        return name if all(_agrees(name, device, dtype, groups) for groups in (1, 8)) else "plain"
    except (RuntimeError, AttributeError):  # a build without this kernel
        return "plain"


def _with(conv: Conv, name: str, size: tuple[int, int]) -> Conv:
    if name == "cudnn" and _is_product(conv):
        return replace(conv, backend="product")
    if name != "mkldnn":
        return replace(conv, backend=name)
    channels = conv.weight.shape[1] * conv.groups
    shape = (list(conv.pads[:2]), list(conv.stride), list(conv.dilation), conv.groups)
    packed = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *shape, [8, channels, *size])
    return replace(conv, backend=name, packed=packed)


def _is_product(conv: Conv) -> bool:
    """Whether this is a float32 convolution by an ungrouped 1x1 kernel without padding."""
    one_by_one = conv.weight.shape[2:] == (1, 1) and conv.groups == 1 and not any(conv.pads)
    return one_by_one and conv.weight.dtype == torch.float32


def _agrees(name: str, device: str, dtype: torch.dtype, groups: int) -> bool:
    """Whether a backend agrees with plain torch, with and without a residual addition."""
    numbers = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=numbers).to(device, dtype)
        for shape in ((2, 8, 6, 6), (8, 8 // groups, 3, 3), (8,))
    )
    x, weight = (v.contiguous(memory_format=torch.channels_last) for v in (x, weight))
    plain = Conv(weight, bias, (1, 1), (1, 1, 1, 1), (1, 1), groups, (0.0, math.inf))
    other = _with(plain, name, (6, 6))
    for added in (None, torch.ones_like(x)):
        expected, actual = plain(x, added), other(x, added)
        if (expected - actual).abs().max() > TOLERANCE * (1 + expected.abs().max()):
            return False
    return True

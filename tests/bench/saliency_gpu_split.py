"""One Triton program that splits float32 numbers into TF32 parts, for ``saliency_gpu_fp32``."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _halves(x, out, count, channels, block: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = index < count
    value = tl.load(x + index, mask=inside, other=0.0)
    high = (value.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    first = out + index // channels * (3 * channels) + index % channels
    tl.store(first, high, mask=inside)
    tl.store(first + channels, value - high, mask=inside)
    tl.store(first + 2 * channels, high, mask=inside)


def triton_halves(x: Tensor) -> Tensor:
    """Channels of upper parts, of rests and of upper parts again; ``x`` channels-last."""
    n, c, h, w = x.shape
    out = x.new_empty((n, h, w, 3 * c)).permute(0, 3, 1, 2)
    _halves[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), c, block=BLOCK)
    return torch.as_tensor(out)

"""ReLU(BN(z)) where some slots z read another channel, shifted by fractions of a pixel.

Coordinates are clamped to the border. :func:`sample` says what the slots are, for any device and
for ``torch.compile``; the fast ways to the activation are in ``norm_cpu`` and
``norm_gpu``.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def sample(
    x: Float[Tensor, "n c h w"], source: Int64[Tensor, "s"], shift: Float[Tensor, "s 2"]
) -> Float[Tensor, "n s h w"]:
    """Slots z: z_c = x_c where source_c is -1, else x of channel source_c at (h + s_1, w + s_0).

    Args:
        x: input of a unit.
        source: -1 or the channel that a slot reads.
        shift: of each slot in pixels: along the width, along the height.
    """
    n, _, h, w = x.shape
    shift = torch.where((source < 0)[:, None], 0.0, shift)
    top, bottom, fy = taps(shift[:, 1], h)  # [s, h]
    left, right, fx = taps(shift[:, 0], w)  # [s, w]
    own = torch.arange(len(source), device=x.device)
    root = torch.where(source < 0, own, source)
    flat = x.index_select(1, root).flatten(2)  # [n, s, h w]

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows[:, :, None] * w + columns[:, None, :]).flatten(1)  # [s, h w]
        return flat.gather(2, index.expand(n, -1, -1)).unflatten(2, (h, w))

    fx, fy = fx[:, None, :].to(x.dtype), fy[:, :, None].to(x.dtype)
    upper = torch.lerp(at(top, left), at(top, right), fx.expand(n, -1, h, -1))
    lower = torch.lerp(at(bottom, left), at(bottom, right), fx.expand(n, -1, h, -1))
    return torch.lerp(upper, lower, fy.expand(n, -1, -1, w))


def taps(shift: Float[Tensor, "c"], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both neighbours of each clamped coordinate along an axis, and the weight of the second.

    Args:
        shift: of each slot, in pixels.
        size: of the axis, in pixels.
    """
    position = torch.arange(size, device=shift.device) + shift[:, None]
    position = position.clamp(0, size - 1)
    low = position.detach().nan_to_num(0).floor()  # an index; the weight of the second stays NaN
    return low.long(), (low.long() + 1).clamp(max=size - 1), position - low
